//! Contributors, by the coordinator's own word: they are counted where they give, and decide nothing about others.
#![allow(clippy::unwrap_used, missing_docs)]

use atoll_collective::coordinator::{Action, Coordinator, Event, Settings};
use atoll_collective::v1::{
    Abort, AbortReason, Arrive, Begin, Commit, CommitRecord, Contribution, DataType, Enter, EpochRecord, Failed, Flight,
    Heartbeat, Hello, Leave, Ledger, Member, Operation, OperationKind, Prepared, Ruling, SampleRange, Start, coordinator_message,
    leave, peer_message,
};
use atoll_collective::{Notice, chain, ledger, operation};

mod recovery;

const ROUND: u64 = 1;
const TIMEOUT: u64 = 60_000;

/// Slots below 2 are contributors': the lowest, so that nobody is trusted for coming first.
fn member(slot: u32) -> Member {
    Member { slot, worker: format!("w{slot}"), incarnation: 1, contributor: slot < 2, ..Member::default() }
}

fn epoch(term: u64, members: &[u32]) -> EpochRecord {
    let members = members.iter().map(|slot| member(*slot)).collect();
    EpochRecord { term, epoch: 1, coordinator: Some(member(2)), members, ..EpochRecord::default() }
}

/// The record of a run without members.
fn first() -> EpochRecord {
    EpochRecord { epoch: 0, ..epoch(1, &[]) }
}

fn settings() -> Settings {
    Settings { liveness: 2_000, round_timeout: TIMEOUT, ..Settings::of("run", 1) }
}

fn arrive(root: u8) -> Arrive {
    let state_root = vec![root; chain::HASH];
    Arrive { round: ROUND, state_root, state_shape: vec![1; chain::HASH], attempt: 1, ..Arrive::default() }
}

fn hello(slot: u32) -> Hello {
    Hello { run: "run".into(), member: Some(member(slot)), arrive: Some(arrive(7)), ..Hello::default() }
}

fn tick(coordinator: &mut Coordinator, event: Event, now: u64) -> Vec<Action> {
    let (mut waiting, mut done) = (coordinator.tick(event, now), Vec::new());
    while !waiting.is_empty() {
        let action = waiting.remove(0);
        if let Action::Propose(record) = &action {
            let ruling = Ruling { granted: true, record: Some(record.clone()), ..Ruling::default() };
            waiting.extend(coordinator.tick(Event::Ruled(ruling), now));
        }
        done.push(action);
    }
    done
}

fn connect(coordinator: &mut Coordinator, hello: Hello, now: u64) -> Vec<Action> {
    tick(coordinator, Event::Connected(Box::new(hello)), now)
}

fn say(coordinator: &mut Coordinator, slot: u32, body: peer_message::Body, now: u64) -> Vec<Action> {
    tick(coordinator, Event::Message { slot, incarnation: 1, learned: 0, body: Box::new(body) }, now)
}

/// All live: time passes, and nobody is silent.
fn pass(coordinator: &mut Coordinator, members: &[u32], until: u64) -> Vec<Action> {
    let mut done = Vec::new();
    for now in (0..=until).step_by(500) {
        for slot in members {
            done.extend(say(coordinator, *slot, peer_message::Body::Heartbeat(Heartbeat {}), now));
        }
        done.extend(tick(coordinator, Event::Tick, now));
    }
    done
}

/// A coordinator whose members, these, train in the first round.
fn training(members: &[u32]) -> Coordinator {
    let trusted = members.iter().filter(|slot| !member(**slot).contributor).count();
    let settings = Settings { minimum: trusted, target: trusted, ..settings() };
    let mut coordinator = Coordinator::new(settings, first(), 0);
    let mut started = 0;
    for slot in members {
        started += count(&connect(&mut coordinator, hello(*slot), 0), |body| matches!(body, coordinator_message::Body::Start(_)));
    }
    assert_eq!(started, members.len());
    coordinator
}

/// The same, with the reduction that ends the round begun.
fn moving(members: &[u32]) -> Coordinator {
    let mut coordinator = training(members);
    let mut begun = 0;
    for slot in members {
        let done = say(&mut coordinator, *slot, enter(*slot, operation::ends_round(ROUND, 1, 8)), 0);
        begun += count(&done, |body| matches!(body, coordinator_message::Body::Begin(_)));
    }
    assert_eq!(begun, members.len());
    coordinator
}

fn enter(slot: u32, operation: Operation) -> peer_message::Body {
    let contribution = Some(Contribution { slot, weight: 1, ..Contribution::default() });
    peer_message::Body::Enter(Enter { operation: Some(operation), contribution, bandwidth: 0 })
}

fn vote(hash: u8) -> Prepared {
    Prepared { epoch: 1, key: operation::ends_round(ROUND, 1, 8).key, result_hash: vec![hash; chain::HASH] }
}

fn prepared(coordinator: &mut Coordinator, slot: u32, hash: u8, now: u64) -> Vec<Action> {
    say(coordinator, slot, peer_message::Body::Prepared(vote(hash)), now)
}

fn failed(coordinator: &mut Coordinator, slot: u32, reason: AbortReason, culprit: u32, now: u64) -> Vec<Action> {
    let (key, reason) = (vote(0).key, reason.into());
    say(coordinator, slot, peer_message::Body::Failed(Failed { epoch: 1, key, reason, culprit, detail: String::new() }), now)
}

fn count(actions: &[Action], wanted: impl Fn(&coordinator_message::Body) -> bool) -> usize {
    let is = |action: &&Action| matches!(action, Action::Send { message, .. } if message.body.as_ref().is_some_and(&wanted));
    actions.iter().filter(is).count()
}

fn commits(actions: &[Action]) -> usize {
    count(actions, |body| matches!(body, coordinator_message::Body::Commit(_)))
}

fn evicted(actions: &[Action]) -> Vec<(u32, AbortReason)> {
    let evicted = |action: &Action| match action {
        Action::Report(Notice::Evicted { slot, reason, .. }) => Some((*slot, *reason)),
        _ => None,
    };
    actions.iter().filter_map(evicted).collect()
}

#[test]
fn what_all_agree_on_is_committed_with_what_contributors_gave() {
    let mut coordinator = moving(&[0, 2, 3]);
    assert_eq!(commits(&prepared(&mut coordinator, 2, 9, 1)) + commits(&prepared(&mut coordinator, 3, 9, 1)), 0);
    let done = prepared(&mut coordinator, 0, 9, 1);
    let record = done.iter().find_map(|action| match action {
        Action::Report(Notice::Committed(record)) => {
            Some(record.contributions.iter().map(|given| given.slot).collect::<Vec<_>>())
        }
        _ => None,
    });
    assert_eq!((commits(&done), record), (3, Some(vec![0, 2, 3])));
}

#[test]
fn contributors_whose_results_are_others_are_to_blame_however_many_they_are() {
    let mut coordinator = moving(&[0, 1, 2]);
    prepared(&mut coordinator, 0, 5, 1);
    prepared(&mut coordinator, 1, 5, 1);
    let done = prepared(&mut coordinator, 2, 9, 1);
    assert_eq!(evicted(&done), [(0, AbortReason::Disagreement), (1, AbortReason::Disagreement)]);
    assert_eq!(commits(&done), 0, "it is tried again without them");
}

#[test]
fn a_contributor_is_waited_for_as_long_as_a_round_may_take() {
    let mut coordinator = moving(&[0, 2, 3]);
    prepared(&mut coordinator, 2, 9, 0);
    prepared(&mut coordinator, 3, 9, 0);
    assert_eq!(evicted(&pass(&mut coordinator, &[0, 2, 3], TIMEOUT)), []);
    assert_eq!(evicted(&tick(&mut coordinator, Event::Tick, TIMEOUT + 1)), [(0, AbortReason::Straggler)]);

    let mut early = training(&[0, 2, 3]);
    for slot in [2, 3] {
        say(&mut early, slot, enter(slot, operation::ends_round(ROUND, 1, 8)), 0);
    }
    assert_eq!(evicted(&pass(&mut early, &[0, 2, 3], TIMEOUT)), []);
    let done = tick(&mut early, Event::Tick, TIMEOUT + 1);
    assert_eq!(evicted(&done), [(0, AbortReason::Straggler)]);
    assert_eq!(count(&done, |body| matches!(body, coordinator_message::Body::Begin(_))), 2, "the others go on");
}

/// It gives a block now and then: its copies are what the others wait for, and nobody of them can end before it.
#[test]
fn a_contributor_that_moves_slowly_holds_an_operation_no_longer_than_a_round_may_take() {
    let mut coordinator = moving(&[0, 2, 3]);
    assert_eq!(evicted(&pass(&mut coordinator, &[0, 2, 3], TIMEOUT)), []);
    let done = tick(&mut coordinator, Event::Tick, TIMEOUT + 1);
    assert_eq!(evicted(&done), [(0, AbortReason::Straggler)]);
    assert_eq!(count(&done, |body| matches!(body, coordinator_message::Body::Begin(_))), 2, "the others begin again");
}

#[test]
fn the_time_for_moving_begins_when_data_moves() {
    let mut coordinator = training(&[0, 2, 3]);
    for slot in [2, 3] {
        say(&mut coordinator, slot, enter(slot, operation::ends_round(ROUND, 1, 8)), 0);
    }
    assert_eq!(evicted(&pass(&mut coordinator, &[0, 2, 3], TIMEOUT)), []);
    let done = say(&mut coordinator, 0, enter(0, operation::ends_round(ROUND, 1, 8)), TIMEOUT);
    assert_eq!(count(&done, |body| matches!(body, coordinator_message::Body::Begin(_))), 3);
    assert_eq!(evicted(&tick(&mut coordinator, Event::Tick, TIMEOUT + 1)), [], "it has entered in time");
    for now in (TIMEOUT..2 * TIMEOUT).step_by(500) {
        for slot in [0, 2, 3] {
            say(&mut coordinator, slot, peer_message::Body::Heartbeat(Heartbeat {}), now);
        }
        assert_eq!(evicted(&tick(&mut coordinator, Event::Tick, now)), [], "at {now}");
    }
    assert_eq!(evicted(&tick(&mut coordinator, Event::Tick, 2 * TIMEOUT + 2)), [(0, AbortReason::Straggler)]);
}

/// One operation after another, each of which is short.
#[test]
fn a_contributor_that_always_moves_something_is_not_late() {
    let named = |sequence| {
        let mut operation = Operation { ends_round: false, ..operation::ends_round(ROUND, 1, 8) };
        let key = operation.key.as_mut().unwrap();
        (key.tag, key.sequence) = ("gradients".into(), sequence);
        operation
    };
    let mut coordinator = training(&[0, 2, 3]);
    let enters = |coordinator: &mut Coordinator, sequence, now| {
        for slot in [0, 2, 3] {
            say(coordinator, slot, enter(slot, named(sequence)), now);
        }
    };
    enters(&mut coordinator, 0, 0);
    for step in 1..=3 * TIMEOUT / 500 {
        let now = step * 500;
        enters(&mut coordinator, step, now);
        for slot in [0, 2, 3] {
            let key = named(step - 1).key;
            let vote = Prepared { epoch: 1, key, result_hash: vec![9; chain::HASH] };
            say(&mut coordinator, slot, peer_message::Body::Prepared(vote), now);
            say(&mut coordinator, slot, peer_message::Body::Heartbeat(Heartbeat {}), now);
        }
        assert_eq!(evicted(&tick(&mut coordinator, Event::Tick, now)), [], "at {now}");
    }
}

#[test]
fn trusted_members_are_waited_for_where_the_run_does_not_drop_late_ones() {
    let mut coordinator = moving(&[0, 2, 3]);
    prepared(&mut coordinator, 0, 9, 0);
    prepared(&mut coordinator, 2, 9, 0);
    assert_eq!(evicted(&pass(&mut coordinator, &[0, 2, 3], 2 * TIMEOUT)), []);
}

#[test]
fn what_a_contributor_says_of_others_is_about_itself() {
    for reason in [AbortReason::NotFinite, AbortReason::LaneFailed, AbortReason::Overflow] {
        let mut coordinator = moving(&[0, 2, 3]);
        let done = failed(&mut coordinator, 0, reason, 3, 0);
        assert_eq!((evicted(&done), count(&done, |body| matches!(body, coordinator_message::Body::Abort(_)))), (vec![], 0));
        let again = tick(&mut coordinator, Event::Tick, 250);
        assert_eq!(evicted(&again), [], "once it is tried again: {reason:?}");
        let epoch = again.iter().find_map(|action| if let Action::Propose(record) = action { Some(record.epoch) } else { None });
        let (key, epoch) = (vote(0).key, epoch.unwrap());
        let body = peer_message::Body::Failed(Failed { epoch, key, reason: reason.into(), culprit: 3, detail: String::new() });
        say(&mut coordinator, 0, body, 300);
        assert_eq!(evicted(&tick(&mut coordinator, Event::Tick, 600)), [(0, reason)]);
    }
    let mut coordinator = moving(&[0, 2, 3]);
    assert_eq!(evicted(&failed(&mut coordinator, 2, AbortReason::NotFinite, 3, 0)), [(3, AbortReason::NotFinite)]);
}

#[test]
fn a_sum_that_overflows_is_tried_without_contributors_and_given_up_among_trusted_members() {
    let begins = |done: &[Action]| count(done, |body| matches!(body, coordinator_message::Body::Begin(_)));
    let mut coordinator = moving(&[0, 2, 3]);
    let done = failed(&mut coordinator, 2, AbortReason::Overflow, 2, 0);
    assert_eq!((evicted(&done), begins(&done)), (vec![(0, AbortReason::Overflow)], 2));
    let mut coordinator = moving(&[2, 3]);
    let done = failed(&mut coordinator, 2, AbortReason::Overflow, 2, 0);
    assert_eq!((evicted(&done), begins(&done)), (vec![], 0));
    assert_eq!(count(&done, |body| matches!(body, coordinator_message::Body::Abort(_))), 2);
}

#[test]
fn who_waits_for_a_contributor_is_judged_after_it() {
    let mut coordinator = moving(&[1, 2, 3]);
    failed(&mut coordinator, 3, AbortReason::NoProgress, 2, 0);
    failed(&mut coordinator, 2, AbortReason::NoProgress, 1, 100);
    assert!(tick(&mut coordinator, Event::Tick, 300).is_empty(), "2 waits for 1");
    let retried = tick(&mut coordinator, Event::Tick, 350);
    let blamed = retried.iter().find_map(|action| match action {
        Action::Send { message, .. } => match &message.body {
            Some(coordinator_message::Body::Abort(Abort { culprit, .. })) => *culprit,
            _ => None,
        },
        _ => None,
    });
    assert_eq!(blamed, Some(1));
}

#[test]
fn an_operation_of_contributors_alone_is_refused() {
    let mut coordinator = training(&[0, 1, 2]);
    let mut operation = Operation { ends_round: false, ..operation::ends_round(ROUND, 1, 8) };
    operation.key.as_mut().unwrap().slots = vec![0, 1];
    let done = say(&mut coordinator, 0, enter(0, operation), 1);
    let refused = |body: &coordinator_message::Body| matches!(body, coordinator_message::Body::Abort(abort) if abort.over && abort.reason() == AbortReason::TooFewPeers);
    assert_eq!(count(&done, refused), 1, "{done:?}");
}

#[test]
fn what_trusted_members_ask_for_is_what_is_wanted() {
    let mut coordinator = training(&[0, 1, 2]);
    for slot in [0, 1] {
        say(&mut coordinator, slot, enter(slot, operation::ends_round(ROUND, 1, 9)), 1);
    }
    let done = say(&mut coordinator, 2, enter(2, operation::ends_round(ROUND, 1, 8)), 1);
    assert_eq!(evicted(&done), [(0, AbortReason::Mismatch), (1, AbortReason::Mismatch)]);
}

#[test]
fn what_a_contributor_alone_has_begun_keeps_nobody_from_ending_the_round() {
    let mut coordinator = training(&[0, 2]);
    let mut operation = Operation { ends_round: false, ..operation::ends_round(ROUND, 1, 8) };
    operation.key.as_mut().unwrap().tag = "mine".into();
    say(&mut coordinator, 0, enter(0, operation), 1);
    say(&mut coordinator, 0, enter(0, operation::ends_round(ROUND, 1, 8)), 1);
    let done = say(&mut coordinator, 2, enter(2, operation::ends_round(ROUND, 1, 8)), 1);
    assert_eq!(count(&done, |body| matches!(body, coordinator_message::Body::Begin(_))), 2);
}

#[test]
fn contributors_do_not_make_a_run() {
    let mut coordinator = Coordinator::new(settings(), first(), 0);
    assert_eq!((connect(&mut coordinator, hello(0), 0), connect(&mut coordinator, hello(1), 0)), (vec![], vec![]));
    assert!(!connect(&mut coordinator, hello(2), 0).is_empty());

    let mut short = training(&[0, 2]);
    let done = tick(&mut short, Event::Disconnected { slot: 2, incarnation: 1 }, 1);
    assert!(!done.iter().any(|action| matches!(action, Action::Propose(_))), "an epoch of contributors alone: {done:?}");
    assert_eq!(count(&done, |body| matches!(body, coordinator_message::Body::Evict(_))), 1, "its round is over");
    let back = EpochRecord { members: vec![Member { incarnation: 2, ..member(2) }], ..epoch(1, &[]) };
    let again = connect(&mut short, Hello { member: back.members.first().cloned(), ..hello(2) }, 2);
    let members =
        again.iter().find_map(|action| if let Action::Propose(record) = action { Some(record.members.clone()) } else { None });
    assert_eq!(members, Some(back.members));
}

#[test]
fn a_contributors_state_is_not_elected_and_not_given() {
    let mut coordinator = Coordinator::new(settings(), first(), 0);
    let mut starts = Vec::new();
    for (slot, root) in [(0, 5), (1, 5), (2, 6)] {
        let done = connect(&mut coordinator, Hello { arrive: Some(arrive(root)), ..hello(slot) }, 0);
        for action in done {
            if let Action::Send { slot, message } = action
                && let Some(coordinator_message::Body::Start(Start { state_root, donors, synchronise, .. })) = message.body
            {
                starts.push((slot, state_root[0], donors, synchronise));
            }
        }
    }
    assert_eq!(starts, [(0, 6, vec![2], true), (1, 6, vec![2], true), (2, 6, vec![2], false)]);
}

/// An all-gather of bytes.
fn gather() -> Operation {
    let mut operation = Operation { ends_round: false, elements: 0, ..operation::ends_round(ROUND, 1, 8) };
    operation.set_kind(OperationKind::AllGather);
    operation.set_data_type(DataType::U8);
    operation.key.as_mut().unwrap().sequence = 1;
    operation
}

fn declare(coordinator: &mut Coordinator, slot: u32, elements: u64) -> Vec<Action> {
    let contribution = Some(Contribution { slot, elements, ..Contribution::default() });
    say(coordinator, slot, peer_message::Body::Enter(Enter { operation: Some(gather()), contribution, bandwidth: 0 }), 1)
}

/// Who begins what, in the last attempt.
fn begun(actions: &[Action]) -> Vec<u32> {
    let slots = |action: &Action| match action {
        Action::Send { message, .. } => match &message.body {
            Some(coordinator_message::Body::Begin(begin)) => Some(begin.contributions.iter().map(|given| given.slot).collect()),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(slots).next_back().unwrap_or_default()
}

#[test]
fn a_contributor_that_declares_more_than_any_result_may_have_is_left_out_and_the_others_begin() {
    let mut coordinator = training(&[0, 1, 2, 3]);
    for (slot, elements) in [(0, operation::MOST_ELEMENTS), (1, 4), (2, 6)] {
        declare(&mut coordinator, slot, elements);
    }
    let done = declare(&mut coordinator, 3, 6);
    assert_eq!((evicted(&done), begun(&done)), (vec![(0, AbortReason::Mismatch)], vec![1, 2, 3]));

    let mut trusted = training(&[2, 3]);
    declare(&mut trusted, 2, operation::MOST_ELEMENTS);
    let done = declare(&mut trusted, 3, operation::MOST_ELEMENTS);
    let over = |body: &coordinator_message::Body| matches!(body, coordinator_message::Body::Abort(abort) if abort.over);
    assert_eq!((evicted(&done), count(&done, over)), (vec![], 2));
}

#[test]
fn a_contributor_whose_part_a_trusted_member_has_no_room_for_is_left_out_at_once() {
    let mut coordinator = training(&[0, 2, 3]);
    for (slot, elements) in [(0, 1 << 30), (2, 6), (3, 6)] {
        declare(&mut coordinator, slot, elements);
    }
    let (key, reason) = (gather().key, AbortReason::Mismatch.into());
    let no_room = |culprit| Failed { epoch: 1, key: key.clone(), reason, culprit, detail: String::new() };
    let done = say(&mut coordinator, 2, peer_message::Body::Failed(no_room(0)), 1);
    assert_eq!((evicted(&done), begun(&done)), (vec![(0, AbortReason::Mismatch)], vec![2, 3]));
    let late = say(&mut coordinator, 3, peer_message::Body::Failed(no_room(0)), 1);
    assert_eq!(evicted(&late), []);
}

fn finishes(coordinator: &mut Coordinator, slot: u32) -> Vec<Action> {
    say(coordinator, slot, peer_message::Body::Leave(Leave { reason: leave::Reason::Finished.into() }), 1)
}

#[test]
fn a_contributor_that_has_finished_in_the_middle_of_an_operation_is_left_out_and_the_others_begin_again() {
    let mut coordinator = moving(&[0, 2, 3]);
    let done = finishes(&mut coordinator, 0);
    assert_eq!((evicted(&done), begun(&done)), (vec![(0, AbortReason::Left)], vec![2, 3]));
}

#[test]
fn a_contributor_that_arrives_has_not_finished_whatever_it_said_before() {
    let mut coordinator = moving(&[0, 2]);
    finishes(&mut coordinator, 0);
    let vote = Prepared { epoch: 2, ..vote(9) };
    assert_eq!(commits(&say(&mut coordinator, 2, peer_message::Body::Prepared(vote), 2)), 1);
    let next = Arrive { round: ROUND + 1, attempt: 2, ..arrive(7) };
    let mut done = say(&mut coordinator, 0, peer_message::Body::Arrive(next.clone()), 3);
    done.extend(say(&mut coordinator, 2, peer_message::Body::Arrive(next), 3));
    assert_eq!(count(&done, |body| matches!(body, coordinator_message::Body::Start(_))), 2, "{done:?}");
}

#[test]
fn a_contributor_that_has_finished_and_gone_is_left_out_when_the_others_go_on_and_not_before() {
    let mut coordinator = moving(&[0, 2, 3]);
    for slot in [0, 2, 3] {
        prepared(&mut coordinator, slot, 9, 1);
    }
    assert_eq!(evicted(&finishes(&mut coordinator, 0)), [], "they may have done their last round, too");
    assert_eq!(evicted(&tick(&mut coordinator, Event::Disconnected { slot: 0, incarnation: 1 }, 2)), []);
    let next = Arrive { round: ROUND + 1, attempt: 2, ..arrive(7) };
    let mut done = say(&mut coordinator, 2, peer_message::Body::Arrive(next.clone()), 3);
    done.extend(say(&mut coordinator, 3, peer_message::Body::Arrive(next), 3));
    let starts = count(&done, |body| matches!(body, coordinator_message::Body::Start(_)));
    assert_eq!((evicted(&done), starts), (vec![(0, AbortReason::Left)], 2));
}

/// Those who arrive with these wishes, in slot order, are dealt so many samples.
fn dealt(wishes: &[(u32, u64)]) -> Vec<u64> {
    let trusted = wishes.iter().filter(|(slot, _)| !member(*slot).contributor).count();
    let mut coordinator = Coordinator::new(Settings { minimum: trusted, target: trusted, ..settings() }, first(), 0);
    let mut done = Vec::new();
    for (slot, samples_wanted) in wishes {
        let arrive = Some(Arrive { samples_wanted: *samples_wanted, ..arrive(7) });
        done.extend(connect(&mut coordinator, Hello { arrive, ..hello(*slot) }, 0));
    }
    let start = |action: &Action| match action {
        Action::Send { slot, message } => match &message.body {
            Some(coordinator_message::Body::Start(start)) => Some((*slot, ledger::count(&start.samples))),
            _ => None,
        },
        _ => None,
    };
    let dealt: std::collections::BTreeMap<u32, u64> = done.iter().filter_map(start).collect();
    dealt.into_values().collect()
}

#[test]
fn a_contributor_is_dealt_no_more_than_a_trusted_member_asks_for() {
    assert_eq!(dealt(&[(0, u64::MAX), (1, 3), (2, 4), (3, 8)]), [8, 3, 4, 8]);
    assert_eq!(dealt(&[(2, 4), (3, 8)]), [4, 8]);
}
