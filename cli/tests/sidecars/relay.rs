//! Sidecars that cannot be dialled, reached through a relay that is a process of its own.

use rustix::process::{Pid, Signal, kill_process};

use crate::laboratory::{ELEMENTS, Sidecars};

/// The relay's process, as the supervisor names it last.
fn relay(run: &Sidecars) -> i32 {
    let named = |line: &String| line.split_once("process ").map(|(_, rest)| rest.split([',', ' ']).next().unwrap().to_owned());
    run.said().iter().rev().filter(|line| line.contains("relay")).find_map(named).unwrap().parse().unwrap()
}

/// Bytes that the relay has carried, as it says in the end.
fn carried(said: &[String]) -> u64 {
    let bytes = said.iter().rev().find_map(|line| line.split_once(" bytes carried")?.0.rsplit(' ').next());
    bytes.unwrap_or_else(|| panic!("{said:#?}")).parse().unwrap()
}

#[test]
fn who_listens_nowhere_reduces_with_the_others_through_the_relay() {
    let run = Sidecars::start(3, &["--behind-relay", "2"]);
    assert_eq!([0, 1, 2].map(|slot| run.can_be_dialled(slot)), [true, true, false]);
    let rounds = run.round_of(&[0, 1, 2], 20).number();
    run.assert_one_history();
    let bytes = carried(&run.end());
    // In each round the two others send it their parts of its shard, and the results of theirs: two thirds of the vector each.
    assert!(bytes >= rounds * 4 * ELEMENTS as u64, "{bytes} bytes in {rounds} rounds");
}

#[test]
fn two_behind_one_relay_are_told_apart() {
    let run = Sidecars::start(3, &["--behind-relay", "1,2"]);
    assert_eq!([0, 1, 2].map(|slot| run.can_be_dialled(slot)), [true, false, false]);
    run.round_of(&[0, 1, 2], 20);
    run.assert_one_history();
}

#[test]
fn without_the_relay_those_who_reach_each_other_go_on_until_it_is_back() {
    let run = Sidecars::start(3, &["--behind-relay", "2"]);
    // Whoever would start it again is stopped as well.
    run.signal_hub(Signal::STOP);
    kill_process(Pid::from_raw(relay(&run)).unwrap(), Signal::KILL).unwrap();
    let fewer = run.round(0, |round| round.slots.len() < 3);
    assert!([vec![0, 1], vec![2]].contains(&fewer.slots), "{fewer:?}");
    run.signal_hub(Signal::CONT);
    run.round_of(&[0, 1, 2], fewer.number());
    let evicted = run.event(|event| event["event"] == "Evicted");
    assert!(["LaneFailed", "PeerLost"].contains(&evicted["reason"].as_str().unwrap()), "{evicted}");
    run.assert_one_history();
}

#[test]
fn a_worker_behind_the_relay_is_one_of_the_workers() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_atoll"));
    let output = command.args(["sidecars", "--workers", "2", "--behind-relay", "2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("give 0 to 1"), "{output:?}");
}
