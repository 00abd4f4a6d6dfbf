//! The moment of a case: what the store answers by then, and who is killed or what is damaged.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use atoll_test_store::{Seen as Request, Verdict};
use http::Method;
use rustix::process::Signal;

use super::{
    case::{Case, Fault, Kind, Place},
    ground::{Ground, RUN},
    sockets,
};
use crate::{
    events::{Event, Tail},
    known::Known,
    process::{Process, Seen},
};

/// How long the store takes no request.
const AWAY: Duration = Duration::from_millis(1500);
/// How long the store takes where it is slow.
const SLOW: Duration = Duration::from_secs(2);
/// How often it answers that it cannot.
const TIMES: u32 = 3;

/// What must have happened before a case strikes.
#[derive(Debug, Clone, Copy)]
pub(super) enum After {
    /// So many checkpoints were published.
    Checkpoints(usize),
    /// This round was committed.
    Round(u64),
}

/// When a case strikes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) case: Case,
    pub(super) after: After,
    /// Requests of the kind that pass before.
    pub(super) passing: u64,
    /// Chooses among victims.
    pub(super) choice: u64,
}

/// A run while it goes, its moment, and what was done to it.
pub(super) struct Watch {
    moment: Moment,
    tail: Tail,
    pub(super) known: Known,
    supervisor: Option<Seen>,
    ground: Arc<Ground>,
    /// What was done, or why that failed.
    pub(super) done: Option<Result<Done>>,
    /// What the store answers from then on.
    aftermath: Aftermath,
    /// A trainer was killed, so that the others give it their state; events until then.
    lost: Option<usize>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) what: String,
    /// Object that was damaged.
    pub(super) damaged: Option<String>,
    /// Rounds that had been committed.
    pub(super) round: u64,
    /// Events that had been written.
    pub(super) events: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Aftermath {
    /// Object whose requests fail, and how often they still do.
    key: String,
    left: u32,
    away_until: Option<Instant>,
}

/// A watch that the store and the test share.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Watch>>);

impl Shared {
    pub(super) fn new(moment: Moment, output: &Path, ground: &Arc<Ground>) -> Self {
        Self(Arc::new(Mutex::new(Watch {
            moment,
            tail: Tail::new(output),
            known: Known::default(),
            supervisor: None,
            ground: Arc::clone(ground),
            done: None,
            aftermath: Aftermath { key: String::new(), left: 0, away_until: None },
            lost: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the store ask what becomes of each request.
    pub(super) fn arm(&self, ground: &Ground) {
        let Some(server) = ground.server() else { return };
        let (judge, strike) = (self.clone(), self.clone());
        server.judge(move |request| judge.lock().judge(request));
        server.strike(move |request| strike.lock().strike_at(request));
    }

    pub(super) fn follow(&self, process: &Process) {
        self.lock().supervisor = Seen::now(process.id());
    }
}

impl After {
    pub(super) fn has_come(self, events: &[Event]) -> bool {
        match self {
            Self::Checkpoints(count) => events.iter().filter(|event| event.is("Checkpointed")).count() >= count,
            Self::Round(round) => last_round(events) >= round,
        }
    }
}

/// The newest round that was committed.
pub(super) fn last_round(events: &[Event]) -> u64 {
    events.iter().filter(|event| event.is("Committed")).filter_map(|event| event.round).max().unwrap_or(0)
}

/// Whether a request is of this place. A run that has `resumed` reads for its trainers, and not to find a checkpoint.
fn is_at(place: Place, request: &Request, resumed: bool) -> bool {
    let Some(name) = request.key.strip_prefix(RUN).and_then(|key| key.strip_prefix('/')) else { return false };
    let is = |method: Method, folder: &str| request.method == method && name.starts_with(folder) && name.contains('.');
    match place {
        Place::Intent => is(Method::PUT, "intents/"),
        Place::BeforeShard | Place::InShard | Place::AfterShard => is(Method::PUT, "shards/"),
        Place::BeforeManifest | Place::AfterManifest => is(Method::PUT, "checkpoints/"),
        Place::BeforeLatest | Place::AfterLatest => request.method == Method::PUT && name == "LATEST",
        // The client removes objects with a POST that names them.
        Place::RemovingManifest => is(Method::POST, "checkpoints/"),
        Place::Condemning => is(Method::PUT, "condemned/"),
        Place::RemovingShard => is(Method::POST, "shards/"),
        Place::Checking => (is(Method::GET, "checkpoints/") || is(Method::GET, "shards/")) && !resumed,
        Place::Restoring => is(Method::GET, "shards/") && resumed,
        Place::Snapshot | Place::PeerTransfer => false,
    }
}

/// Whether a checkpoint has begun and not ended.
pub(super) fn writes_a_checkpoint(events: &[Event]) -> bool {
    let of_checkpoints = |event: &&Event| ["CheckpointStarted", "Checkpointed", "CheckpointFailed"].contains(&&*event.name);
    events.iter().rev().find(of_checkpoints).is_some_and(|event| event.is("CheckpointStarted"))
}

impl Watch {
    /// Reads what happened since, and strikes where an event is the moment.
    pub(super) fn look(&mut self) -> Result<()> {
        let news = self.tail.poll()?;
        self.known.take(news);
        if self.done.is_some() || !self.moment.after.has_come(&self.known.events) {
            return Ok(());
        }
        match self.moment.case.place {
            Place::Snapshot if writes_a_checkpoint(&self.known.events) => self.strike(None),
            Place::PeerTransfer => self.lose_a_trainer()?,
            _ => {}
        }
        Ok(())
    }

    /// Kills a trainer, and strikes when its successor is given the others' state.
    fn lose_a_trainer(&mut self) -> Result<()> {
        let Some(before) = self.lost else {
            let (_, trainer) = self.another("trainer")?;
            trainer.signal(Signal::KILL)?;
            self.lost = Some(self.known.events.len());
            return Ok(());
        };
        let since = &self.known.events[before..];
        if since.iter().any(|event| event.is("Repaired")) {
            // It was too fast to be seen in between: once more.
            self.lost = None;
        } else if since.iter().any(|event| event.is("Synchronised")) {
            self.strike(None);
        }
        Ok(())
    }

    /// A process of a worker that is not the coordinator's.
    fn another(&self, kind: &str) -> Result<(String, Seen)> {
        let coordinator = self.known.coordinator.as_ref();
        let others = self.known.current.iter().filter(|((worker, process), _)| process == kind && Some(worker) != coordinator);
        let others: Vec<_> = others.map(|((worker, _), seen)| (worker.clone(), *seen)).collect();
        let count = others.len().max(1) as u64;
        others.into_iter().nth((self.moment.choice % count) as usize).context("no event tells of a second worker")
    }

    fn judge(&mut self, request: &Request) -> Verdict {
        let Moment { case, passing, .. } = self.moment;
        if self.done.is_some() {
            return self.aftermath(request);
        }
        // The newest events are those of a moment ago: this request may be what follows from them.
        let _read_again_soon = self.look();
        if !self.moment.after.has_come(&self.known.events)
            || !is_at(case.place, request, self.known.events.iter().any(|event| event.is("Resumed")))
        {
            return Verdict::Pass;
        }
        if passing > 0 {
            self.moment.passing -= 1;
            return Verdict::Pass;
        }
        match (case.fault.kind(), case.place) {
            (Kind::Damage, Place::Checking | Place::Restoring) => {
                self.strike(Some(request));
                Verdict::Pass
            }
            (_, Place::InShard) => self.first(request, Verdict::Cut),
            (_, Place::AfterShard | Place::AfterManifest | Place::AfterLatest) => self.first(request, Verdict::Withhold),
            (Kind::Store, _) => {
                self.strike(Some(request));
                self.aftermath(request)
            }
            _ => Verdict::Drop,
        }
    }

    /// The first verdict of a fault of the store; that of another fault is followed by its strike.
    fn first(&mut self, request: &Request, verdict: Verdict) -> Verdict {
        if self.moment.case.fault.kind() == Kind::Store {
            self.strike(Some(request));
        }
        verdict
    }

    fn aftermath(&mut self, request: &Request) -> Verdict {
        let Aftermath { key, left, away_until } = &mut self.aftermath;
        if away_until.is_some_and(|until| Instant::now() < until) {
            return Verdict::Drop;
        }
        if *left == 0 || request.key != *key {
            return Verdict::Pass;
        }
        *left -= 1;
        match self.moment.case.fault {
            Fault::Error => Verdict::Answer(500),
            Fault::Busy => Verdict::Answer(503),
            Fault::Slow => Verdict::Wait(SLOW),
            Fault::Cut => Verdict::Cut,
            _ => Verdict::Pass,
        }
    }

    /// A request has come as far as its verdict says.
    fn strike_at(&mut self, request: &Request) {
        if self.done.is_none() {
            self.strike(Some(request));
        }
    }

    fn strike(&mut self, request: Option<&Request>) {
        let _killed_anyway = self.tail.poll().map(|news| self.known.take(news));
        self.done = Some(self.carry_out(request));
    }

    fn carry_out(&mut self, request: Option<&Request>) -> Result<Done> {
        let round = last_round(&self.known.events);
        let events = self.known.events.len();
        let done = |what: String| Done { what, damaged: None, round, events };
        if let Some(request) = request {
            self.aftermath.key.clone_from(&request.key);
        }
        match self.moment.case.fault {
            Fault::KillWriter => {
                let (name, process) = self.writer(request)?;
                process.signal(Signal::KILL)?;
                Ok(done(format!("killed {name}")))
            }
            Fault::KillWorkers => {
                let killed = self.known.current.values().filter(|process| process.signal(Signal::KILL).is_ok()).count();
                Ok(done(format!("killed {killed} processes")))
            }
            Fault::KillCoordinator => {
                let worker = self.known.coordinator.clone().context("no event tells the coordinator")?;
                let sidecar = self.known.current.get(&(worker.clone(), "sidecar".to_owned()));
                sidecar.context("no event tells its sidecar")?.signal(Signal::KILL)?;
                Ok(done(format!("killed {worker}'s sidecar")))
            }
            Fault::KillSupervisor => self.kill_everything().map(|()| done("killed everything".to_owned())),
            Fault::BitFlip | Fault::BitFlipInAll | Fault::Truncated => {
                let damaged = match self.moment.case.fault {
                    Fault::Truncated => self.ground.truncate()?,
                    fault => self.ground.flip(fault == Fault::BitFlipInAll, self.moment.choice)?,
                };
                if !self.moment.case.place.is_of_resuming() {
                    self.kill_everything()?;
                }
                Ok(Done { damaged: Some(damaged.clone()), ..done(format!("damaged {damaged}")) })
            }
            Fault::Error | Fault::Busy => {
                self.aftermath.left = TIMES;
                Ok(done("the store failed".to_owned()))
            }
            Fault::Slow | Fault::Cut => {
                self.aftermath.left = 1;
                let cut = self.moment.case.fault == Fault::Cut;
                Ok(done(if cut { "a connection ended" } else { "the store was slow" }.to_owned()))
            }
            Fault::Refused => {
                self.aftermath.away_until = Some(Instant::now() + AWAY);
                Ok(done("the store was away".to_owned()))
            }
            Fault::DiskFull | Fault::PowerLoss => bail!("no fault of a run"),
        }
    }

    fn kill_everything(&self) -> Result<()> {
        self.supervisor.context("the run has not begun")?.signal(Signal::KILL)
    }

    /// The process that asks, by the port of its connection; without a request, a sidecar.
    fn writer(&self, request: Option<&Request>) -> Result<(String, Seen)> {
        let Some(request) = request else {
            let (worker, sidecar) = self.another("sidecar")?;
            return Ok((format!("{worker}'s sidecar"), sidecar));
        };
        let inode = sockets::inode(request.port).context("nobody has the connection")?;
        let processes = self.known.current.iter().map(|((worker, kind), seen)| (format!("{worker}'s {kind}"), *seen));
        let mut processes = processes.chain(self.supervisor.map(|seen| ("the supervisor".to_owned(), seen)));
        processes.find(|(_, seen)| sockets::has(seen.id, inode)).context("no process of the run has the connection")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::tests::event;

    fn request(method: Method, key: &str) -> Request {
        Request { method, key: format!("{RUN}/{key}"), bytes: 7, port: 1 }
    }

    #[test]
    fn a_place_is_known_by_the_request() {
        let shard = request(Method::PUT, "shards/0a/0a1b.safetensors");
        assert!(is_at(Place::InShard, &shard, false) && !is_at(Place::Intent, &shard, false));
        assert!(is_at(Place::RemovingShard, &request(Method::POST, "shards/0a/0a1b.safetensors"), false));
        assert!(is_at(Place::AfterLatest, &request(Method::PUT, "LATEST"), false));
        assert!(!is_at(Place::AfterLatest, &request(Method::GET, "LATEST"), false));
        assert!(!is_at(Place::Checking, &request(Method::GET, "checkpoints"), false), "a list");
        let read = request(Method::GET, "shards/0a/0a1b.safetensors");
        assert!(is_at(Place::Checking, &read, false) && !is_at(Place::Restoring, &read, false));
        assert!(is_at(Place::Restoring, &read, true) && !is_at(Place::Checking, &read, true));
    }

    #[test]
    fn a_moment_comes_after_checkpoints_or_a_round() {
        let events = [event(0.0, "Committed", "", 3), event(0.1, "CheckpointStarted", "", 3), event(0.2, "Checkpointed", "", 3)];
        assert!(After::Checkpoints(1).has_come(&events) && !After::Checkpoints(2).has_come(&events));
        assert!(After::Round(3).has_come(&events) && !After::Round(4).has_come(&events));
        assert!(writes_a_checkpoint(&events[..2]) && !writes_a_checkpoint(&events));
    }
}
