//! What a fault costs the others, in large operations over lanes without anything of ours between them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tokio::runtime::Handle;

use crate::matrix::median;
use crate::peers::{LIMIT, Links, Peers, Setup};
use crate::strike::LIVENESS;

const PEERS: u32 = 3;
/// 64 MiB of f32.
const ELEMENTS: usize = 16 << 20;
const DEADLINE: Duration = Duration::from_mins(1);
/// Operations of which the fresh one is the median.
const FRESH: usize = 5;
/// Parts of a fresh operation after which a peer is struck, in quarters.
const QUARTERS: [u32; 3] = [1, 2, 3];
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// What is done to a peer in the middle of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// A follower's process is killed, and its supervisor sees it.
    Kill,
    /// A follower's process is stopped.
    Stop,
    /// The coordinator's machine is gone: nobody tells the arbiter.
    LoseCoordinator,
    /// The coordinator's process is told to stop.
    EndCoordinator,
}

/// Medians of one blow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// An operation of all, from when the last has asked for it until the last has the result.
    pub(crate) fresh: Duration,
    /// The same with the blow in it, for the survivors.
    pub(crate) struck: Duration,
    /// From the blow until the last survivor has the result.
    pub(crate) after: Duration,
}

/// Measures `blow` so many times.
pub(crate) fn measure(blow: Blow, times: usize, number: usize, program: &Path, runtime: &Handle) -> Result<Cost> {
    let setup = Setup {
        number,
        minimum: PEERS,
        elements: ELEMENTS,
        liveness: LIVENESS,
        progress: DEADLINE,
        deadline: DEADLINE,
        links: Links::Direct,
    };
    let mut peers = Peers::new(setup, program, runtime)?;
    let measured = go(&mut peers, blow, times);
    let faults = peers.end();
    let cost = measured?;
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(cost)
}

fn go(peers: &mut Peers, blow: Blow, times: usize) -> Result<Cost> {
    for slot in 0..PEERS {
        peers.start(slot)?;
    }
    let all: BTreeSet<u32> = peers.slots();
    operate(peers, &all, |_| Ok(None))?;
    let fresh: Vec<Duration> = (0..FRESH).map(|_| Ok(operate(peers, &all, |_| Ok(None))?.0)).collect::<Result<_>>()?;
    let fresh = median(&fresh).context("nothing was measured")?;
    let (mut struck, mut after) = (Vec::new(), Vec::new());
    for time in 0..times {
        let wait = fresh * QUARTERS[time % QUARTERS.len()] / 4;
        let (whole, rest) = operate(peers, &all, |peers| strike(peers, blow, wait).map(Some))?;
        struck.push(whole);
        after.extend(rest);
        come_back(peers, blow, &all)?;
    }
    let middle = |times: &[Duration]| median(times).context("nothing was measured");
    Ok(Cost { fresh, struck: middle(&struck)?, after: middle(&after)? })
}

/// One operation of all, with what `meanwhile` does in it; gives the time that it took, and the time since who was struck.
fn operate(
    peers: &mut Peers,
    all: &BTreeSet<u32>,
    meanwhile: impl FnOnce(&mut Peers) -> Result<Option<(u32, Instant)>>,
) -> Result<(Duration, Option<Duration>)> {
    let round = peers.course.lock().ledger.newest() + 1;
    peers.course.allow(round);
    let begun = wait(peers, "all to begin an operation", |peers| {
        let state = peers.course.lock();
        let times = all.iter().map(|slot| state.entered.get(slot).filter(|(entered, _)| *entered == round));
        times.map(|entered| entered.map(|(_, time)| *time)).collect::<Option<Vec<Instant>>>()?.into_iter().max()
    })?;
    let struck = meanwhile(peers)?;
    let survivors: Vec<u32> = all.iter().copied().filter(|slot| struck.is_none_or(|(victim, _)| victim != *slot)).collect();
    let ended = wait(peers, "the survivors' result", |peers| {
        let state = peers.course.lock();
        let told = &state.ledger.round(round)?.told;
        survivors.iter().map(|slot| told.get(slot).map(|(time, _)| *time)).collect::<Option<Vec<Instant>>>()?.into_iter().max()
    })?;
    Ok((ended - begun, struck.map(|(_, time)| ended - time)))
}

fn wait<T>(peers: &Peers, what: &str, mut ready: impl FnMut(&Peers) -> Option<T>) -> Result<T> {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(value) = ready(peers) {
            return Ok(value);
        }
        ensure!(Instant::now() < until, "not within {} s: {what}: {}", LIMIT.as_secs(), peers.said());
        std::thread::sleep(LOOK);
    }
}

fn strike(peers: &mut Peers, blow: Blow, wait: Duration) -> Result<(u32, Instant)> {
    std::thread::sleep(wait);
    let coordinator = peers.coordinator().context("there is no coordinator")?;
    let follower = (coordinator + 1) % PEERS;
    let time = Instant::now();
    match blow {
        Blow::Kill => peers.kill(follower, true),
        Blow::Stop => peers.signal(follower, Signal::STOP),
        Blow::LoseCoordinator => peers.kill(coordinator, false),
        Blow::EndCoordinator => peers.leave(coordinator),
    }
    let victim = if matches!(blow, Blow::LoseCoordinator | Blow::EndCoordinator) { coordinator } else { follower };
    Ok((victim, time))
}

/// The struck one lives again, and has to be in a round.
fn come_back(peers: &mut Peers, blow: Blow, all: &BTreeSet<u32>) -> Result<()> {
    for slot in all {
        peers.has_left(*slot)?;
        if blow == Blow::Stop {
            peers.signal(*slot, Signal::CONT);
        } else if !peers.slots().contains(slot) {
            peers.start_sidecar(*slot)?;
        }
    }
    let since = peers.course.lock().ledger.newest();
    peers.pace("a round of all after the fault", |state| (state.ledger.of_all(all) > since).then_some(()))?;
    // Nobody is on the way to a round that was allowed meanwhile.
    wait(peers, "all to have the newest round", |peers| {
        let state = peers.course.lock();
        let newest = state.ledger.round(state.allowed)?;
        all.iter().all(|slot| newest.told.contains_key(slot)).then_some(())
    })
}
