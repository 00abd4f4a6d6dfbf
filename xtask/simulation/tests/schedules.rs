//! A reduced pass over the schedules; `cargo xtask simulate` makes the long one.
#![allow(missing_docs)]

use atoll_collective::rules::Rules;
use atoll_simulation::{Faults, Schedule, run};

#[test]
fn without_faults_every_worker_finishes_with_one_state_and_every_sample_counts() {
    for seed in 0..20 {
        let ending = run(seed, &Schedule::quiet(4), Rules::default());
        assert_eq!((ending.wrong, ending.finished, ending.evictions, ending.holes), (None, 4, 0, 0), "seed {seed}");
    }
}

#[test]
fn under_faults_no_result_is_wrong_and_the_run_ends() {
    for seed in 0..120 {
        let ending = run(seed, &Schedule::of(seed), Rules::default());
        assert_eq!(ending.wrong, None, "seed {seed}");
    }
}

#[test]
fn a_lost_coordinator_is_replaced_at_any_instant() {
    let faults = Faults { crashes: 4, ..Faults::default() };
    let schedule = Schedule { against_the_coordinator: true, patient: true, faults, ..Schedule::quiet(4) };
    for seed in 0..50 {
        let ending = run(seed, &schedule, Rules::default());
        assert_eq!(ending.wrong, None, "seed {seed}");
        assert!(ending.finished >= 1 && ending.terms > 1, "seed {seed}: {ending:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let histories: Vec<_> = (0..2).map(|_| run(3, &Schedule::of(3), Rules::default()).history).collect();
    assert_eq!(histories[0], histories[1]);
    assert_ne!(histories[0], "{}");
}

#[test]
fn without_faults_contributors_are_counted_and_nobody_is_in_doubt() {
    for (seed, contributors) in (0..20).zip([0b1, 0b1000, 0b11].into_iter().cycle()) {
        let schedule = Schedule { contributors, ..Schedule::quiet(4) };
        let ending = run(seed, &schedule, Rules::default());
        assert_eq!((ending.wrong, ending.finished, ending.in_doubt, ending.evictions), (None, 4, 0, 0), "seed {seed}");
        for slot in (0..4).filter(|slot| contributors >> slot & 1 == 1) {
            let counted = ending.history.matches(&format!("slot: {slot},")).count();
            // It may come when the trusted ones have begun the first.
            assert!(counted + 1 >= ending.rounds, "seed {seed}: {counted} of {} rounds count what w{slot} gave", ending.rounds);
        }
    }
}

#[test]
fn hasty_calls_are_in_doubt_in_some_schedule() {
    let in_doubt = |seed| run(seed, &Schedule::of(seed), Rules::default()).in_doubt;
    assert!((5..300).step_by(7).any(|seed| in_doubt(seed) > 0));
}

#[test]
fn checkpoints_are_published_under_faults_and_training_waits_for_none() {
    let kept = |seed, faults| {
        let ending = run(seed, &Schedule { checkpoints: true, faults, ..Schedule::quiet(4) }, Rules::default());
        assert_eq!((ending.wrong, ending.finished > 0), (None, true), "seed {seed}");
        ending.checkpoints
    };
    let quiet: usize = (0..20).map(|seed| kept(seed, Faults::default())).sum();
    let faults = Faults { crashes: 3, trainer_crashes: 2, cuts: 3, partitions: 2, ..Faults::default() };
    let faulty: usize = (0..40).map(|seed| kept(seed, faults)).sum();
    assert!(quiet >= 15 && faulty >= 20, "{quiet} and {faulty}");
}
