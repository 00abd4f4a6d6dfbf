//! The driver of a repair: finds the table, fetches the chunks, writes what was verified.
//!
//! It decides nothing: [`Repair`] does. All requests are polled by the one future, which also writes: whoever drops it knows
//! that nothing is written from there on.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{Stream, StreamExt, stream};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::StreamMap;

use super::manifest::{DifferentShape, Hash, Manifest};
use super::repair::{Action, Blame, Bounds, Donor, Event, Fault, Repair};
use super::wire::Limits;
use crate::Millis;

/// Parts of the patience after which one more donor is asked for the table.
const NEXT_DONOR: u32 = 4;
/// Parts of the patience after which time passes for the repair.
const TICK: u32 = 8;

/// The way to the donors.
pub trait Fetch: Sync {
    /// Why an answer failed, in words.
    type Error: Display + Send;

    /// The encoded manifest of the state with this root, refused where it is longer than `length`.
    fn table(&self, donor: u32, root: Hash, length: u64) -> impl Future<Output = Result<Bytes, Self::Error>> + Send;

    /// The bytes of some chunks of that state, in order and in pieces of any size; `length` bytes in all.
    fn chunks(
        &self,
        donor: u32,
        root: Hash,
        chunks: Range<usize>,
        length: u64,
    ) -> impl Stream<Item = Result<Bytes, Self::Error>> + Send;
}

/// Where the state lies that is repaired.
pub trait Target: Send {
    /// Writes one verified chunk at a byte offset of a tensor, by its position in the manifest; false when it does not fit.
    fn write(&mut self, entry: usize, offset: usize, chunk: &[u8]) -> bool;
}

/// What is to be made of a state.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the target holds.
    pub held: Manifest,
    /// Root of the state that it is to hold; of the same shape.
    pub root: Hash,
    /// Who holds it.
    pub donors: Vec<Donor>,
    /// Within it a donor delivers a block (256 KiB), or all it owes.
    pub patience: Duration,
    /// Bytes that may be asked for and not yet written.
    pub in_flight: u64,
}

/// How a synchronisation ended, and what it left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synchronisation {
    /// What the target holds now: the wanted state, or after an error a mixture, which must not be offered or elected.
    pub held: Manifest,
    /// Bytes that were accepted, by donor.
    pub moved: BTreeMap<u32, u64>,
    /// Donors that failed.
    pub blamed: Vec<Blame>,
    /// Whether the target holds the wanted state.
    pub outcome: Result<(), SynchroniseError>,
}

/// Why a target does not hold the wanted state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SynchroniseError {
    /// Every donor failed.
    #[error("no donor is left")]
    NoDonor,
    /// The state with this root is none that the target can hold.
    #[error(transparent)]
    Shape(#[from] DifferentShape),
    /// The target refused to be written.
    #[error("chunk {chunk} does not fit into the state's memory")]
    Target {
        /// In the manifest's numbers.
        chunk: usize,
    },
}

/// Turns the state in `target` into that of the plan's root; moves the chunks that differ, and no others.
pub async fn synchronise<F: Fetch>(plan: Plan, fetch: &F, target: &mut impl Target) -> Synchronisation {
    let held = plan.held.clone();
    let mut done = Synchronisation { held, moved: BTreeMap::new(), blamed: Vec::new(), outcome: Ok(()) };
    if plan.held.root() != plan.root {
        done.outcome = repair(&plan, fetch, target, &mut done).await;
    }
    done
}

async fn repair<F: Fetch>(
    plan: &Plan,
    fetch: &F,
    target: &mut impl Target,
    done: &mut Synchronisation,
) -> Result<(), SynchroniseError> {
    let search = Search { root: plan.root, limits: Limits::of(&plan.held), length: plan.held.encoded_length() };
    let found = search.find(&plan.donors, plan.patience, fetch, &mut done.blamed).await;
    let wanted = found.ok_or(SynchroniseError::NoDonor)?;
    let failed = |donor: &&Donor| done.blamed.iter().any(|blame| blame.donor == donor.slot);
    let live: Vec<_> = plan.donors.iter().filter(|donor| !failed(donor)).copied().collect();
    let bounds = Bounds { in_flight: plan.in_flight, patience: plan.patience.as_millis() as Millis };
    let repair = Repair::new(&plan.held, wanted, &live, bounds)?;
    drive(repair, plan.patience, fetch, target, done).await
}

/// The search for the wanted table.
struct Search {
    root: Hash,
    limits: Limits,
    /// Of the encoded table, in bytes.
    length: u64,
}

impl Search {
    /// Asks one donor after the other, the next when one fails or takes long; the first table with the right root is the
    /// right one.
    async fn find<F: Fetch>(&self, donors: &[Donor], patience: Duration, fetch: &F, blamed: &mut Vec<Blame>) -> Option<Manifest> {
        let mut to_ask = donors.iter().map(|donor| donor.slot);
        let mut answers = FuturesUnordered::new();
        let mut next = ticks(patience / NEXT_DONOR);
        loop {
            tokio::select! {
                biased;
                Some((donor, answer)) = answers.next(), if !answers.is_empty() => match answer {
                    Ok(table) => return Some(table),
                    Err(fault) => {
                        blamed.push(Blame { donor, fault });
                        next.reset_immediately();
                    }
                },
                _ = next.tick() => match to_ask.next() {
                    Some(donor) => answers.push(async move { (donor, self.ask(donor, patience, fetch).await) }),
                    None if answers.is_empty() => return None,
                    None => {}
                },
            }
        }
    }

    async fn ask<F: Fetch>(&self, donor: u32, patience: Duration, fetch: &F) -> Result<Manifest, Fault> {
        let answer = timeout(patience, fetch.table(donor, self.root, self.length)).await;
        let table = answer.map_err(|_| Fault::Silent(patience.as_millis() as Millis))?;
        let table = table.map_err(|error| Fault::Failed(error.to_string()))?;
        let manifest = Manifest::decode(&table, &self.limits).map_err(|_| Fault::WrongTable)?;
        if manifest.root() == self.root { Ok(manifest) } else { Err(Fault::WrongTable) }
    }
}

/// Carries out a repair's actions until it ends; `done.held` follows what is written.
async fn drive<F: Fetch>(
    mut repair: Repair,
    patience: Duration,
    fetch: &F,
    target: &mut impl Target,
    done: &mut Synchronisation,
) -> Result<(), SynchroniseError> {
    let started = Instant::now();
    let mut ticks = ticks(patience / TICK);
    let mut answers: StreamMap<u64, Answer> = StreamMap::new();
    let mut written = Vec::new();
    let outcome = 'repair: loop {
        let event = tokio::select! {
            biased;
            _ = ticks.tick() => Event::Tick,
            Some((request, answer)) = answers.next(), if !answers.is_empty() => match answer {
                Ok(bytes) => Event::Delivered { request, bytes },
                Err(end) => Event::Ended { request, result: end.map_or(Ok(()), Err) },
            },
        };
        for action in repair.tick(event, started.elapsed().as_millis() as Millis) {
            match action {
                Action::Request { request, donor, chunks } => {
                    answers.insert(request, ask(fetch, donor, repair.wanted(), chunks));
                }
                Action::Cancel { request } => {
                    answers.remove(&request);
                }
                Action::Accept { donor, chunk, bytes } => {
                    let place = repair.wanted().place(chunk);
                    if !target.write(place.entry, place.bytes.start, &bytes) {
                        break 'repair Err(SynchroniseError::Target { chunk });
                    }
                    written.push(chunk);
                    *done.moved.entry(donor).or_default() += bytes.len() as u64;
                }
                Action::Blame(blame) => done.blamed.push(blame),
                Action::Complete => break 'repair Ok(()),
                Action::Exhausted => break 'repair Err(SynchroniseError::NoDonor),
            }
        }
        // Donors on a fast line are always ready: whatever else this thread does has its turn between two answers.
        tokio::task::yield_now().await;
    };
    done.held.adopt(repair.wanted(), &written);
    outcome
}

/// The pieces of an answer, and how it ended: none, or an error in words.
type Answer<'a> = BoxStream<'a, Result<Bytes, Option<String>>>;

fn ask<'a, F: Fetch>(fetch: &'a F, donor: u32, wanted: &Manifest, chunks: Range<usize>) -> Answer<'a> {
    let length = wanted.span(&chunks);
    let pieces = fetch.chunks(donor, wanted.root(), chunks, length).map(|piece| piece.map_err(|error| Some(error.to_string())));
    pieces.chain(stream::iter([Err(None)])).boxed()
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
