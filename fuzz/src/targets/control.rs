//! The control session: a coordinator among hostile peers, and a peer under a hostile coordinator.

use atoll_collective::coordinator::{self, Coordinator, Settings};
use atoll_collective::exchange::Plan;
use atoll_collective::peer::{self, Failure, Peer};
use atoll_collective::v1::{
    AbortReason, Arrive, Begin, Commit, CommitRecord, Contribution, CoordinatorMessage, Enter, EpochRecord, Heartbeat, Hello,
    Leave, Member, PeerMessage, Prepared, Ruling, SampleRange, Start, coordinator_message, peer_message,
};
use atoll_collective::{chain, ledger, operation};
use prost::Message;

use crate::Target;
use crate::input::{Input, chunk};

/// What peers send, as the coordinator takes it.
pub(super) const COORDINATOR: Target = Target { name: "coordinator", run: coordinate, seeds: coordinator_seeds };
/// What a coordinator sends, as a peer takes it.
pub(super) const PEER: Target = Target { name: "peer", run: follow, seeds: peer_seeds };

/// Bytes of a member: its names, its address, and its numbers.
const LARGEST_MEMBER: usize = 512;
/// Characters of a detail: the beginning of what a peer says, and who said it.
const LONGEST_DETAIL: usize = 700;

fn member(slot: u32) -> Member {
    Member { slot, worker: format!("w{slot}"), incarnation: 1, address: format!("w{slot}:1"), ..Member::default() }
}

fn record(term: u64, epoch: u64) -> EpochRecord {
    let members = if epoch == 0 { vec![] } else { vec![member(0), member(1)] };
    EpochRecord { term, epoch, coordinator: Some(member(0)), members, ..EpochRecord::default() }
}

fn settings() -> Settings {
    Settings { join_window: 1_000, liveness: 2_000, round_timeout: 60_000, drop_stragglers: true, ..Settings::of("run", 2) }
}

fn coordinate(bytes: &[u8]) {
    use coordinator::{Action, Event};
    let mut input = Input(bytes);
    let first = u64::from(input.byte() % 2);
    let mut coordinator = Coordinator::new(settings(), record(1, first), 0);
    let (mut now, mut proposed) = (0, None);
    while !input.is_empty() {
        let (step, slot) = (input.byte(), u32::from(input.byte()));
        let (slot, incarnation) = (slot % 4, 1 + u64::from(slot / 128));
        let event = match step % 6 {
            0 => {
                let introduced = Hello::decode(input.chunk()).ok().map(from_here);
                introduced.filter(|hello| coordinator.admits(hello).is_ok()).map(|hello| Event::Connected(Box::new(hello)))
            }
            1 => PeerMessage::decode(input.chunk()).ok().and_then(|message| {
                let PeerMessage { learned, body, .. } = message;
                Some(Event::Message { slot, incarnation, learned, body: Box::new(body?) })
            }),
            2 => Some(Event::Disconnected { slot, incarnation }),
            3 => Ruling::decode(input.chunk()).ok().map(Event::Ruled),
            4 => proposed.take().map(|record| Event::Ruled(Ruling { granted: true, record: Some(record), ..Ruling::default() })),
            _ => Some(Event::Tick),
        };
        now += u64::from(input.byte()) * 10;
        for action in event.map(|event| coordinator.tick(event, now)).unwrap_or_default() {
            match action {
                Action::Propose(record) => {
                    let slots: Vec<u32> = record.members.iter().map(|member| member.slot).collect();
                    assert!(slots.is_sorted_by(|one, next| one < next), "members are in slot order, each once");
                    assert!(record.members.iter().all(|member| member.encoded_len() <= LARGEST_MEMBER));
                    proposed = Some(record);
                }
                Action::Send { message, .. } => {
                    assert_eq!(message.term, coordinator.term());
                    assert_bounded(message.body.as_ref());
                }
                _ => {}
            }
        }
    }
}

/// All come from one island.
fn from_here(mut hello: Hello) -> Hello {
    hello.member.iter_mut().for_each(|member| member.island = "here".into());
    hello
}

/// What a peer says and others are told is of a length that the coordinator knows.
fn assert_bounded(told: Option<&coordinator_message::Body>) {
    use coordinator_message::Body;
    match told {
        Some(Body::Abort(abort)) => assert!(abort.detail.chars().count() <= LONGEST_DETAIL),
        Some(Body::Evict(evict)) => assert!(evict.detail.chars().count() <= LONGEST_DETAIL),
        Some(Body::Begin(begin)) => assert!(begin.contributions.iter().all(|given| ledger::is_dealt(&given.samples))),
        _ => {}
    }
}

fn follow(bytes: &[u8]) {
    use peer::{Action, Event};
    let mut input = Input(bytes);
    let mut peer = Peer::new("run".into(), member(1), 2_000);
    let mut now = 0;
    while !input.is_empty() {
        let (step, number) = (input.byte(), u64::from(input.byte()));
        let event = match step % 9 {
            0 => CoordinatorMessage::decode(input.chunk()).ok().map(|message| Event::Message(Box::new(message))),
            1 => EpochRecord::decode(input.chunk()).ok().map(Event::Located),
            2 => Some(Event::Opened(number)),
            3 => Some(Event::Closed(number)),
            4 => Some(Event::Arrived(arrive(number % 4), CommitRecord::decode(input.chunk()).ok())),
            5 => Enter::decode(input.chunk()).ok().map(|enter| Event::Entered(enter, now + 10_000)),
            6 => {
                let key = operation::key(Some(&operation::ends_round(number / 16, 1, 8)));
                let failure = Failure { reason: AbortReason::NotFinite, culprit: 1, detail: String::new() };
                let result = if input.byte().is_multiple_of(2) { Ok(vec![7; chain::HASH]) } else { Err(failure) };
                Some(Event::Moved(key, (1, number % 16), result))
            }
            7 => Some(Event::Fetched(if number % 2 == 0 { Ok(()) } else { Err("gone".into()) })),
            _ => Some(Event::Tick),
        };
        now += u64::from(input.byte()) * 10;
        for action in event.map(|event| peer.tick(event, now)).unwrap_or_default() {
            match action {
                Action::Move(begin) => assert!(Plan::new(&begin, 1).is_none_or(|plan| plan.members[plan.me].slot == 1)),
                Action::Begun(Ok(start)) => assert!(start.round > 0),
                _ => {}
            }
        }
    }
}

fn arrive(round: u64) -> Arrive {
    let (state_root, state_shape) = (vec![7; chain::HASH], vec![1; chain::HASH]);
    Arrive { round, state_root, state_shape, samples_wanted: 4, attempt: 1, ..Arrive::default() }
}

fn enter(slot: u32) -> Enter {
    let samples = vec![SampleRange { start: u64::from(slot) * 4, end: u64::from(slot) * 4 + 4 }];
    let contribution = Contribution { slot, weight: 1, samples, loss: 1.0, ..Contribution::default() };
    Enter { operation: Some(operation::ends_round(1, 1, 8)), contribution: Some(contribution), bandwidth: 0 }
}

fn step(kind: u8, number: u8, message: Option<Vec<u8>>, wait: u8) -> Vec<u8> {
    let message = message.map(|message| chunk(&message)).unwrap_or_default();
    [&[kind, number][..], &message, &[wait]].concat()
}

fn coordinator_seeds() -> Vec<Vec<u8>> {
    use peer_message::Body;
    let hello = |slot| Hello { run: "run".into(), member: Some(member(slot)), arrive: Some(arrive(1)), ..Hello::default() };
    let says = |slot: u8, body| {
        let message = PeerMessage { term: 1, body: Some(body), learned: 0 };
        step(1, slot, Some(message.encode_to_vec()), 1)
    };
    let prepared = || Prepared {
        epoch: 1,
        key: Some(operation::key(Some(&operation::ends_round(1, 1, 8))).into()),
        result_hash: vec![9; chain::HASH],
    };
    let all = [
        vec![0],
        step(0, 0, Some(hello(0).encode_to_vec()), 1),
        step(0, 1, Some(hello(1).encode_to_vec()), 1),
        step(5, 0, None, 1),
        step(4, 0, None, 1),
        says(0, Body::Enter(enter(0))),
        says(1, Body::Enter(enter(1))),
        says(0, Body::Prepared(prepared())),
        says(1, Body::Prepared(prepared())),
        says(0, Body::Heartbeat(Heartbeat {})),
        says(1, Body::Leave(Leave { reason: 1 })),
        step(2, 1, None, 1),
        step(5, 0, None, 255),
    ];
    (4..=all.len()).step_by(3).map(|steps| all[..steps].concat()).collect()
}

fn peer_seeds() -> Vec<Vec<u8>> {
    use coordinator_message::Body;
    let says = |body| {
        let message = CoordinatorMessage { term: 1, epoch: 1, settled: 0, body: Some(body) };
        step(0, 0, Some(message.encode_to_vec()), 1)
    };
    let samples = vec![SampleRange { start: 4, end: 8 }];
    let (state_root, state_shape) = (vec![7; chain::HASH], vec![1; chain::HASH]);
    let start = Start {
        round: 1,
        record: Some(record(1, 1)),
        samples,
        state_root,
        state_shape,
        attempt: 1,
        started: 1,
        ..Start::default()
    };
    let both = |slot| enter(slot).contribution.unwrap_or_default();
    let begin = Begin {
        operation: enter(1).operation,
        number: 1,
        record: Some(record(1, 1)),
        contributions: vec![both(0), both(1)],
        bandwidths: vec![],
    };
    let key = enter(1).operation.and_then(|operation| operation.key);
    let commit = Commit { index: 1, key, term: 1, epoch: 1, slots: vec![0, 1], ..Commit::default() };
    let all = [
        step(1, 0, Some(record(1, 0).encode_to_vec()), 1),
        step(2, 1, None, 1),
        step(4, 1, Some(vec![]), 1),
        says(Body::Start(start)),
        step(5, 0, Some(enter(1).encode_to_vec()), 1),
        says(Body::Begin(begin)),
        [6, 17, 0, 1].to_vec(),
        says(Body::Commit(commit)),
        says(Body::Heartbeat(Heartbeat {})),
        step(3, 1, None, 1),
        step(8, 0, None, 255),
    ];
    (4..=all.len()).step_by(3).map(|steps| all[..steps].concat()).collect()
}
