//! What a coordinator begins, and frames of hostile members of it.

use std::sync::Arc;

use atoll_collective::exchange::{Exchange, Memory, Plan, Sender};
use atoll_collective::framing::{self, Kind};
use atoll_collective::operation;
use atoll_collective::v1::{Begin, Codec, Contribution, DataType, EpochRecord, Member, Operation, OperationKey, OperationKind};
use bytes::Bytes;
use prost::Message;

use crate::Target;
use crate::input::{Input, chunk};

/// An attempt as it was begun, and the frames that come for it.
pub(super) const EXCHANGE: Target = Target { name: "exchange", run, seeds };

/// From here on, the first byte says that this member adds a residual to what it gives.
const FEEDS_BACK: u8 = 128;
/// Largest vector for which frames are taken.
const LARGEST: usize = 1 << 20;

fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let first = input.byte();
    let (slot, feeds_back) = (u32::from(first % FEEDS_BACK), first >= FEEDS_BACK);
    let Ok(begin) = Begin::decode(input.chunk()) else { return };
    let Some(plan) = Plan::new(&begin, slot) else { return };
    if plan.result_bytes() > LARGEST {
        return;
    }
    let (given, output) = (Bytes::from(vec![0; plan.input_bytes()]), Memory::new(plan.result_bytes()));
    // 0.5 where four bytes are one value.
    let residual = feeds_back.then(|| [0, 0, 0, 0x3f].repeat(given.len() / 4).into());
    let Ok(exchange) = Exchange::new(plan, given, residual, Arc::new(output)) else { return };
    while !input.is_empty() {
        let sender = Sender { slot: u32::from(input.byte()), name: None };
        let kind = [Kind::Contribution, Kind::Result, Kind::Digest, Kind::Partial][usize::from(input.byte() % 4)];
        let (block, repeat, payload) = (u32::from(input.byte()), usize::from(input.short()), input.chunk());
        // A long payload need not be long in the input: its bytes are repeated, up to the longest of a frame.
        let times = (repeat % 2048 + 1).min(framing::LARGEST / payload.len().max(1));
        let payload = Bytes::from(payload.repeat(times));
        let Ok(mut incoming) = exchange.receive(&sender, kind, block, payload.len()) else { continue };
        let again = exchange.receive(&sender, kind, block, payload.len());
        assert!(again.is_err(), "a frame is taken once");
        incoming.take(payload);
        // What is wrong with it is the exchange's own matter.
        let _damaged = incoming.finish((repeat % 3 == 0).then_some(0));
    }
    assert!(exchange.coding_error().is_none_or(|error| (0.0..=1.0).contains(&error)), "what is coded is like what is given");
    for slot in 0..4 {
        exchange.lose(&Sender { slot, name: None }, "gone");
    }
}

fn begin(kind: OperationKind, codec: Codec, elements: u64) -> Begin {
    let members = [0, 1, 2].map(|slot| Member { slot, worker: format!("w{slot}"), incarnation: 1, ..Member::default() });
    let record = EpochRecord { term: 1, epoch: 1, members: members.to_vec(), ..EpochRecord::default() };
    let part = if kind == OperationKind::AllGather { elements } else { 0 };
    let given = |slot| Contribution { slot, weight: 1, elements: part, ..Contribution::default() };
    let elements = if kind == OperationKind::AllGather { 0 } else { elements };
    let (key, ends) =
        (Some(OperationKey { round: 1, sequence: 1, ..OperationKey::default() }), operation::ends_round(1, 1, elements));
    let all = Operation { key, kind: kind.into(), codec: codec.into(), root: 1, ends_round: false, ..ends };
    let contributions = [0, 1, 2].map(given).to_vec();
    Begin { operation: Some(all), number: 1, record: Some(record), contributions, bandwidths: vec![] }
}

fn seeds() -> Vec<Vec<u8>> {
    let by = |first: u8, begin: &Begin, frames: &[(u8, u8, u8, usize)]| {
        let mut seed = [&[first][..], &chunk(&begin.encode_to_vec())].concat();
        for (from, kind, block, length) in frames {
            seed.extend([*from, *kind, *block, 0, 0]);
            seed.extend(chunk(&vec![0; *length]));
        }
        seed
    };
    let whole = |begin: &Begin, frames: &[(u8, u8, u8, usize)]| by(0, begin, frames);
    let reduced = begin(OperationKind::AllReduce, Codec::None, 6144);
    let mut grouped = reduced.clone();
    if let Some(operation) = &mut grouped.operation {
        operation.group_size = 2;
    }
    let coded = begin(OperationKind::AllReduce, Codec::Uint8, 6144);
    let mut payloads = begin(OperationKind::AllGather, Codec::None, 8);
    if let Some(operation) = &mut payloads.operation {
        (operation.codec, operation.data_type) = (Codec::SparseF32.into(), DataType::U8.into());
        (operation.elements, operation.ends_round) = (4096, false);
    }
    vec![
        whole(&reduced, &[(1, 0, 0, 8192), (2, 0, 0, 8192), (1, 1, 1, 8192), (2, 1, 2, 8192)]),
        whole(&grouped, &[(1, 0, 0, 8192), (2, 3, 0, 8192), (1, 0, 2, 8192), (1, 1, 1, 8192), (2, 1, 2, 8192)]),
        by(FEEDS_BACK, &coded, &[(1, 0, 0, 2064), (2, 0, 0, 2064), (1, 1, 1, 2064), (2, 1, 2, 2064)]),
        whole(&coded, &[(1, 0, 0, 2064), (2, 0, 0, 2064), (1, 1, 1, 2064), (2, 1, 2, 2064)]),
        whole(&begin(OperationKind::AllGather, Codec::None, 2), &[(1, 1, 1, 8), (2, 1, 2, 8)]),
        whole(&payloads, &[(1, 1, 1, 8), (2, 1, 2, 8)]),
        whole(&begin(OperationKind::Broadcast, Codec::None, 6), &[(1, 0, 0, 24), (1, 1, 0, 24)]),
        whole(
            &begin(OperationKind::Reduce, Codec::None, 6144),
            &[(1, 0, 0, 8192), (2, 0, 0, 8192), (1, 2, 1, 32), (2, 2, 2, 32)],
        ),
    ]
}
