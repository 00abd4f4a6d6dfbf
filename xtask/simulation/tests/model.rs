//! The model with few faults; `cargo xtask simulate --model` visits all of it.
#![allow(missing_docs)]

use atoll_collective::rules::Rules;
use atoll_simulation::model::{Visited, visit};

#[test]
fn with_one_fault_no_order_of_events_breaks_a_promise() {
    let Visited { states, broken, never, .. } = visit(Rules::default(), 1);
    assert_eq!((broken, never), (vec![], vec![]));
    assert!(states > 50_000, "{states}");
}

#[test]
fn without_faults_one_thing_happens_in_every_order() {
    let Visited { broken, never, .. } = visit(Rules::default(), 0);
    assert_eq!(broken, []);
    assert_eq!(never.len(), 5, "{never:?}");
    assert!(!never.contains(&"all three commit"));
}

#[test]
fn without_a_rule_the_way_to_a_broken_promise_is_told() {
    for (rule, promise, step) in [
        ("unanimous", "a round is committed once, with one result", "hears prepared from peer"),
        ("votes_of_this_epoch", "a result is of exactly those who are counted", "hears that its epoch is granted"),
    ] {
        let broken = visit(Rules::without(rule).unwrap(), 1).broken;
        let (told, steps) = &broken[0];
        assert_eq!(*told, promise, "without {rule}");
        assert!(steps.iter().any(|words| words.contains(step)), "without {rule}: {steps:#?}");
    }
}
