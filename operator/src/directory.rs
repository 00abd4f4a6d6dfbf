//! What the controllers know of each run and the hub needs, and what the hub has heard and the controllers need.
//!
//! One value behind a lock: neither side waits for the other. Whatever changes for a controller names the run on a channel.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use atoll_proto::v1::{Beginning, EpochRecord, KeptCheckpoint, Occurrence, Progress, RunSettings};
use tokio::sync::mpsc;

/// Most occurrences of one run that wait for its controller; the oldest go first.
const MOST_OCCURRENCES: usize = 256;

/// Namespace and name of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A run as the hub serves it; its controller writes this.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// Uid of the `TrainingRun`.
    pub uid: String,
    /// Counts the times that all of it began.
    pub attempt: u64,
    /// What it asks of its membership.
    pub settings: RunSettings,
    /// Name of its island.
    pub island: String,
    /// Its workers' pods, by uid.
    pub pods: BTreeMap<String, Worker>,
    /// A checkpoint of this or a later round is wanted.
    pub keep_round: Option<u64>,
}

/// A worker's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Index of the worker in the run.
    pub slot: u32,
    /// Name of its pod.
    pub pod: String,
}

impl Served {
    /// Name of the run in certificates and messages: its own, a part of its uid, and the attempt.
    #[must_use]
    pub fn wire_name(&self, name: &str) -> String {
        let uid: String = self.uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        format!("{name}-{}-{}", uid.to_ascii_lowercase(), self.attempt)
    }
}

/// What the hub has heard of a run in its present attempt.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// The newest granted record.
    pub record: EpochRecord,
    /// From its coordinator, and when it changed.
    pub progress: Option<(Progress, Instant)>,
    /// From what the attempt began.
    pub beginning: Option<Beginning>,
    /// Why nobody could find from what to begin.
    pub beginning_failure: Option<String>,
    /// Not taken by the controller yet.
    pub occurrences: VecDeque<Occurrence>,
    /// Checkpoints that were published, not taken by the controller yet.
    pub kept: Vec<KeptCheckpoint>,
    /// Places of checkpoints that were removed, not taken by the controller yet.
    pub removed: BTreeSet<String>,
    /// Sidecars whose beats are heard: when last, by slot.
    pub beats: BTreeMap<u32, Instant>,
}

#[derive(Debug, Default)]
struct Run {
    served: Option<Served>,
    heard: Heard,
}

/// Shared by the controllers and the hub.
#[derive(Debug, Clone)]
pub struct Directory {
    runs: Arc<Mutex<BTreeMap<RunKey, Run>>>,
    changed: mpsc::UnboundedSender<RunKey>,
}

impl Directory {
    /// An empty directory, and the channel that names runs of which something new was heard.
    #[must_use]
    pub fn new() -> (Self, mpsc::UnboundedReceiver<RunKey>) {
        let (changed, changes) = mpsc::unbounded_channel();
        (Self { runs: Arc::default(), changed }, changes)
    }

    /// Serves a run, or serves it otherwise than before; what was heard of an earlier attempt is forgotten.
    pub fn serve(&self, key: &RunKey, served: Served) {
        let mut runs = self.lock();
        let run = runs.entry(key.clone()).or_default();
        if run.served.as_ref().is_some_and(|before| (&before.uid, before.attempt) != (&served.uid, served.attempt)) {
            run.heard = Heard::default();
        }
        run.served = Some(served);
    }

    /// Serves a run no more.
    pub fn forget(&self, key: &RunKey) {
        self.lock().remove(key);
    }

    /// The run as it is served now.
    #[must_use]
    pub fn served(&self, key: &RunKey) -> Option<Served> {
        self.lock().get(key)?.served.clone()
    }

    /// Whether this attempt of a run is the one that is served.
    #[must_use]
    pub fn serves(&self, key: &RunKey, uid: &str, attempt: u64) -> bool {
        let runs = self.lock();
        let served = runs.get(key).and_then(|run| run.served.as_ref());
        served.is_some_and(|served| (served.uid.as_str(), served.attempt) == (uid, attempt))
    }

    /// The run that has this name in certificates and messages.
    #[must_use]
    pub fn by_wire_name(&self, wire: &str) -> Option<(RunKey, Served)> {
        let runs = self.lock();
        let named = |(key, run): (&RunKey, &Run)| {
            let served = run.served.as_ref().filter(|served| served.wire_name(&key.name) == wire)?;
            Some((key.clone(), served.clone()))
        };
        runs.iter().find_map(named)
    }

    /// The run that has a worker with this pod.
    #[must_use]
    pub fn by_pod(&self, namespace: &str, uid: &str) -> Option<(RunKey, Served, Worker)> {
        let runs = self.lock();
        let has = |(key, run): (&RunKey, &Run)| {
            let served = run.served.as_ref().filter(|_| key.namespace == namespace)?;
            Some((key.clone(), served.clone(), served.pods.get(uid)?.clone()))
        };
        runs.iter().find_map(has)
    }

    /// Changes what was heard of attempt `attempt` of a run; says so to the controller where `change` returns true.
    pub fn hear(&self, key: &RunKey, attempt: u64, change: impl FnOnce(&mut Heard) -> bool) {
        let mut runs = self.lock();
        let Some(run) = runs.get_mut(key).filter(|run| run.served.as_ref().is_some_and(|served| served.attempt == attempt))
        else {
            return;
        };
        if change(&mut run.heard) {
            while run.heard.occurrences.len() > MOST_OCCURRENCES {
                run.heard.occurrences.pop_front();
            }
            let _ending = self.changed.send(key.clone());
        }
    }

    /// What was heard of a run; occurrences and checkpoints are taken with it.
    #[must_use]
    pub fn take(&self, key: &RunKey) -> Option<Heard> {
        let mut runs = self.lock();
        let heard = &mut runs.get_mut(key)?.heard;
        let taken = heard.clone();
        heard.occurrences.clear();
        heard.kept.clear();
        heard.removed.clear();
        Some(taken)
    }

    /// What was heard of a run.
    #[must_use]
    pub fn heard(&self, key: &RunKey) -> Option<Heard> {
        Some(self.lock().get(key)?.heard.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunKey, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
