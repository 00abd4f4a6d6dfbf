//! What is to be done for one run: a pure function of what was observed of it.
//!
//! Nothing here has a clock or a network. Whatever a controller does, it does because a plan says so; whatever a plan needs to
//! know of the past is in the run's status, or in [`Memory`], which a restart may lose.

mod ending;
mod progress;
mod running;
mod suspension;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use atoll_crds::spec::TrainingRun;
use atoll_crds::status::TrainingRunStatus;
use atoll_proto::v1::KeptCheckpoint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::Value;

use crate::build::{self, JobState, Object, Snapshot, Surroundings};
use crate::conditions::{Conditions, reasons, types};
use crate::directory::Heard;
use crate::names;
use crate::watched::{IslandJob, WorkerPod};
pub use workers::Workers;

/// All that is known of a run.
pub struct Observed<'a> {
    /// The run, as it was read or written last.
    pub run: &'a TrainingRun,
    /// Its Job.
    pub job: Option<&'a IslandJob>,
    /// Its pods.
    pub pods: &'a [Arc<WorkerPod>],
    /// What the hub has heard of it.
    pub heard: Heard,
    /// Seconds since a slot's sidecar was heard.
    pub silence: BTreeMap<u32, u64>,
    /// Its runtime.
    pub runtime: RuntimeFound,
    /// What is the same for all runs.
    pub around: &'a Surroundings,
    /// What was remembered of it.
    pub memory: Memory,
    /// Now.
    pub now: Timestamp,
}

/// The runtime of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeFound {
    /// It is not needed now.
    Unneeded,
    /// As it was kept, or is now where nothing was kept.
    Known(Box<Snapshot>),
    /// There is none of this name; the message says which.
    Missing(String),
    /// No pod can be made from it; the message says why.
    Invalid(String),
}

/// What is remembered of a run between two plans, and may be lost.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// A checkpoint of this round is waited for, before the run is suspended or deleted.
    pub keep_round: Option<u64>,
    /// Steps and tokens of the last minutes.
    pub pace: VecDeque<(Timestamp, u64, u64)>,
    /// When progress was written last.
    pub progress_written: Option<Timestamp>,
    /// Since when nobody holds the state of the newest round.
    pub state_missing: Option<Timestamp>,
    /// Why the last checkpoint failed.
    pub checkpoint_failure: Option<String>,
    /// Why no round begins.
    pub holding: Option<String>,
}

/// What is to be done, in the order of its fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The run is to have the finalizer, or not.
    pub finalizer: Option<bool>,
    /// Objects to apply.
    pub objects: Vec<Object>,
    /// The status of the run; written before the Job is touched.
    pub status: TrainingRunStatus,
    /// How the hub serves the run; not at all when there is none.
    pub served: Option<ServedAs>,
    /// What happens to the Job.
    pub job: Option<JobChange>,
    /// What is said of the island; none where there is none.
    pub island: Option<Value>,
    /// Checkpoints that were published.
    pub kept: Vec<(Object, Value)>,
    /// Names of the objects of checkpoints that were removed.
    pub removed: Vec<String>,
    /// Pods that are deleted without waiting for their nodes.
    pub lost_pods: Vec<String>,
    /// Pods have ended and do not go: the Job is deleted, where the namespace goes and it cannot replace them.
    pub stuck_pods: bool,
    /// The run is suspended, as its failure policy says.
    pub suspend: bool,
    /// The run is deleted.
    pub delete: bool,
    /// What people are told.
    pub events: Vec<Note>,
    /// What is remembered.
    pub memory: Memory,
    /// When to look again, where nothing happens before.
    pub again: Option<Duration>,
}

/// How the hub serves a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServedAs {
    /// The attempt.
    pub attempt: u64,
    /// A checkpoint of this or a later round is wanted.
    pub keep_round: Option<u64>,
}

/// What happens to the Job of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum JobChange {
    /// It is made.
    Create(Box<Object>),
    /// It is changed by a merge patch.
    Change(Value),
}

/// An event of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// It is a warning.
    pub warning: bool,
    /// In one word.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Note {
    fn normal(reason: &str, message: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.to_owned(), message: message.into() }
    }

    fn warning(reason: &str, message: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.to_owned(), message: message.into() }
    }
}

/// A plan that is being made.
struct Planning<'a> {
    observed: &'a Observed<'a>,
    run: &'a TrainingRun,
    workers: Workers,
    before: TrainingRunStatus,
    conditions: Conditions,
    plan: Plan,
}

/// Whether another controller is responsible for `run`.
#[must_use]
pub fn is_others(run: &TrainingRun) -> bool {
    run.spec.managed_by.as_deref().is_some_and(|manager| manager != names::OPERATOR)
}

/// What is to be done for a run.
#[must_use]
pub fn plan(observed: &Observed<'_>) -> Plan {
    let run = observed.run;
    let before = run.status.clone().unwrap_or_default();
    let generation = run.metadata.generation;
    let mut planning = Planning {
        observed,
        run,
        workers: Workers::of(observed.pods, observed.job, run.spec.workers.target),
        conditions: Conditions::new(before.conditions.clone(), generation, observed.now),
        plan: Plan {
            status: TrainingRunStatus { observed_generation: generation, ..before.clone() },
            memory: observed.memory.clone(),
            ..Plan::default()
        },
        before,
    };
    planning.make();
    planning.finish()
}

impl Planning<'_> {
    fn make(&mut self) {
        self.hear();
        if self.run.metadata.deletion_timestamp.is_some() {
            return self.deleting();
        }
        self.judge();
        if self.is_over() {
            return self.over();
        }
        if self.run.spec.suspend {
            return self.suspend();
        }
        self.go();
    }

    /// The run has ended, one way or the other.
    fn is_over(&self) -> bool {
        self.conditions.is(types::COMPLETE) || self.conditions.is(types::FAILED)
    }

    fn attempt(&self) -> u64 {
        self.plan.status.attempt.unwrap_or(0).unsigned_abs()
    }

    /// The Job, where it has pods of the present attempt or is to have them.
    fn running_job(&self) -> Option<&IslandJob> {
        self.observed.job.filter(|job| !job.is_suspended())
    }

    fn serve(&mut self, attempt: u64) {
        let asked = self.run.annotations().get(names::CHECKPOINT).and_then(|round| round.parse::<u64>().ok());
        let done = self.plan.status.last_checkpoint.as_ref().map_or(0, |last| last.round.unsigned_abs());
        let keep_round = self.plan.memory.keep_round.or(asked.filter(|round| *round > done));
        self.plan.served = Some(ServedAs { attempt, keep_round });
    }

    fn change_job(&mut self, suspended: bool, attempt: u64) {
        let state = JobState { workers: self.run.spec.workers.target, suspended, attempt };
        self.plan.job = Some(JobChange::Change(build::changed_job(&state)));
    }

    fn note(&mut self, note: Note) {
        self.plan.events.push(note);
    }

    fn look_again(&mut self, after: Duration) {
        self.plan.again = Some(self.plan.again.map_or(after, |before| before.min(after)));
    }

    /// Takes what was heard into status and memory.
    fn hear(&mut self) {
        for occurrence in &self.observed.heard.occurrences {
            self.occurrence(occurrence);
        }
        let kept: Vec<KeptCheckpoint> = self.observed.heard.kept.clone();
        for kept in &kept {
            self.kept(kept);
        }
        let removed = self.observed.heard.removed.iter();
        self.plan.removed = removed.map(|place| build::checkpoint_name(self.run, place)).collect();
    }

    fn occurrence(&mut self, occurrence: &atoll_proto::v1::Occurrence) {
        let about = if occurrence.worker.is_empty() { String::new() } else { format!("{}: ", occurrence.worker) };
        let message = format!("{about}{} (round {})", occurrence.detail, occurrence.round);
        match occurrence.event.as_str() {
            "CheckpointFailed" => {
                self.plan.memory.checkpoint_failure = Some(occurrence.detail.clone());
                self.note(Note::warning("CheckpointFailed", message));
            }
            "HistoryMissing" | "StateMissing" => {
                self.plan.memory.state_missing.get_or_insert(self.observed.now);
            }
            "RecordNotOurs" => self.note(Note::warning(reasons::RECORD_NOT_OURS, message)),
            "Evicted" => self.note(Note::warning("WorkerEvicted", message)),
            "PrivateStateLost" => self.note(Note::warning("PrivateStateLost", message)),
            _ => {}
        }
    }

    fn kept(&mut self, kept: &KeptCheckpoint) {
        let now = Time(self.observed.now);
        self.plan.memory.checkpoint_failure = None;
        self.plan.status.last_checkpoint = Some(atoll_crds::status::LastCheckpoint {
            place: kept.place.clone(),
            round: kept.round.cast_signed(),
            digest: kept.digest.clone(),
            time: Some(now.clone()),
        });
        self.plan.kept.extend(build::checkpoint(self.run, kept, &now));
    }

    /// Puts everything together that is made of the rest.
    fn finish(mut self) -> Plan {
        self.workers_status();
        self.transitions();
        let phase = phase(&self.conditions, self.observed.job.is_some());
        let status = &mut self.plan.status;
        phase.clone_into(&mut status.phase);
        status.conditions = self.conditions.into_list();
        if self.plan.status.attempt.is_some() {
            let island = match phase {
                "Complete" | "Failed" => "Ended",
                "Suspended" => "Suspended",
                _ if self.plan.status.workers.ready > 0 => "Running",
                _ => "Applied",
            };
            self.plan.island = Some(build::island_status(&self.plan.status, island));
        }
        self.plan
    }

    fn workers_status(&mut self) {
        let (workers, status) = (&self.workers, &mut self.plan.status);
        let desired = self.run.spec.workers.target as i32;
        status.workers.desired = desired;
        status.workers.ready = workers.ready as i32;
        status.workers.finished = workers.finished.len() as i32;
        status.workers.failed = workers.failures.len() as i32;
        let training = self.observed.heard.progress.as_ref().map_or(0, |(progress, _)| progress.slots.len());
        status.workers.training = training as i32;
        status.workers.summary = format!("{}/{desired}", workers.ready);
        status.selector = Some(names::selector(&self.run.name_any()));
    }

    /// Tells what has changed for good.
    fn transitions(&mut self) {
        for (kind, warns) in
            [(types::COMPLETE, false), (types::FAILED, true), (types::SUSPENDED, false), (types::QUORUM_REACHED, false)]
        {
            if self.conditions.is(kind) && !self.before.is(kind) {
                let condition = self.conditions.get(kind);
                let message = condition.map(|condition| condition.message.clone()).unwrap_or_default();
                let note = if warns { Note::warning(kind, message) } else { Note::normal(kind, message) };
                self.plan.events.push(note);
            }
        }
        for kind in [types::ADMITTED, types::PLACED] {
            let Some(condition) = self.conditions.get(kind).filter(|condition| condition.status == "False") else { continue };
            if self.before.condition(kind).is_none_or(|known| {
                (&known.status, &known.reason, &known.message) != (&condition.status, &condition.reason, &condition.message)
            }) && condition.reason != reasons::PENDING
            {
                let note = Note::warning(&condition.reason.clone(), condition.message.clone());
                self.plan.events.push(note);
            }
        }
    }
}

/// One word for people.
fn phase(conditions: &Conditions, has_job: bool) -> &'static str {
    if conditions.is(types::COMPLETE) {
        "Complete"
    } else if conditions.is(types::FAILED) {
        "Failed"
    } else if conditions.is(types::SUSPENDED) {
        "Suspended"
    } else if conditions.reason(types::SUSPENDED) == reasons::SUSPENDING {
        "Suspending"
    } else if !conditions.is(types::ADMITTED) || !has_job {
        "Pending"
    } else if conditions.is(types::PROGRESSING) {
        "Running"
    } else if conditions.reason(types::PROGRESSING) == reasons::HOLDING {
        "Holding"
    } else {
        "Starting"
    }
}
