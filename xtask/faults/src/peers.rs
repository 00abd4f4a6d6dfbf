//! The peers of one case: sidecars in processes of their own, a trainer beside each, an arbiter, and the links between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atoll_collective::coordinator::Settings;
use atoll_collective::lane::Bounds;
use atoll_sdk::events::Event;
use atoll_sdk::{Options, regions_socket};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::arbiter::Judge;
use crate::course::{Course, State};
use crate::network::{Network, Struck};
use crate::sidecar::{Events, Sidecar};
use crate::worker::Worker;

/// Name of the run.
const RUN: &str = "faults";
/// Longest wait for anything that a case needs.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);
/// Pause between two rounds that are only there so that somebody can come in.
const PAUSE: Duration = Duration::from_millis(30);
/// How long trainers may take to end when they have nothing more to do.
const ENDING: Duration = Duration::from_secs(5);
/// Ports on the loopback address of a slot.
const LISTEN: u16 = 7000;
const LINK: u16 = 7001;
/// Last number of the arbiter's address.
const ARBITER: u8 = 250;

/// What the peers of a case are to be like.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Tells cases apart that go on at the same time.
    pub(crate) number: usize,
    /// How many must come before the first round.
    pub(crate) minimum: u32,
    pub(crate) elements: usize,
    pub(crate) liveness: Duration,
    pub(crate) progress: Duration,
    pub(crate) deadline: Duration,
    /// Links go through this process, which can strike at them; whether they have a rate.
    pub(crate) links: Links,
}

/// How sidecars reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// By themselves.
    Direct,
    /// Through this process.
    Read,
    /// Through this process, at a rate.
    Shaped,
}

/// All that a case has started.
pub(crate) struct Peers {
    setup: Setup,
    program: PathBuf,
    folder: TempDir,
    token: String,
    judge: Judge,
    pub(crate) network: Network,
    struck: mpsc::Receiver<Struck>,
    sidecars: BTreeMap<u32, Sidecar>,
    /// Sidecars that were told to stop.
    leaving: BTreeMap<u32, Sidecar>,
    workers: BTreeMap<u32, Worker>,
    incarnations: BTreeMap<u32, u64>,
    pub(crate) course: Arc<Course>,
    events: Events,
    pub(crate) faults: Vec<String>,
}

impl Peers {
    /// Nobody yet; `program` is the `atoll` to start.
    pub(crate) fn new(setup: Setup, program: &Path, runtime: &Handle) -> Result<Self> {
        let token = "only on this machine".to_owned();
        let liveness = setup.liveness.as_millis() as u64;
        let judge = Judge::serve(runtime, address(setup.number, ARBITER, LINK), &token, liveness)?;
        let (tell, struck) = mpsc::channel();
        let network = Network::new(runtime.clone(), tell, setup.links == Links::Shaped);
        Ok(Self {
            program: program.to_owned(),
            folder: tempfile::Builder::new().prefix("faults-").tempdir().context("no folder for sockets")?,
            token,
            judge,
            network,
            struck,
            sidecars: BTreeMap::new(),
            leaving: BTreeMap::new(),
            workers: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            course: Arc::new(Course::new(setup.elements, setup.deadline)),
            events: Events::default(),
            faults: Vec::new(),
            setup,
        })
    }

    /// Starts a peer: its link where it has one, its sidecar, and its trainer.
    pub(crate) fn start(&mut self, slot: u32) -> Result<()> {
        let known = self.incarnations.contains_key(&slot);
        if !known && self.setup.links != Links::Direct {
            let (at, to) = (self.address(slot, LINK), self.address(slot, LISTEN));
            self.network.link(slot, at, to)?;
        }
        self.start_sidecar(slot)?;
        let incarnation = self.incarnations[&slot];
        let socket = self.socket(slot);
        let options = Options { run: RUN.to_owned(), socket, incarnation, rank: 0, ranks: 1, patience: LIMIT };
        self.course.leave(slot, false);
        self.workers.insert(slot, Worker::start(slot, options, &self.course));
        Ok(())
    }

    /// Starts the sidecar of a slot, again if there was one.
    pub(crate) fn start_sidecar(&mut self, slot: u32) -> Result<()> {
        let incarnation = self.incarnations.entry(slot).or_default();
        *incarnation += 1;
        let incarnation = *incarnation;
        let linked = self.setup.links != Links::Direct;
        let minimum = self.setup.minimum as usize;
        let settings =
            Settings { liveness: self.setup.liveness.as_millis() as u64, round_timeout: u64::MAX, ..Settings::of(RUN, minimum) };
        let config = atoll_sidecar::Config {
            worker: format!("w{slot}"),
            slot,
            incarnation,
            listen: self.address(slot, LISTEN),
            announce: linked.then(|| self.address(slot, LINK).to_string()),
            arbiter: self.address(u32::from(ARBITER) - 1, LINK).to_string(),
            socket: self.socket(slot),
            temporary_folder: None,
            settings,
            progress: self.setup.progress,
            bounds: Bounds::default(),
            token: self.token.clone(),
            island: "local".to_owned(),
            contributor: false,
            identity: None,
            metrics: None,
            record: None,
            keeping: None,
            source: None,
            relay: None,
        };
        let sidecar = Sidecar::start(&self.program, &config, &self.events)?;
        self.network.is_process(slot, sidecar.process());
        self.sidecars.insert(slot, sidecar);
        Ok(())
    }

    fn address(&self, slot: u32, port: u16) -> SocketAddr {
        address(self.setup.number, slot as u8 + 1, port)
    }

    fn socket(&self, slot: u32) -> PathBuf {
        self.folder.path().join(format!("w{slot}.sock"))
    }

    /// Slots whose sidecars run.
    pub(crate) fn slots(&self) -> BTreeSet<u32> {
        self.sidecars.keys().copied().collect()
    }

    /// The slot that has the coordinator's role.
    pub(crate) fn coordinator(&self) -> Option<u32> {
        self.judge.record().coordinator.map(|member| member.slot)
    }

    /// Allows rounds until `ready` gives something.
    pub(crate) fn pace<T>(&self, what: &str, ready: impl FnMut(&State) -> Option<T>) -> Result<T> {
        match self.course.pace(PAUSE, LIMIT, ready) {
            Some(value) => Ok(value),
            None => bail!("not within {} s: {what}; {}", LIMIT.as_secs(), self.said()),
        }
    }

    /// Allows rounds until the case has struck.
    pub(crate) fn until_struck(&self) -> Result<Struck> {
        self.pace("the message to strike at", |_| self.struck.try_recv().ok())
    }

    /// Sends a sidecar a signal.
    pub(crate) fn signal(&self, slot: u32, signal: Signal) {
        if let Some(sidecar) = self.sidecars.get(&slot) {
            sidecar.signal(signal);
        }
    }

    /// Kills a sidecar, and tells the arbiter as its supervisor would; or does not, as when the machine is gone.
    pub(crate) fn kill(&mut self, slot: u32, told: bool) {
        if let Some(mut sidecar) = self.sidecars.remove(&slot) {
            sidecar.kill();
            if told {
                self.judge.ended(slot, sidecar.incarnation);
            }
        }
    }

    /// Tells a sidecar to stop; [`Peers::has_left`] waits for its end.
    pub(crate) fn leave(&mut self, slot: u32) {
        if let Some(sidecar) = self.sidecars.remove(&slot) {
            sidecar.signal(Signal::TERM);
            self.leaving.insert(slot, sidecar);
        }
    }

    /// Waits until a sidecar that was told to stop has ended, and tells the arbiter as its supervisor would.
    pub(crate) fn has_left(&mut self, slot: u32) -> Result<()> {
        let Some(sidecar) = self.leaving.remove(&slot) else { return Ok(()) };
        let incarnation = sidecar.incarnation;
        if let Some(fault) = sidecar.stop() {
            bail!("the sidecar of w{slot} {fault}");
        }
        self.judge.ended(slot, incarnation);
        Ok(())
    }

    /// The trainer of a slot goes with its sidecar.
    pub(crate) fn dismiss(&mut self, slot: u32) {
        self.course.leave(slot, true);
    }

    /// Whether the trainer of a slot, if there was one, has ended; takes note of how.
    pub(crate) fn is_free(&mut self, slot: u32) -> bool {
        let ended = self.workers.get(&slot).is_none_or(Worker::has_ended);
        if ended && let Some(worker) = self.workers.remove(&slot) {
            self.faults.extend(worker.join());
        }
        ended
    }

    /// Events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where everything stands, for who has to find out why it does not go on.
    pub(crate) fn said(&self) -> String {
        let record = self.judge.record();
        let members: Vec<&str> = record.members.iter().map(|member| member.worker.as_str()).collect();
        let (newest, entered) = {
            let state = self.course.lock();
            (state.ledger.newest(), state.entered.iter().map(|(slot, (round, _))| (*slot, *round)).collect::<Vec<_>>())
        };
        let events = self.events();
        let last: Vec<String> = events[events.len().saturating_sub(8)..].iter().map(told).collect();
        let logs: Vec<String> =
            self.sidecars.iter().map(|(slot, sidecar)| format!("w{slot}: {}", sidecar.last_words())).collect();
        format!(
            "term {} epoch {} of {members:?}, newest round {newest}, entered {entered:?}, events {last:?}, logs {logs:?}",
            record.term, record.epoch
        )
    }

    /// Ends everything, and says all that was wrong.
    pub(crate) fn end(mut self) -> Vec<String> {
        self.course.end();
        let until = Instant::now() + ENDING;
        while self.workers.values().any(|worker| !worker.has_ended()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        let waiting: Vec<u32> = self.workers.iter().filter(|(_, worker)| !worker.has_ended()).map(|(slot, _)| *slot).collect();
        for slot in waiting {
            self.faults.push(format!("the trainer of w{slot} waits for something"));
        }
        let ended = self.slots();
        let leaving = std::mem::take(&mut self.leaving);
        for (slot, sidecar) in leaving.into_iter().chain(std::mem::take(&mut self.sidecars)) {
            self.faults.extend(sidecar.stop().map(|fault| format!("the sidecar of w{slot} {fault}")));
        }
        let socket_of = |slot: u32| [self.socket(slot), regions_socket(&self.socket(slot))];
        let left: Vec<PathBuf> = ended.iter().flat_map(|slot| socket_of(*slot)).filter(|path| path.exists()).collect();
        self.faults.extend(left.iter().map(|path| format!("{} is left", path.display())));
        // Without a sidecar nobody waits any more.
        for worker in std::mem::take(&mut self.workers).into_values() {
            self.faults.extend(worker.join());
        }
        self.faults.extend(self.course.lock().ledger.faults().iter().cloned());
        self.faults
    }
}

/// An event in one line.
pub(crate) fn told(event: &Event) -> String {
    let more: Vec<String> = event.more.iter().map(|(name, value)| format!("{name} {value}")).collect();
    format!("{} {} {}", event.event, event.worker, more.join(", "))
}

/// An address of this machine that no other case, and no other slot, uses.
fn address(number: usize, last: u8, port: u16) -> SocketAddr {
    let process = std::process::id() % 128 + 64;
    SocketAddr::from(([127, process as u8, (number % 256) as u8, last], port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_and_slots_have_addresses_of_their_own() {
        let addresses: BTreeSet<SocketAddr> =
            (0..200).flat_map(|number| (1..=10).map(move |slot| address(number, slot, LISTEN))).collect();
        assert_eq!(addresses.len(), 2000);
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    }
}
