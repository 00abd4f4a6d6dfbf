//! A name is used once: who uses it again is refused, whoever knows of its operation.

use super::*;
use atoll_collective::Refusal;
use atoll_collective::peer::Outcome;

/// A sum for everybody, in the round of this start.
pub(super) fn sum(started: u64) -> Operation {
    let mut operation = Operation { ends_round: false, ..operation::ends_round(ROUND, started, 8) };
    "sum".clone_into(&mut operation.key.as_mut().unwrap().tag);
    operation
}

fn enter_sum(slot: u32) -> Event {
    entered(slot, sum(1))
}

#[test]
fn a_coordinator_refuses_the_name_of_an_operation_that_it_has_committed_and_nobody_is_evicted() {
    let mut coordinator = training();
    tick(&mut coordinator, enter_sum(0), 3);
    assert!(begins(&tick(&mut coordinator, enter_sum(1), 3)));
    for slot in 0..2 {
        let prepared = Prepared { epoch: 1, key: sum(1).key, result_hash: vec![1; chain::HASH] };
        tick(&mut coordinator, message(slot, peer_message::Body::Prepared(prepared)), 4);
    }
    let again = tick(&mut coordinator, enter_sum(1), 5);
    assert_eq!(aborts(&again, 1), [(AbortReason::Mismatch, Some(1), true)]);
    let other = tick(&mut coordinator, enter_sum(0), 5);
    assert!(!begins(&other) && !evicts(&[again, other].concat(), 1, AbortReason::Mismatch));
    let mut another = sum(1);
    another.key.as_mut().unwrap().sequence = 1;
    tick(&mut coordinator, entered(0, another.clone()), 6);
    assert!(begins(&tick(&mut coordinator, entered(1, another), 6)), "they are still in the round");
}

/// What a peer ends for its trainer.
fn ended(actions: &[peer::Action]) -> Option<Outcome> {
    actions.iter().find_map(|action| match action {
        peer::Action::Ended(_, outcome) => Some(outcome.clone()),
        _ => None,
    })
}

/// It begins among both.
pub(super) fn begin_sum() -> Begin {
    let contributions = (0..2).map(|slot| Contribution { slot, weight: 1, ..Contribution::default() }).collect();
    Begin { operation: Some(sum(1)), record: Some(epoch(1, 1, &[0, 1])), contributions, number: 1, ..Begin::default() }
}

/// It is committed, with a result of ones.
pub(super) fn commit_sum() -> Commit {
    let result_hash = vec![1; chain::HASH];
    Commit { index: 1, key: sum(1).key, term: 1, epoch: 1, slots: vec![0, 1], result_hash, record: None }
}

#[test]
fn a_worker_refuses_the_name_of_a_commit_that_another_may_not_have_learned() {
    let mut peer = peer(1);
    told(&mut peer, coordinator_message::Body::Start(start(1, 1)));
    let enter = || peer::Event::Entered(enters(1, sum(0)), 60_000);
    peer.tick(enter(), 4);
    told(&mut peer, coordinator_message::Body::Begin(begin_sum()));
    peer.tick(peer::Event::Moved(operation::key(Some(&sum(1))), (1, 1), Ok(vec![1; chain::HASH])), 5);
    assert!(matches!(ended(&told(&mut peer, coordinator_message::Body::Commit(commit_sum()))), Some(Outcome::Committed(_))));
    let again = peer.tick(enter(), 7);
    let Some(Outcome::Aborted(Refusal { reason, culprit, detail })) = ended(&again) else { unreachable!("{again:?}") };
    assert_eq!((reason, culprit), (AbortReason::Mismatch, Some(1)));
    assert_eq!(detail, "the name was used before: operation sum/0 of round 1 is committed");
    assert_eq!(again.len(), 1, "nobody else is asked");
    // All have learned of it: a new coordinator cannot take what follows for it.
    let settled =
        CoordinatorMessage { term: 1, epoch: 1, settled: 1, body: Some(coordinator_message::Body::Heartbeat(Heartbeat {})) };
    peer.tick(peer::Event::Message(Box::new(settled)), 8);
    let third = peer.tick(enter(), 9);
    assert!(matches!(sent(&third)[..], [peer_message::Body::Enter(_)]), "{third:?}");
}
