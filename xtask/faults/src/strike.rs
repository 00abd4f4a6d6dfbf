//! One case, from the start of its peers to their end.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use atoll_sdk::events::Event;
use rustix::process::Signal;
use tokio::runtime::Handle;

use crate::case::{Case, Fault, Victim};
use crate::course::State;
use crate::network::{Struck, Trigger};
use crate::peers::{Links, Peers, Setup, told};

/// Silence after which a peer is lost: as under `atoll run`.
pub(crate) const LIVENESS: Duration = Duration::from_secs(2);
/// The same in a case, and how long a member of an operation may deliver nothing there: several cases share the machine with
/// whatever else runs on it, and a peer that only waits for a core is not one that was struck.
const PATIENT_LIVENESS: Duration = Duration::from_secs(4);
const PROGRESS: Duration = Duration::from_secs(2);
/// Of every operation.
const DEADLINE: Duration = Duration::from_secs(20);
/// Of every vector: some blocks per shard, the last of them not whole.
const ELEMENTS: usize = 400_000;

/// What became of a case.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) case: Case,
    /// What was wrong; nothing where all is well.
    pub(crate) faults: Vec<String>,
    /// From the strike until every survivor had the result of the operation that was struck, or of the next one.
    pub(crate) time: Option<Duration>,
    /// What the sidecars said happened.
    pub(crate) happened: String,
}

/// What was seen of a case that went to its end.
struct Observed {
    time: Duration,
    rounds: u64,
}

/// Performs a case; `choice` decides what the case leaves open.
pub(crate) fn perform(case: Case, number: usize, choice: u64, program: &Path, runtime: &Handle) -> Outcome {
    let initial = case.peers - u32::from(case.phase.has_joiner());
    let links = if case.fault == Fault::Slow { Links::Shaped } else { Links::Read };
    let setup = Setup {
        number,
        minimum: initial,
        elements: ELEMENTS,
        liveness: PATIENT_LIVENESS,
        progress: PROGRESS,
        deadline: DEADLINE,
        links,
    };
    let failed = |fault: String| Outcome { case, faults: vec![fault], time: None, happened: String::new() };
    let mut peers = match Peers::new(setup, program, runtime) {
        Ok(peers) => peers,
        Err(error) => return failed(format!("{error:#}")),
    };
    let observed = go(&mut peers, case, initial, choice);
    let again = peers.course.lock().again;
    let events = peers.events();
    let mut faults = peers.end();
    let (time, rounds) = match observed {
        Ok(Observed { time, rounds }) => (Some(time), rounds),
        Err(error) => {
            faults.insert(0, format!("{error:#}"));
            (None, 0)
        }
    };
    if !faults.is_empty() {
        faults.extend(events.iter().map(told));
    }
    let happened = format!("{}{rounds} rounds, {again} calls again", happened(&events));
    Outcome { case, faults, time, happened }
}

fn go(peers: &mut Peers, case: Case, initial: u32, choice: u64) -> Result<Observed> {
    for slot in 0..initial {
        peers.start(slot)?;
    }
    let first: BTreeSet<u32> = peers.slots();
    peers.pace("a first round of all", |state| (state.ledger.of_all(&first) > 0).then_some(()))?;
    let (victim, other) = ends(peers, case, choice)?;
    let (sight, end) = case.moment(choice);
    let arrives = (choice >> 1).is_multiple_of(2);
    peers.network.arm(Trigger { sight, end, victim, other, fault: case.fault, arrives, choice: choice >> 2 });
    if case.phase.has_joiner() {
        peers.start(initial)?;
    }
    let struck = peers.until_struck()?;
    if case.fault == Fault::Kill {
        peers.kill(struck.victim, true);
    }
    let all: BTreeSet<u32> = (0..case.peers).collect();
    let time = survivors_go_on(peers, case, struck, &all)?;
    recover(peers, case, struck)?;
    let since = peers.course.lock().ledger.newest();
    let whole = |state: &State| (state.ledger.of_all(&all) > since).then(|| state.ledger.newest());
    let rounds = peers.pace("a round of all after the fault", whole)?;
    Ok(Observed { time, rounds })
}

/// Slots of the victim and of who is at the other end, where they are known beforehand.
fn ends(peers: &Peers, case: Case, choice: u64) -> Result<(Option<u32>, Option<u32>)> {
    let coordinator = peers.coordinator().context("there is no coordinator")?;
    let joiner = case.peers - 1;
    Ok(match case.victim {
        Victim::Coordinator => (Some(coordinator), case.phase.has_joiner().then_some(joiner)),
        Victim::Follower => {
            let followers: Vec<u32> = (0..case.peers).filter(|slot| *slot != coordinator).collect();
            (Some(followers[choice as usize % followers.len()]), None)
        }
        Victim::Joiner => (Some(joiner), None),
        Victim::Donor => (None, Some(joiner)),
    })
}

/// Waits until every survivor has got two rounds since the strike: the one that was struck, and a clean one. Gives the time that
/// the first of them took.
fn survivors_go_on(peers: &mut Peers, case: Case, struck: Struck, all: &BTreeSet<u32>) -> Result<Duration> {
    let gone = matches!(case.fault, Fault::Kill | Fault::Stop | Fault::HalfOpen);
    let joiner = case.phase.has_joiner().then_some(case.peers - 1);
    // A joiner survives when it has come in, which the rest of the case waits for.
    let survivors: Vec<u32> =
        all.iter().copied().filter(|slot| !(gone && *slot == struck.victim) && Some(*slot) != joiner).collect();
    let two = |state: &State| {
        let has_two = |slot: &u32| state.ledger.after(*slot, struck.time).nth(1).is_some();
        survivors.iter().all(has_two).then_some(())
    };
    peers.pace("two rounds of all survivors after the strike", two)?;
    let (mut last, mut faults) = (struck.time, Vec::new());
    {
        let state = peers.course.lock();
        for slot in &survivors {
            let Some((number, round)) = state.ledger.after(*slot, struck.time).next() else { continue };
            last = last.max(round.told[slot].0);
            if case.keeps_everybody() && round.slots() != *all {
                faults.push(format!("round {number} counts {:?} alone", round.slots()));
            }
        }
    }
    faults.dedup();
    peers.faults.extend(faults);
    Ok(last - struck.time)
}

/// Lets the struck one live again: it has to come back by itself from there.
fn recover(peers: &mut Peers, case: Case, struck: Struck) -> Result<()> {
    match case.fault {
        Fault::Kill => peers.start_sidecar(struck.victim)?,
        Fault::Stop => peers.signal(struck.victim, Signal::CONT),
        Fault::HalfOpen | Fault::Slow => peers.network.heal(),
        Fault::Close | Fault::Corrupt => {}
    }
    Ok(())
}

/// What the coordinators reported, in one line.
fn happened(events: &[Event]) -> String {
    let told = |event: &Event| {
        let reason = event.more.get("reason").and_then(|reason| reason.as_str()).unwrap_or_default();
        match event.event.as_str() {
            "Evicted" => Some(format!("{} left out ({reason})", event.worker)),
            "Aborted" => Some(format!("aborted ({reason})")),
            "Holding" => Some("held".to_owned()),
            _ => None,
        }
    };
    let mut counted: Vec<(String, usize)> = Vec::new();
    for text in events.iter().filter_map(told) {
        match counted.iter_mut().find(|(known, _)| *known == text) {
            Some((_, count)) => *count += 1,
            None => counted.push((text, 1)),
        }
    }
    let terms = events.iter().filter(|event| event.event == "Coordinator").count();
    let mut line: String = counted
        .into_iter()
        .map(|(text, count)| if count > 1 { format!("{text} {count} times, ") } else { format!("{text}, ") })
        .collect();
    if terms > 1 {
        line.extend([terms.to_string().as_str(), " terms, "]);
    }
    line
}

/// Since when, for who measures.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_counted() {
        let evicted = Event::now("w2", "Evicted").with("reason", "PeerLost");
        let aborted = Event::now("", "Aborted").with("reason", "LaneFailed");
        let term = Event::now("w0", "Coordinator");
        let events = [term.clone(), aborted.clone(), aborted, evicted, term];
        assert_eq!(happened(&events), "aborted (LaneFailed) 2 times, w2 left out (PeerLost), 2 terms, ");
        assert_eq!(happened(&[]), "");
    }
}
