//! A run that is to train: admission, its objects, its Job, and why it does not go on.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{JobChange, Note, Planning, RuntimeFound};
use crate::build::{self, JobState, Snapshot};
use crate::conditions::{reasons, types};
use crate::names;
use crate::watched::IslandJob;

/// Seconds for which nobody may hold the newest state before all begins again: who is cut off may come back.
const STATE_MISSING: i64 = 60;
/// Times that all of it begins again by itself.
const MOST_ATTEMPTS: u64 = 100;
/// When to look again for a runtime that is not there.
const RUNTIME_AGAIN: Duration = Duration::from_mins(1);
/// Seconds that a pod which has ended may take to go.
const STUCK: i64 = 15;
/// Seconds without a sidecar's beat after which a pod on a lost node is taken for lost too.
const SILENT: u64 = 10;

impl Planning<'_> {
    /// The run is to have workers.
    pub(super) fn go(&mut self) {
        if self.conditions.get(types::SUSPENDED).is_some() {
            self.conditions.set(types::SUSPENDED, false, reasons::RESUMED, "");
        }
        self.plan.memory.keep_round = None;
        self.finalizer();
        match self.observed.job {
            None => self.begin_first(),
            Some(job) if job.is_suspended() => self.begin_again(job),
            Some(job) => self.keep_running(job),
        }
    }

    /// Only what is kept outside of the cluster needs one: a last checkpoint.
    fn finalizer(&mut self) {
        let has = self.run.finalizers().iter().any(|found| found == names::FINALIZER);
        if self.run.spec.checkpoint.is_some() && !has {
            self.plan.finalizer = Some(true);
        }
    }

    /// The runtime, where it can be used; otherwise what is wrong with it.
    fn snapshot(&mut self) -> Option<Snapshot> {
        let (reason, message) = match &self.observed.runtime {
            RuntimeFound::Known(snapshot) => {
                self.conditions.set(types::ADMITTED, true, reasons::RUNTIME_SNAPSHOTTED, "");
                return Some((**snapshot).clone());
            }
            RuntimeFound::Missing(message) => (reasons::RUNTIME_NOT_FOUND, message.clone()),
            RuntimeFound::Invalid(message) => (reasons::RUNTIME_INVALID, message.clone()),
            RuntimeFound::Unneeded => return None,
        };
        if self.plan.status.runtime_snapshot.is_none() {
            self.conditions.set(types::ADMITTED, false, reason, message);
        } else {
            self.conditions.set(types::PLACED, false, reason, message);
        }
        self.look_again(RUNTIME_AGAIN);
        None
    }

    fn begin_first(&mut self) {
        let Some(snapshot) = self.snapshot() else { return };
        // What was refused is tried again.
        let refused = self.conditions.reason(types::PLACED) == reasons::REFUSED;
        let attempt = if refused { self.attempt().max(1) } else { self.attempt() + 1 };
        let (run, around) = (self.run, self.observed.around);
        let workers = run.spec.workers.target;
        // A queue lets the Job go when it has room for it.
        let queued = run.labels().contains_key(names::QUEUE);
        let state = JobState { workers, suspended: queued, attempt };
        let job = build::job(run, &snapshot, around, &state);
        let template = job.value["metadata"]["annotations"][names::TEMPLATE].as_str().unwrap_or_default();
        self.plan.objects = objects(self, &snapshot, template, attempt);
        self.plan.job = Some(JobChange::Create(Box::new(job)));
        self.plan.status.runtime_snapshot = Some(names::snapshot(&run.name_any()));
        self.plan.status.run_policy = Some(snapshot.run_policy(&run.spec));
        self.plan.status.start_time.get_or_insert(Time(self.observed.now));
        self.started(attempt);
    }

    /// The Job was suspended: when all its pods are gone, a new attempt begins.
    fn begin_again(&mut self, job: &IslandJob) {
        let attempt = self.attempt();
        let queued = self.run.labels().contains_key(names::QUEUE);
        let current = job.annotation(names::ATTEMPT) == Some(attempt.to_string().as_str());
        if queued && current && !self.conditions.is(types::QUORUM_REACHED) {
            self.conditions.set(types::PLACED, false, reasons::PENDING, "the Job waits in its queue");
            return self.serve(attempt);
        }
        if !job.is_idle() || self.observed.pods.iter().any(|pod| !pod.has_ended()) {
            return self.conditions.set(types::PROGRESSING, false, reasons::RESTARTING, "waiting for the last pods to end");
        }
        // A queue lets the Job go again.
        self.change_job(queued, attempt + 1);
        self.plan.objects = vec![build::island(self.run, job.annotation(names::TEMPLATE).unwrap_or_default(), attempt + 1)];
        self.started(attempt + 1);
    }

    fn started(&mut self, attempt: u64) {
        self.plan.status.attempt = Some(attempt.cast_signed());
        self.plan.memory.state_missing = None;
        self.plan.memory.pace.clear();
        if self.conditions.reason(types::PLACED) != reasons::REFUSED {
            self.conditions.set(types::PLACED, true, reasons::APPLIED, "");
        }
        self.conditions.set(types::QUORUM_REACHED, false, reasons::WAITING_FOR_WORKERS, "");
        self.conditions.set(types::PROGRESSING, false, reasons::WAITING_FOR_WORKERS, "");
        self.note(Note::normal("AttemptStarted", format!("attempt {attempt} with {} workers", self.run.spec.workers.target)));
        self.serve(attempt);
    }

    fn keep_running(&mut self, job: &IslandJob) {
        let attempt = self.attempt();
        self.serve(attempt);
        self.take_progress();
        self.freshness();
        self.lost_pods();
        self.stuck_pods();
        if self.restarts() {
            return self.change_job(true, attempt);
        }
        if job.annotation(names::ATTEMPT) == Some(attempt.to_string().as_str()) && !self.conditions.is(types::PLACED) {
            self.conditions.set(types::PLACED, true, reasons::APPLIED, "");
        }
        let wanted = i32::try_from(self.run.spec.workers.target).unwrap_or(i32::MAX);
        if job.spec.completions != Some(wanted) {
            let before = job.spec.completions.unwrap_or(0);
            self.note(Note::normal("Scaled", format!("from {before} to {wanted} workers")));
            let template = job.annotation(names::TEMPLATE).unwrap_or_default();
            self.plan.objects = vec![build::disruption_budget(self.run), build::island(self.run, template, attempt)];
            self.change_job(false, attempt);
        }
        self.quorum();
        self.progressing();
    }

    /// Whether enough workers have joined.
    fn quorum(&mut self) {
        let members = self.observed.heard.record.members.len();
        if self.observed.heard.record.epoch > 0 || self.conditions.is(types::QUORUM_REACHED) {
            let message = format!("{members} workers joined");
            if !self.conditions.is(types::QUORUM_REACHED) {
                self.conditions.set(types::QUORUM_REACHED, true, reasons::JOINED, message);
            }
            return;
        }
        let (reason, message) = self.why_waiting();
        self.conditions.set(types::QUORUM_REACHED, false, reason, message);
    }

    fn why_waiting(&self) -> (&'static str, String) {
        if let Some(why) = &self.observed.heard.beginning_failure {
            return (reasons::STORE_UNAVAILABLE, why.clone());
        }
        let (workers, needed) = (&self.workers, self.run.spec.workers.min);
        let counts = format!("{} of {} workers are ready, {needed} are needed", workers.ready, workers.wanted);
        match (&workers.waiting, workers.last_failure()) {
            (Some((reason, why)), _) => (reason, format!("{counts}; {why}")),
            (None, Some(failure)) => (reasons::WAITING_FOR_WORKERS, format!("{counts}; {failure}")),
            (None, None) if workers.alive + workers.finished.len() < workers.wanted as usize => {
                let missing = workers.wanted as usize - workers.alive - workers.finished.len();
                (
                    reasons::WAITING_FOR_WORKERS,
                    format!("{counts}; {missing} pods were not made yet: the events of the Job say why"),
                )
            }
            (None, None) => (reasons::WAITING_FOR_WORKERS, counts),
        }
    }

    fn progressing(&mut self) {
        let record = &self.observed.heard.record;
        let training = self.plan.status.progress.is_some() && self.plan.memory.holding.is_none() && record.epoch > 0;
        if let Some(why) = &self.plan.memory.holding {
            let (_, waiting) = self.why_waiting();
            let message = format!("{why}: {waiting}");
            self.conditions.set(types::PROGRESSING, false, reasons::HOLDING, message);
        } else if training {
            self.conditions.set(types::PROGRESSING, true, reasons::TRAINING, "");
        } else {
            let (reason, message) = self.why_waiting();
            self.conditions.set(types::PROGRESSING, false, reason, message);
        }
        if !training {
            return;
        }
        let members = record.members.len();
        if members + self.workers.finished.len() < self.workers.wanted as usize {
            let (_, why) = self.why_waiting();
            let message = format!("{members} of {} workers train; {why}", self.workers.wanted);
            self.conditions.set(types::DEGRADED, true, reasons::WORKERS_MISSING, message);
        } else {
            self.conditions.set(types::DEGRADED, false, reasons::ALL_WORKERS, "");
        }
    }

    /// Whether all begins again, because nobody has held the newest state for too long.
    fn restarts(&mut self) -> bool {
        let Some(since) = self.plan.memory.state_missing else { return false };
        let missing = self.observed.now.as_second() - since.as_second();
        if missing < STATE_MISSING {
            self.look_again(Duration::from_secs((STATE_MISSING - missing).unsigned_abs()));
            return false;
        }
        let what = "no worker is left that holds the state of the newest round";
        if self.attempt() >= MOST_ATTEMPTS {
            self.conditions.set(types::FAILED, true, reasons::STATE_LOST, format!("{what}, for the {MOST_ATTEMPTS}th time"));
            return false;
        }
        let from = self.plan.status.last_checkpoint.as_ref().map_or_else(
            || "it begins anew".to_owned(),
            |last| format!("it goes back to the checkpoint of round {}", last.round),
        );
        self.note(Note::warning("StateLost", format!("{what}; {from}")));
        self.conditions.set(types::PROGRESSING, false, reasons::RESTARTING, format!("{what}; {from}"));
        true
    }

    /// Pods that are to go with their node and whose sidecars are silent: their Job waits for them, and their node is gone.
    fn lost_pods(&mut self) {
        let lost = |pod: &&std::sync::Arc<crate::watched::WorkerPod>| {
            let slot = pod.index();
            let silent = slot.and_then(|slot| self.observed.silence.get(&slot)).is_none_or(|seconds| *seconds >= SILENT);
            pod.is_going() && pod.is("DisruptionTarget") && !pod.has_ended() && silent
        };
        let names: Vec<String> = self.observed.pods.iter().filter(lost).filter_map(|pod| pod.metadata.name.clone()).collect();
        for name in &names {
            self.note(Note::warning(
                "PodLost",
                format!("pod {name} is silent on a node that is gone; it is deleted, to be replaced"),
            ));
        }
        let going = self.observed.pods.iter().any(|pod| pod.is_going() && pod.is("DisruptionTarget") && !pod.has_ended());
        if going && names.is_empty() {
            self.look_again(Duration::from_secs(2));
        }
        self.plan.lost_pods = names;
    }

    /// The last pod of an index keeps its finalizer until it is replaced: in a namespace that goes, for ever.
    fn stuck_pods(&mut self) {
        let since = |pod: &std::sync::Arc<crate::watched::WorkerPod>| {
            let deleted = pod.metadata.deletion_timestamp.as_ref().filter(|_| pod.has_ended())?;
            Some(self.observed.now.as_second() - deleted.0.as_second())
        };
        match self.observed.pods.iter().filter_map(since).max() {
            Some(seconds) if seconds >= STUCK => {
                self.plan.stuck_pods = true;
                self.look_again(Duration::from_secs(STUCK.unsigned_abs()));
            }
            Some(_) => self.look_again(Duration::from_secs(STUCK.unsigned_abs())),
            None => {}
        }
    }
}

/// The objects of a run beside its Job.
fn objects(planning: &Planning<'_>, snapshot: &Snapshot, template: &str, attempt: u64) -> Vec<build::Object> {
    let (run, around) = (planning.run, planning.observed.around);
    let mut objects = vec![
        build::snapshot_map(run, snapshot, around),
        build::service(run),
        build::disruption_budget(run),
        build::island(run, template, attempt),
    ];
    if around.network_policies {
        objects.push(build::network_policy(run, around));
    }
    objects
}
