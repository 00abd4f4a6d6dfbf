//! The seam between a trainer and its sidecar: calls, answers, and the message that passes a region.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use atoll_collective::v1::{
    AbortReason, Aborted, AttachReply, AttachRequest, BeginRoundReply, BeginRoundRequest, Committed, ElementType, FinishReply,
    FinishRequest, InDoubt, Kept, OperateReply, OperateRequest, PulseReply, PulseRequest, SampleRange, Slice, StateStrategy,
    StateTensor, operate_reply,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::session::{commit, committed, member, operation};
use super::{Frame, message};
use crate::targets::sealed_file;

pub(super) const FRAMES: [Frame; 14] = [
    message!("trainer-attach", attach()),
    message!("trainer-attach-reply", AttachReply { protocol: 1, slot: 3 }),
    message!("trainer-pulse", PulseRequest { incarnation: 9, rank: 1 }),
    message!("trainer-pulse-reply", PulseReply {}),
    message!("trainer-begin-round", begin_round()),
    message!("trainer-begin-round-kept", BeginRoundRequest { kept: Some(kept()), ..begin_round() }),
    message!("trainer-begin-round-reply", begun()),
    message!("trainer-operate", operate()),
    message!("trainer-operate-committed", ended(operate_reply::Outcome::Committed(counted()))),
    message!("trainer-operate-aborted", ended(operate_reply::Outcome::Aborted(aborted()))),
    message!("trainer-operate-in-doubt", ended(operate_reply::Outcome::InDoubt(InDoubt {}))),
    message!("trainer-finish", FinishRequest { incarnation: 9, rank: 1 }),
    message!("trainer-finish-reply", FinishReply {}),
    Frame { name: "trainer-region", bytes: region, check: passes },
];

/// Length and name of the region that is passed.
const REGION: (u64, &str) = (4096, "9/1/state");

fn attach() -> AttachRequest {
    AttachRequest { run: "kjv".into(), incarnation: 9, protocol_low: 1, protocol_high: 1, rank: 1, ranks: 2 }
}

fn slice(region: &str) -> Slice {
    Slice { region: format!("9/1/{region}"), offset: 64, length: 4096 }
}

fn samples() -> Vec<SampleRange> {
    vec![SampleRange { start: 10, end: 20 }]
}

fn begin_round() -> BeginRoundRequest {
    BeginRoundRequest {
        incarnation: 9,
        round: 8,
        state: vec![StateTensor { key: "weights".into(), element_type: ElementType::F32.into(), slice: Some(slice("state")) }],
        strategy: StateStrategy::SendOnly.into(),
        samples_wanted: 64,
        committed: Some(committed()),
        rank: 1,
        kept: None,
        last: false,
    }
}

fn kept() -> Kept {
    let tensor =
        |key: &str, kind: ElementType| StateTensor { key: key.into(), element_type: kind.into(), slice: Some(slice(key)) };
    Kept {
        private: vec![tensor("firstMoment", ElementType::F32)],
        private_steps: 160,
        files: vec![tensor("config.json", ElementType::U8)],
        steps: 140,
        tokens_per_sample: 64,
        steps_after: 0,
    }
}

fn begun() -> BeginRoundReply {
    let members = vec![member(0), member(1)];
    BeginRoundReply { round: 8, samples: samples(), synchronised: true, epoch: 5, members, late: true }
}

fn operate() -> OperateRequest {
    OperateRequest {
        incarnation: 9,
        rank: 1,
        operation: Some(operation()),
        input: Some(slice("input")),
        output: Some(slice("output")),
        weight: 4,
        samples: samples(),
        loss: 1.75,
        deadline_milliseconds: 60_000,
        residual: Some(slice("residual")),
    }
}

fn ended(outcome: operate_reply::Outcome) -> OperateReply {
    OperateReply { outcome: Some(outcome) }
}

fn counted() -> Committed {
    Committed { commit: Some(commit()), payload_bytes: 1 << 33, wire_bytes: 1 << 34, control_messages: 99 }
}

fn aborted() -> Aborted {
    Aborted { reason: AbortReason::Deadline.into(), detail: "too late".into(), culprit: None }
}

fn region() -> Vec<u8> {
    [&REGION.0.to_le_bytes()[..], REGION.1.as_bytes()].concat()
}

/// With a descriptor of that length, it passes the region.
fn passes(bytes: &[u8]) {
    let (trainer, mut sidecar) = UnixStream::pair().expect("two ends");
    let file = sealed_file(REGION.0);
    let descriptors = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&trainer, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).expect("a message");
    let mut kept = None;
    let received = atoll_sdk::receive(&mut sidecar, |name, region| {
        kept = Some((region.len() as u64, name));
        Ok(())
    });
    assert!(matches!(received, Ok(true)), "{received:?}");
    assert_eq!(kept, Some((REGION.0, REGION.1.to_owned())));
}
