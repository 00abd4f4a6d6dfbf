//! A state repaired over real connections from donors of which some lie, die, or fall silent.

// A test's own mistakes must stop it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use atoll_collective::lane::{Bounds, Donors, LaneService, Lanes, Meter, Operations};
use atoll_collective::secret::Secret;
use atoll_collective::state::manifest::{CHUNK, ElementType, Manifest, Tensor};
use atoll_collective::state::offer::Offer;
use atoll_collective::state::repair::{Blame, Donor, Fault};
use atoll_collective::state::synchronise::{Fetch, Plan, Synchronisation, SynchroniseError, Target, synchronise};
use atoll_collective::transport::Transport;
use atoll_collective::v1::{EpochRecord, Member};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyStream, StreamBody};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Server;

/// How long a donor may be silent.
const PATIENCE: Duration = Duration::from_secs(3);
const MIB: u64 = CHUNK as u64;

/// What a donor does with the pieces of chunks that it sends, counted by answer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Conduct {
    Honest,
    /// It flips a bit of each piece.
    Lies,
    /// Its answers break off after one piece.
    Dies,
    /// Its answers stop after one piece.
    Silent,
}

/// A donor's lane service, whose answers are what its conduct makes of them.
#[derive(Clone)]
struct Misled(LaneService, Conduct);

impl NamedService for Misled {
    const NAME: &'static str = LaneService::NAME;
}

impl tower::Service<http::Request<Body>> for Misled {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answer, conduct) = (self.0.call(request), self.1);
        Box::pin(async move { Ok(answer.await?.map(|body| misled(body, conduct))) })
    }
}

fn misled(body: Body, conduct: Conduct) -> Body {
    if conduct == Conduct::Honest {
        return body;
    }
    let mut pieces = 0;
    let frames = BodyStream::new(body).flat_map(move |frame| {
        // Tables and prefixes are short.
        let piece = frame.as_ref().ok().and_then(Frame::data_ref).filter(|data| data.len() > 1 << 16).cloned();
        pieces += usize::from(piece.is_some());
        match (piece, conduct) {
            (Some(piece), Conduct::Lies) => {
                let mut piece = piece.to_vec();
                piece[77] ^= 1;
                stream::iter([Ok(Frame::data(Bytes::from(piece)))]).boxed()
            }
            (Some(_), Conduct::Dies) if pieces > 1 => stream::iter([Err(Status::unavailable("killed"))]).boxed(),
            (Some(_), Conduct::Silent) if pieces > 1 => stream::pending().boxed(),
            _ => stream::iter([frame]).boxed(),
        }
    });
    Body::new(StreamBody::new(frames))
}

fn tensors(bytes: &[u8]) -> Manifest {
    let (first, second) = bytes.split_at(100);
    let tensor = |key, bytes| Tensor { key, element_type: ElementType::U8, bytes };
    Manifest::of(&[tensor("a", first), tensor("b", second)], 2).unwrap()
}

async fn donor(slot: u32, state: &Bytes, conduct: Conduct) -> Member {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let offer = Offer::new(tensors(state), vec![state.slice(..100), state.slice(100..)]).unwrap();
    let service = LaneService {
        me: (slot, 1),
        operations: Operations::default(),
        offer: watch::channel(Some(offer)).1,
        secret: Secret::new("secret"),
        patience: PATIENCE,
    };
    let transport = Transport::new(None, Arc::new(Meter::default()));
    let bounds = Bounds::default();
    let mut server = Server::builder().initial_stream_window_size(bounds.stream_window).max_frame_size(bounds.frame);
    let serving = server.add_service(Misled(service, conduct));
    tokio::spawn(async move { serving.serve_with_incoming(transport.incoming(listener)).await.unwrap() });
    Member { slot, island: "here".into(), worker: format!("w{slot}"), incarnation: 1, address, ..Member::default() }
}

struct Memory(Vec<u8>);

impl Target for Memory {
    fn write(&mut self, entry: usize, offset: usize, chunk: &[u8]) -> bool {
        let start = entry * 100 + offset;
        self.0.get_mut(start..start + chunk.len()).map(|bytes| bytes.copy_from_slice(chunk)).is_some()
    }
}

/// What a worker that held `held` has after it repaired it from donors of `wanted`, how that went, and the bytes that its
/// connections received.
async fn repaired(held: Vec<u8>, wanted: &Bytes, conducts: &[Conduct]) -> (Vec<u8>, Synchronisation, u64) {
    let mut members = Vec::new();
    for (slot, conduct) in (0..).zip(conducts) {
        members.push(donor(slot, wanted, *conduct).await);
    }
    let meter = Arc::new(Meter::default());
    let lanes = Lanes::new("run", 9, Secret::new("secret"), Transport::new(None, Arc::clone(&meter)));
    let donors = members.iter().map(|member| Donor { slot: member.slot, bandwidth: None }).collect();
    let plan = Plan { held: tensors(&held), root: tensors(wanted).root(), donors, patience: PATIENCE, in_flight: 64 * MIB };
    let mut memory = Memory(held);
    let done = synchronise(plan, &Donors::new(&lanes, &members, 1, nobody()), &mut memory).await;
    assert_eq!(done.held, tensors(&memory.0), "what is said of the memory is true");
    (memory.0, done, meter.received())
}

/// Tells of no epoch that any donor could leave with.
fn nobody() -> watch::Receiver<EpochRecord> {
    watch::channel(EpochRecord::default()).1
}

fn state(mebibytes: usize) -> Bytes {
    (0..mebibytes * CHUNK).map(|index| (index / 5 % 251) as u8).collect()
}

#[tokio::test]
async fn one_flipped_bit_in_64_mib_moves_one_chunk_and_the_table() {
    let wanted = state(64);
    let mut held = wanted.to_vec();
    held[40 * CHUNK + 12_345] ^= 4;
    let (memory, done, received) = repaired(held, &wanted, &[Conduct::Honest; 3]).await;
    assert_eq!((done.outcome, done.moved.values().sum::<u64>()), (Ok(()), MIB));
    assert!(memory == wanted);
    let most = MIB + done.held.encoded_length() + (16 << 10);
    assert!((MIB..most).contains(&received), "{received} bytes were received, {most} at most");
}

#[tokio::test]
async fn all_donors_give_and_each_chunk_comes_once() {
    let wanted = state(24);
    let (memory, done, received) = repaired(vec![0; wanted.len()], &wanted, &[Conduct::Honest; 3]).await;
    assert_eq!((done.outcome, done.blamed), (Ok(()), vec![]));
    assert!(memory == wanted);
    assert_eq!(done.moved.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{:?}", done.moved);
    assert_eq!(done.moved.values().sum::<u64>(), wanted.len() as u64);
    assert!(received < wanted.len() as u64 + MIB, "{received}");
}

/// Repairs a state from two honest donors and one that is not; gives its faults.
async fn one_is_not_honest(conduct: Conduct) -> Vec<Blame> {
    let wanted = state(24);
    let (memory, done, _) = repaired(vec![0; wanted.len()], &wanted, &[Conduct::Honest, conduct, Conduct::Honest]).await;
    assert_eq!(done.outcome, Ok(()), "{:?}", done.blamed);
    assert!(memory == wanted);
    assert_eq!(done.moved.get(&1).copied().unwrap_or(0), 0, "nothing that counts came from it");
    done.blamed
}

#[tokio::test]
async fn a_donor_that_lies_is_blamed_and_the_others_carry_on() {
    let blamed = one_is_not_honest(Conduct::Lies).await;
    assert!(matches!(blamed[..], [Blame { donor: 1, fault: Fault::WrongHash(_) }]), "{blamed:?}");
}

#[tokio::test]
async fn a_donor_that_dies_is_blamed_and_the_others_carry_on() {
    let blamed = one_is_not_honest(Conduct::Dies).await;
    assert!(matches!(blamed[..], [Blame { donor: 1, fault: Fault::Failed(_) }]), "{blamed:?}");
}

#[tokio::test]
async fn a_donor_that_falls_silent_is_blamed_and_the_others_carry_on() {
    let blamed = one_is_not_honest(Conduct::Silent).await;
    assert!(matches!(blamed[..], [Blame { donor: 1, fault: Fault::Silent(3_000) }]), "{blamed:?}");
}

#[tokio::test]
async fn a_donor_that_is_no_longer_a_member_is_not_waited_for() {
    let wanted = state(2);
    let silent = donor(0, &wanted, Conduct::Silent).await;
    let lanes = Lanes::new("run", 9, Secret::new("secret"), Transport::new(None, Arc::new(Meter::default())));
    let record = |epoch, members| EpochRecord { epoch, members, ..EpochRecord::default() };
    // An older record than that in which it became a member says nothing of it.
    let (granted, newest) = watch::channel(record(4, Vec::new()));
    let donors = Donors::new(&lanes, [&silent], 5, newest);
    let mut chunks = std::pin::pin!(donors.chunks(0, tensors(&wanted).root(), 1..2, MIB));
    assert!(chunks.next().await.unwrap().is_ok());
    granted.send_replace(record(5, vec![silent.clone()]));
    granted.send_replace(record(6, Vec::new()));
    let error = loop {
        // The rest of what it sent before it fell silent.
        if let Err(error) = chunks.next().await.unwrap() {
            break error;
        }
    };
    assert_eq!(error, "it is no longer a member");
}

#[tokio::test]
async fn where_every_donor_lies_nothing_of_it_is_written() {
    let wanted = state(3);
    let (memory, done, _) = repaired(vec![0; wanted.len()], &wanted, &[Conduct::Lies; 2]).await;
    assert_eq!((done.outcome, done.moved), (Err(SynchroniseError::NoDonor), BTreeMap::from([(0, 100)])));
    assert!(memory[100..].iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn what_a_donor_does_not_hold_and_who_is_no_member_is_said_in_words() {
    let held = donor(0, &state(1), Conduct::Honest).await;
    let lanes = Lanes::new("run", 9, Secret::new("secret"), Transport::new(None, Arc::new(Meter::default())));
    let donors = Donors::new(&lanes, [&held], 1, nobody());
    assert_eq!(donors.table(0, [7; 32], 1 << 20).await.unwrap_err(), "this worker does not hold that state");
    assert_eq!(donors.table(1, [7; 32], 1 << 20).await.unwrap_err(), "it is no member");
    let root = tensors(&state(1)).root();
    let beyond: Vec<_> = donors.chunks(0, root, 1..9, 1 << 20).take(1).collect().await;
    assert_eq!(beyond, [Err("the state has 2 chunks, not 8 from 1 on".to_owned())]);
    let bounded: Vec<_> = donors.chunks(0, root, 1..2, 1000).take(1).collect().await;
    assert_eq!(bounded, [Err("the messages hold more than the 1000 bytes that were agreed".to_owned())]);
    let stranger = Lanes::new("run", 9, Secret::new("other"), Transport::new(None, Arc::new(Meter::default())));
    assert_eq!(Donors::new(&stranger, [&held], 1, nobody()).table(0, root, 1 << 20).await.unwrap_err(), "not a peer of this run");
}

/// The pieces of all chunks but the first, which is short.
fn all_of(donors: &Donors, root: [u8; 32], mebibytes: usize) -> BoxStream<'_, Result<Bytes, String>> {
    donors.chunks(0, root, 1..1 + mebibytes, mebibytes as u64 * MIB).boxed()
}

#[tokio::test]
async fn who_asks_for_more_answers_at_once_than_it_may_is_refused_and_others_are_not() {
    let wanted = state(4);
    let (held, root) = (donor(0, &wanted, Conduct::Honest).await, tensors(&wanted).root());
    // An answer stops where its reader does, after the stream's window.
    let bounds = Bounds { stream_window: 1 << 16, connection_window: 16 << 20, ..Bounds::default() };
    let lanes = |slot| {
        let transport = Transport::new(None, Arc::new(Meter::default()));
        Lanes::new("run", slot, Secret::new("secret"), transport).within(bounds)
    };
    let (greedy, modest) = (lanes(8), lanes(9));
    let [greedy, modest] = [&greedy, &modest].map(|lanes| Donors::new(lanes, [&held], 1, nobody()));
    let mut open = Vec::new();
    for _ in 0..32 {
        let mut answer = all_of(&greedy, root, 3);
        answer.next().await.unwrap().unwrap();
        open.push(answer);
    }
    let refused = all_of(&greedy, root, 3).next().await.unwrap().unwrap_err();
    assert_eq!(refused, "this peer is given as many answers as it may be");
    assert!(all_of(&modest, root, 3).next().await.unwrap().is_ok());
    open.pop();
    // Its end is noticed in time.
    let admitted = async { while all_of(&greedy, root, 3).next().await.unwrap().is_err() {} };
    tokio::time::timeout(PATIENCE, admitted).await.unwrap();
}

#[test]
fn those_who_are_given_a_state_wait_for_their_turn_without_a_thread() {
    const NAME: &str = "gives";
    let runtime = tokio::runtime::Builder::new_current_thread().thread_name(NAME).enable_all().build().unwrap();
    runtime.block_on(async {
        let wanted = state(3);
        let (held, root) = (donor(0, &wanted, Conduct::Honest).await, tensors(&wanted).root());
        let lanes = Lanes::new("run", 9, Secret::new("secret"), Transport::new(None, Arc::new(Meter::default())));
        let donors = Donors::new(&lanes, [&held], 1, nobody());
        let answers = (0..32).map(|_| all_of(&donors, root, 2).map(|piece| piece.unwrap().len()).collect::<Vec<_>>());
        for pieces in futures::future::join_all(answers).await {
            assert_eq!(pieces.iter().sum::<usize>() as u64, 2 * MIB);
        }
    });
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    // One works; another is made where that one has just ended and is not idle yet.
    assert!((1..=3).contains(&names.filter(|name| name.trim() == NAME).count()));
}
