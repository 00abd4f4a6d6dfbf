//! How runs end that do not end by themselves, and what they leave.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

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

#[test]
fn an_interrupt_while_data_is_prepared_leaves_nothing() {
    let laboratory = Laboratory::new(METHOD, ENDLESS);
    // Long enough that nobody reads it in the time of a signal.
    std::fs::write(laboratory.path().join("text.txt"), "in the beginning was a word\n".repeat(6_000_000)).unwrap();
    let mut run = laboratory.start(&[]);
    let until = Instant::now() + Duration::from_secs(30);
    while !laboratory.out().join(".lock").exists() {
        assert!(Instant::now() < until, "the run does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(run.id() as i32, Signal::INT);
    assert_eq!(code(&mut run), Some(130));
    assert!(!laboratory.out().exists(), "the folder is left");
}

/// Needs a file system that can be filled: one in memory, where this user may mount one.
#[test]
fn a_disk_that_fills_up_fails_the_run_and_leaves_no_process() {
    let laboratory = Laboratory::new(METHOD, ENDLESS);
    std::fs::create_dir(laboratory.path().join("small")).unwrap();
    let mount = "mount -t tmpfs -o size=192k none small";
    let in_a_room_of_its_own = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", script]).current_dir(laboratory.path());
        command
    };
    if !in_a_room_of_its_own(mount).status().is_ok_and(|status| status.success()) {
        println!("not run: no file system can be mounted here");
        return;
    }
    let script = format!(
        "{mount} && {} run run.yaml --out small/out; code=$?; cat small/out/events.jsonl >&2; exit $code",
        env!("CARGO_BIN_EXE_atoll")
    );
    let ended = in_a_room_of_its_own(&script).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    let processes = said.lines().filter(|line| line.contains("ProcessStarted"));
    let pids: Vec<_> = processes.filter_map(|line| serde_json::from_str::<Value>(line).ok()?["pid"].as_i64()).collect();
    assert_eq!(pids.len(), 4, "{said}");
    Laboratory::assert_are_gone(&pids);
}
