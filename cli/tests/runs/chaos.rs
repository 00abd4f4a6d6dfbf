//! Runs whom a script of chaos befalls.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::laboratory::Laboratory;
use crate::training::hashes;

/// Rounds that take a while: a step of a script comes when the supervisor hears of its round, and the next rounds go on meanwhile.
const DILOCO: &str = "{diLoCo: {innerSteps: 60, outerLearningRate: 0.7, outerMomentum: 0.5}}";
const INNER_STEPS: u32 = 60;
const FIVE: [&str; 6] = ["--set", "workers.min=4", "--set", "workers.target=4", "--set", "workers.max=5"];

/// A run of four workers, and a fifth that may join, whom `script` befalls.
fn befallen(rounds: u32, script: &str) -> Laboratory {
    let laboratory = Laboratory::new(DILOCO, rounds * INNER_STEPS);
    fs::write(laboratory.path().join("chaos.yaml"), script).unwrap();
    let ended = laboratory.run(&[&FIVE[..], &["--chaos", "chaos.yaml"]].concat());
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    laboratory.assert_nothing_is_left();
    laboratory
}

fn of<'a>(events: &'a [Value], worker: &'a str, name: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["worker"] == worker && event["event"] == name)
}

#[test]
fn whatever_befalls_a_run_those_who_are_left_end_with_the_same_weights_and_no_round_is_lost() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/chaos/bad-week.yaml");
    let laboratory = befallen(100, &fs::read_to_string(example).unwrap());
    let (events, report) = (laboratory.events(), laboratory.report());
    let rounds: Vec<_> =
        events.iter().filter(|event| event["event"] == "Committed").filter_map(|e| e["round"].as_u64()).collect();
    assert!(rounds.is_sorted_by(|one, next| one < next), "no round is committed twice: {rounds:?}");
    let done: BTreeSet<_> =
        events.iter().filter(|event| event["event"] == "SyncEnd").filter_map(|e| e["round"].as_u64()).collect();
    assert!(done.into_iter().eq(1..=100), "no round is lost");
    let states: Vec<_> = report["workers"].as_array().unwrap().iter().map(|worker| worker["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["Gone", "Finished", "Finished", "Finished", "Finished"]);
    let hashes = hashes(&report);
    assert!(hashes.len() == 4 && hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    // Whoever joins gives nothing in its first round, and counts later.
    let given: Vec<_> = of(&events, "w4", "SyncEnd").map(|event| event["samples"].as_u64().unwrap()).collect();
    assert!(given[0] == 0 && given[1..].iter().any(|samples| *samples > 0), "{given:?}");
    // Who was cut off missed rounds, and came back once it was reached again.
    let done: Vec<_> = of(&events, "w3", "SyncEnd").map(|event| event["round"].as_u64().unwrap()).collect();
    assert!(of(&events, "w3", "Evicted").count() > 0 && done.len() < 100 && done.last() == Some(&100), "{done:?}");
    assert_eq!(of(&events, "w1", "ProcessRestarted").count(), 1);
    assert_eq!(of(&events, "w0", "ProcessRestarted").count(), 0);
    assert!(of(&events, "w0", "Evicted").count() > 0);
}

#[test]
fn a_link_that_becomes_longer_makes_rounds_longer_and_steps_that_never_came_are_said() {
    let laboratory = befallen(20, "- {round: 3, link: {worker: w1, roundTrip: 200ms}}\n- {round: 27, join: {}}");
    let events = laboratory.events();
    let shortest = |wanted: std::ops::Range<u64>| {
        let rounds = of(&events, "w0", "SyncEnd").filter(move |event| wanted.contains(&event["round"].as_u64().unwrap()));
        rounds.map(|event| event["seconds"].as_f64().unwrap()).fold(f64::INFINITY, f64::min)
    };
    // One message to w1 and one back at least.
    let (before, after) = (shortest(1..3), shortest(15..20));
    assert!(before < 0.2 && after >= 0.2, "{before} s, and then {after} s");
    let left = events.iter().find(|event| event["event"] == "ChaosLeft").unwrap();
    assert_eq!(left["rounds"], serde_json::json!([27]));
    assert_eq!(of(&events, "w4", "WorkerAdded").count(), 0);
}

#[test]
fn a_script_that_this_run_cannot_take_is_refused_before_anything_starts() {
    let laboratory = Laboratory::new(DILOCO, 20);
    for (script, problem) in [
        ("- {round: 1, kill: {worker: w7}}", "chaos.yaml:1:29: [0].kill.worker: there is no w7 by then; give one of w0, w1"),
        (
            "- {round: 1, join: {}}",
            "[0].join: with 1 more the run would have more than 2 workers; give workers.max of at least 3",
        ),
        ("- {round: 1, pause: {}}", "[0].pause: unknown field"),
    ] {
        fs::write(laboratory.path().join("chaos.yaml"), script).unwrap();
        let refused = laboratory.run(&["--chaos", "chaos.yaml"]);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && said.contains(problem), "{said}");
    }
    let missing = laboratory.run(&["--chaos", "nowhere.yaml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(!laboratory.out().exists());
}

#[test]
fn whoever_is_left_after_the_state_was_lost_goes_on_without_those_who_are_gone() {
    let laboratory = Laboratory::new(DILOCO, 20 * INNER_STEPS);
    let script = "
- {round: 5, kill: {worker: w0, restart: false}}
- {round: 5, kill: {worker: w1, process: Trainer}}
- {round: 5, kill: {worker: w2, process: Trainer}}";
    fs::write(laboratory.path().join("chaos.yaml"), script).unwrap();
    let keeps = "checkpoint={uri: kept, everyRounds: 2}";
    let three = ["--set", "workers.min=3", "--set", "workers.target=3", "--set", keeps, "--chaos", "chaos.yaml"];
    let ended = laboratory.run(&three);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let (events, hashes) = (laboratory.events(), hashes(&laboratory.report()));
    assert!(events.iter().any(|event| event["event"] == "StateLost"));
    assert!(hashes.len() == 2 && hashes[0] == hashes[1], "{hashes:?}");
    laboratory.assert_nothing_is_left();
}
