//! Synchronisation with donors in memory, each behind a line of its own bandwidth, on a clock that the test turns.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use atoll_collective::state::manifest::{CHUNK, DifferentShape, ElementType, Hash, Manifest, Tensor};
use atoll_collective::state::offer::Offer;
use atoll_collective::state::repair::{Blame, Donor, Fault};
use atoll_collective::state::synchronise::{Fetch, Plan, Synchronisation, SynchroniseError, Target, synchronise};
use atoll_collective::v1::{ChunkRange, StateRequest};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep, sleep_until};

const MIB: u64 = CHUNK as u64;
const PATIENCE: Duration = Duration::from_secs(2);
/// 200 Mbit/s.
const LINE: u64 = 25_000_000;
/// One way.
const LATENCY: Duration = Duration::from_millis(25);
/// Pieces of one answer that are on a line at a time: more than fit into its latency.
const UNDER_WAY: usize = 64;

/// What a donor does, counted in chunks that it has answered.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Conduct {
    Honest,
    DiesAfter(usize),
    LiesAfter(usize),
    SilentAfter(usize),
    /// Never answers, not even with its table.
    Dead,
    /// Gives the table of another state.
    WrongTable,
}

/// A donor behind a line.
struct Peer {
    offer: Offer,
    conduct: Conduct,
    /// Bytes per second.
    bandwidth: u64,
    line: Mutex<Line>,
}

struct Line {
    free: Instant,
    bytes: u64,
}

impl Peer {
    /// Sends bytes on the line after everything before them; returns when they arrive.
    async fn carry(&self, bytes: usize) -> Instant {
        let sent = {
            let mut line = self.line.lock().unwrap();
            let begin = line.free.max(Instant::now());
            line.free = begin + Duration::from_secs_f64(bytes as f64 / self.bandwidth as f64);
            line.bytes += bytes as u64;
            line.free
        };
        sleep_until(sent).await;
        sent + LATENCY
    }

    /// One piece as this donor sends it, after `sent` bytes of chunks; none when it sends nothing more.
    fn piece(&self, piece: Bytes, sent: u64) -> Option<Result<Bytes, String>> {
        let chunks = (sent / MIB) as usize;
        match self.conduct {
            Conduct::DiesAfter(most) if chunks >= most => Some(Err("connection reset".into())),
            Conduct::SilentAfter(most) if chunks >= most => None,
            Conduct::LiesAfter(most) if chunks >= most => {
                let mut piece = piece.to_vec();
                piece[0] ^= 1;
                Some(Ok(piece.into()))
            }
            _ => Some(Ok(piece)),
        }
    }
}

#[derive(Default)]
struct Peers(BTreeMap<u32, Peer>);

impl Fetch for Peers {
    type Error = String;

    async fn table(&self, donor: u32, root: Hash, length: u64) -> Result<Bytes, String> {
        let peer = &self.0[&donor];
        if peer.conduct == Conduct::Dead {
            std::future::pending::<()>().await;
        }
        let root = if peer.conduct == Conduct::WrongTable { peer.offer.manifest().root() } else { root };
        let answer =
            peer.offer.answer(&StateRequest { root: root.to_vec(), chunks: None }).map_err(|refused| refused.to_string())?;
        let table = answer.map(Result::unwrap).collect::<Vec<_>>().concat();
        sleep(2 * LATENCY).await;
        if table.len() as u64 > length { Err("the table is too long".into()) } else { Ok(table.into()) }
    }

    fn chunks(
        &self,
        donor: u32,
        root: Hash,
        chunks: Range<usize>,
        length: u64,
    ) -> impl Stream<Item = Result<Bytes, String>> + Send {
        let peer = &self.0[&donor];
        assert_eq!(length, peer.offer.manifest().span(&chunks));
        let range = ChunkRange { first: chunks.start as u64, count: chunks.len() as u64 };
        let pieces = peer.offer.answer(&StateRequest { root: root.to_vec(), chunks: Some(range) }).unwrap();
        let asked = stream::once(sleep(LATENCY)).filter_map(|()| async { None });
        let sent = stream::iter(pieces).filter_map(move |piece| async move {
            let (piece, sent) = (piece.unwrap(), peer.line.lock().unwrap().bytes);
            let length = piece.len();
            let Some(piece) = peer.piece(piece, sent) else { return std::future::pending().await };
            Some((piece, peer.carry(length).await))
        });
        let arrive = |(piece, arrival)| async move {
            sleep_until(arrival).await;
            piece
        };
        asked.chain(sent.map(arrive).buffered(UNDER_WAY))
    }
}

/// Two tensors of `length` bytes in all.
fn state(length: usize, seed: u8) -> Vec<Bytes> {
    let bytes = |length: usize| Bytes::from(vec![seed; length]);
    vec![bytes(1000), bytes(length - 1000)]
}

fn manifest(tensors: &[impl AsRef<[u8]>]) -> Manifest {
    let tensor = |key, bytes| Tensor { key, element_type: ElementType::U8, bytes };
    Manifest::of(&[tensor("bias", tensors[0].as_ref()), tensor("weights", tensors[1].as_ref())], 2).unwrap()
}

struct Memory(Vec<Vec<u8>>);

impl Target for Memory {
    fn write(&mut self, entry: usize, offset: usize, chunk: &[u8]) -> bool {
        let range = offset..offset + chunk.len();
        self.0.get_mut(entry).and_then(|tensor| tensor.get_mut(range)).map(|bytes| bytes.copy_from_slice(chunk)).is_some()
    }
}

/// A worker with the state of `mine`, and donors of `theirs` that have these conducts and bandwidths.
struct Case {
    memory: Memory,
    plan: Plan,
    peers: Peers,
}

impl Case {
    fn new(mine: &[Bytes], theirs: &[Bytes], donors: &[(Conduct, u64)]) -> Self {
        let wanted = manifest(theirs);
        let mut peers = Peers::default();
        for (slot, (conduct, bandwidth)) in (0..).zip(donors) {
            let offer = match conduct {
                Conduct::WrongTable => Offer::new(manifest(mine), mine.to_vec()).unwrap(),
                _ => Offer::new(wanted.clone(), theirs.to_vec()).unwrap(),
            };
            let line = Mutex::new(Line { free: Instant::now(), bytes: 0 });
            peers.0.insert(slot, Peer { offer, conduct: *conduct, bandwidth: *bandwidth, line });
        }
        let memory = Memory(mine.iter().map(|tensor| tensor.to_vec()).collect());
        let donors = peers.0.keys().map(|slot| Donor { slot: *slot, bandwidth: None }).collect();
        let plan = Plan { held: manifest(mine), root: wanted.root(), donors, patience: PATIENCE, in_flight: 64 * MIB };
        Self { memory, plan, peers }
    }

    async fn run(&mut self) -> (Synchronisation, Duration) {
        let began = Instant::now();
        let done = synchronise(self.plan.clone(), &self.peers, &mut self.memory).await;
        assert_eq!(done.held, manifest(&self.memory.0), "what is said of the target is true");
        (done, began.elapsed())
    }

    /// Bytes of chunks that the donors' lines carried.
    fn carried(&self) -> u64 {
        self.peers.0.values().map(|peer| peer.line.lock().unwrap().bytes).sum()
    }
}

fn synchronised(done: &Synchronisation, case: &Case) {
    assert_eq!((&done.outcome, done.held.root()), (&Ok(()), case.plan.root));
}

#[tokio::test(start_paused = true)]
async fn three_donors_are_three_times_as_fast_as_one() {
    let (mine, theirs) = (state(256 * CHUNK, 1), state(256 * CHUNK, 2));
    let mut seconds = Vec::new();
    for donors in [1, 3] {
        let mut case = Case::new(&mine, &theirs, &vec![(Conduct::Honest, LINE); donors]);
        let (done, time) = case.run().await;
        synchronised(&done, &case);
        assert_eq!(case.carried(), 256 * MIB);
        let ideal = (256 * MIB) as f64 / (donors as u64 * LINE) as f64;
        assert!(time.as_secs_f64() < 1.05 * ideal + 1.0, "{donors} donors: {time:?}, the lines need {ideal} s");
        seconds.push(time.as_secs_f64());
    }
    assert!(seconds[0] / seconds[1] > 2.8, "{seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn one_flipped_bit_in_256_mib_moves_one_chunk() {
    let theirs = state(256 * CHUNK, 1);
    let mut weights = theirs[1].to_vec();
    weights[200 * CHUNK + 4321] ^= 0x10;
    let mine = vec![theirs[0].clone(), weights.into()];
    let mut case = Case::new(&mine, &theirs, &[(Conduct::Honest, LINE), (Conduct::Honest, LINE)]);
    let (done, _) = case.run().await;
    synchronised(&done, &case);
    assert_eq!(done.moved, BTreeMap::from([(0, MIB)]));
    assert_eq!(case.carried(), MIB);
}

#[tokio::test(start_paused = true)]
async fn a_donor_of_a_tenth_of_the_bandwidth_slows_nobody_though_nothing_was_known_of_it() {
    let donors = [(Conduct::Honest, LINE), (Conduct::Honest, LINE / 10), (Conduct::Honest, LINE)];
    let mut case = Case::new(&state(256 * CHUNK, 1), &state(256 * CHUNK, 2), &donors);
    let (done, time) = case.run().await;
    synchronised(&done, &case);
    let ideal = (256 * MIB) as f64 / (2.1 * LINE as f64);
    assert!(time.as_secs_f64() < 1.05 * ideal + 1.0, "{time:?}, the lines need {ideal} s");
    assert!(done.moved[&1] > 0, "{:?}", done.moved);
}

#[tokio::test(start_paused = true)]
async fn what_a_donor_that_died_did_not_deliver_comes_from_the_others() {
    let donors = [(Conduct::Honest, LINE), (Conduct::DiesAfter(5), LINE), (Conduct::Honest, LINE)];
    let mut case = Case::new(&state(64 * CHUNK, 1), &state(64 * CHUNK, 2), &donors);
    let (done, time) = case.run().await;
    synchronised(&done, &case);
    assert_eq!(done.blamed, [Blame { donor: 1, fault: Fault::Failed("connection reset".into()) }]);
    assert_eq!(done.moved.values().sum::<u64>(), 64 * MIB);
    assert!(time < Duration::from_secs(2), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_donor_that_lies_is_named_and_nothing_of_its_lie_is_written() {
    let mut case =
        Case::new(&state(64 * CHUNK, 1), &state(64 * CHUNK, 2), &[(Conduct::LiesAfter(3), LINE), (Conduct::Honest, LINE)]);
    let (done, _) = case.run().await;
    synchronised(&done, &case);
    assert!(matches!(done.blamed[..], [Blame { donor: 0, fault: Fault::WrongHash(_) }]), "{:?}", done.blamed);
}

#[tokio::test(start_paused = true)]
async fn a_silent_donor_costs_its_patience_and_no_more() {
    let mut case =
        Case::new(&state(16 * CHUNK, 1), &state(16 * CHUNK, 2), &[(Conduct::SilentAfter(2), LINE), (Conduct::Honest, LINE)]);
    let (done, time) = case.run().await;
    synchronised(&done, &case);
    assert_eq!(done.blamed, [Blame { donor: 0, fault: Fault::Silent(2000) }]);
    assert!(time < PATIENCE * 2, "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_does_not_come_or_is_another_states_is_asked_of_the_next() {
    let donors = [(Conduct::Dead, LINE), (Conduct::WrongTable, LINE), (Conduct::Honest, LINE)];
    let mut case = Case::new(&state(4 * CHUNK, 1), &state(4 * CHUNK, 2), &donors);
    case.plan.donors.iter_mut().for_each(|donor| donor.bandwidth = Some(if donor.slot == 2 { LINE } else { 1 }));
    let (done, time) = case.run().await;
    synchronised(&done, &case);
    assert_eq!(done.blamed, [Blame { donor: 1, fault: Fault::WrongTable }]);
    assert_eq!(done.moved, BTreeMap::from([(2, 4 * MIB)]));
    assert!(time < PATIENCE, "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_table_costs_one_round_trip() {
    let mut case = Case::new(&state(CHUNK, 1), &state(CHUNK, 2), &[(Conduct::WrongTable, LINE), (Conduct::Honest, LINE)]);
    let (done, time) = case.run().await;
    synchronised(&done, &case);
    assert!(time < 8 * LATENCY, "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_donor_the_mixture_that_is_left_is_said() {
    let mut case =
        Case::new(&state(8 * CHUNK, 1), &state(8 * CHUNK, 2), &[(Conduct::DiesAfter(3), LINE), (Conduct::LiesAfter(2), LINE)]);
    let (done, _) = case.run().await;
    assert_eq!(done.outcome, Err(SynchroniseError::NoDonor));
    assert!(done.held != case.plan.held && done.held.root() != case.plan.root);
    assert_eq!(done.blamed.len(), 2);

    let mut nobody = Case::new(&state(8 * CHUNK, 1), &state(8 * CHUNK, 2), &[]);
    assert_eq!(nobody.run().await.0.outcome, Err(SynchroniseError::NoDonor));
}

#[tokio::test(start_paused = true)]
async fn an_equal_state_asks_nobody() {
    let mut case = Case::new(&state(CHUNK, 1), &state(CHUNK, 1), &[(Conduct::Dead, LINE)]);
    let (done, time) = case.run().await;
    synchronised(&done, &case);
    assert_eq!((case.carried(), time), (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_state_of_another_shape_is_not_written() {
    let (mut mine, theirs) = (state(2 * CHUNK, 1), state(2 * CHUNK, 2));
    mine.reverse();
    let (done, _) = Case::new(&mine, &theirs, &[(Conduct::Honest, LINE)]).run().await;
    assert_eq!(done.outcome, Err(SynchroniseError::Shape(DifferentShape)));
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_too_short_is_an_error() {
    let mut case = Case::new(&state(2 * CHUNK, 1), &state(2 * CHUNK, 2), &[(Conduct::Honest, LINE)]);
    case.memory.0[1].truncate(10);
    let done = synchronise(case.plan.clone(), &case.peers, &mut case.memory).await;
    assert!(matches!(done.outcome, Err(SynchroniseError::Target { chunk: 1 | 2 })), "{:?}", done.outcome);
}

#[tokio::test(start_paused = true)]
async fn a_synchronisation_can_run_as_a_task() {
    let mut case = Case::new(&state(CHUNK, 1), &state(CHUNK, 2), &[(Conduct::Honest, LINE)]);
    let done = tokio::spawn(async move { case.run().await.0.outcome }).await.unwrap();
    assert_eq!(done, Ok(()));
}
