//! A reduced pass over the schedules; `cargo xtask simulate --turmoil N` makes the long one.
#![allow(missing_docs)]

use atoll_collective::rules::Rules;
use atoll_turmoil::{Schedule, run};

#[test]
fn without_faults_nothing_is_aborted_and_nobody_is_left_out() {
    for seed in [0, 3] {
        let ending = run(seed, &Schedule { faults: 0, ..Schedule::of(seed) }, Rules::default());
        assert_eq!((ending.wrong, ending.aborts, ending.evictions, ending.in_doubt), (None, 0, 0, 0), "seed {seed}");
    }
}

#[test]
fn under_faults_no_result_is_wrong_and_all_go_on() {
    for seed in 0..12 {
        let ending = run(seed, &Schedule::of(seed), Rules::default());
        assert_eq!(ending.wrong, None, "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_course_and_another_another() {
    let course = |seed| run(seed, &Schedule::of(seed), Rules::default()).lines;
    for seed in [1, 7] {
        assert_eq!(course(seed), course(seed), "seed {seed}");
    }
    assert_ne!(course(1), course(3));
}
