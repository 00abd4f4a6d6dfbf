//! A contributor among real processes: it takes part and is counted, adds nothing up, never coordinates, and costs nobody anything
//! when it is lost.

use rustix::process::Signal;

use crate::laboratory::{ELEMENTS, Sidecars};

/// Every coordinator that the run has had is one of these.
fn assert_coordinators(run: &Sidecars, trusted: &[u32]) {
    for event in run.events().iter().filter(|event| event["event"] == "Coordinator") {
        assert!(trusted.iter().any(|slot| event["worker"] == format!("w{slot}")), "{event}");
    }
}

#[test]
fn it_gives_its_vector_gets_the_mean_and_adds_nothing_up() {
    // The last of equal workers reduces what is small, but for this one.
    let run = Sidecars::start(4, &["--contributors", "3"]);
    run.round_of(&[0, 1, 2, 3], run.newest() + 40);
    let rounds = run.rounds_of(3);
    let [(sent, received), (_, by_owner)] = [3, 2].map(|slot| run.lane_bytes(slot));
    let vector = 4 * ELEMENTS as u64;
    assert!(sent >= rounds * vector, "{sent} bytes sent in {rounds} rounds of {vector} bytes");
    // One vector in each round, what it takes of states and the rounds since; an owner gets three.
    let most = (run.rounds_of(3) + 2) * vector * 5 / 4;
    assert!(received < most, "{received} bytes received, where one vector in each of {rounds} rounds is less than {most}");
    assert!(by_owner > 2 * received, "{by_owner} bytes for the owner of all shards, {received} for the contributor");
    run.assert_one_history();
}

#[test]
fn the_others_go_on_when_it_is_killed_and_it_comes_back() {
    let run = Sidecars::start(4, &["--contributors", "3"]);
    let before = run.newest();
    run.signal(&[3], Signal::KILL);
    let without = run.round_of(&[0, 1, 2], before);
    let again = run.round_of(&[0, 1, 2, 3], without.number());
    assert_eq!((without.record.term, again.record.term), (1, 1));
    run.assert_one_history();
}

#[test]
fn when_the_coordinator_is_lost_a_trusted_worker_takes_over_with_the_contributor_in_the_round() {
    let run = Sidecars::start(4, &["--contributors", "0"]);
    for _ in 0..2 {
        let (lost, before) = (run.coordinator(), run.newest());
        let left: Vec<u32> = (0..4).filter(|slot| *slot != lost).collect();
        // Nobody starts it again, and the members grant the term among themselves.
        run.signal_hub(Signal::STOP);
        run.signal(&[lost], Signal::KILL);
        let round = run.round_of(&left, before);
        run.signal_hub(Signal::CONT);
        run.round_of(&[0, 1, 2, 3], round.number());
        assert_coordinators(&run, &[1, 2, 3]);
    }
    assert!(run.round(0, |round| round.record.term > 2).record.term > 2);
    run.assert_one_history();
}

#[test]
fn one_worker_at_least_is_no_contributor() {
    let printed = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_atoll"));
        let output = command.args(["sidecars", "--workers", "2", "--contributors"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(printed(&["0,1"]).contains("one worker at least must be none"));
    assert!(printed(&["2"]).contains("give 0 to 1"));
}
