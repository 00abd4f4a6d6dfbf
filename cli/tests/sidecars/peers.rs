//! The arbiter `Peers` among real processes: who goes on when the hub, the coordinator or the majority is lost.

use rustix::process::Signal;

use crate::laboratory::Sidecars;

/// All but one of three.
fn but(slot: u32) -> [u32; 2] {
    [0, 1, 2].into_iter().filter(|other| *other != slot).collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn with_hub_and_coordinator_lost_the_others_go_on_in_a_new_term() {
    let run = Sidecars::start(3, &[]);
    let coordinator = run.coordinator();
    run.signal_hub(Signal::STOP);
    run.signal(&[coordinator], Signal::KILL);
    let before = run.round_of(&[0, 1, 2], 0).record.term;
    let alone = run.round_of(&but(coordinator), 0);
    assert!(alone.record.term > before, "{} after {before}", alone.record.term);
    run.signal_hub(Signal::CONT);
    run.round_of(&[0, 1, 2], alone.number());
    run.assert_one_history();
}

/// No clock runs out in it: a heartbeat may be missing for longer than the test waits.
#[test]
fn a_coordinator_that_is_told_to_stop_hands_its_role_over_and_nobody_waits_for_a_clock() {
    let run = Sidecars::start(3, &["--liveness", "600"]);
    for hub_is_there in [true, false] {
        let coordinator = run.coordinator();
        let before = run.round_of(&[0, 1, 2], run.newest()).record.term;
        if !hub_is_there {
            run.signal_hub(Signal::STOP);
        }
        run.signal(&[coordinator], Signal::TERM);
        let alone = run.round(run.newest(), |round| round.slots == but(coordinator) && round.record.term > before);
        run.signal_hub(Signal::CONT);
        run.round_of(&[0, 1, 2], alone.number());
    }
    run.assert_one_history();
}

/// The hub is one voter of three and away: the last vote for a record without the one that leaves is its own.
#[test]
fn one_of_two_that_is_told_to_stop_votes_until_the_other_can_do_without_it() {
    for stops_coordinator in [true, false] {
        let run = Sidecars::start(2, &["--liveness", "600"]);
        run.round_of(&[0, 1], 0);
        run.signal_hub(Signal::STOP);
        let coordinator = run.coordinator();
        let stopped = if stops_coordinator { coordinator } else { 1 - coordinator };
        run.signal(&[stopped], Signal::TERM);
        let alone = run.round_of(&[1 - stopped], run.newest());
        run.signal_hub(Signal::CONT);
        run.round_of(&[0, 1], alone.number());
        run.assert_one_history();
    }
}

#[test]
fn without_a_majority_nobody_commits_until_it_is_back() {
    let run = Sidecars::start(3, &[]);
    for left in [run.coordinator(), but(run.coordinator())[0]] {
        let lost = but(left);
        let said_before = run.events().len();
        run.signal(&lost, Signal::STOP);
        let stopped = run.newest();
        let holds = run.until(|| run.events().into_iter().skip(said_before).find(|event| event["event"] == "NoMajority"));
        assert_eq!(holds["worker"], format!("w{left}"));
        assert_eq!((&holds["reached"], &holds["needed"]), (&1.into(), &2.into()));
        assert_eq!(holds["absent"], serde_json::json!(lost.map(|slot| format!("w{slot}"))));
        // What was voted by all before counts; whoever went on alone would be hundreds of rounds ahead.
        assert!(run.newest() <= stopped + 1);
        run.signal(&lost, Signal::CONT);
        run.round_of(&[0, 1, 2], stopped + 1);
    }
    run.assert_one_history();
}

#[test]
fn what_is_lost_for_ever_is_given_up_by_a_human_alone() {
    let run = Sidecars::start(3, &[]);
    let refused = run.recover(&[0, 1, 2]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("3 of 3 voters are left"), "{refused:?}");
    let left = but(run.coordinator())[0];
    let lost = but(left);
    run.signal(&lost, Signal::KILL);
    run.event(|event| event["event"] == "NoMajority" && event["worker"] == format!("w{left}"));
    let held = run.newest();
    let forced = run.recover(&[0, 1, 2]);
    let printed = String::from_utf8_lossy(&forced.stdout).into_owned();
    // The others may be members again by then.
    assert!(forced.status.success() && printed.contains(&format!("w{left}")), "{forced:?}");
    let event = run.event(|event| event["event"] == "TermForced");
    assert_eq!(event["survivors"], serde_json::json!([format!("w{left}")]));
    run.round_of(&[0, 1, 2], held);
    run.assert_one_history();
}

#[test]
fn the_hub_is_the_third_voter_of_two() {
    let run = Sidecars::start(2, &[]);
    let coordinator = run.coordinator();
    let before = run.newest();
    run.signal(&[coordinator], Signal::KILL);
    let alone = run.round_of(&[1 - coordinator], 0);
    let both = run.round_of(&[0, 1], alone.number().max(before));
    assert!(both.record.term > 1 && both.record.epoch > 1);
    run.assert_one_history();
}
