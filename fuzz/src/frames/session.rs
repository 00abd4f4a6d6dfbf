//! The control session, both ways.

use atoll_collective::v1::{
    Abort, AbortReason, Arrive, Begin, CheckpointEnded, Codec, Commit, CommitRecord, Contribution, CoordinatorMessage, DataType,
    Enter, EpochRecord, Evict, Failed, Flight, Heartbeat, Hello, Leave, Ledger, Member, Operation, OperationKey, OperationKind,
    PeerMessage, Prepared, Reduction, SampleRange, Start, StateStrategy, Upload, Uploaded, coordinator_message, leave,
    peer_message,
};

use super::{Frame, message};

pub(super) const FRAMES: [Frame; 17] = [
    message!("peer-hello", up(peer_message::Body::Hello(hello()))),
    message!("peer-heartbeat", up(peer_message::Body::Heartbeat(Heartbeat {}))),
    message!("peer-arrive", up(peer_message::Body::Arrive(arrive()))),
    message!("peer-enter", up(peer_message::Body::Enter(enter()))),
    message!("peer-prepared", up(peer_message::Body::Prepared(prepared()))),
    message!("peer-failed", up(peer_message::Body::Failed(failed()))),
    message!("peer-leave", up(peer_message::Body::Leave(Leave { reason: leave::Reason::TrainerLost.into() }))),
    message!("coordinator-heartbeat", down(coordinator_message::Body::Heartbeat(Heartbeat {}))),
    message!("coordinator-start", down(coordinator_message::Body::Start(start()))),
    message!("coordinator-begin", down(coordinator_message::Body::Begin(begin()))),
    message!("coordinator-commit", down(coordinator_message::Body::Commit(commit()))),
    message!("coordinator-abort", down(coordinator_message::Body::Abort(abort()))),
    message!("coordinator-evict", down(coordinator_message::Body::Evict(evict()))),
    message!("coordinator-start-checkpoint", down(coordinator_message::Body::Start(Start { upload: Some(upload()), ..start() }))),
    message!("coordinator-upload", down(coordinator_message::Body::Upload(upload()))),
    message!("coordinator-checkpoint-ended", down(coordinator_message::Body::CheckpointEnded(CheckpointEnded { rounds: 7 }))),
    message!("peer-uploaded", up(peer_message::Body::Uploaded(uploaded()))),
];

fn up(body: peer_message::Body) -> PeerMessage {
    PeerMessage { term: 3, body: Some(body), learned: 41 }
}

fn down(body: coordinator_message::Body) -> CoordinatorMessage {
    CoordinatorMessage { term: 3, epoch: 5, settled: 40, body: Some(body) }
}

pub(super) fn member(slot: u32) -> Member {
    Member {
        slot,
        worker: format!("w{slot}"),
        incarnation: 2,
        address: format!("10.0.0.{slot}:7000"),
        contributor: slot == 3,
        island: "west".into(),
    }
}

pub(super) fn record() -> EpochRecord {
    EpochRecord {
        term: 3,
        epoch: 5,
        coordinator: Some(member(0)),
        members: vec![member(0), member(1), member(3)],
        deposed: Some(member(2)),
        rounds: 7,
        committed: vec![key()],
        arbiter: 1,
        hub: Some(member(9)),
    }
}

fn key() -> OperationKey {
    OperationKey { round: 8, tag: "gradients".into(), sequence: 2, started: 5, slots: vec![0, 3] }
}

pub(super) fn operation() -> Operation {
    Operation {
        key: Some(key()),
        kind: OperationKind::AllReduce.into(),
        data_type: DataType::F32.into(),
        elements: 4096,
        reduction: Reduction::Mean.into(),
        codec: Codec::Uint8.into(),
        group_size: 2,
        root: 1,
        ends_round: true,
    }
}

fn samples() -> Vec<SampleRange> {
    vec![SampleRange { start: 10, end: 20 }, SampleRange { start: 30, end: 31 }]
}

fn contribution() -> Contribution {
    Contribution { slot: 1, weight: 4, samples: samples(), loss: 1.75, elements: 12, summed: true }
}

pub(super) fn committed() -> CommitRecord {
    CommitRecord {
        round: 7,
        term: 2,
        epoch: 4,
        elements: 4096,
        contributions: vec![contribution()],
        result_hash: vec![7; 32],
        previous: vec![6; 32],
        ledger: Some(Ledger { next: 300, holes: samples() }),
    }
}

fn arrive() -> Arrive {
    Arrive {
        round: 8,
        state_root: vec![1; 32],
        samples_wanted: 64,
        attempt: 2,
        state_shape: vec![2; 32],
        strategy: StateStrategy::ReceiveOnly.into(),
        mixture: true,
        last: false,
    }
}

fn start() -> Start {
    Start {
        round: 8,
        record: Some(record()),
        samples: samples(),
        synchronise: true,
        donors: vec![0, 1],
        state_root: vec![1; 32],
        committed: Some(committed()),
        attempt: 2,
        started: 5,
        state_shape: vec![2; 32],
        upload: None,
    }
}

fn upload() -> Upload {
    Upload { rounds: 7, division: 2, slots: vec![0, 1], term: 3 }
}

fn uploaded() -> Uploaded {
    Uploaded { rounds: 7, division: 2, share: vec![123, 125], failure: "there is no room left".into(), term: 3 }
}

fn enter() -> Enter {
    Enter { operation: Some(operation()), contribution: Some(contribution()), bandwidth: 25_000_000 }
}

fn begin() -> Begin {
    let (operation, record) = (Some(operation()), Some(record()));
    Begin { operation, number: 6, record, contributions: vec![contribution()], bandwidths: vec![25_000_000, 6_250_000] }
}

fn prepared() -> Prepared {
    Prepared { epoch: 5, key: Some(key()), result_hash: vec![9; 32] }
}

fn failed() -> Failed {
    let reason = AbortReason::LaneFailed.into();
    Failed { epoch: 5, key: Some(key()), reason, culprit: 1, detail: "reset".into() }
}

pub(super) fn commit() -> Commit {
    let (slots, result_hash, record) = (vec![0, 1, 3], vec![9; 32], Some(committed()));
    Commit { index: 42, key: Some(key()), term: 3, epoch: 5, slots, result_hash, record }
}

fn abort() -> Abort {
    let reason = AbortReason::NotFinite.into();
    Abort { key: Some(key()), reason, culprit: Some(0), detail: "NaN".into(), over: true }
}

fn evict() -> Evict {
    Evict { reason: AbortReason::Straggler.into(), detail: "late".into() }
}

fn hello() -> Hello {
    Hello {
        run: "kjv".into(),
        member: Some(member(1)),
        epoch: 5,
        committed: Some(committed()),
        arrive: Some(arrive()),
        start: Some(start()),
        flights: vec![Flight { enter: Some(enter()), begin: Some(begin()), prepared: Some(prepared()) }],
        commits: vec![commit()],
        learned: 41,
        operated: true,
    }
}
