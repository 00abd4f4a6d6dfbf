//! What a run records is done again by the protocol; what was changed or cut is found.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;

use crate::laboratory::{Laboratory, code, signal};

fn replay(files: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_atoll")).arg("replay").args(files).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The recordings of a run of three workers whose first coordinator is killed in the third round, and that coordinator's.
fn recorded() -> (Laboratory, Vec<PathBuf>, PathBuf) {
    let method = "{diLoCo: {innerSteps: 10, outerLearningRate: 0.7, outerMomentum: 0.5}}";
    let laboratory = Laboratory::new(method, 300);
    let mut run = laboratory.start(&["--record", "--set", "workers.min=3", "--set", "workers.target=3"]);
    laboratory.wait_for(|event| event["event"] == "SyncEnd" && event["round"] == 3);
    let coordinator = laboratory.wait_for(|event| event["event"] == "Coordinator")["worker"].as_str().unwrap().to_owned();
    signal(laboratory.pid(&coordinator, "sidecar"), Signal::KILL);
    assert_eq!(code(&mut run), Some(0));
    let folder = laboratory.out().join("recordings");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let killed = folder.join(format!("{coordinator}-1.jsonl"));
    (laboratory, files, killed)
}

#[test]
fn a_run_that_lost_its_coordinator_replays_without_difference_and_what_was_changed_is_found() {
    let (laboratory, files, killed) = recorded();
    assert_eq!(files.len(), 4, "three workers, one of them started twice: {files:?}");

    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let replayed = replay(&paths);
    let told = text(&replayed.stdout);
    assert!(replayed.status.success(), "{told}{}", text(&replayed.stderr));
    assert_eq!(told.matches("events replayed: no difference").count(), 4, "{told}");
    assert!(told.contains("coordinator of term 1"), "{told}");
    assert!(told.contains("coordinator of term 2") && told.contains("PeerLost"), "the others say who was lost: {told}");

    let whole = fs::read_to_string(&killed).unwrap();
    let place = |wanted: &str| whole.lines().position(|line| line.contains(wanted)).unwrap();
    let changed = laboratory.path().join("changed.jsonl");
    let line = place(r#"{"Report":{"Committed""#);
    let other = lines_with(&whole, line, |text| text.replacen(r#"{"Committed":{"round":"#, r#"{"Committed":{"round":9"#, 1));
    fs::write(&changed, other).unwrap();
    let found = replay(&[&changed]);
    assert_eq!(found.status.code(), Some(1));
    let errors = text(&found.stderr);
    for part in
        [format!("changed.jsonl:{}: the coordinator does not do what was recorded", line + 1), "expected".into(), "found".into()]
    {
        assert!(errors.contains(&part), "{part} in {errors}");
    }

    let cut = laboratory.path().join("cut.jsonl");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let refused = replay(&[&cut]);
    assert_eq!(refused.status.code(), Some(2));
    let number = whole[..whole.len() / 2].lines().count();
    assert!(
        text(&refused.stderr).contains(&format!("cut.jsonl:{number}: the file is cut short here")),
        "{}",
        text(&refused.stderr)
    );
}

/// The same text with one line, counted from 0, changed.
fn lines_with(text: &str, line: usize, change: impl Fn(&str) -> String) -> String {
    let lines = text.lines().enumerate();
    lines.map(|(number, text)| if number == line { change(text) } else { text.to_owned() } + "\n").collect()
}

#[test]
fn what_is_no_recording_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.jsonl");
    fs::write(&garbage, [0x00, 0xff, b'{', b'\n', b'}']).unwrap();
    for (path, said) in
        [(garbage, "garbage.jsonl:1: not a line of a recording"), (folder.path().join("none"), "none: cannot be read")]
    {
        let refused = replay(&[&path]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains(said), "{}", text(&refused.stderr));
    }
}

#[test]
fn the_metrics_of_a_run_are_where_the_event_says() {
    let laboratory = Laboratory::new("{dataParallel: {}}", 100_000);
    let mut run = laboratory.start(&[]);
    laboratory.wait_for(|event| event["event"] == "SyncEnd" && event["round"] == 5);
    let url =
        laboratory.wait_for(|event| event["event"] == "Metrics" && event["worker"] == "w0")["url"].as_str().unwrap().to_owned();
    let page = get(&url);
    signal(run.id() as i32, Signal::INT);
    assert_eq!(code(&mut run), Some(130));
    assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
    let value = |line: &str| -> f64 {
        let found = page.lines().find_map(|written| written.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("{line} in {page}"))
    };
    assert!(value("atoll_rounds_committed_total ") >= 5.0);
    assert!(value("atoll_round ") >= 5.0);
    assert_eq!((value("atoll_world_size "), value("atoll_member "), value("atoll_term ")), (2.0, 1.0, 1.0));
    let phases = ["vote", "reduce_scatter", "all_gather", "commit"]
        .map(|phase| format!("atoll_phase_seconds_count{{phase=\"{phase}\"}} "));
    for phase in &phases {
        assert!(value(phase) >= 5.0, "{phase}");
    }
    for direction in ["sent", "received"] {
        let of_a_peer = value(&format!("atoll_lane_bytes_total{{direction=\"{direction}\",island=\"local\",peer=\"w1\"}} "));
        let on_links = value(&format!("atoll_wire_bytes_total{{direction=\"{direction}\"}} "));
        assert!(0.0 < of_a_peer && of_a_peer < on_links, "{of_a_peer} of {on_links} {direction}");
    }
}

#[test]
fn what_a_sidecar_logs_of_an_operation_is_in_its_span() {
    let laboratory = Laboratory::new("{dataParallel: {}}", 3);
    let mut command = laboratory.command(&[]);
    command.env("ATOLL_LOG", "atoll_sidecar=debug").env("ATOLL_LOG_FORMAT", "json");
    assert!(command.output().unwrap().status.success());
    let log = fs::read_to_string(laboratory.out().join("logs/w0-sidecar.log")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let second = |line: &&Value| line["span"]["key"] == "round 2" && line["span"]["name"] == "operation";
    let of_second: Vec<&Value> = lines.iter().filter(second).collect();
    let said: Vec<_> = of_second.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(said, ["moving", "moved", "ended"], "{log}");
    for field in ["epoch", "term", "number", "bytes"] {
        assert!(of_second.iter().all(|line| line["span"][field].as_u64() > Some(0)), "{field} in {of_second:?}");
    }
}

/// The page at `url`, as it comes.
fn get(url: &str) -> String {
    use std::io::{Read, Write};
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}
