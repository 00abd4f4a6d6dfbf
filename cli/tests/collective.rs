//! The smallest real cases of `atoll bench collective`, with real processes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_mins(2);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
    command.args(["bench", "collective"]).args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// The line of a case that must succeed.
fn line(arguments: &[&str]) -> Value {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_smallest_case_prints_every_figure() {
    let line = line(&["--peers", "2", "--bytes", "4KiB", "--path", "tcp", "--codec", "f32", "--iterations", "5", "--json"]);
    assert_eq!(line["case"], "tcp-f32-2x4KiB");
    assert_eq!(line["implementation"], "atoll");
    for (field, expected) in [("peers", 2), ("bytes", 4096), ("iterations", 5)] {
        assert_eq!(line[field], expected, "{field}");
    }
    for (field, expected) in [("path", "tcp"), ("codec", "f32"), ("links", "none")] {
        assert_eq!(line[field], expected, "{field}");
    }
    let figure = |field: &str| line[field].as_f64().unwrap_or_else(|| panic!("{field} in {line}"));
    assert!(0.0 < figure("minMs") && figure("minMs") <= figure("p50Ms"));
    assert!((figure("algbwBytesPerSecond") * figure("p50Ms") / 1e3 - 4096.0).abs() < 1e-6);
    assert!(figure("cpuMsPerOperation") > 0.0);
    assert!(figure("peakRssBytes") > 1e6);
    assert!(figure("sidecarPssAboveStartBytes") < 1e9);
    assert!(figure("controlMessagesPerPeer") >= 2.0, "a vote and its outcome");
    assert!(line["theoryMs"].is_null());
}

#[test]
fn the_reference_is_measured_instead_of_ours() {
    let line = line(&["--peers", "3", "--bytes", "1MiB", "--reference", "--iterations", "5", "--json"]);
    assert_eq!((&line["implementation"], &line["path"]), (&"reference".into(), &"shm".into()));
    assert!(line["p50Ms"].as_f64().unwrap() > 0.0);
    assert!(line["sidecarPssAboveStartBytes"].is_null() && line["controlMessagesPerPeer"].is_null());
}

#[test]
fn ranks_of_one_sidecar_code_what_they_give_together() {
    for codec in ["bf16", "u8", "u4"] {
        let line = line(&["--peers", "2", "--bytes", "64KiB", "--path", "shm", "--codec", codec, "--iterations", "2", "--json"]);
        assert_eq!(line["case"], format!("shm-{codec}-2x64KiB"));
    }
}

#[test]
fn a_delayed_link_takes_its_time_and_says_how_it_was_made() {
    let line = line(&["--bytes", "4KiB", "--rtt", "20ms", "--rates", "100mbit", "--iterations", "2", "--json"]);
    assert_eq!(line["links"], "proxy");
    assert!(line["minMs"].as_f64().unwrap() >= line["theoryMs"].as_f64().unwrap(), "{line}");
}

#[test]
fn a_narrow_link_takes_its_time_whoever_makes_it() {
    let line = line(&["--bytes", "256KiB", "--rates", "20mbit", "--iterations", "2", "--json"]);
    assert!(["namespaces", "proxy"].contains(&line["links"].as_str().unwrap()), "{line}");
    // A token bucket lets what it saved pass at once.
    assert!(line["minMs"].as_f64().unwrap() >= line["theoryMs"].as_f64().unwrap() / 2.0, "{line}");
}

#[test]
fn gloo_is_measured_or_what_to_install_is_said() {
    let installed = Command::new("/usr/bin/python3").args(["-c", "import torch"]).stderr(Stdio::null()).status();
    let arguments = ["--bytes", "4KiB", "--peer", "gloo", "--iterations", "5", "--json"];
    if installed.is_ok_and(|status| status.success()) {
        assert_eq!(line(&arguments)["implementation"], "gloo");
    } else {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("apt-get install python3-torch"));
    }
}

#[test]
fn bad_input_is_refused_with_what_would_be_right() {
    let cases: [(&[&str], &str); 13] = [
        (&["--peers", "1"], "give 2 to 64"),
        (&["--bytes", "64MB"], "64MiB"),
        (&["--bytes", "6"], "multiple of 4"),
        (&["--bytes", "4", "--concurrent", "0"], "--concurrent 0: give 1 to 256"),
        (&["--rates", "fast"], "200mbit"),
        (&["--rates", "1mbit,2mbit,3mbit"], "one for all peers, or 2"),
        (&["--rtt", "1"], "100ms"),
        (&["--path", "shm", "--rtt", "1ms"], "--path tcp"),
        (&["--path", "shm", "--tls", "on"], "--tls on is for --path tcp"),
        (&["--reference", "--path", "tcp"], "give --path shm"),
        (&["--peer", "gloo", "--path", "shm"], "give --path tcp"),
        (&["--channels", "17"], "give 1 to 16"),
        (&["--peers", "64", "--bytes", "16GiB"], "give fewer bytes or peers"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}

/// A benchmark that would take long, and the ids of its processes once all of them have started.
fn under_way() -> (Child, Vec<i32>) {
    let mut long = command(&["--bytes", "4KiB", "--iterations", "10000"]);
    let child = long.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Two sidecars and two ranks.
    let pids = all_children(child.id(), 4);
    (child, pids)
}

/// The children of this process, once they are so many.
fn all_children(parent: u32, count: usize) -> Vec<i32> {
    let until = Instant::now() + PATIENCE;
    loop {
        let children = children(parent);
        if children.len() == count {
            return children;
        }
        assert!(Instant::now() < until, "{children:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes whose parent is this one.
fn children(parent: u32) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| status(*pid).is_some_and(|(_, found)| found == parent)).collect()
}

/// State and parent of a process.
fn status(pid: i32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn assert_gone(pids: &[i32]) {
    assert_gone_until(pids, Instant::now() + PATIENCE);
}

fn assert_gone_until(pids: &[i32], until: Instant) {
    for pid in pids {
        // A zombie waits for whoever adopts it.
        while status(*pid).is_some_and(|(state, _)| state != "Z") {
            assert!(Instant::now() < until, "process {pid} is left");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn an_interrupted_benchmark_leaves_nothing() {
    let (mut child, pids) = under_way();
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_gone(&pids);
}

#[test]
fn a_killed_benchmark_leaves_no_process() {
    let (mut child, pids) = under_way();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_gone(&pids);
}

#[test]
fn a_lost_peer_ends_the_benchmark() {
    let (child, pids) = under_way();
    kill_process(Pid::from_raw(pids[0]).unwrap(), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_gone(&pids);
}

#[test]
fn a_stopped_peer_ends_the_benchmark_and_is_named() {
    let (child, pids) = under_way();
    // The sidecar of peer 0: the process that was started first.
    kill_process(Pid::from_raw(pids[0]).unwrap(), Signal::STOP).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the sidecar of peer 0 was stopped by a signal"), "{text}");
    assert_gone(&pids);
}

#[test]
fn a_temporary_folder_that_is_not_there_is_named() {
    let output = command(&["--bytes", "4KiB"]).env("TMPDIR", "/nonexistent").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.starts_with("TMPDIR /nonexistent: "), "{text}");
}

#[test]
fn killed_benchmarks_of_other_kinds_leave_neither_process_nor_folder_for_long() {
    let lossy = ["--loss", "0%"];
    let may_lose = run(&[&["--bytes", "4KiB", "--iterations", "1"], &lossy[..]].concat()).status.code() != Some(2);
    // Two ranks; and where packets are lost two sidecars, and who keeps the namespaces.
    let kinds = [(Some(&["--reference"][..]), 2), (may_lose.then_some(&lossy[..]), 6)];
    for (arguments, count) in kinds.into_iter().filter_map(|(arguments, count)| Some((arguments?, count))) {
        let folder = tempfile::tempdir().unwrap();
        let mut long = command(&["--bytes", "4KiB", "--iterations", "10000"]);
        long.args(arguments).env("TMPDIR", folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = long.spawn().unwrap();
        let pids = all_children(child.id(), count);
        child.kill().unwrap();
        child.wait().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        assert_gone_until(&pids, until);
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{arguments:?}: {left:?}");
    }
}
