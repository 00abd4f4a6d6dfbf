//! What outlives the processes of a run: what each of them is started with, and what was seen of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use atoll_collective::arbiter::{HUB, Hub, Single};
use atoll_collective::identity::{Identity, IslandAuthority, RunAuthority, Validity};
use atoll_collective::lane::Meter;
use atoll_collective::rules::Rules;
use atoll_collective::transport::{Security, Transport};
use atoll_collective::v1::{ArbiterKind, Member};
use atoll_sidecar::{ARBITER, Regions};
use tokio::sync::Notify;

use crate::book::Book;
use crate::network::Simulated;
use crate::schedule::Schedule;

pub(crate) const RUN: &str = "run";
pub(crate) const ISLAND: &str = "here";
pub(crate) const TOKEN: &str = "0123456789abcdef";
/// Silence after which a process is lost, in milliseconds.
pub(crate) const LIVENESS: u64 = 1_000;

/// One worker, whichever processes it has.
pub(crate) struct Worker {
    /// Starts of its sidecar, and of its trainer.
    pub(crate) sidecars: AtomicU64,
    pub(crate) trainers: AtomicU64,
    /// What the present sidecar was passed.
    pub(crate) regions: Mutex<Regions>,
    /// Tells the sidecar to stop; and it has.
    pub(crate) stop: Notify,
    pub(crate) stopped: AtomicBool,
    pub(crate) slow: AtomicBool,
}

/// The ground of one run.
pub(crate) struct Ground {
    pub(crate) schedule: Schedule,
    pub(crate) rules: Rules,
    pub(crate) workers: Vec<Worker>,
    authority: Option<IslandAuthority>,
    book: Mutex<Book>,
    hub: Mutex<Hub>,
    /// Starts of the hub.
    pub(crate) hubs: AtomicU64,
}

impl Ground {
    pub(crate) fn new(schedule: Schedule, rules: Rules) -> Arc<Self> {
        let worker = |_| Worker {
            sidecars: AtomicU64::new(0),
            trainers: AtomicU64::new(0),
            regions: Mutex::default(),
            stop: Notify::new(),
            stopped: AtomicBool::new(false),
            slow: AtomicBool::new(false),
        };
        let authority = schedule.tls.then(|| RunAuthority::new(RUN, validity()).unwrap().island(ISLAND, validity()).unwrap());
        let hub = started(1, Single::new(LIVENESS), &schedule, rules);
        let workers = (0..schedule.workers).map(worker).collect();
        Arc::new(Self {
            schedule,
            rules,
            workers,
            authority,
            book: Mutex::default(),
            hub: Mutex::new(hub),
            hubs: AtomicU64::new(1),
        })
    }

    pub(crate) fn worker(&self, slot: u32) -> &Worker {
        &self.workers[slot as usize]
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what happens now in the process that says so.
    pub(crate) fn note(&self, line: &str) {
        self.book().note(now(), line);
    }

    pub(crate) fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hub's process starts again, with what it has stored.
    pub(crate) fn restart_hub(&self) {
        let incarnation = self.hubs.fetch_add(1, Relaxed) + 1;
        let mut hub = self.hub();
        *hub = started(incarnation, hub.single().clone(), &self.schedule, self.rules);
    }

    pub(crate) fn identity(&self, name: &str) -> Option<Identity> {
        self.authority.as_ref().map(|island| island.peer(name, validity()).unwrap())
    }

    /// The way of a process to others.
    pub(crate) fn transport(&self, name: &str) -> Transport {
        let security = self.identity(name).map(|identity| Security::new(&identity).unwrap());
        Transport::new(security, Arc::new(Meter::default())).over(Arc::new(Simulated))
    }

    /// How much longer than usual a worker takes for everything.
    pub(crate) fn slowness(&self, slot: u32) -> u32 {
        if self.worker(slot).slow.load(Relaxed) { 10 } else { 1 }
    }
}

fn started(incarnation: u64, stored: Single, schedule: &Schedule, rules: Rules) -> Hub {
    let me = Member { slot: HUB, worker: ARBITER.into(), incarnation, island: ISLAND.into(), ..Member::default() };
    let mut hub = Hub::new(me, stored, LIVENESS).with_rules(rules);
    hub.want(if schedule.peers { ArbiterKind::Peers } else { ArbiterKind::Single });
    hub
}

/// Certificates are checked by the machine's clock.
#[expect(clippy::disallowed_methods, reason = "a certificate's validity is in the time of the day")]
fn validity() -> Validity {
    Validity { from: SystemTime::now() - Duration::from_mins(1), length: Duration::from_hours(1) }
}

/// Simulated time from the start, on a host.
pub(crate) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}
