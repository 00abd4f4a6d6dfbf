//! Every kind of operation over real lanes on loopback: each peer's bytes and hash, by value.

// A test's own mistakes must stop it.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use atoll_collective::exchange::{Exchange, Output, Plan, Sender};
use atoll_collective::framing::Kind::{Contribution as Copy, Digest};
use atoll_collective::framing::{self, FramingError, Header, Kind};
use atoll_collective::identity::{RunAuthority, Validity};
use atoll_collective::lane::{Bounds, LaneService, Lanes, Meter, Operations};
use atoll_collective::peer::Failure;
use atoll_collective::secret::Secret;
use atoll_collective::transport::{Security, Transport};
use atoll_collective::v1::{
    AbortReason, Begin, Codec, Contribution, DataType, EpochRecord, Member, Operation, OperationKind, Reduction,
};
use atoll_collective::{codec, operation, v1};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;

mod contributors;
mod payloads;

const PATIENCE: Duration = Duration::from_secs(20);

/// An output in this process's memory.
#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Output for Memory {
    fn write(&self, offset: usize, data: &[u8]) -> bool {
        let mut bytes = self.0.lock().unwrap();
        let place = bytes.get_mut(offset..offset + data.len());
        place.is_some_and(|place| {
            place.copy_from_slice(data);
            true
        })
    }

    fn shared(&self, start: usize, end: usize) -> Bytes {
        Bytes::copy_from_slice(&self.0.lock().unwrap()[start..end])
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// One peer: its lanes and what it serves.
struct Peer {
    member: Member,
    lanes: Lanes,
    operations: Operations,
}

async fn peer(slot: u32, secret: &str, security: Option<Security>) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let island = "here".to_owned();
    let member = Member { slot, island, worker: format!("w{slot}"), incarnation: 1, address, ..Member::default() };
    let meter = Arc::new(Meter::default());
    let secret = Secret::new(secret);
    let transport = Transport::new(security, meter);
    let lanes = Lanes::new("run", slot, secret.clone(), transport.clone());
    let (bounds, operations) = (Bounds::default(), Operations::default());
    let offer = watch::channel(None).1;
    let service = LaneService { me: (slot, 1), operations: operations.clone(), offer, secret, patience: PATIENCE };
    let serving =
        Server::builder().initial_stream_window_size(bounds.stream_window).max_frame_size(bounds.frame).add_service(service);
    tokio::spawn(async move { serving.serve_with_incoming(transport.incoming(listener)).await.unwrap() });
    Peer { member, lanes, operations }
}

async fn peers(count: u32) -> Vec<Peer> {
    let mut all = Vec::new();
    for slot in 0..count {
        all.push(peer(slot, "secret", None).await);
    }
    all
}

/// What a peer gives: bytes, and its weight.
type Given = (Vec<u8>, u32);
/// How an attempt ended: the hash, and what the output holds.
type Ended = Result<([u8; 32], Vec<u8>), Failure>;

fn begin(peers: &[Peer], operation: &Operation, number: u64, given: &[Given]) -> Begin {
    let members: Vec<Member> = peers.iter().map(|peer| peer.member.clone()).collect();
    let size = operation::size(operation.data_type());
    let contribution = |(member, (bytes, weight)): (&Member, &Given)| Contribution {
        slot: member.slot,
        weight: *weight,
        elements: bytes.len() as u64 / size,
        ..Contribution::default()
    };
    let contributions = members.iter().zip(given).map(contribution).collect();
    let record = Some(EpochRecord { term: 1, epoch: 1, members, ..EpochRecord::default() });
    Begin { operation: Some(operation.clone()), number, record, contributions, ..Begin::default() }
}

/// Runs one attempt on all peers at once.
async fn run(peers: &[Peer], operation: &Operation, number: u64, given: &[Given], result: usize) -> Vec<Ended> {
    let begin = begin(peers, operation, number, given);
    let attempts = peers.iter().zip(given).map(|(peer, (bytes, _))| {
        let plan = Plan::new(&begin, peer.member.slot).unwrap();
        let output = Memory(Arc::new(Mutex::new(vec![0; if plan.wants(plan.me) { result } else { 0 }])));
        let input = if plan.input_bytes() == 0 { Bytes::new() } else { Bytes::from(bytes.clone()) };
        let exchange = Exchange::new(plan, input, None, Arc::new(output.clone())).unwrap();
        peer.operations.begin(Arc::clone(&exchange));
        async move {
            let ended = exchange.run(peer.lanes.clone(), PATIENCE).await;
            peer.operations.end(1, number);
            ended.map(|hash| (hash, output.0.lock().unwrap().clone()))
        }
    });
    futures::future::join_all(attempts).await
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// What the peer of `slot` gives: values that no two peers and no two places share.
fn values(slot: usize, elements: usize) -> Vec<f32> {
    (0..elements).map(|element| ((element * 7 + slot * 13) % 1009) as f32 * 0.37 - 100.0 * slot as f32).collect()
}

fn asked(kind: OperationKind, elements: usize, root: u32) -> Operation {
    let mut operation = Operation { ends_round: false, root, ..operation::ends_round(1, 1, elements as u64) };
    operation.set_kind(kind);
    operation.key.as_mut().unwrap().sequence = 1;
    operation
}

fn agreed(ended: &[Ended]) {
    let first = ended[0].as_ref().unwrap().0;
    assert!(ended.iter().all(|ended| ended.as_ref().unwrap().0 == first), "hashes differ");
}

#[tokio::test]
async fn a_weighted_mean_has_the_same_bytes_on_all_whatever_its_size() {
    let mut number = 0;
    for count in 1..=4 {
        let peers = peers(count).await;
        for elements in [0, 1, 17, 65_536, 300_001] {
            number += 1;
            let given: Vec<Given> = (0..count as usize).map(|slot| (bytes(&values(slot, elements)), slot as u32 + 1)).collect();
            let total: u32 = (1..=count).sum();
            let ended = run(&peers, &asked(OperationKind::AllReduce, elements, 0), number, &given, elements * 4).await;
            agreed(&ended);
            let all: Vec<Vec<f32>> = (0..count as usize).map(|slot| values(slot, elements)).collect();
            let mut expected = vec![0.0f32; elements];
            for (slot, values) in all.iter().enumerate() {
                for (sum, value) in expected.iter_mut().zip(values) {
                    *sum += (slot + 1) as f32 * value;
                }
            }
            for sum in &mut expected {
                *sum /= total as f32;
            }
            for ended in ended {
                assert!(ended.unwrap().1 == bytes(&expected), "{count} peers, {elements} elements");
            }
        }
    }
}

/// The mean of what peers of these weights give, when sums of `group_size` neighbours travel in `codec`: written out plainly.
fn mean_of_groups(given: &[(Vec<f32>, u32)], group_size: usize, codec: codec::Codec) -> Vec<f32> {
    let coded = |values: &[f32]| {
        let mut coded = vec![0; codec.encoded_len(values.len())];
        codec.encode(values, &mut coded).unwrap();
        let mut values = vec![0.0; values.len()];
        codec.decode(&coded, &mut values).unwrap();
        values
    };
    let elements = given[0].0.len();
    let mut sum = vec![0.0f32; elements];
    for group in given.chunks(group_size) {
        let mut partial = vec![0.0f32; elements];
        for (values, weight) in group {
            partial.iter_mut().zip(values).for_each(|(sum, value)| *sum += *weight as f32 * value);
        }
        sum.iter_mut().zip(coded(&partial)).for_each(|(sum, value)| *sum += value);
    }
    let total: u32 = given.iter().map(|(_, weight)| weight).sum();
    coded(&sum.iter().map(|sum| sum / total as f32).collect::<Vec<_>>())
}

#[tokio::test]
async fn groups_give_the_same_bytes_whoever_adds_them_up() {
    let elements = 200_003;
    let count = 5;
    let mut peers = peers(count).await;
    let weighted: Vec<_> = (0..count as usize).map(|slot| (values(slot, elements), slot as u32 + 1)).collect();
    let given: Vec<Given> = weighted.iter().map(|(values, weight)| (bytes(values), *weight)).collect();
    let mut number = 0;
    // Who is a contributor adds nothing up: a group of such is added up by the owners.
    for contributors in [&[][..], &[1], &[2, 3]] {
        for peer in &mut peers {
            peer.member.contributor = contributors.contains(&peer.member.slot);
        }
        for (coding, codec) in [(v1::Codec::None, codec::Codec::F32), (v1::Codec::Uint8, codec::Codec::UInt8)] {
            for group_size in [2, 3, 5] {
                number += 1;
                let group = group_size as u32;
                let operation =
                    Operation { group_size: group, codec: coding.into(), ..asked(OperationKind::AllReduce, elements, 0) };
                let ended = run(&peers, &operation, number, &given, elements * 4).await;
                agreed(&ended);
                let expected = bytes(&mean_of_groups(&weighted, group_size, codec));
                for ended in ended {
                    assert!(ended.unwrap().1 == expected, "{contributors:?}, groups of {group_size}, {coding:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn many_operations_share_the_lanes() {
    let peers = peers(3).await;
    let elements = 100_000;
    let given: Vec<Given> = (0..3).map(|slot| (bytes(&values(slot, elements)), 1)).collect();
    let operation = asked(OperationKind::AllReduce, elements, 0);
    let attempts = (1..=8).map(|number| run(&peers, &operation, number, &given, elements * 4));
    let all = futures::future::join_all(attempts).await;
    let first = all[0][0].clone().unwrap();
    assert!(all.into_iter().flatten().all(|ended| ended.unwrap() == first));
}

#[tokio::test]
async fn a_peer_that_is_late_finds_what_the_others_sent() {
    let peers = peers(2).await;
    let given: Vec<Given> = (0..2).map(|slot| (bytes(&values(slot, 40_000)), 1)).collect();
    let begin = begin(&peers, &asked(OperationKind::AllReduce, 40_000, 0), 1, &given);
    let prepared = [0, 1].map(|slot| {
        let output = Memory(Arc::new(Mutex::new(vec![0; 160_000])));
        let plan = Plan::new(&begin, slot as u32).unwrap();
        let exchange = Exchange::new(plan, Bytes::from(given[slot].0.clone()), None, Arc::new(output)).unwrap();
        peers[slot].operations.begin(Arc::clone(&exchange));
        exchange
    });
    let [first, second] = prepared;
    let early = tokio::spawn(first.run(peers[0].lanes.clone(), PATIENCE));
    // The other's copy of its shard has come and is reduced, before it has begun itself.
    tokio::time::timeout(PATIENCE, async {
        while peers[1].lanes.meter().received() < 80_000 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let late = second.run(peers[1].lanes.clone(), PATIENCE).await.unwrap();
    assert_eq!(early.await.unwrap().unwrap(), late);
}

#[tokio::test]
async fn parts_of_different_lengths_are_gathered_in_slot_order() {
    let peers = peers(3).await;
    let given: Vec<Given> = [3, 0, 200_000].iter().enumerate().map(|(slot, length)| (bytes(&values(slot, *length)), 1)).collect();
    let together: Vec<u8> = given.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
    let ended = run(&peers, &asked(OperationKind::AllGather, 0, 0), 1, &given, together.len()).await;
    agreed(&ended);
    assert!(ended.into_iter().all(|ended| ended.unwrap().1 == together));
}

#[tokio::test]
async fn a_broadcast_and_a_send_bring_the_roots_bytes() {
    let peers = peers(3).await;
    let given: Vec<Given> = (0..3).map(|slot| (bytes(&values(slot, 150_000)), 1)).collect();
    let ended = run(&peers, &asked(OperationKind::Broadcast, 150_000, 1), 1, &given, 600_000).await;
    agreed(&ended);
    assert!(ended.into_iter().all(|ended| ended.unwrap().1 == given[1].0));

    let mut send = asked(OperationKind::Send, 150_000, 2);
    send.key.as_mut().unwrap().slots = vec![0, 2];
    let two: Vec<Peer> = peers.into_iter().filter(|peer| peer.member.slot != 1).collect();
    let given = [given[0].clone(), given[2].clone()];
    let ended = run(&two, &send, 2, &given, 600_000).await;
    agreed(&ended);
    assert!(ended[0].as_ref().unwrap().1 == given[1].0);
}

#[tokio::test]
async fn a_reduction_to_one_is_agreed_by_all_and_held_by_one() {
    let peers = peers(3).await;
    let given: Vec<Given> = (0..3).map(|slot| (bytes(&values(slot, 150_000)), 1)).collect();
    let mut sum = asked(OperationKind::Reduce, 150_000, 2);
    sum.set_reduction(Reduction::Sum);
    let ended = run(&peers, &sum, 1, &given, 600_000).await;
    agreed(&ended);
    let expected: Vec<f32> = (0..150_000)
        .zip(values(0, 150_000).iter().zip(values(1, 150_000)).zip(values(2, 150_000)))
        .map(|(_, ((first, second), third))| first + second + third)
        .collect();
    assert!(ended[2].as_ref().unwrap().1 == bytes(&expected));
    assert!(ended[0].as_ref().unwrap().1.is_empty());
}

#[tokio::test]
async fn a_contribution_that_is_not_finite_is_named() {
    let peers = peers(2).await;
    let mut bad = values(1, 40);
    bad[33] = f32::NAN;
    let given = [(bytes(&values(0, 40)), 1), (bytes(&bad), 1)];
    let operation = asked(OperationKind::AllReduce, 40, 0);
    let ended = run(&peers, &operation, 1, &given, 160);
    // The owner of the other half waits for this one's result until the attempt is ended.
    let ended = tokio::time::timeout(Duration::from_secs(2), ended).await;
    assert!(ended.is_err(), "the peers' coordinator ends an attempt, nobody else");
    let begin = begin(&peers, &asked(OperationKind::AllReduce, 40, 0), 2, &given);
    let plan = Plan::new(&begin, 1).unwrap();
    let alone =
        Exchange::new(plan, Bytes::from(given[1].0.clone()), None, Arc::new(Memory(Arc::new(Mutex::new(vec![0; 160]))))).unwrap();
    let shard = alone.plan().block(1, 0);
    let mut incoming = alone.receive(&Sender { slot: 0, name: None }, Copy, 0, shard.len()).unwrap();
    incoming.take(Bytes::copy_from_slice(&given[0].0[shard]));
    incoming.finish(None).unwrap();
    let failure = alone.run(peers[1].lanes.clone(), PATIENCE).await.unwrap_err();
    assert_eq!((failure.reason, failure.culprit), (AbortReason::NotFinite, 1));
    assert_eq!(failure.detail, "element 33 of its contribution is NaN or infinite");
}

#[tokio::test]
async fn what_is_carried_and_not_added_is_judged_before_it_leaves() {
    let peers = peers(2).await;
    let mut bad = values(1, 40);
    for (kind, elements, size, place) in [(OperationKind::AllGather, 0, 320, 33), (OperationKind::Broadcast, 40, 160, 3)] {
        bad[place] = f32::NEG_INFINITY;
        let given = [(bytes(&values(0, 40)), 1), (bytes(&bad), 1)];
        let plan = Plan::new(&begin(&peers, &asked(kind, elements, 1), 1, &given), 1).unwrap();
        let output = Arc::new(Memory(Arc::new(Mutex::new(vec![0; size]))));
        let exchange = Exchange::new(plan, Bytes::from(given[1].0.clone()), None, output).unwrap();
        let failure = exchange.run(peers[1].lanes.clone(), PATIENCE).await.unwrap_err();
        assert_eq!((failure.reason, failure.culprit), (AbortReason::NotFinite, 1), "{kind:?}");
        assert_eq!(failure.detail, format!("element {place} of its contribution is NaN or infinite"));
    }
}

#[tokio::test]
async fn a_result_that_was_changed_on_its_way_is_refused_by_the_hash_of_its_block() {
    let peers = peers(2).await;
    let given = [(bytes(&values(0, 8192)), 1), (bytes(&values(1, 8192)), 1)];
    for coding in [Codec::None, Codec::Uint8] {
        let operation = Operation { codec: coding.into(), ..asked(OperationKind::AllReduce, 8192, 0) };
        let plan = Plan::new(&begin(&peers, &operation, 1, &given), 0).unwrap();
        let output = Memory(Arc::new(Mutex::new(vec![0; 32_768])));
        let exchange = Exchange::new(plan, Bytes::from(given[0].0.clone()), None, Arc::new(output)).unwrap();
        let from = Sender { slot: 1, name: None };
        let values = values(2, 4096);
        let (mut sent, mut hashed) = (bytes(&values), bytes(&values));
        if let Some(codec) = operation::codec(&operation) {
            sent = vec![0; codec.encoded_len(values.len())];
            codec.encode(&values, &mut sent).unwrap();
            let mut decoded = vec![0.0; values.len()];
            codec.decode(&sent, &mut decoded).unwrap();
            hashed = bytes(&decoded);
        }
        let sum = framing::sum_of_result(blake3::hash(&hashed).as_bytes());
        let block = exchange.plan().shard_blocks(1).start as u32;
        let mut incoming = exchange.receive(&from, Kind::Result, block, sent.len()).unwrap();
        sent[100] ^= 1;
        incoming.take(Bytes::from(sent));
        assert_eq!(incoming.finish(Some(sum)), Err(FramingError::Damaged(block)), "{coding:?}");
    }
}

#[tokio::test]
async fn a_peer_that_ends_is_blamed_at_once() {
    let mut peers = peers(2).await;
    // A runtime of its own ends with everything in it, as a process does.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    peers.push(process.spawn(peer(2, "secret", None)).await.unwrap());
    let given: Vec<Given> = (0..3).map(|slot| (bytes(&values(slot, 200_000)), 1)).collect();
    let operation = asked(OperationKind::AllReduce, 200_000, 0);
    agreed(&run(&peers, &operation, 1, &given, 800_000).await);
    let lost = peers.pop().unwrap();
    process.shutdown_background();
    let mut begin = begin(&peers, &operation, 2, &given);
    begin.record.as_mut().unwrap().members.push(lost.member);
    begin.contributions.push(Contribution { slot: 2, weight: 1, ..Contribution::default() });
    let output = Memory(Arc::new(Mutex::new(vec![0; 800_000])));
    let exchange = Exchange::new(Plan::new(&begin, 0).unwrap(), given[0].0.clone().into(), None, Arc::new(output)).unwrap();
    let failure = exchange.run(peers[0].lanes.clone(), PATIENCE).await.unwrap_err();
    assert_eq!((failure.reason, failure.culprit), (AbortReason::LaneFailed, 2));
}

#[tokio::test]
async fn strangers_and_frames_that_do_not_belong_are_refused() {
    let peers = peers(2).await;
    let stranger = peer(1, "another run's secret", None).await;
    let refused = stranger.lanes.lane(&peers[0].member).await.map(|_| ()).unwrap_err();
    assert_eq!(refused, "not a peer of this run");
    let earlier = Member { incarnation: 7, ..peers[0].member.clone() };
    assert_eq!(peers[1].lanes.lane(&earlier).await.map(|_| ()).unwrap_err(), "the lane is for another process");

    let given = [(bytes(&values(0, 6000)), 1), (bytes(&values(1, 6000)), 1)];
    let begin = begin(&peers, &asked(OperationKind::AllReduce, 6000, 0), 1, &given);
    let output = Memory(Arc::new(Mutex::new(vec![0; 24_000])));
    let exchange = Exchange::new(Plan::new(&begin, 0).unwrap(), given[0].0.clone().into(), None, Arc::new(output)).unwrap();
    let length = exchange.plan().block(0, 0).len();
    let sender = |slot| Sender { slot, name: None };
    let refused =
        |slot, kind, block, length| exchange.receive(&sender(slot), kind, block, length).map(|_| ()).unwrap_err().to_string();
    assert_eq!(refused(9, Copy, 0, length), "the sender does not take part in the operation");
    assert_eq!(refused(1, Copy, 1, length), format!("block 1 of {length} bytes is not part of the operation"));
    assert_eq!(refused(1, Copy, 0, 4), "block 0 of 4 bytes is not part of the operation");
    assert_eq!(refused(1, Digest, 0, 32), "block 0 of 32 bytes is not part of the operation");
    assert!(exchange.receive(&sender(1), Copy, 0, length).is_ok());
    assert_eq!(refused(1, Copy, 0, length), "block 0 came twice");
    assert_eq!(exchange.plan().operation.data_type(), DataType::F32);
}

#[tokio::test]
async fn with_certificates_a_peer_gives_for_itself_alone() {
    #[expect(clippy::disallowed_methods, reason = "a certificate's validity is in the time of the day")]
    let validity = Validity { from: SystemTime::now() - Duration::from_mins(1), length: Duration::from_hours(1) };
    let authority = RunAuthority::new("run", validity).unwrap();
    let island = authority.island("here", validity).unwrap();
    let secured = |worker: &str| Some(Security::new(&island.peer(worker, validity).unwrap()).unwrap());
    let mut peers = Vec::new();
    for slot in 0..3 {
        peers.push(peer(slot, "secret", secured(&format!("w{slot}"))).await);
    }
    let given: Vec<Given> = (0..3).map(|slot| (bytes(&values(slot, 100_000)), 1)).collect();
    let operation = asked(OperationKind::AllReduce, 100_000, 0);
    agreed(&run(&peers, &operation, 1, &given, 400_000).await);

    // It has the certificate of w9, and says that it is w2.
    let thief = peer(2, "secret", secured("w9")).await;
    let begin = begin(&peers, &operation, 2, &given);
    let output = Memory(Arc::new(Mutex::new(vec![0; 400_000])));
    let exchange = Exchange::new(Plan::new(&begin, 0).unwrap(), given[0].0.clone().into(), None, Arc::new(output)).unwrap();
    peers[0].operations.begin(Arc::clone(&exchange));
    let stolen = Exchange::new(
        Plan::new(&begin, 2).unwrap(),
        given[2].0.clone().into(),
        None,
        Arc::new(Memory(Arc::new(Mutex::new(vec![0; 400_000])))),
    );
    let failure = stolen.unwrap().run(thief.lanes.clone(), PATIENCE).await.unwrap_err();
    assert_eq!(failure.reason, AbortReason::LaneFailed);
    assert_eq!(failure.detail, "the sender does not take part in the operation");
}

#[tokio::test]
async fn the_end_of_a_lane_matters_to_the_operations_whose_frames_it_carried_and_to_no_other() {
    let peers = peers(2).await;
    let given: Vec<Given> = (0..2).map(|slot| (bytes(&values(slot, 1000)), 1)).collect();
    let begin = begin(&peers, &asked(OperationKind::AllReduce, 1000, 0), 1, &given);
    let start = |slot: usize| {
        let output = Memory(Arc::new(Mutex::new(vec![0; 4000])));
        let plan = Plan::new(&begin, slot as u32).unwrap();
        let exchange = Exchange::new(plan, given[slot].0.clone().into(), None, Arc::new(output)).unwrap();
        peers[slot].operations.begin(Arc::clone(&exchange));
        exchange.run(peers[slot].lanes.clone(), PATIENCE)
    };
    let first = start(0);
    let earlier = Lanes::new("run", 1, Secret::new("secret"), Transport::new(None, Arc::new(Meter::default())));
    let lane = earlier.lane(&peers[0].member).await.unwrap();
    let nothing = Header { term: 1, number: 1, block: 0, kind: Copy };
    lane.channels()[0].send(nothing, Bytes::new(), None).await.unwrap();
    assert!(lane.broken().await.contains("a frame of 32 bytes"));
    let (first, second) = tokio::join!(first, start(1));
    assert_eq!(first.unwrap(), second.unwrap());
}
