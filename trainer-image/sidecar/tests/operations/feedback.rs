//! Error feedback: what coding loses of a contribution is in its worker's residual once the operation is committed, and only then.

use atoll_collective::codec::Codec as Coding;
use atoll_sdk::{Codec, Operation, Part};

use crate::run::{Rank, run};

const WORKERS: u32 = 3;
/// Elements of a vector: several blocks of the exchange, the last a short one.
const ELEMENTS: usize = 150_001;
const BYTES: usize = 4 * ELEMENTS;
const CODECS: [(Codec, Coding); 2] = [(Codec::Uint8, Coding::UInt8), (Codec::Uint4, Coding::UInt4)];

/// What a worker gives in a round: values that no two workers, rounds or places share.
fn values(slot: u32, round: usize) -> Vec<f32> {
    let own = slot as usize * 13 + round * 101;
    (0..ELEMENTS).map(|element| ((element * 7 + own) % 1009) as f32 * 0.37 - own as f32).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn weight(slot: u32) -> u32 {
    1 + slot
}

/// What others decode.
fn decoded(codec: Coding, coded: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; ELEMENTS];
    codec.decode(coded, &mut values).unwrap();
    values
}

/// The weighted mean of these workers as the codec says it; their residuals are replaced.
fn mean(codec: Coding, slots: &[u32], round: usize, residuals: &mut [Vec<f32>]) -> Vec<u8> {
    let mut coded = vec![0; codec.encoded_len(ELEMENTS)];
    let mut mean = vec![0.0f32; ELEMENTS];
    for slot in slots {
        let (values, residual) = (values(*slot, round), &mut residuals[*slot as usize]);
        codec.encode_with_feedback(&values, residual, &mut coded).unwrap();
        codec.residual(&values, &coded, residual).unwrap();
        mean.iter_mut().zip(decoded(codec, &coded)).for_each(|(sum, value)| *sum += weight(*slot) as f32 * value);
    }
    let total: u32 = slots.iter().copied().map(weight).sum();
    for sum in &mut mean {
        *sum /= total as f32;
    }
    codec.encode(&mean, &mut coded).unwrap();
    bytes(&decoded(codec, &coded))
}

fn no_residuals() -> Vec<Vec<f32>> {
    vec![vec![0.0; ELEMENTS]; WORKERS as usize]
}

/// Among all, with the residual that lies at its region's beginning.
fn all_reduce(worker: &Rank, values: &[f32], codec: Codec) -> Operation {
    let operation = Operation::all_reduce(worker.gives(&bytes(values)), worker.gets(BYTES));
    operation.weight(weight(worker.slot)).coded(codec).with_feedback(Part { region: "residual".into(), range: 0..BYTES })
}

fn kept(worker: &Rank) -> &[u8] {
    worker.residual.bytes(0..BYTES).unwrap()
}

/// A round of these workers is committed, with the values and residuals that the codec says.
fn commits(worker: &mut Rank, (codec, coding): (Codec, Coding), slots: &[u32], residuals: &mut [Vec<f32>]) {
    for round in 0..3 {
        let expected = mean(coding, slots, round, residuals);
        let own = values(worker.slot, round);
        assert_eq!(worker.operate(&all_reduce(worker, &own, codec)).unwrap(), slots);
        assert!(worker.got(BYTES) == expected, "the mean of {codec:?} in round {round}");
        assert!(kept(worker) == bytes(&residuals[worker.slot as usize]), "the residual of {codec:?} in round {round}");
    }
}

#[tokio::test]
async fn each_commit_leaves_in_the_residual_what_coding_lost_of_input_and_residual() {
    run(WORKERS, 1, |worker| {
        for codec in CODECS {
            assert!(worker.residual.write(0, &vec![0; BYTES]));
            commits(worker, codec, &[0, 1, 2], &mut no_residuals());
        }
    })
    .await;
}

#[tokio::test]
async fn an_aborted_operation_leaves_the_residual_as_it_was() {
    run(WORKERS, 1, |worker| {
        for codec in CODECS {
            assert!(worker.residual.write(0, &vec![0; BYTES]));
            let mut residuals = no_residuals();
            commits(worker, codec, &[0, 1, 2], &mut residuals);
            let before = kept(worker).to_vec();
            assert!(before.iter().any(|byte| *byte != 0));
            let most = all_reduce(worker, &vec![3e38; ELEMENTS], codec.0).sum();
            let said = worker.operate(&most).unwrap_err();
            assert!(said.starts_with("Overflow by None"), "{said}");
            assert!(kept(worker) == before, "the residual of {codec:?}");
            commits(worker, codec, &[0, 1, 2], &mut residuals);
        }
    })
    .await;
}

#[tokio::test]
async fn an_attempt_after_an_aborted_one_codes_with_the_same_residual() {
    run(WORKERS, 1, |worker| {
        let codec = CODECS[1];
        let mut residuals = no_residuals();
        commits(worker, codec, &[0, 1, 2], &mut residuals);
        if worker.slot == 2 {
            let before = kept(worker).to_vec();
            let mut own = values(2, 0);
            own[ELEMENTS - 1] = f32::NAN;
            let said = worker.operate(&all_reduce(worker, &own, codec.0)).unwrap_err();
            assert!(said.starts_with("NotFinite by Some(2)"), "{said}");
            assert!(kept(worker) == before, "the residual of the worker that was left out");
            return;
        }
        // The first of these is tried with the third worker before it is done without it.
        commits(worker, codec, &[0, 1], &mut residuals);
    })
    .await;
}

#[tokio::test]
async fn a_residual_that_does_not_lie_at_values_is_refused_before_anything_moves() {
    run(2, 1, |worker| {
        let moved = Part { region: "residual".into(), range: 2..BYTES + 2 };
        let own = values(worker.slot, 0);
        let said = worker.operate(&all_reduce(worker, &own, Codec::Uint8).with_feedback(moved)).unwrap_err();
        assert!(said.contains("residual.offset is 2: f32 values are written there, begin it at a multiple of 4"), "{said}");
        assert!(worker.got(BYTES).iter().all(|byte| *byte == 0xaa), "no output is written");
        assert!(worker.residual.bytes(0..BYTES + 2).unwrap().iter().all(|byte| *byte == 0), "nor a residual");
    })
    .await;
}

#[tokio::test]
async fn a_residual_of_groups_is_refused_and_left_as_it_was() {
    run(2, 1, |worker| {
        let own = values(worker.slot, 0);
        let said = worker.operate(&all_reduce(worker, &own, Codec::Uint8).groups_of(2)).unwrap_err();
        assert!(
            said.contains(
                "residual: sums of groups of 2 are coded, and no contribution: leave out the residual or the group_size"
            ),
            "{said}"
        );
        assert!(kept(worker).iter().all(|byte| *byte == 0));
        commits(worker, CODECS[0], &[0, 1], &mut no_residuals());
    })
    .await;
}
