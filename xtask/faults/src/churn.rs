//! Peers come and are killed all the time, while the others go on: every value is checked, and no operation outlives its
//! deadline.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::runtime::Handle;

use crate::peers::{LIMIT, Links, Peers, Setup};
use crate::random::Random;
use crate::strike::LIVENESS;

/// Most peers at the same time.
const MOST: u32 = 10;
/// Peers with which it begins.
const FIRST: u32 = 3;
/// Peers that hold the newest state, which are left alone: without any the history would be lost.
const SPARED: usize = 2;
/// Milliseconds between two changes: at least, and how many more.
const PAUSE: (u64, u64) = (100, 400);
/// Of ten changes, how many are a start; the others are a kill.
const STARTS: u64 = 6;
const DEADLINE: Duration = Duration::from_secs(5);
const ELEMENTS: usize = 20_000;
/// Longest time without a committed round.
const STANDSTILL: Duration = Duration::from_secs(15);

/// What became of it.
#[derive(Debug, Default)]
pub(crate) struct Churned {
    pub(crate) faults: Vec<String>,
    pub(crate) started: u64,
    pub(crate) killed: u64,
    pub(crate) rounds: u64,
    /// Over all workers.
    pub(crate) operations: u64,
    pub(crate) slowest: Duration,
    pub(crate) standstill: Duration,
    /// Calls that ended in doubt, and had to be asked for again.
    pub(crate) doubts: u64,
}

/// Goes on for `length`.
pub(crate) fn perform(length: Duration, number: usize, seed: u64, program: &Path, runtime: &Handle) -> Churned {
    let setup = Setup {
        number,
        minimum: FIRST,
        elements: ELEMENTS,
        liveness: LIVENESS,
        progress: LIVENESS,
        deadline: DEADLINE,
        links: Links::Direct,
    };
    let mut churned = Churned::default();
    let mut peers = match Peers::new(setup, program, runtime) {
        Ok(peers) => peers,
        Err(error) => return Churned { faults: vec![format!("{error:#}")], ..churned },
    };
    let went = go(&mut peers, length, &mut Random::new(seed), &mut churned);
    {
        let state = peers.course.lock();
        (churned.operations, churned.slowest) = state.ledger.operations();
        (churned.rounds, churned.doubts) = (state.ledger.newest(), state.doubts);
    }
    churned.faults.extend(went.err().map(|error| format!("{error:#}")));
    churned.faults.extend(peers.end());
    churned
}

fn go(peers: &mut Peers, length: Duration, random: &mut Random, churned: &mut Churned) -> Result<()> {
    let until = Instant::now() + length;
    for slot in 0..FIRST {
        peers.start(slot)?;
    }
    let first = peers.slots();
    peers.pace("a first round of all", |state| (state.ledger.of_all(&first) > 0).then_some(()))?;
    peers.course.allow(u64::MAX);
    let mut newest = (0, Instant::now());
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(PAUSE.0 + random.below(PAUSE.1 + 1)));
        let round = peers.course.lock().ledger.newest();
        churned.standstill = churned.standstill.max(newest.1.elapsed());
        if round > newest.0 {
            newest = (round, Instant::now());
        }
        ensure!(newest.1.elapsed() < STANDSTILL, "no round for {} s: {}", STANDSTILL.as_secs(), peers.said());
        let faults = peers.course.lock().ledger.faults().len() + peers.faults.len();
        ensure!(faults == 0, "after {} starts and {} kills", churned.started, churned.killed);
        change(peers, random, churned)?;
    }
    let last = peers.slots();
    let since = peers.course.lock().ledger.newest();
    let whole = peers.course.pace(Duration::ZERO, LIMIT, |state| (state.ledger.of_all(&last) > since).then_some(()));
    ensure!(whole.is_some(), "no round of all {} that were left: {}", last.len(), peers.said());
    Ok(())
}

/// Starts a peer or kills one.
fn change(peers: &mut Peers, random: &mut Random, churned: &mut Churned) -> Result<()> {
    let running = peers.slots();
    let free: Vec<u32> = (0..MOST).filter(|slot| !running.contains(slot)).filter(|slot| peers.is_free(*slot)).collect();
    if random.below(10) < STARTS && !free.is_empty() {
        let slot = free[random.below(free.len() as u64) as usize];
        churned.started += 1;
        return peers.start(slot);
    }
    let victims: Vec<u32> = running.into_iter().collect();
    let victim = victims[random.below(victims.len() as u64) as usize];
    if holders(peers, victim) >= SPARED {
        churned.killed += 1;
        peers.dismiss(victim);
        peers.kill(victim, true);
    }
    Ok(())
}

/// Peers other than `victim` that were told of the newest round.
fn holders(peers: &Peers, victim: u32) -> usize {
    let running = peers.slots();
    let state = peers.course.lock();
    let newest = state.ledger.round(state.ledger.newest());
    newest.map_or(0, |round| round.told.keys().filter(|slot| **slot != victim && running.contains(slot)).count())
}
