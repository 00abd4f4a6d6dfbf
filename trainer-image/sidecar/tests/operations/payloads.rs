//! Payloads of pairs, gathered and added up; one that is none costs its giver its place, and nobody else anything.

use atoll_collective::codec::{Pairs, Precision, Sparse};
use atoll_sdk::{Codec, Operation};

use crate::run::{Rank, run};

const DENSE: usize = 1000;

fn pairs() -> Pairs {
    Pairs::Sparse(Sparse::new(DENSE, Precision::Bf16).unwrap())
}

/// Of the worker of `slot`: as many pairs as its slot, and one more, each with the value 0.5.
fn payload(slot: u32) -> Vec<u8> {
    let indices: Vec<u32> = (0..=slot).map(|index| 10 * index).collect();
    let mut bytes = Vec::new();
    Sparse::new(DENSE, Precision::Bf16).unwrap().encode(&indices, &vec![0.5; indices.len()], &mut bytes).unwrap();
    bytes
}

fn gather(worker: &Rank, payload: &[u8]) -> Operation {
    let output = worker.gets(6 * 4);
    Operation::all_gather(worker.gives(payload), output).coded(Codec::SparseBf16).of_dense(DENSE as u64)
}

/// The sum of what these gave, as it lies in the output.
fn sum(worker: &Rank, slots: &[u32]) -> Vec<f32> {
    let mut rest = worker.got(6 * 4);
    let mut payloads = Vec::new();
    for slot in slots {
        let (part, after) = rest.split_at(payload(*slot).len());
        payloads.push((part, 1));
        rest = after;
    }
    let mut sum = vec![0.0; DENSE];
    pairs().sum(&payloads, &mut sum).unwrap();
    sum
}

fn expected(slots: &[u32]) -> Vec<f32> {
    let mut sum = vec![0.0; DENSE];
    slots.iter().flat_map(|slot| 0..=*slot).for_each(|index| sum[10 * index as usize] += 0.5);
    sum
}

#[tokio::test]
async fn payloads_are_gathered_and_one_that_is_none_is_left_out_with_its_giver() {
    run(3, 1, |worker| {
        let good = gather(worker, &payload(worker.slot));
        assert_eq!(worker.operate(&good).unwrap(), [0, 1, 2]);
        assert_eq!(sum(worker, &[0, 1, 2]), expected(&[0, 1, 2]));
        if worker.slot == 2 {
            let mut bad = payload(2);
            // The last value becomes an infinity.
            bad[10..].copy_from_slice(&[0x80, 0x7f]);
            let refused = worker.operate(&gather(worker, &bad)).unwrap_err();
            assert_eq!(refused, "NotFinite by Some(2): reported by slot 2: pair 2 of its payload is NaN or infinite");
            return;
        }
        let good = gather(worker, &payload(worker.slot));
        assert_eq!(worker.operate(&good).unwrap(), [0, 1]);
        assert_eq!(sum(worker, &[0, 1]), expected(&[0, 1]));
    })
    .await;
}
