//! Whether a run has ended, and what is left to do once it has.

use std::time::Duration;

use atoll_crds::spec::{FailureAction, RunPolicy};
use atoll_crds::status::RunResult;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{Note, Planning};
use crate::conditions::{reasons, types};
use crate::names;

/// Seconds that pods of a run that is complete may take to end.
const LAST_PODS: i64 = 90;
/// Seconds that the last workers may take once the first has finished.
const LAST: i64 = 120;

impl Planning<'_> {
    /// Looks whether the run is complete, or cannot go on.
    pub(super) fn judge(&mut self) {
        if self.is_over() {
            return;
        }
        self.deadline();
        self.policy();
        // It ends once.
        if self.is_over() {
            return;
        }
        let Some(job) = self.observed.job else { return };
        let (workers, spec) = (&self.workers, &self.run.spec);
        if let Some(first) = workers.finished.values().map(|finished| finished.at).min() {
            let all = workers.finished.len() + workers.given_up >= workers.wanted as usize || job.is("Complete");
            let late = self.observed.now.as_second() - first > LAST;
            if all || late {
                self.complete();
            } else {
                self.look_again(Duration::from_secs(10));
            }
            return;
        }
        let able = (workers.wanted as usize).saturating_sub(workers.given_up);
        if job.is("Failed") || able < spec.rounds.quorum.min as usize {
            let last = workers.last_failure().map(ToString::to_string).unwrap_or_default();
            let message = format!("{able} of {} workers can go on; {last}", workers.wanted);
            self.fail(reasons::WORKERS_FAILED, message);
        }
    }

    fn complete(&mut self) {
        let finished = &self.workers.finished;
        let mut hashes: Vec<&str> = finished.values().map(|finished| finished.weights_hash.as_str()).collect();
        hashes.sort_unstable();
        hashes.dedup();
        if hashes.len() > 1 {
            let each = finished.iter().map(|(slot, finished)| format!("w{slot} {}", &finished.weights_hash));
            let message = format!("workers ended with different weights: {}", each.collect::<Vec<_>>().join(", "));
            return self.fail(reasons::WEIGHTS_DIFFER, message);
        }
        let evaluated = finished.values().find(|finished| finished.held_out_loss.is_some()).or(finished.values().next());
        let Some(evaluated) = evaluated.cloned() else { return };
        let count = finished.len();
        self.take_progress();
        self.plan.status.result = Some(RunResult {
            weights_hash: evaluated.weights_hash.clone(),
            held_out_loss: evaluated.held_out_loss,
            numerics_class: evaluated.numerics_class.clone(),
        });
        let message = format!("{count} workers ended after step {} with one hash", evaluated.step);
        self.end(types::COMPLETE, reasons::FINISHED, message);
    }

    fn fail(&mut self, reason: &str, message: String) {
        self.end(types::FAILED, reason, message);
    }

    fn end(&mut self, kind: &str, reason: &str, message: String) {
        self.conditions.set(kind, true, reason, message);
        self.conditions.set(types::PROGRESSING, false, reasons::ENDED, "");
        self.plan.status.completion_time = Some(Time(self.observed.now));
    }

    /// What the run says now, or what held when it was admitted.
    fn run_policy(&self) -> RunPolicy {
        self.run.spec.run_policy.clone().or_else(|| self.plan.status.run_policy.clone()).unwrap_or_default()
    }

    fn deadline(&mut self) {
        let policy = self.run_policy();
        let Some(deadline) = policy.active_deadline_seconds else { return };
        if self.run.spec.suspend || self.conditions.is(types::SUSPENDED) || self.plan.status.start_time.is_none() {
            return;
        }
        let active = self.active_seconds();
        let left = i64::from(deadline) - active;
        if left <= 0 {
            self.fail(reasons::DEADLINE_EXCEEDED, format!("it was active for {active} s of {deadline} s that it may be"));
        } else {
            self.look_again(Duration::from_secs(left.unsigned_abs()));
        }
    }

    /// Rules of the failure policy that a Job does not know.
    fn policy(&mut self) {
        let Some(policy) = self.run.spec.failure_policy.clone() else { return };
        let failures = self.workers.failures.clone();
        for failure in &failures {
            let fits = |rule: &&atoll_crds::spec::FailureRule| {
                let code =
                    rule.on_exit_codes.as_ref().is_some_and(|codes| failure.exit_code.is_some_and(|code| codes.contains(&code)));
                code || rule.on_reason.as_ref().is_some_and(|reason| *reason == failure.reason)
            };
            match policy.rules.iter().find(fits).map(|rule| rule.action) {
                Some(FailureAction::FailRun) => {
                    return self.fail(reasons::FAILURE_POLICY, format!("the failure policy says so; {failure}"));
                }
                // Once for each failure: whoever resumes has seen it.
                Some(FailureAction::SuspendRun) if !self.run.spec.suspend && self.is_new(failure.at) => {
                    self.note(Note::warning(
                        reasons::FAILURE_POLICY,
                        format!("suspended, as the failure policy says; {failure}"),
                    ));
                    self.plan.suspend = true;
                }
                _ => {}
            }
        }
    }

    /// Whether something happened in the present attempt.
    fn is_new(&self, at: i64) -> bool {
        let resumed = self.conditions.get(types::SUSPENDED).filter(|condition| condition.reason == reasons::RESUMED);
        resumed.is_none_or(|condition| condition.last_transition_time.0.as_second() < at)
    }

    /// Nothing is left to train: pods that are left go, and the object with them when its time has come.
    pub(super) fn over(&mut self) {
        let ended = self.observed.job.is_some_and(|job| job.is("Complete") || job.is("Failed"));
        if self.running_job().is_some() && !ended {
            let end = self.plan.status.completion_time.as_ref().map_or(0, |end| end.0.as_second());
            let left = LAST_PODS - (self.observed.now.as_second() - end);
            if self.conditions.is(types::COMPLETE) && left > 0 {
                // The Job is about to be complete too; its pods stay, for whoever wants to read their logs.
                self.look_again(Duration::from_secs(left.unsigned_abs()));
            } else {
                let attempt = self.attempt();
                self.change_job(true, attempt);
            }
        }
        if self.run.finalizers().iter().any(|found| found == names::FINALIZER) {
            self.plan.finalizer = Some(false);
        }
        let policy = self.run_policy();
        let (Some(ttl), Some(end)) = (policy.ttl_seconds_after_finished, &self.plan.status.completion_time) else { return };
        let left = i64::from(ttl) - (self.observed.now.as_second() - end.0.as_second());
        if left <= 0 {
            self.plan.delete = true;
        } else {
            self.look_again(Duration::from_secs(left.unsigned_abs()));
        }
    }
}
