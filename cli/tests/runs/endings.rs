//! How runs end that do not end by themselves, and what they leave.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::laboratory::{Laboratory, code, signal};

const ENDLESS: u32 = 1_000_000;
const METHOD: &str = "{diLoCo: {innerSteps: 10}}";

#[test]
fn an_interrupt_ends_the_run_and_keeps_what_was_written() {
    let laboratory = Laboratory::new(METHOD, ENDLESS);
    let mut run = laboratory.start(&[]);
    laboratory.wait_for(|event| event["event"] == "SyncEnd" && event["round"] == 3);
    let asked = Instant::now();
    signal(run.id() as i32, Signal::INT);
    assert_eq!(code(&mut run), Some(130));
    // The promise is five seconds on a quiet machine; this is a machine full of tests.
    assert!(asked.elapsed() < Duration::from_secs(30));
    assert_eq!(laboratory.report()["state"], "Interrupted");
    assert!(laboratory.report()["rounds"].as_u64().unwrap() >= 3);
    laboratory.assert_nothing_is_left();
}

#[test]
fn a_killed_supervisor_takes_everything_with_it() {
    let laboratory = Laboratory::new(METHOD, ENDLESS);
    let sockets = tempfile::tempdir().unwrap();
    let mut run = laboratory.command(&[]).env("TMPDIR", sockets.path()).spawn().unwrap();
    laboratory.wait_for(|event| event["event"] == "SyncEnd");
    signal(run.id() as i32, Signal::KILL);
    run.wait().unwrap();
    laboratory.assert_nothing_is_left();
    let until = Instant::now() + Duration::from_secs(30);
    while std::fs::read_dir(sockets.path()).unwrap().count() > 0 {
        assert!(Instant::now() < until, "sockets are left");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_second_run_with_the_same_output_leaves_the_first_alone() {
    let laboratory = Laboratory::new(METHOD, 20);
    assert!(laboratory.run(&[]).status.success());
    let before = laboratory.report();
    let second = laboratory.run(&[]);
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("not empty"));
    assert_eq!(laboratory.report(), before);
}

#[test]
fn a_run_that_diverges_fails_and_says_so() {
    let laboratory = Laboratory::new(METHOD, ENDLESS);
    let output = laboratory.run(&["--set", "optimizer.adamW.learningRate=1e30"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("diverged"), "{text}");
    laboratory.assert_nothing_is_left();
}
