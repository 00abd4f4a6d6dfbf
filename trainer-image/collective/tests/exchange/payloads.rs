//! What is carried and not added: payloads of pairs, and values; what all do about one that is none.

use atoll_collective::codec::Pairs;

use super::*;

/// Elements of the dense vector of which payloads are: so many that a payload of all of them has several blocks.
const DENSE: usize = 100_000;

/// The gathering of payloads of this form.
fn gathers(codec: v1::Codec) -> (Operation, Pairs) {
    let mut operation = asked(OperationKind::AllGather, DENSE, 0);
    operation.set_data_type(DataType::U8);
    operation.set_codec(codec);
    let pairs = operation::pairs(&operation).unwrap();
    (operation, pairs)
}

/// The payload of these pairs.
fn payload(pairs: Pairs, indices: &[u32], values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match pairs {
        Pairs::Sparse(sparse) => sparse.encode(indices, values, &mut bytes).unwrap(),
        Pairs::Signs(signs) => signs.encode(indices, values, &mut bytes).unwrap(),
    }
    bytes
}

#[tokio::test]
async fn gathered_payloads_add_up_to_the_same_bits_on_all() {
    let peers = peers(3).await;
    let chosen: [(Vec<u32>, Vec<f32>); 3] =
        [((0..DENSE as u32).collect(), values(0, DENSE)), (vec![], vec![]), (vec![3, 65_536, 99_999], vec![0.5, -1024.0, 7.0])];
    for (number, form) in [v1::Codec::SparseF32, v1::Codec::SparseBf16, v1::Codec::Signs].into_iter().enumerate() {
        let (operation, pairs) = gathers(form);
        let given: Vec<Given> = chosen.iter().map(|(indices, values)| (payload(pairs, indices, values), 1)).collect();
        let together: Vec<u8> = given.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        // A longer output is left as it is behind the last payload.
        let ended = run(&peers, &operation, number as u64 + 1, &given, together.len() + 3).await;
        agreed(&ended);
        let mut expected = vec![0.0f32; DENSE];
        for (indices, values) in &chosen {
            for (index, value) in indices.iter().zip(values) {
                expected[*index as usize] += match form {
                    v1::Codec::SparseF32 => *value,
                    v1::Codec::SparseBf16 => rounded(*value),
                    _ => {
                        if *value < 0.0 {
                            -1.0
                        } else {
                            1.0
                        }
                    }
                };
            }
        }
        for ended in ended {
            let gathered = ended.unwrap().1;
            assert!(gathered[..together.len()] == together && gathered[together.len()..] == [0; 3], "{form:?}");
            let mut rest = &gathered[..];
            let mut part = |length: usize| {
                let (part, after) = rest.split_at(length);
                rest = after;
                (part, 1)
            };
            let payloads = [0, 1, 2].map(|slot: usize| part(given[slot].0.len()));
            let mut sum = vec![0.0; DENSE];
            pairs.sum(&payloads, &mut sum).unwrap();
            assert!(bytes(&sum) == bytes(&expected), "{form:?}");
        }
    }
}

/// As bfloat16 holds it.
fn rounded(value: f32) -> f32 {
    let mut coded = [0; 2];
    codec::Codec::Bf16.encode(&[value], &mut coded).unwrap();
    let mut rounded = [0.0];
    codec::Codec::Bf16.decode(&coded, &mut rounded).unwrap();
    rounded[0]
}

/// Payloads that are none, and what is said of them.
fn hostile() -> Vec<(v1::Codec, Vec<u8>, AbortReason, &'static str)> {
    let sparse = |indices: [u32; 2], values: [f32; 2]| {
        let values = values.map(f32::to_le_bytes);
        [indices.map(u32::to_le_bytes).concat(), values.concat()].concat()
    };
    let signs = |last: u8| [[1u32, 2].map(u32::to_le_bytes).concat(), vec![last]].concat();
    vec![
        (v1::Codec::SparseF32, sparse([2, 1], [1.0; 2]), AbortReason::Mismatch, "the index of pair 1 is not greater"),
        (v1::Codec::SparseF32, sparse([2, DENSE as u32], [1.0; 2]), AbortReason::Mismatch, "the index of pair 1 is outside"),
        (v1::Codec::SparseF32, sparse([1, 2], [1.0, f32::NAN]), AbortReason::NotFinite, "pair 1 of its payload is NaN"),
        (v1::Codec::SparseF32, vec![0; 13], AbortReason::Mismatch, "13 bytes are no whole number of pairs"),
        (v1::Codec::SparseBf16, vec![1, 0, 0, 0, 0x80, 0x7f], AbortReason::NotFinite, "pair 0 of its payload is NaN"),
        (v1::Codec::Signs, signs(0b100), AbortReason::Mismatch, "bits after the last sign are not zero"),
    ]
}

/// Has the third of three peers send `bad` without looking at it where the others give `good`; what the others say of that.
async fn refusals(peers: &[Peer], operation: &Operation, number: u64, good: &[u8], bad: &[u8]) -> Vec<Failure> {
    let given = [(good.to_vec(), 1), (good.to_vec(), 1), (bad.to_vec(), 1)];
    let begin = begin(peers, operation, number, &given);
    let honest = [0, 1].map(|slot: usize| {
        let output = Memory(Arc::new(Mutex::new(vec![0; 2 * good.len() + bad.len()])));
        let plan = Plan::new(&begin, slot as u32).unwrap();
        let exchange = Exchange::new(plan, given[slot].0.clone().into(), None, Arc::new(output)).unwrap();
        peers[slot].operations.begin(Arc::clone(&exchange));
        exchange.run(peers[slot].lanes.clone(), PATIENCE)
    });
    for to in &peers[..2] {
        let lane = peers[2].lanes.lane(&to.member).await.unwrap();
        let header = Header { term: 1, number, block: 2, kind: Kind::Result };
        let sum = framing::sum_of_result(blake3::hash(bad).as_bytes());
        lane.channels()[0].send(header, bad.to_vec().into(), Some(sum)).await.unwrap();
    }
    let ended = futures::future::join_all(honest).await;
    peers[..2].iter().for_each(|peer| peer.operations.end(1, number));
    ended.into_iter().map(Result::unwrap_err).collect()
}

#[tokio::test]
async fn a_value_that_is_not_finite_is_refused_by_all_who_gather_it_and_its_giver_named() {
    let peers = peers(3).await;
    let mut bad = values(2, 40);
    bad[33] = f32::NAN;
    let operation = asked(OperationKind::AllGather, 0, 0);
    for failure in refusals(&peers, &operation, 1, &bytes(&values(0, 40)), &bytes(&bad)).await {
        assert_eq!((failure.reason, failure.culprit), (AbortReason::NotFinite, 2), "{}", failure.detail);
        assert_eq!(failure.detail, "element 33 of its contribution is NaN or infinite");
    }
}

#[tokio::test]
async fn a_payload_that_is_none_is_refused_by_all_who_get_it_and_its_giver_named() {
    let peers = peers(3).await;
    for (number, (form, bad, reason, said)) in hostile().into_iter().enumerate() {
        let (operation, pairs) = gathers(form);
        for failure in refusals(&peers, &operation, number as u64 + 1, &payload(pairs, &[5], &[1.0]), &bad).await {
            assert_eq!((failure.reason, failure.culprit), (reason, 2), "{}", failure.detail);
            assert!(failure.detail.contains(said), "{}", failure.detail);
        }
    }
    let (operation, pairs) = gathers(v1::Codec::Signs);
    let given = [1, 2, 3].map(|index| (payload(pairs, &[index], &[-1.0]), 1));
    agreed(&run(&peers, &operation, 100, &given, 15).await);
}

#[tokio::test]
async fn a_payload_that_is_none_does_not_leave_its_giver() {
    let peers = peers(2).await;
    for (form, bad, reason, said) in hostile() {
        let (operation, pairs) = gathers(form);
        let given = [(bad.clone(), 1), (payload(pairs, &[5], &[1.0]), 1)];
        let output = Memory(Arc::new(Mutex::new(vec![0; given[0].0.len() + given[1].0.len()])));
        let plan = Plan::new(&begin(&peers, &operation, 1, &given), 0).unwrap();
        let exchange = Exchange::new(plan, bad.into(), None, Arc::new(output)).unwrap();
        let failure = exchange.run(peers[0].lanes.clone(), PATIENCE).await.unwrap_err();
        assert_eq!((failure.reason, failure.culprit), (reason, 0));
        assert!(failure.detail.contains(said), "{}", failure.detail);
    }
    assert_eq!(peers[0].lanes.meter().sent(), 0);
}
