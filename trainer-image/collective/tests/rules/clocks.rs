//! A caller's clock that steps back: every state machine does what it would do if the clock had stood still, so nothing that
//! has run out comes back.

use super::*;
use atoll_collective::arbiter::{self, HUB, Hub, Petition, Single};
use atoll_collective::operation::Key;
use atoll_collective::v1::{Abort, Ballot, BeatRequest, Failed, TermRequest};
use proptest::prelude::*;

const LIVENESS: u64 = 2_000;
/// Of the operation that the peer's trainer waits for.
const DEADLINE: u64 = 6_000;

/// What happens, by number, and when the caller says that it does.
type Steps = Vec<(u8, u64)>;

fn steps(kinds: u8) -> impl Strategy<Value = Steps> {
    prop::collection::vec((0..kinds, 0..8_000_u64), 1..80)
}

/// The same by a clock that stands still instead of stepping back.
fn standing_still(steps: &Steps) -> Steps {
    let mut latest = 0;
    let stands_still = |(kind, time): &(u8, u64)| {
        latest = latest.max(*time);
        (*kind, latest)
    };
    steps.iter().map(stands_still).collect()
}

/// A peer that waits for the round's operation, and its operation's name.
fn waiting() -> (Peer, Key) {
    let mut peer = peer(1);
    told(&mut peer, coordinator_message::Body::Start(start(1, 1)));
    peer.tick(peer::Event::Entered(enter(1, range(4, 8)), DEADLINE), 4);
    (peer, operation::key(Some(&operation::ends_round(ROUND, 1, 8))))
}

fn peer_event(kind: u8, key: &Key) -> peer::Event {
    let says = |body| {
        peer::Event::Message(Box::new(CoordinatorMessage {
            term: 1,
            epoch: 1,
            body: Some(body),
            ..CoordinatorMessage::default()
        }))
    };
    match kind {
        0 => peer::Event::Entered(enter(1, range(4, 8)), DEADLINE),
        1 => peer::Event::Arrived(arrive(0), None),
        2 => says(coordinator_message::Body::Start(start(1, 1))),
        3 => {
            let contributions = [0, 1].map(|slot| enter(slot, range(0, 4)).contribution.unwrap()).to_vec();
            let (record, operation) = (Some(epoch(1, 1, &[0, 1])), Some(operation::ends_round(ROUND, 1, 8)));
            says(coordinator_message::Body::Begin(Begin { number: 1, record, operation, contributions, ..Begin::default() }))
        }
        4 => peer::Event::Moved(key.clone(), (1, 1), Ok(vec![5; chain::HASH])),
        5 => says(coordinator_message::Body::Commit(commit(vec![0, 1], 5))),
        6 => says(coordinator_message::Body::Abort(Abort { key: Some(key.clone().into()), ..Abort::default() })),
        7 => peer::Event::Closed(1),
        8 => peer::Event::Opened(1),
        9 => says(coordinator_message::Body::Heartbeat(Heartbeat {})),
        _ => peer::Event::Tick,
    }
}

fn coordinator_event(kind: u8, proposed: Option<&EpochRecord>) -> Event {
    let slot = u32::from(kind % 2);
    let key = operation::ends_round(ROUND, 1, 8).key;
    match kind {
        0 | 1 => Event::Connected(Box::new(hello(slot))),
        2 | 3 => Event::Disconnected { slot, incarnation: 1 },
        4 | 5 => message(slot, peer_message::Body::Arrive(arrive(1))),
        6 | 7 => message(slot, peer_message::Body::Enter(enter(slot, range(0, 4)))),
        8 | 9 => {
            let reason = AbortReason::LaneFailed.into();
            message(slot, peer_message::Body::Failed(Failed { epoch: 1, key, reason, culprit: 1 - slot, ..Failed::default() }))
        }
        10 | 11 => message(slot, peer_message::Body::Heartbeat(Heartbeat {})),
        12 => Event::Ruled(Ruling { granted: true, record: proposed.cloned(), ..Ruling::default() }),
        _ => Event::Tick,
    }
}

fn coordinate(steps: &Steps) -> (Coordinator, Vec<Action>) {
    let mut coordinator = training();
    let (mut done, mut proposed) = (Vec::new(), None);
    for (kind, time) in steps {
        for action in coordinator.tick(coordinator_event(*kind, proposed.as_ref()), *time) {
            if let Action::Propose(record) = &action {
                proposed = Some(record.clone());
            }
            done.push(action);
        }
    }
    (coordinator, done)
}

/// A question with a ballot of slot 1 or 2, in the place after `after`.
fn term_after(after: EpochRecord, number: u64, slot: u32) -> TermRequest {
    let ballot = Some(Ballot { number, slot, incarnation: 1 });
    TermRequest { candidate: Some(member(slot)), after: Some(after), ballot, ..TermRequest::default() }
}

/// Epoch 1 of three voters.
fn voted() -> EpochRecord {
    EpochRecord { arbiter: ArbiterKind::Peers.into(), hub: Some(Member { slot: HUB, ..member(9) }), ..epoch(1, 1, &[0, 1, 2]) }
}

fn beat(slot: u32, record: EpochRecord) -> BeatRequest {
    BeatRequest { member: Some(member(slot)), record: Some(record), ..BeatRequest::default() }
}

fn hub(steps: &Steps) -> (Hub, Vec<Ruling>) {
    let mut hub = Hub::new(Member { slot: HUB, ..member(9) }, Single::new(LIVENESS), LIVENESS);
    let mut rulings = Vec::new();
    for (index, (kind, time)) in steps.iter().enumerate() {
        let slot = u32::from(kind % 2);
        match kind {
            0 | 1 => _ = hub.beat(&beat(slot, hub.record().clone()), *time),
            2 | 3 => _ = hub.beat(&beat(slot, voted()), *time),
            4 | 5 => rulings.push(hub.request_term(&term_after(voted(), index as u64 % 7 + 1, slot), *time)),
            _ => {
                let observed_term = hub.record().term;
                let request = TermRequest { candidate: Some(member(slot)), observed_term, ..TermRequest::default() };
                rulings.push(hub.request_term(&request, *time));
            }
        }
    }
    (hub, rulings)
}

fn petition(steps: &Steps) -> (Petition, Vec<arbiter::Action>, Vec<Ruling>) {
    let mut petition = Petition::new("run".into(), member(1), LIVENESS, 2 * LIVENESS);
    let mut done = petition.tick(arbiter::Event::Learned(voted()), 0);
    let mut rulings = Vec::new();
    for (index, (kind, time)) in steps.iter().enumerate() {
        match kind {
            0 => done.extend(petition.tick(arbiter::Event::RequestTerm(1), *time)),
            1 => done.extend(petition.beat(&beat(0, voted()), *time).1),
            2 => rulings.push(petition.promise(&term_after(voted(), index as u64 % 7 + 1, 2), *time).0),
            _ => done.extend(petition.tick(arbiter::Event::Tick, *time)),
        }
    }
    (petition, done, rulings)
}

proptest! {
    #[test]
    fn a_clock_that_steps_back_stands_still_for_a_peer(steps in steps(14)) {
        let run = |steps: &Steps| {
            let (mut peer, key) = waiting();
            let done: Vec<_> = steps.iter().flat_map(|(kind, time)| peer.tick(peer_event(*kind, &key), *time)).collect();
            (peer, done)
        };
        prop_assert_eq!(run(&steps), run(&standing_still(&steps)));
    }

    #[test]
    fn a_clock_that_steps_back_stands_still_for_a_coordinator(steps in steps(18)) {
        prop_assert_eq!(coordinate(&steps), coordinate(&standing_still(&steps)));
    }

    #[test]
    fn a_clock_that_steps_back_stands_still_for_hub_and_voters(steps in steps(8)) {
        prop_assert_eq!(hub(&steps), hub(&standing_still(&steps)));
        prop_assert_eq!(petition(&steps), petition(&standing_still(&steps)));
    }
}

#[test]
fn a_deadline_that_has_passed_does_not_come_back() {
    let (mut peer, _) = waiting();
    let late = peer.tick(peer::Event::Tick, DEADLINE);
    assert!(late.iter().any(|action| matches!(action, peer::Action::Ended(_, peer::Outcome::Aborted(_)))), "{late:?}");
    let (mut again, _) = waiting();
    again.tick(peer::Event::Closed(1), DEADLINE);
    let late = again.tick(peer::Event::Tick, 5);
    assert!(late.iter().any(|action| matches!(action, peer::Action::Ended(_, peer::Outcome::Aborted(_)))), "{late:?}");
}

#[test]
fn a_silent_member_is_left_out_by_a_coordinator_whose_clock_jumps_to_and_fro() {
    let mut coordinator = training();
    let mut done = Vec::new();
    for step in 1..=6_u64 {
        done.extend(tick(&mut coordinator, message(0, peer_message::Body::Heartbeat(Heartbeat {})), step * 500));
        done.extend(tick(&mut coordinator, Event::Tick, 0));
    }
    assert!(evicts(&done, 1, AbortReason::PeerLost), "{done:?}");
}

#[test]
fn a_coordinator_that_was_lost_is_not_heard_again_by_an_arbiter_whose_clock_steps_back() {
    let mut single = Single::new(LIVENESS);
    assert!(single.request_term(&member(0), 0, 0).granted);
    single.beat(&member(1), LIVENESS + 1);
    assert!(single.request_term(&member(1), 1, 100).granted);
}

#[test]
fn no_instant_is_too_late_for_a_state_machine() {
    let far = u64::MAX;
    let done = tick(&mut training(), Event::Tick, far);
    assert!(done.is_empty(), "a coordinator that slept until then calls nobody silent: {done:?}");
    let mut awake = training();
    tick(&mut awake, Event::Tick, far - 1);
    let done = tick(&mut awake, Event::Disconnected { slot: 1, incarnation: 1 }, far);
    assert!(evicts(&done, 1, AbortReason::PeerLost), "{done:?}");

    let (mut peer, _) = waiting();
    let done = peer.tick(peer::Event::Tick, far);
    assert!(done.iter().any(|action| matches!(action, peer::Action::Hang(1))), "its coordinator was silent: {done:?}");
    assert!(done.iter().any(|action| matches!(action, peer::Action::Ended(_, peer::Outcome::Aborted(_)))), "{done:?}");
    assert!(done.iter().any(|action| matches!(action, peer::Action::Dial(_, 1))), "{done:?}");

    let (petition, _, rulings) = petition(&vec![(0, far), (1, far), (2, far), (3, far)]);
    assert_eq!((petition.record(), rulings.len()), (&voted(), 1));
    assert!(!rulings[0].granted, "the coordinator was heard at this very instant: {rulings:?}");
    let (hub, rulings) = hub(&vec![(6, far), (0, far), (7, far)]);
    assert_eq!(rulings.iter().map(|ruling| ruling.granted).collect::<Vec<_>>(), [true, false], "the coordinator lives");
    assert_eq!((hub.record().term, hub.record().coordinator.clone()), (1, Some(member(0))));
}
