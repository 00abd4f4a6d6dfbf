//! Whom an abort names: the slot that caused it, where one did, on everybody who waited.

use super::*;
use atoll_collective::operation::Key;
use atoll_collective::v1::{Abort, Failed, Leave, OperationKind, leave};

/// A sum for slot 1: nobody can do it without that slot.
fn together() -> Operation {
    let mut operation = Operation { ends_round: false, ..operation::ends_round(ROUND, 1, 8) };
    operation.key.as_mut().unwrap().slots = vec![0, 1];
    Operation { kind: OperationKind::Reduce.into(), root: 1, ..operation }
}

/// A coordinator whose two members move the data of `operation`.
fn moving(operation: &Operation) -> Coordinator {
    let mut coordinator = training();
    tick(&mut coordinator, entered(0, operation.clone()), 3);
    assert!(begins(&tick(&mut coordinator, entered(1, operation.clone()), 3)));
    coordinator
}

/// A member cannot go on, because of slot 1.
fn failed(by: u32, operation: &Operation, reason: AbortReason) -> Event {
    let detail = "element 3".to_owned();
    let key = operation.key.clone();
    message(by, peer_message::Body::Failed(Failed { epoch: 1, key, reason: reason.into(), culprit: 1, detail }))
}

/// Why `to` is told that it is left out.
fn evictions(actions: &[Action], to: u32) -> Vec<AbortReason> {
    let evict = |action: &Action| match action {
        Action::Send { slot, message } if *slot == to => match &message.body {
            Some(coordinator_message::Body::Evict(evict)) => Some(evict.reason()),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(evict).collect()
}

/// The last abort that people are told of.
fn reported(actions: &[Action]) -> (AbortReason, Option<u32>, String) {
    let why = actions.iter().rev().find_map(|action| match action {
        Action::Report(Notice::Aborted { why, .. }) => Some(why.clone()),
        _ => None,
    });
    let why = why.unwrap();
    (why.reason, why.culprit, why.detail)
}

#[test]
fn who_gives_nan_is_named_to_those_who_cannot_go_on_without_it() {
    let mut coordinator = moving(&together());
    let done = tick(&mut coordinator, failed(0, &together(), AbortReason::NotFinite), 4);
    let named = |over| (AbortReason::NotFinite, Some(1), over);
    assert_eq!(aborts(&done, 0), [named(false), named(true)], "the attempt, and then the operation");
    assert!(evicts(&done, 1, AbortReason::NotFinite));
    let detail = "w1: reported by slot 0: element 3".to_owned();
    assert_eq!(reported(&done), (AbortReason::NotFinite, Some(1), detail));
}

#[test]
fn who_is_lost_is_named_and_so_is_one_that_was_never_there() {
    let mut coordinator = moving(&together());
    let done = tick(&mut coordinator, Event::Disconnected { slot: 1, incarnation: 1 }, 4);
    assert_eq!(aborts(&done, 0).last(), Some(&(AbortReason::PeerLost, Some(1), true)));

    let for_another = Operation { root: 7, ..together() };
    let done = tick(&mut training(), entered(0, for_another), 3);
    assert_eq!(aborts(&done, 0), [(AbortReason::PeerLost, Some(7), true)]);
}

#[test]
fn who_asks_for_another_operation_than_most_is_left_out_in_whatever_order_they_ask() {
    let asked = operation::ends_round(ROUND, 1, 8);
    let three = Settings { minimum: 3, target: 3, ..settings() };
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for odd in 0..3 {
            let mut coordinator = training_of(3, three.clone());
            let mut done = Vec::new();
            for slot in order {
                let elements = if slot == odd { 9 } else { 8 };
                done.extend(tick(&mut coordinator, entered(slot, Operation { elements, ..asked.clone() }), 5));
            }
            let left: Vec<u32> = (0..3).filter(|slot| evicts(&done, *slot, AbortReason::Mismatch)).collect();
            assert_eq!(left, [odd], "in the order {order:?}");
            assert!(begins(&done), "the others go on");
        }
    }
}

#[test]
fn where_as_many_ask_for_one_operation_as_for_another_nobody_is_blamed() {
    let mut coordinator = training();
    tick(&mut coordinator, entered(0, together()), 3);
    let done = tick(&mut coordinator, entered(1, Operation { elements: 9, ..together() }), 3);
    for slot in [0, 1] {
        assert_eq!(aborts(&done, slot), [(AbortReason::Mismatch, None, true)]);
        assert!(!evicts(&done, slot, AbortReason::Mismatch));
    }
}

#[test]
fn all_who_are_left_out_for_the_same_fault_hear_of_it() {
    let mut coordinator = training();
    let mut done = Vec::new();
    for slot in [0, 1] {
        let not_dealt = peer_message::Body::Enter(enter(slot, range(50, 54)));
        done.extend(tick(&mut coordinator, message(slot, not_dealt), 5));
    }
    for slot in [0, 1] {
        let told = evictions(&done, slot);
        assert!(!told.is_empty() && told.iter().all(|reason| *reason == AbortReason::Mismatch), "slot {slot} hears {told:?}");
    }
}

#[test]
fn a_trainer_that_ends_after_it_has_finished_is_not_lost() {
    let leaves = |reason: leave::Reason| message(1, peer_message::Body::Leave(Leave { reason: reason.into() }));
    let mut coordinator = training();
    tick(&mut coordinator, leaves(leave::Reason::Finished), 3);
    assert!(evicts(&tick(&mut coordinator, leaves(leave::Reason::TrainerLost), 4), 1, AbortReason::Left));
    let done = tick(&mut training(), leaves(leave::Reason::TrainerLost), 4);
    assert!(evicts(&done, 1, AbortReason::TrainerLost));
}

#[test]
fn a_suspect_is_named_while_its_operation_is_tried_once_more() {
    let operation = operation::ends_round(ROUND, 1, 8);
    let mut coordinator = training();
    tick(&mut coordinator, message(0, peer_message::Body::Enter(enter(0, range(0, 4)))), 3);
    tick(&mut coordinator, message(1, peer_message::Body::Enter(enter(1, range(4, 8)))), 3);
    tick(&mut coordinator, failed(0, &operation, AbortReason::LaneFailed), 4);
    let done = tick(&mut coordinator, Event::Tick, 300);
    assert_eq!(aborts(&done, 0), [(AbortReason::LaneFailed, Some(1), false)]);
    assert!(begins(&done) && reported(&done).2.starts_with("w1: "), "{done:?}");
}

#[test]
fn nobody_is_named_for_a_sum_that_overflows_or_for_results_of_which_none_is_more_frequent() {
    let done = tick(&mut moving(&together()), failed(1, &together(), AbortReason::Overflow), 4);
    assert_eq!(aborts(&done, 0), [(AbortReason::Overflow, None, true)]);

    let mut coordinator = moving(&together());
    let mut done = Vec::new();
    for slot in [0, 1] {
        let vote = Prepared { epoch: 1, key: together().key, result_hash: vec![slot as u8; chain::HASH] };
        done = tick(&mut coordinator, message(slot, peer_message::Body::Prepared(vote)), 4);
    }
    assert_eq!(aborts(&done, 0), [(AbortReason::Disagreement, None, false)]);
}

/// A peer of slot 1 that was started in the round and entered `operation`, until 60,000 ms.
fn waits_for(operation: Operation) -> (Peer, Vec<peer::Action>) {
    let mut peer = peer(1);
    told(&mut peer, coordinator_message::Body::Start(start(1, 1)));
    let enter = Enter { operation: Some(operation), ..enter(1, range(4, 8)) };
    let done = peer.tick(peer::Event::Entered(enter, 60_000), 4);
    (peer, done)
}

/// Why the operation that the trainer waited for was aborted, and who caused it.
fn ended(actions: &[peer::Action]) -> (AbortReason, Option<u32>) {
    let ended = actions.iter().find_map(|action| match action {
        peer::Action::Ended(_, peer::Outcome::Aborted(refusal)) => Some((refusal.reason, refusal.culprit)),
        _ => None,
    });
    ended.unwrap_or_else(|| panic!("{actions:?}"))
}

#[test]
fn a_trainer_is_told_whom_the_coordinator_names() {
    let (mut peer, _) = waits_for(together());
    let key = Key { started: 1, ..operation::key(Some(&together())) };
    for culprit in [Some(0), None] {
        let mut peer = peer.clone();
        let reason = AbortReason::NotFinite.into();
        let abort = Abort { key: Some(key.clone().into()), reason, culprit, over: true, ..Abort::default() };
        assert_eq!(ended(&told(&mut peer, coordinator_message::Body::Abort(abort))), (AbortReason::NotFinite, culprit));
    }
    let evict = Evict { reason: AbortReason::NotFinite.into(), ..Evict::default() };
    assert_eq!(ended(&told(&mut peer, coordinator_message::Body::Evict(evict))), (AbortReason::NotFinite, Some(1)));
}

#[test]
fn a_peer_names_itself_where_the_cause_is_its_own() {
    let own = |reason| (reason, Some(1));
    let (_, done) = waits_for(Operation { kind: 0, ..together() });
    assert_eq!(ended(&done), own(AbortReason::Mismatch), "what it asks for cannot be");
    let mut done = peer(1).tick(peer::Event::Entered(enter(1, range(4, 8)), 60_000), 4);
    assert_eq!(ended(&done), own(AbortReason::PeerLost), "it was not started");
    let (mut peer, _) = waits_for(together());
    done = peer.tick(peer::Event::TrainerLost, 5);
    assert_eq!(ended(&done), own(AbortReason::TrainerLost));
    done = told(&mut voter(5), coordinator_message::Body::Commit(commit(vec![0], 6)));
    assert_eq!(ended(&done), own(AbortReason::PeerLost), "the others went on");
}

/// Others may have its data then, and be prepared with it, and nobody may know that it is not.
#[test]
fn what_ends_while_data_moves_is_for_the_others_to_decide() {
    let (waiting, _) = waits_for(together());
    let mut moving = waiting.clone();
    let contributions = [0, 1].map(|slot| Contribution { slot, weight: 1, ..Contribution::default() }).to_vec();
    let record = Some(epoch(1, 1, &[0, 1]));
    let operation = Some(Operation { key: Some(Key { started: 1, ..operation::key(Some(&together())) }.into()), ..together() });
    let begin = Begin { operation, record, contributions, number: 1, ..Begin::default() };
    let moves = told(&mut moving, coordinator_message::Body::Begin(begin));
    assert!(matches!(moves[..], [peer::Action::Move(_)]), "{moves:?}");
    let again = || peer::Event::Arrived(arrive(1), None);
    for (event, now, before) in [
        (peer::Event::Tick, 60_000, (AbortReason::Deadline, None)),
        (peer::Event::TrainerLost, 5, (AbortReason::TrainerLost, Some(1))),
        (again(), 5, (AbortReason::TrainerLost, Some(1))),
    ] {
        assert_eq!(ended(&waiting.clone().tick(event.clone(), now)), before, "{event:?} before data moves");
        assert_eq!(ended(&moving.clone().tick(event.clone(), now)), (AbortReason::PeerLost, Some(1)), "{event:?}");
    }
}

#[test]
fn others_are_told_the_beginning_of_what_a_member_says() {
    let mut coordinator = moving(&together());
    let (key, detail) = (together().key, "\u{e4}".repeat(1 << 20));
    let failed = Failed { epoch: 1, key, reason: AbortReason::LaneFailed.into(), culprit: 1, detail };
    let done = tick(&mut coordinator, message(1, peer_message::Body::Failed(failed)), 4);
    assert_eq!(reported(&done).2, format!("w1: reported by slot 1: {}", "\u{e4}".repeat(512 - 20)));
}

#[test]
fn others_are_told_the_beginning_of_the_name_of_what_a_member_asks_for() {
    let mut named = together();
    named.key.as_mut().unwrap().tag = "\u{e4}".repeat(1 << 20);
    let done = tick(&mut training(), entered(1, named.clone()), 3);
    assert!(evicts(&done, 1, AbortReason::Mismatch) && said(&done) < 8_000, "{} bytes", said(&done));

    let mut next = Coordinator::new(settings(), epoch(2, 1, &[0, 1]), 0);
    let brings = |slot, flights| Hello { start: Some(start(slot, 1)), flights, ..hello(slot) };
    tick(&mut next, Event::Connected(Box::new(brings(0, Vec::new()))), 1);
    let enter = enters(1, named);
    let flight = Flight { enter: Some(enter), ..Flight::default() };
    let done = tick(&mut next, Event::Connected(Box::new(brings(1, vec![flight]))), 2);
    assert!(evicts(&done, 1, AbortReason::Mismatch) && said(&done) < 8_000, "{} bytes", said(&done));
}

/// Bytes of all that is said and reported.
fn said(actions: &[Action]) -> usize {
    actions.iter().map(|action| serde_json::to_string(action).unwrap().len()).sum()
}

#[test]
fn who_is_no_member_complains_of_nobody() {
    let mut coordinator = moving(&together());
    tick(&mut coordinator, Event::Connected(Box::new(Hello { arrive: None, ..hello(2) })), 4);
    let done = tick(&mut coordinator, failed(2, &together(), AbortReason::NotFinite), 5);
    assert_eq!(done, []);
}
