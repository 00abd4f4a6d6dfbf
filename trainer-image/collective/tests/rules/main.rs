//! Rules of the two state machines, one by one: each test fails when its rule is taken out.
#![allow(clippy::unwrap_used, missing_docs)]

use atoll_collective::coordinator::{Action, Coordinator, Event, Settings};
use atoll_collective::peer::{self, Peer};
use atoll_collective::v1::{
    AbortReason, ArbiterKind, Arrive, Begin, Commit, CommitRecord, Contribution, CoordinatorMessage, Enter, EpochRecord, Evict,
    Flight, Heartbeat, Hello, Hub, Leave, Member, Operation, Prepared, Ruling, SampleRange, Start, coordinator_message, leave,
    peer_message,
};
use atoll_collective::{Notice, chain, operation};

mod checkpoints;
mod clocks;
mod contributors;
mod culprits;
mod doubt;
mod names;

const ROUND: u64 = 1;

fn member(slot: u32) -> Member {
    Member { slot, worker: format!("w{slot}"), incarnation: 1, address: format!("w{slot}:1"), ..Member::default() }
}

fn epoch(term: u64, epoch: u64, members: &[u32]) -> EpochRecord {
    let members = members.iter().map(|slot| member(*slot)).collect();
    EpochRecord { term, epoch, coordinator: Some(member(0)), members, ..EpochRecord::default() }
}

fn settings() -> Settings {
    Settings { join_window: 1_000, liveness: 2_000, round_timeout: 60_000, drop_stragglers: true, ..Settings::of("run", 2) }
}

fn arrive(attempt: u64) -> Arrive {
    Arrive {
        round: ROUND,
        state_root: vec![7; chain::HASH],
        state_shape: vec![1; chain::HASH],
        samples_wanted: 4,
        attempt,
        ..Arrive::default()
    }
}

fn range(start: u64, end: u64) -> SampleRange {
    SampleRange { start, end }
}

fn start(slot: u32, attempt: u64) -> Start {
    let first = u64::from(slot) * 4;
    Start {
        round: ROUND,
        record: Some(epoch(1, 1, &[0, 1])),
        samples: vec![range(first, first + 4)],
        state_root: vec![7; chain::HASH],
        state_shape: vec![1; chain::HASH],
        attempt,
        started: 1,
        ..Start::default()
    }
}

fn enter(slot: u32, samples: SampleRange) -> Enter {
    let contribution = Contribution { slot, weight: 1, samples: vec![samples], loss: 1.0, elements: 0, summed: false };
    Enter { operation: Some(operation::ends_round(ROUND, 1, 8)), contribution: Some(contribution), bandwidth: 0 }
}

fn hello(slot: u32) -> Hello {
    Hello { run: "run".into(), member: Some(member(slot)), arrive: Some(arrive(1)), ..Hello::default() }
}

fn message(slot: u32, body: peer_message::Body) -> Event {
    Event::Message { slot, incarnation: 1, learned: 0, body: Box::new(body) }
}

/// What a member gives to an operation.
fn enters(slot: u32, operation: Operation) -> Enter {
    let contribution = Contribution { slot, weight: 1, ..Contribution::default() };
    Enter { operation: Some(operation), contribution: Some(contribution), bandwidth: 0 }
}

/// Says so to the coordinator.
fn entered(slot: u32, operation: Operation) -> Event {
    message(slot, peer_message::Body::Enter(enters(slot, operation)))
}

/// What `to` is told about aborts: why, who, and whether the operation is over.
fn aborts(actions: &[Action], to: u32) -> Vec<(AbortReason, Option<u32>, bool)> {
    let abort = |action: &Action| match action {
        Action::Send { slot, message } if *slot == to => match &message.body {
            Some(coordinator_message::Body::Abort(abort)) => Some((abort.reason(), abort.culprit, abort.over)),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(abort).collect()
}

/// Grants what the actions propose, and gives everything that was done.
fn granting(coordinator: &mut Coordinator, mut actions: Vec<Action>, now: u64) -> Vec<Action> {
    let mut done = Vec::new();
    while let Some(action) = (!actions.is_empty()).then(|| actions.remove(0)) {
        if let Action::Propose(record) = &action {
            actions.extend(
                coordinator.tick(Event::Ruled(Ruling { granted: true, record: Some(record.clone()), ..Ruling::default() }), now),
            );
        }
        done.push(action);
    }
    done
}

fn tick(coordinator: &mut Coordinator, event: Event, now: u64) -> Vec<Action> {
    let actions = coordinator.tick(event, now);
    granting(coordinator, actions, now)
}

fn starts(actions: &[Action], to: u32) -> Vec<Start> {
    let start = |action: &Action| match action {
        Action::Send { slot, message } if *slot == to => match message.body.as_ref() {
            Some(coordinator_message::Body::Start(start)) => Some(start.clone()),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(start).collect()
}

fn begins(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::Send { message, .. } if matches!(message.body, Some(coordinator_message::Body::Begin(_)))))
}

fn evicts(actions: &[Action], slot: u32, reason: AbortReason) -> bool {
    actions.iter().any(
        |action| matches!(action, Action::Report(Notice::Evicted { slot: gone, reason: why, .. }) if (*gone, *why) == (slot, reason)),
    )
}

/// A coordinator whose two members train in the first round.
fn training() -> Coordinator {
    training_with(settings())
}

fn training_with(settings: Settings) -> Coordinator {
    training_of(2, settings)
}

/// The same with so many members.
fn training_of(count: u32, settings: Settings) -> Coordinator {
    let mut coordinator = Coordinator::new(settings, epoch(1, 0, &[]), 0);
    let mut done = Vec::new();
    for slot in 0..count {
        done = tick(&mut coordinator, Event::Connected(Box::new(hello(slot))), 1 + u64::from(slot));
    }
    assert!((0..count).all(|slot| starts(&done, slot).len() == 1));
    coordinator
}

/// A peer of slot 1 with an open session, whose trainer arrived `attempts` times.
fn peer(attempts: u64) -> Peer {
    let mut peer = Peer::new("run".into(), member(1), 2_000);
    peer.tick(peer::Event::Located(epoch(1, 1, &[0, 1])), 1);
    peer.tick(peer::Event::Opened(1), 2);
    for _ in 0..attempts {
        peer.tick(peer::Event::Arrived(arrive(0), None), 3);
    }
    peer
}

fn told(peer: &mut Peer, body: coordinator_message::Body) -> Vec<peer::Action> {
    let message = CoordinatorMessage { term: 1, epoch: 1, settled: 0, body: Some(body) };
    peer.tick(peer::Event::Message(Box::new(message)), 4)
}

fn sent(actions: &[peer::Action]) -> Vec<&peer_message::Body> {
    let mut bodies = Vec::new();
    for action in actions {
        if let peer::Action::Send(message) = action {
            bodies.extend(&message.body);
        }
    }
    bodies
}

#[test]
fn a_contribution_that_comes_while_the_coordinator_recovers_counts() {
    let mut coordinator = Coordinator::new(settings(), epoch(2, 1, &[0, 1]), 0);
    let in_the_round = |slot| Hello { start: Some(start(slot, 1)), epoch: 1, ..hello(slot) };
    let later = Hello { committed: None, ..in_the_round(0) };
    coordinator.tick(Event::Connected(Box::new(later)), 1);
    coordinator.tick(message(0, peer_message::Body::Enter(enter(0, range(0, 4)))), 2);
    tick(&mut coordinator, Event::Connected(Box::new(in_the_round(1))), 3);
    assert!(begins(&tick(&mut coordinator, message(1, peer_message::Body::Enter(enter(1, range(4, 8)))), 4)));
}

#[test]
fn a_contribution_of_samples_that_were_not_dealt_is_refused_by_whichever_coordinator_hears_of_it() {
    let mut coordinator = training();
    let done = tick(&mut coordinator, message(1, peer_message::Body::Enter(enter(1, range(0, 4)))), 3);
    assert!(evicts(&done, 1, AbortReason::Mismatch), "{done:?}");

    let mut next = Coordinator::new(settings(), epoch(2, 1, &[0, 1]), 0);
    let brings = |slot, samples| {
        let flight = Flight { enter: Some(enter(slot, samples)), ..Flight::default() };
        Hello { start: Some(start(slot, 1)), flights: vec![flight], epoch: 1, ..hello(slot) }
    };
    tick(&mut next, Event::Connected(Box::new(brings(0, range(0, 4)))), 1);
    let done = tick(&mut next, Event::Connected(Box::new(brings(1, range(0, 4)))), 2);
    assert!(evicts(&done, 1, AbortReason::Mismatch), "{done:?}");
    let fewer = message(0, peer_message::Body::Enter(enter(0, range(0, 2))));
    assert!(!evicts(&tick(&mut next, fewer, 3), 0, AbortReason::Mismatch), "fewer than dealt is well");
}

#[test]
fn a_contribution_that_a_recovering_coordinator_refuses_costs_its_place_once_the_survivors_are_known() {
    let mut coordinator = Coordinator::new(settings(), epoch(2, 1, &[0, 1]), 0);
    let here = |slot| Hello { start: Some(start(slot, 1)), ..hello(slot) };
    coordinator.tick(Event::Connected(Box::new(here(1))), 1);
    let claimed = coordinator.tick(message(1, peer_message::Body::Enter(enter(1, range(90, 94)))), 2);
    assert!(!evicts(&claimed, 1, AbortReason::Mismatch), "its vote may count: {claimed:?}");
    let done = tick(&mut coordinator, Event::Connected(Box::new(here(0))), 3);
    assert!(evicts(&done, 1, AbortReason::Mismatch), "{done:?}");
}

#[test]
fn members_of_the_last_epoch_have_their_time_to_come_before_a_new_coordinator_leaves_them_out() {
    let mut coordinator = Coordinator::new(settings(), epoch(2, 1, &[0, 1]), 0);
    let here = |slot| Event::Connected(Box::new(Hello { start: Some(start(slot, 1)), ..hello(slot) }));
    assert_eq!(tick(&mut coordinator, here(0), 1), []);
    let done = tick(&mut coordinator, here(1), 1_999);
    assert!(!done.is_empty() && !evicts(&done, 1, AbortReason::PeerLost), "{done:?}");

    let mut alone = Coordinator::new(settings(), epoch(2, 1, &[0, 1]), 0);
    tick(&mut alone, here(0), 1);
    tick(&mut alone, message(0, peer_message::Body::Heartbeat(Heartbeat {})), 1_000);
    let done = tick(&mut alone, message(0, peer_message::Body::Heartbeat(Heartbeat {})), 2_000);
    assert!(evicts(&done, 1, AbortReason::PeerLost), "{done:?}");
}

#[test]
fn a_new_coordinator_that_hears_no_member_of_the_last_epoch_says_once_who_would_have_to_come_back() {
    let mut coordinator = Coordinator::new(settings(), EpochRecord { rounds: 4, ..epoch(2, 3, &[0]) }, 0);
    assert_eq!(tick(&mut coordinator, Event::Connected(Box::new(hello(1))), 1), []);
    let missing = Notice::HistoryMissing { round: 4, absent: vec![member(0)] };
    let beat = || message(1, peer_message::Body::Heartbeat(Heartbeat {}));
    assert_eq!(tick(&mut coordinator, beat(), 2_000), [Action::Report(missing)]);
    assert_eq!(tick(&mut coordinator, beat(), 3_000), []);
}

#[test]
fn a_start_that_answers_an_earlier_arrival_reaches_nobody_and_is_given_again() {
    let mut peer = peer(2);
    assert!(told(&mut peer, coordinator_message::Body::Start(start(1, 1))).is_empty());
    let done = told(&mut peer, coordinator_message::Body::Start(start(1, 2)));
    assert!(matches!(done.as_slice(), [peer::Action::Begun(Ok(_))]), "{done:?}");

    let mut coordinator = training();
    let done = tick(&mut coordinator, message(1, peer_message::Body::Arrive(arrive(2))), 3);
    assert_eq!(starts(&done, 1).iter().map(|start| start.attempt).collect::<Vec<_>>(), [2]);
    assert!(starts(&tick(&mut coordinator, message(1, peer_message::Body::Arrive(arrive(2))), 4), 1).is_empty());
}

#[test]
fn a_start_of_no_round_begins_nothing() {
    let mut peer = peer(1);
    let begun = |actions: Vec<peer::Action>| actions.iter().any(|action| matches!(action, peer::Action::Begun(_)));
    assert!(!begun(told(&mut peer, coordinator_message::Body::Start(Start { round: 0, ..start(1, 1) }))));
    assert!(begun(told(&mut peer, coordinator_message::Body::Start(start(1, 1)))));
}

#[test]
fn every_new_coordinator_hears_that_the_trainer_is_lost() {
    let mut peer = peer(1);
    peer.tick(peer::Event::TrainerLost, 5);
    peer.tick(peer::Event::Located(epoch(2, 1, &[0, 1])), 6);
    let done = peer.tick(peer::Event::Opened(2), 7);
    let lost = Leave { reason: leave::Reason::TrainerLost.into() };
    assert!(matches!(sent(&done).as_slice(), [peer_message::Body::Hello(_), peer_message::Body::Leave(leave)] if *leave == lost));

    let mut coordinator = Coordinator::new(settings(), epoch(2, 1, &[0, 1]), 0);
    let trains = Hello { start: Some(start(0, 1)), epoch: 1, ..hello(0) };
    coordinator.tick(Event::Connected(Box::new(trains)), 1);
    coordinator.tick(message(0, peer_message::Body::Enter(enter(0, range(0, 4)))), 2);
    let done = coordinator.tick(Event::Connected(Box::new(Hello { arrive: None, epoch: 1, ..hello(1) })), 3);
    coordinator.tick(message(1, peer_message::Body::Leave(lost)), 4);
    let done = granting(&mut coordinator, done, 5);
    assert!(evicts(&done, 1, AbortReason::TrainerLost), "{done:?}");
    assert!(begins(&done));
}

#[test]
fn a_joiner_that_is_lost_before_it_is_a_member_is_not_waited_for() {
    let mut coordinator = Coordinator::new(settings(), epoch(1, 0, &[]), 0);
    tick(&mut coordinator, Event::Connected(Box::new(hello(0))), 1);
    let proposed = coordinator.tick(Event::Connected(Box::new(hello(1))), 2);
    coordinator.tick(Event::Disconnected { slot: 1, incarnation: 1 }, 3);
    let done = granting(&mut coordinator, proposed, 4);
    assert!(evicts(&done, 1, AbortReason::PeerLost), "{done:?}");
    assert_eq!(starts(&done, 0).len(), 1);
}

#[test]
fn the_last_member_that_comes_back_is_told_to_arrive_again_once() {
    let mut coordinator = training();
    tick(&mut coordinator, Event::Disconnected { slot: 0, incarnation: 1 }, 3);
    let back = Hello { start: Some(start(1, 1)), epoch: 2, ..hello(1) };
    let told = |actions: &[Action]| {
        let evict = |action: &&Action| {
            matches!(action, Action::Send { slot: 1, message }
                if matches!(message.body, Some(coordinator_message::Body::Evict(Evict { .. }))))
        };
        actions.iter().filter(evict).count()
    };
    assert_eq!(told(&tick(&mut coordinator, Event::Connected(Box::new(back)), 4)), 1);
    assert_eq!(told(&tick(&mut coordinator, Event::Tick, 5)), 0);
    let done = tick(&mut coordinator, message(1, peer_message::Body::Arrive(arrive(2))), 6);
    assert_eq!(starts(&done, 1).len(), 1, "{done:?}");
}

/// What is said to `to`, in the order of sending.
fn said(actions: &[Action], to: u32) -> Vec<&'static str> {
    let mut said = Vec::new();
    for action in actions {
        if let Action::Send { slot, message } = action
            && *slot == to
        {
            match message.body {
                Some(coordinator_message::Body::Commit(_)) => said.push("commit"),
                Some(coordinator_message::Body::Abort(_)) => said.push("abort"),
                Some(coordinator_message::Body::Evict(_)) => said.push("evict"),
                _ => {}
            }
        }
    }
    said
}

/// A member that was prepared in epoch 1 for a round of slots 0 and 1 when its coordinator was lost.
fn prepared(slot: u32) -> Hello {
    let contributions = [0, 1].map(|slot| enter(slot, range(0, 4)).contribution.unwrap()).to_vec();
    let operation = operation::ends_round(ROUND, 1, 8);
    let key = operation.key.clone();
    let begin = Begin { operation: Some(operation), record: Some(epoch(1, 1, &[0, 1])), contributions, ..Begin::default() };
    let vote = Prepared { epoch: 1, key, result_hash: vec![9; chain::HASH] };
    let flight = Flight { enter: Some(enter(slot, range(0, 4))), begin: Some(begin), prepared: Some(vote) };
    Hello { start: Some(start(slot, 1)), flights: vec![flight], epoch: 1, ..hello(slot) }
}

#[test]
fn a_vote_counts_in_its_own_epoch_or_for_what_was_committed_when_the_next_was_proposed() {
    let outcome = |record: EpochRecord| {
        let mut coordinator = Coordinator::new(settings(), record, 0);
        tick(&mut coordinator, Event::Connected(Box::new(prepared(0))), 1);
        let done = tick(&mut coordinator, Event::Connected(Box::new(prepared(1))), 2);
        said(&done, 0)
    };
    assert_eq!(outcome(epoch(2, 1, &[0, 1])), ["commit"]);
    assert_eq!(outcome(epoch(2, 2, &[0, 1])), ["abort"], "epoch 2 gave the operation of epoch 1 up");
    let committed = operation::ends_round(ROUND, 1, 8).key.into_iter().collect();
    assert_eq!(outcome(EpochRecord { rounds: ROUND, committed, ..epoch(2, 2, &[0, 1]) }), ["commit"]);
}

#[test]
fn a_round_whose_record_came_back_with_a_restarted_sidecar_gets_no_second_record() {
    let flight = prepared(1).flights.remove(0);
    let record = chain::commit(None, &flight.begin.unwrap(), &[9; chain::HASH]);
    let mut coordinator = Coordinator::new(settings(), epoch(2, 1, &[0, 1]), 0);
    let restarted = Some(Member { incarnation: 2, ..member(0) });
    let knows = Hello { member: restarted, committed: Some(record.clone()), arrive: None, ..hello(0) };
    tick(&mut coordinator, Event::Connected(Box::new(knows)), 1);
    let done = tick(&mut coordinator, Event::Connected(Box::new(prepared(1))), 2);
    let told = |action: &Action| match action {
        Action::Send { slot: 1, message } => match &message.body {
            Some(coordinator_message::Body::Commit(commit)) => commit.record.clone(),
            _ => None,
        },
        _ => None,
    };
    assert_eq!(done.iter().filter_map(told).collect::<Vec<_>>(), [record]);
}

#[test]
fn a_survivor_that_comes_too_late_to_stay_hears_that_its_contribution_counts() {
    let mut coordinator = Coordinator::new(settings(), epoch(2, 1, &[0, 1]), 0);
    coordinator.tick(Event::Connected(Box::new(prepared(0))), 1);
    let proposed = coordinator.tick(Event::Tick, 2_500);
    assert!(matches!(proposed.as_slice(), [Action::Propose(_)]), "{proposed:?}");
    coordinator.tick(Event::Connected(Box::new(prepared(1))), 2_501);
    let done = granting(&mut coordinator, proposed, 2_502);
    assert_eq!((said(&done, 0), said(&done, 1)), (vec!["commit"], vec!["commit", "evict"]));
}

#[test]
fn the_arbiter_that_the_hub_wants_is_named_by_an_epoch_between_rounds_and_its_vote_with_it() {
    let mut coordinator = training();
    let voter = Some(Member { slot: u32::MAX, ..member(9) });
    let hub = Hub { voter: voter.clone(), wanted: ArbiterKind::Peers.into() };
    assert!(tick(&mut coordinator, Event::Hub(hub), 3).is_empty(), "the round goes on");
    for slot in [0, 1] {
        let first = u64::from(slot) * 4;
        tick(&mut coordinator, message(slot, peer_message::Body::Enter(enter(slot, range(first, first + 4)))), 4);
    }
    let key = operation::ends_round(ROUND, 1, 8).key;
    let vote = Prepared { epoch: 1, key, result_hash: vec![9; chain::HASH] };
    let next = Arrive { round: ROUND + 1, ..arrive(2) };
    let mut proposed = Vec::new();
    for body in [peer_message::Body::Prepared(vote), peer_message::Body::Arrive(next)] {
        for slot in [0, 1] {
            for action in tick(&mut coordinator, message(slot, body.clone()), 5) {
                if let Action::Propose(record) = action {
                    proposed.push((record.epoch, record.arbiter(), record.hub));
                }
            }
        }
    }
    assert_eq!(proposed, [(2, ArbiterKind::Peers, voter)]);
}

#[test]
fn operations_beyond_the_bytes_in_flight_wait_until_those_before_them_have_ended() {
    let mut coordinator = training_with(Settings { in_flight: 100, ..settings() });
    let tagged = |tag: &str, elements| {
        let mut operation = Operation { ends_round: false, ..operation::ends_round(ROUND, 1, elements) };
        operation.key.as_mut().unwrap().tag = tag.to_owned();
        operation
    };
    let wanted = [("a", 20), ("b", 20), ("c", 1)].map(|(tag, elements)| tagged(tag, elements));
    let mut begun = Vec::new();
    for (slot, operation) in [0, 1].into_iter().flat_map(|slot| wanted.iter().map(move |operation| (slot, operation))) {
        let contribution = Contribution { slot, weight: 1, ..Contribution::default() };
        let enter = Enter { operation: Some(operation.clone()), contribution: Some(contribution), bandwidth: 0 };
        begun.extend(tags_begun(&tick(&mut coordinator, message(slot, peer_message::Body::Enter(enter)), 3)));
    }
    assert_eq!(begun, ["a"], "80 bytes leave no room for 80 more, and c does not overtake b");
    let vote = Prepared { epoch: 1, key: wanted[0].key.clone(), result_hash: vec![9; chain::HASH] };
    tick(&mut coordinator, message(0, peer_message::Body::Prepared(vote.clone())), 4);
    let done = tick(&mut coordinator, message(1, peer_message::Body::Prepared(vote)), 5);
    assert_eq!(tags_begun(&done), ["b", "c"]);
}

/// Tags of the operations that slot 0 is told to begin.
fn tags_begun(actions: &[Action]) -> Vec<String> {
    let begun = |action: &Action| match action {
        Action::Send { slot: 0, message } => match &message.body {
            Some(coordinator_message::Body::Begin(begin)) => Some(operation::key(begin.operation.as_ref()).tag),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(begun).collect()
}

/// A peer of slot 1 that is prepared to commit the round with a result of this hash.
fn voter(hash: u8) -> Peer {
    let mut peer = peer(1);
    told(&mut peer, coordinator_message::Body::Start(start(1, 1)));
    let mine = enter(1, range(4, 8));
    peer.tick(peer::Event::Entered(Enter { operation: Some(operation::ends_round(ROUND, 0, 8)), ..mine.clone() }, 60_000), 4);
    let contributions = vec![enter(0, range(0, 4)).contribution.unwrap(), mine.contribution.unwrap()];
    let begin =
        Begin { record: Some(epoch(1, 1, &[0, 1])), operation: mine.operation, contributions, number: 1, ..Begin::default() };
    let moves = told(&mut peer, coordinator_message::Body::Begin(begin));
    assert!(matches!(moves[..], [peer::Action::Move(_)]), "{moves:?}");
    let key = operation::key(Some(&operation::ends_round(ROUND, 1, 8)));
    peer.tick(peer::Event::Moved(key, (1, 1), Ok(vec![hash; chain::HASH])), 4);
    assert!(peer.is_prepared());
    peer
}

fn commit(slots: Vec<u32>, hash: u8) -> Commit {
    let key = operation::ends_round(ROUND, 1, 8).key;
    let record = CommitRecord { round: ROUND, result_hash: vec![hash; chain::HASH], ..CommitRecord::default() };
    Commit { index: 1, key, term: 1, epoch: 1, slots, result_hash: vec![hash; chain::HASH], record: Some(record) }
}

#[test]
fn a_commit_with_another_hash_than_it_voted_for_is_asked_for_again_and_the_vote_is_kept() {
    let mut peer = voter(5);
    let done = told(&mut peer, coordinator_message::Body::Commit(commit(vec![0, 1], 6)));
    assert!(matches!(done[..], [peer::Action::Hang(1)]), "{done:?}");
    let again = peer.tick(peer::Event::Tick, 1_000);
    assert!(again.iter().any(|action| matches!(action, peer::Action::Dial(_, 1))), "{again:?}");
    let opened = peer.tick(peer::Event::Opened(1), 1_001);
    let [peer_message::Body::Hello(hello)] = sent(&opened)[..] else { panic!("{opened:?}") };
    let votes: Vec<_> = hello.flights.iter().map(|flight| flight.prepared.clone().unwrap().result_hash).collect();
    assert_eq!((votes, hello.learned), (vec![vec![5; chain::HASH]], 0));
    let done = told(&mut peer, coordinator_message::Body::Commit(commit(vec![0, 1], 5)));
    assert!(matches!(done[..], [peer::Action::Ended(_, peer::Outcome::Committed(_))]), "{done:?}");
}

#[test]
fn what_was_committed_without_a_peer_ends_its_vote() {
    let mut peer = voter(5);
    let done = told(&mut peer, coordinator_message::Body::Commit(commit(vec![0], 6)));
    assert!(done.iter().any(|action| matches!(action, peer::Action::Ended(_, peer::Outcome::Aborted(_)))), "{done:?}");
    assert!(!peer.is_prepared());
}
