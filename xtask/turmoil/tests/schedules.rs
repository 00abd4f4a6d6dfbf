//! A reduced pass over the schedules; `cargo xtask simulate --turmoil N` makes the long one.
// A test's own mistakes must stop it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;

use atoll_collective::rules::Rules;
use atoll_turmoil::{Schedule, run};

/// What the program prints with these arguments, and whether nothing was wrong.
fn simulate(arguments: &[&str]) -> (String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_atoll-turmoil")).args(arguments).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}

#[test]
fn without_faults_nothing_is_aborted_and_nobody_is_left_out() {
    for seed in [0, 3] {
        let figures = run(seed, &Schedule { faults: 0, ..Schedule::of(seed) }, Rules::default()).figures;
        assert_eq!((figures.wrong, figures.aborts, figures.evictions, figures.in_doubt), (None, 0, 0, 0), "seed {seed}");
    }
}

#[test]
fn a_trainer_that_gives_something_else_than_it_says_is_noticed_by_value_alone() {
    let schedule = Schedule { liar: Some(1), faults: 0, ..Schedule::of(0) };
    let (_, wrong) = run(0, &schedule, Rules::default()).figures.wrong.unwrap();
    assert!(wrong.contains("is not the mean of what"), "{wrong}");
}

#[test]
fn two_halves_do_not_both_go_on_unless_half_of_the_votes_is_enough() {
    let schedule = Schedule { workers: 4, joiner: false, tls: false, peers: true, split: true, faults: 0, ..Schedule::of(0) };
    let wrong = |rules| run(0, &schedule, rules).figures.wrong;
    assert_eq!(wrong(Rules::default()), None);
    assert!(wrong(Rules::without("majority").unwrap()).is_some());
}

#[test]
fn under_faults_no_result_is_wrong_and_all_go_on() {
    let (printed, well) = simulate(&["--seeds", "5"]);
    assert!(well, "{printed}");
}

#[test]
fn the_same_seed_takes_the_same_course_with_and_without_tls_and_another_seed_another() {
    let course = |seed| simulate(&["--seed", seed, "--trace"]).0.rsplit_once("turmoil: ").unwrap().0.to_owned();
    let courses = ["1", "3"].map(course);
    assert_eq!(courses, ["1", "3"].map(course));
    assert!(courses[0].lines().count() > 100);
    assert_ne!(courses[0], courses[1]);
}
