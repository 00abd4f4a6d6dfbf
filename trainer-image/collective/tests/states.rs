//! Which state a round begins from, by the coordinator's own word: elected, repaired, or refused.
#![allow(clippy::unwrap_used, missing_docs)]

use atoll_collective::coordinator::{Action, Coordinator, Event, Settings};
use atoll_collective::peer::{self, Peer};
use atoll_collective::v1::{
    AbortReason, Arrive, CommitRecord, CoordinatorMessage, EpochRecord, Evict, Hello, Member, Ruling, Start, StateStrategy,
    coordinator_message, leave, peer_message,
};
use atoll_collective::{Notice, chain};

fn member(slot: u32) -> Member {
    Member { slot, worker: format!("w{slot}"), incarnation: 1, address: format!("w{slot}:1"), ..Member::default() }
}

/// A trainer that holds the state `root` in which every round before `round` is.
fn holds(round: u64, root: u8) -> Arrive {
    Arrive { round, state_root: vec![root; chain::HASH], state_shape: vec![0; chain::HASH], attempt: 1, ..Arrive::default() }
}

fn strategy(strategy: StateStrategy, arrive: Arrive) -> Arrive {
    Arrive { strategy: strategy.into(), ..arrive }
}

/// What is done, with everything granted that is proposed.
fn granted(coordinator: &mut Coordinator, event: Event, now: u64) -> Vec<Action> {
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

/// A coordinator to which trainers come at once, in slot order, and what it does. All of them know `committed` rounds.
fn run(committed: u64, arrivals: &[Arrive]) -> (Coordinator, Vec<Action>) {
    let settings = Settings { liveness: 2_000, round_timeout: 60_000, ..Settings::of("run", arrivals.len()) };
    let members: Vec<_> = (0..arrivals.len() as u32).map(member).collect();
    let before = EpochRecord { epoch: u64::from(committed > 0), term: 1, coordinator: Some(member(0)), ..EpochRecord::default() };
    let before = if committed > 0 { EpochRecord { members, ..before } } else { before };
    let mut coordinator = Coordinator::new(settings, before, 0);
    let record = (committed > 0).then(|| CommitRecord { round: committed, ..CommitRecord::default() });
    let mut done = Vec::new();
    for (slot, arrive) in (0..).zip(arrivals) {
        let (member, committed) = (Some(member(slot)), record.clone());
        let hello = Hello { run: "run".into(), member, epoch: 1, committed, arrive: Some(arrive.clone()), ..Hello::default() };
        done.extend(granted(&mut coordinator, Event::Connected(Box::new(hello)), 1));
    }
    (coordinator, done)
}

fn arrives(coordinator: &mut Coordinator, slot: u32, arrive: Arrive) -> Vec<Action> {
    let body = Box::new(peer_message::Body::Arrive(arrive));
    granted(coordinator, Event::Message { slot, incarnation: 1, learned: 0, body }, 2)
}

/// Each slot that was started: with which root, whether it has to repair its state, and from whom.
fn started(done: &[Action]) -> Vec<(u32, u8, bool, Vec<u32>)> {
    let mut started = Vec::new();
    for action in done {
        if let Action::Send { slot, message } = action
            && let Some(coordinator_message::Body::Start(start)) = &message.body
        {
            started.push((*slot, start.state_root[0], start.synchronise, start.donors.clone()));
        }
    }
    started
}

/// Slots that were told that their state is refused, and why.
fn refused(done: &[Action]) -> Vec<(u32, &str)> {
    let mut refused = Vec::new();
    for action in done {
        if let Action::Send { slot, message } = action
            && let Some(coordinator_message::Body::Evict(Evict { reason, detail })) = &message.body
            && *reason == AbortReason::StateRefused as i32
        {
            refused.push((*slot, detail.as_str()));
        }
    }
    refused
}

#[test]
fn who_holds_another_state_than_most_repairs_it_from_all_of_them() {
    let (_, done) = run(0, &[holds(1, 9), holds(1, 4), holds(1, 4)]);
    let donors = vec![1, 2];
    assert_eq!(started(&done), [(0, 4, true, donors.clone()), (1, 4, false, donors.clone()), (2, 4, false, donors)]);
}

#[test]
fn one_that_holds_the_newest_round_is_right_against_all_others() {
    let (_, done) = run(5, &[holds(5, 1), holds(6, 2), holds(5, 1)]);
    assert_eq!(started(&done), [(0, 2, true, vec![1]), (1, 2, false, vec![1]), (2, 2, true, vec![1])]);
}

#[test]
fn a_state_whose_repair_did_not_end_is_neither_elected_nor_given() {
    let mixture = Arrive { mixture: true, ..holds(1, 1) };
    let (_, done) = run(0, &[mixture.clone(), mixture, holds(1, 7)]);
    assert_eq!(started(&done), [(0, 7, true, vec![2]), (1, 7, true, vec![2]), (2, 7, false, vec![2])]);
}

#[test]
fn where_nobody_gives_the_newest_state_the_run_says_so_once_and_waits() {
    let (mut coordinator, done) = run(5, &[strategy(StateStrategy::ReceiveOnly, holds(6, 1)), holds(4, 2)]);
    let said = |done: &[Action]| {
        done.iter().filter(|action| matches!(action, Action::Report(Notice::StateMissing { round: 6 }))).count()
    };
    assert_eq!((started(&done), said(&done)), (vec![], 1));
    let later = granted(&mut coordinator, Event::Tick, 3);
    assert_eq!((started(&later), said(&later)), (vec![], 0));
    let done = arrives(&mut coordinator, 0, Arrive { attempt: 2, ..holds(6, 1) });
    assert_eq!(started(&done), [(0, 1, false, vec![0]), (1, 1, true, vec![0])]);
}

#[test]
fn who_takes_no_other_state_is_refused_and_the_others_begin_without_it() {
    let (_, done) = run(0, &[strategy(StateStrategy::SendOnly, holds(1, 9)), holds(1, 4), holds(1, 4)]);
    assert_eq!(refused(&done), [(0, "its state was not elected, and it takes no other")]);
    assert_eq!(started(&done), [(1, 4, false, vec![1, 2]), (2, 4, false, vec![1, 2])]);
}

#[test]
fn a_state_of_other_tensors_is_refused_and_not_asked_for_again() {
    let other = Arrive { state_shape: vec![8; chain::HASH], ..holds(1, 9) };
    let (_, done) = run(0, &[holds(1, 4), holds(1, 4), other]);
    assert_eq!(refused(&done), [(2, "its state has other keys, element types or lengths than the elected one")]);
    assert_eq!(started(&done).len(), 2);
}

#[test]
fn rounds_that_were_never_committed_are_refused() {
    let (_, done) = run(5, &[holds(6, 4), holds(6, 4), holds(9, 9)]);
    assert_eq!(refused(&done), [(2, "its state counts 8 rounds, 5 are committed")]);
    assert_eq!(started(&done).len(), 2);
}

#[test]
fn an_arrival_that_says_no_state_is_none() {
    let (mut coordinator, done) = run(0, &[holds(1, 4), Arrive { state_root: vec![4], ..holds(1, 4) }]);
    assert_eq!(started(&done), []);
    let done = arrives(&mut coordinator, 1, Arrive { attempt: 2, ..holds(1, 4) });
    assert_eq!(started(&done).len(), 2);
}

#[test]
fn a_state_that_nobody_holds_any_more_is_not_waited_for() {
    let (mut coordinator, done) = run(0, &[holds(1, 4), holds(1, 9)]);
    assert_eq!(started(&done), [(0, 4, false, vec![0]), (1, 4, true, vec![0])]);
    granted(&mut coordinator, Event::Disconnected { slot: 0, incarnation: 1 }, 2);
    let mixture = Arrive { attempt: 2, mixture: true, ..holds(1, 5) };
    assert_eq!(started(&arrives(&mut coordinator, 1, mixture)), [], "half repaired, and alone");
    let hello = Hello {
        run: "run".into(),
        member: Some(Member { incarnation: 2, ..member(0) }),
        arrive: Some(holds(1, 6)),
        ..Hello::default()
    };
    let done = granted(&mut coordinator, Event::Connected(Box::new(hello)), 3);
    assert_eq!(started(&done), [(0, 6, false, vec![0]), (1, 6, true, vec![0])]);
}

#[test]
fn a_peer_that_repaired_its_state_gives_it_to_others() {
    let mut peer = Peer::new("run".into(), member(1), 2_000);
    let record = EpochRecord { epoch: 1, term: 1, coordinator: Some(member(0)), ..EpochRecord::default() };
    peer.tick(peer::Event::Located(record), 1);
    peer.tick(peer::Event::Opened(1), 2);
    peer.tick(peer::Event::Arrived(Arrive { mixture: true, ..holds(3, 9) }, None), 3);
    let (state_root, state_shape) = (vec![4; chain::HASH], vec![0; chain::HASH]);
    let start = Start { round: 6, synchronise: true, state_root, state_shape, attempt: 1, ..Start::default() };
    let message = CoordinatorMessage { term: 1, epoch: 1, settled: 0, body: Some(coordinator_message::Body::Start(start)) };
    let done = peer.tick(peer::Event::Message(Box::new(message)), 4);
    assert!(matches!(done[..], [peer::Action::Fetch(_)]), "{done:?}");
    let said = |done: &[peer::Action]| match done {
        [peer::Action::Send(message), peer::Action::Begun(result)] => (message.body.clone().unwrap(), result.is_ok()),
        other => panic!("{other:?}"),
    };
    let mut failed = peer.clone();
    let lost = peer_message::Body::Leave(atoll_collective::v1::Leave { reason: leave::Reason::TrainerLost.into() });
    assert_eq!(said(&failed.tick(peer::Event::Fetched(Err("no donor is left".into())), 5)), (lost, false));
    let holds = peer_message::Body::Arrive(Arrive { attempt: 1, ..holds(6, 4) });
    assert_eq!(said(&peer.tick(peer::Event::Fetched(Ok(())), 5)), (holds, true));
}
