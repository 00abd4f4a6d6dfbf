//! Payloads of pairs, gathered and added up; one that is none costs its giver its place, and nobody else anything.

use atoll_collective::codec::{Pairs, Precision, Signs, Sparse};
use atoll_sdk::{Codec, Operation};

use crate::run::{Rank, run};

const DENSE: usize = 1000;

fn pairs(codec: Codec) -> Pairs {
    match codec {
        Codec::Signs => Pairs::Signs(Signs::new(DENSE).unwrap()),
        Codec::SparseF32 => Pairs::Sparse(Sparse::new(DENSE, Precision::F32).unwrap()),
        _ => Pairs::Sparse(Sparse::new(DENSE, Precision::Bf16).unwrap()),
    }
}

/// Of the worker of `slot`: as many pairs as its slot, and one more, each with the value 0.5.
fn payload(codec: Codec, slot: u32) -> Vec<u8> {
    let indices: Vec<u32> = (0..=slot).map(|index| 10 * index).collect();
    let (values, mut bytes) = (vec![0.5; indices.len()], Vec::new());
    match pairs(codec) {
        Pairs::Signs(signs) => signs.encode(&indices, &values, &mut bytes).unwrap(),
        Pairs::Sparse(sparse) => sparse.encode(&indices, &values, &mut bytes).unwrap(),
    }
    bytes
}

fn length(codec: Codec, slots: &[u32]) -> usize {
    slots.iter().map(|slot| payload(codec, *slot).len()).sum()
}

fn gather(worker: &Rank, codec: Codec, payload: &[u8]) -> Operation {
    let output = worker.gets(length(codec, &[0, 1, 2]));
    Operation::all_gather(worker.gives(payload), output).coded(codec).of_dense(DENSE as u64)
}

/// The sum of what these gave, as it lies in the output.
fn sum(worker: &Rank, codec: Codec, slots: &[u32]) -> Vec<f32> {
    let mut rest = worker.got(length(codec, slots));
    let mut payloads = Vec::new();
    for slot in slots {
        let (part, after) = rest.split_at(payload(codec, *slot).len());
        payloads.push((part, 1));
        rest = after;
    }
    let mut sum = vec![0.0; DENSE];
    pairs(codec).sum(&payloads, &mut sum).unwrap();
    sum
}

/// A sign counts as one.
fn expected(codec: Codec, slots: &[u32]) -> Vec<f32> {
    let value = if codec == Codec::Signs { 1.0 } else { 0.5 };
    let mut sum = vec![0.0; DENSE];
    slots.iter().flat_map(|slot| 0..=*slot).for_each(|index| sum[10 * index as usize] += value);
    sum
}

#[tokio::test]
async fn payloads_of_every_codec_are_gathered() {
    run(3, 1, |worker| {
        for codec in [Codec::SparseF32, Codec::SparseBf16, Codec::Signs] {
            let given = gather(worker, codec, &payload(codec, worker.slot));
            assert_eq!(worker.operate(&given).unwrap(), [0, 1, 2]);
            assert_eq!(sum(worker, codec, &[0, 1, 2]), expected(codec, &[0, 1, 2]), "{codec:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_payload_that_is_none_is_left_out_with_its_giver() {
    const CODEC: Codec = Codec::SparseBf16;
    run(3, 1, |worker| {
        if worker.slot == 2 {
            let mut bad = payload(CODEC, 2);
            // The last value becomes an infinity.
            bad[10..].copy_from_slice(&[0x80, 0x7f]);
            let refused = worker.operate(&gather(worker, CODEC, &bad)).unwrap_err();
            assert_eq!(refused, "NotFinite by Some(2): reported by slot 2: pair 2 of its payload is NaN or infinite");
            return;
        }
        let good = gather(worker, CODEC, &payload(CODEC, worker.slot));
        assert_eq!(worker.operate(&good).unwrap(), [0, 1]);
        assert_eq!(sum(worker, CODEC, &[0, 1]), expected(CODEC, &[0, 1]));
    })
    .await;
}
