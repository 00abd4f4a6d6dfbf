//! What several ranks of each worker give is put together in rank order, and every rank gets the result.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use atoll_collective::codec::Codec as Coding;
use atoll_sdk::{Codec, DataType, Operation, Part};

use crate::run::{Rank, run};

const WORKERS: u32 = 3;
const RANKS: u32 = 2;
/// Elements of a vector: several threads add it up, and its last block is a short one.
const ELEMENTS: usize = 150_001;

/// What a rank gives: values that no two ranks and no two places share.
fn values((slot, rank): (u32, u32)) -> Vec<f32> {
    let own = (slot * RANKS + rank) as usize;
    (0..ELEMENTS).map(|element| ((element * 7 + own * 13) % 1009) as f32 * 0.37 - 100.0 * own as f32).collect()
}

fn weight((slot, rank): (u32, u32)) -> u32 {
    1 + slot + 3 * rank
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// As a codec writes them: the bytes, and the values that they hold.
fn coded(codec: Coding, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let (mut coded, mut held) = (vec![0; codec.encoded_len(values.len())], vec![0.0; values.len()]);
    codec.encode(values, &mut coded).unwrap();
    codec.decode(&coded, &mut held).unwrap();
    (coded, held)
}

/// As bfloat16.
fn halves(values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    coded(Coding::Bf16, values)
}

/// Ranks of these workers.
fn ranks(slots: &[u32]) -> impl Iterator<Item = (u32, u32)> {
    slots.iter().flat_map(|slot| (0..RANKS).map(|rank| (*slot, rank)))
}

/// `sum(weight * values)` of these workers' ranks: of each worker first, as it gives that to the others.
fn sum(slots: &[u32], values: impl Fn((u32, u32)) -> Vec<f32>, given: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f32> {
    let mut sum = vec![0.0f32; ELEMENTS];
    for slot in slots {
        let mut own = vec![0.0f32; ELEMENTS];
        for place in ranks(&[*slot]) {
            own.iter_mut().zip(values(place)).for_each(|(sum, value)| *sum += weight(place) as f32 * value);
        }
        sum.iter_mut().zip(given(&own)).for_each(|(sum, value)| *sum += value);
    }
    sum
}

fn mean(slots: &[u32], mut sum: Vec<f32>) -> Vec<f32> {
    let total: u32 = ranks(slots).map(weight).sum();
    for sum in &mut sum {
        *sum /= total as f32;
    }
    sum
}

fn all_reduce(rank: &Rank, given: &[u8], slots: &[u32]) -> Operation {
    let own = weight((rank.slot, rank.index));
    Operation::all_reduce(rank.gives(given), rank.gets(given.len())).weight(own).among(slots)
}

/// What every kind that adds gives to all ranks of these workers.
fn sums(rank: &mut Rank, slots: &[u32]) {
    let place = (rank.slot, rank.index);
    let exact = |values: &[f32]| values.to_vec();
    let own = bytes(&values(place));
    let total = sum(slots, values, exact);
    rank.operate(&all_reduce(rank, &own, slots).sum()).unwrap();
    assert!(rank.got(own.len()) == bytes(&total), "a sum among {slots:?}");
    rank.operate(&all_reduce(rank, &own, slots)).unwrap();
    assert!(rank.got(own.len()) == bytes(&mean(slots, total)), "a mean among {slots:?}");

    let own = halves(&values(place)).0;
    let leaves = |own: &[f32]| if slots.len() > 1 { halves(own).1 } else { own.to_vec() };
    let total = sum(slots, |place| halves(&values(place)).1, leaves);
    rank.operate(&all_reduce(rank, &own, slots).of(DataType::Bf16).sum()).unwrap();
    assert!(rank.got(own.len()) == halves(&total).0, "a sum of bf16 among {slots:?}");
    rank.operate(&all_reduce(rank, &own, slots).of(DataType::Bf16)).unwrap();
    assert!(rank.got(own.len()) == halves(&mean(slots, total)).0, "a mean of bf16 among {slots:?}");

    let counters = |(slot, rank): (u32, u32)| {
        let own = i64::from(slot * RANKS + rank) - 2;
        (0..ELEMENTS as i64).map(move |element| (1 << 53) + own * element)
    };
    let own: Vec<u8> = counters(place).flat_map(i64::to_le_bytes).collect();
    let mut total = vec![0i64; ELEMENTS];
    ranks(slots).for_each(|place| total.iter_mut().zip(counters(place)).for_each(|(sum, value)| *sum += value));
    rank.operate(&all_reduce(rank, &own, slots).of(DataType::I64).sum()).unwrap();
    assert!(
        rank.got(own.len()) == total.iter().flat_map(|sum| sum.to_le_bytes()).collect::<Vec<_>>(),
        "counters among {slots:?}"
    );
}

/// Reduces to the first of these workers, and gathers from all.
fn to_one_and_to_all(rank: &mut Rank, slots: &[u32]) {
    let place = (rank.slot, rank.index);
    let own = bytes(&values(place));
    let output = (rank.slot == slots[0]).then(|| rank.gets(own.len()));
    let reduce = Operation::reduce(slots[0], rank.gives(&own), output.clone()).weight(weight(place)).among(slots);
    rank.operate(&reduce).unwrap();
    if output.is_some() {
        let expected = mean(slots, sum(slots, values, <[f32]>::to_vec));
        assert!(rank.got(own.len()) == bytes(&expected), "a reduction among {slots:?}");
    }
    let part = |place: (u32, u32)| values(place)[..1000 * (place.0 * RANKS + place.1) as usize].to_vec();
    let together: Vec<u8> = ranks(slots).flat_map(|place| bytes(&part(place))).collect();
    let gather = Operation::all_gather(rank.gives(&bytes(&part(place))), rank.gets(together.len())).among(slots);
    rank.operate(&gather).unwrap();
    assert!(rank.got(together.len()) == together, "gathered among {slots:?}");
}

/// One gives to all, and one to another; where a worker gives, its rank 0 does.
fn from_one(rank: &mut Rank) {
    let first = bytes(&values((2, 0)));
    let given = (rank.slot == 2).then(|| rank.gives(&bytes(&values((2, rank.index)))));
    rank.operate(&Operation::broadcast(2, given.clone(), rank.gets(first.len()))).unwrap();
    assert!(rank.got(first.len()) == first, "a broadcast");
    if rank.slot == 1 {
        return;
    }
    let part = given.unwrap_or_else(|| rank.gets(first.len()));
    rank.operate(&Operation::send(2, 0, part, rank.slot == 0)).unwrap();
    assert!(rank.slot == 2 || rank.got(first.len()) == first, "a send");
}

/// Where nobody has a weight, all count alike.
fn uncounted(rank: &mut Rank) {
    let own = bytes(&values((rank.slot, rank.index)));
    rank.operate(&Operation::all_reduce(rank.gives(&own), rank.gets(own.len())).weight(0)).unwrap();
    let mut mean = vec![0.0f32; ELEMENTS];
    for slot in 0..WORKERS {
        let mut own = vec![0.0f32; ELEMENTS];
        ranks(&[slot]).for_each(|place| own.iter_mut().zip(values(place)).for_each(|(sum, value)| *sum += value));
        mean.iter_mut().zip(own).for_each(|(mean, own)| *mean += own / RANKS as f32);
    }
    for mean in &mut mean {
        *mean /= WORKERS as f32;
    }
    assert!(rank.got(own.len()) == bytes(&mean), "a mean of those that have no weight");
}

/// What cannot be is refused, and said why.
fn refused(rank: &mut Rank) {
    let most = |rank: &Rank| if rank.slot == 0 { i64::MAX } else { -1 };
    let overflow = all_reduce(rank, &most(rank).to_le_bytes(), &[]).of(DataType::I64).sum();
    let said = rank.operate(&overflow).unwrap_err();
    assert_eq!(said, "Overflow by None: reported by slot 0: the sum of element 0 leaves the range of its type");
    let pairs = Operation::all_gather(rank.gives(&[]), rank.gets(0)).coded(Codec::Signs).of_dense(8);
    let said = rank.operate(&pairs).unwrap_err();
    assert!(said.contains("several ranks of a worker keep no residual and gather no payloads"), "{said}");
}

#[tokio::test]
async fn several_ranks_take_part_as_one_worker() {
    run(WORKERS, RANKS, |rank| {
        let alone = [rank.slot];
        for slots in [&[0, 1, 2][..], &alone] {
            sums(rank, slots);
            to_one_and_to_all(rank, slots);
        }
        uncounted(rank);
        from_one(rank);
        rank.operate(&Operation::barrier()).unwrap();
        refused(rank);
    })
    .await;
}

#[tokio::test]
async fn what_the_ranks_of_a_worker_give_together_is_coded_also_where_it_is_alone() {
    run(2, RANKS, |rank| {
        let own = bytes(&values((rank.slot, rank.index)));
        let alone = [rank.slot];
        for slots in [&[0, 1][..], &alone] {
            let codecs = [(Codec::Bf16, Coding::Bf16), (Codec::Uint8, Coding::UInt8), (Codec::Uint4, Coding::UInt4)];
            for (codec, coding) in codecs {
                let total = sum(slots, values, |own| coded(coding, own).1);
                rank.operate(&all_reduce(rank, &own, slots).coded(codec).sum()).unwrap();
                assert!(rank.got(own.len()) == bytes(&coded(coding, &total).1), "a sum of {codec:?} among {slots:?}");
                rank.operate(&all_reduce(rank, &own, slots).coded(codec)).unwrap();
                let mean = mean(slots, total);
                assert!(rank.got(own.len()) == bytes(&coded(coding, &mean).1), "a mean of {codec:?} among {slots:?}");
            }
        }
        // A worker that ends leaves too few for the other.
        rank.operate(&Operation::barrier()).unwrap();
    })
    .await;
}

#[tokio::test]
async fn every_rank_of_a_refused_call_hears_the_refusal() {
    let all_done = Arc::new(Barrier::new(2 * RANKS as usize));
    run(2, RANKS, move |rank| {
        let own = bytes(&values((rank.slot, rank.index)));
        let mean = all_reduce(rank, &own, &[]);
        let said = rank.operate(&if rank.index == 0 { mean.sum() } else { mean }).unwrap_err();
        assert!(said.contains("another rank asks for another"), "{said}");
        let given = rank.gives(&own);
        let nowhere = Part { region: "nowhere".into(), ..given.clone() };
        let given = if rank.index == 0 { given } else { nowhere };
        let said = rank.operate(&Operation::all_reduce(given, rank.gets(own.len()))).unwrap_err();
        assert!(said.contains("rank 1: input, output or residual is not part of a region"), "{said}");
        if rank.index == 0 {
            let said = rank.operate_within(&Operation::barrier(), Duration::from_millis(50)).unwrap_err();
            assert!(said.starts_with(&format!("Deadline by Some({}): rank 1 has not asked for it", rank.slot)), "{said}");
        }
        // A rank that ends takes its worker's trainer with it.
        all_done.wait();
    })
    .await;
}

#[tokio::test]
async fn a_small_operation_beside_a_large_one_delays_neither() {
    const FEW: usize = 1000;
    run(WORKERS, RANKS, |rank| {
        let slots = [0, 1, 2];
        let own = bytes(&values((rank.slot, rank.index)));
        let total = bytes(&sum(&slots, values, <[f32]>::to_vec));
        let input = rank.gives(&own);
        for _ in 0..10 {
            let output = rank.gets(own.len() + 4 * FEW);
            let weight = weight((rank.slot, rank.index));
            let large = Operation::all_reduce(input.clone(), Part { range: 0..own.len(), ..output.clone() });
            let few = Part { range: 0..4 * FEW, ..input.clone() };
            let small = Operation::all_reduce(few, Part { range: own.len()..output.range.end, ..output.clone() });
            let mut pending = [large.tag("large"), small.tag("small")].map(|asked| rank.start(&asked.weight(weight).sum()));
            for pending in &mut pending {
                assert_eq!(rank.wait(pending).unwrap(), slots);
            }
            let (large, small) = rank.got(output.range.end).split_at(own.len());
            assert!(large == total && small == &total[..4 * FEW]);
        }
    })
    .await;
}
