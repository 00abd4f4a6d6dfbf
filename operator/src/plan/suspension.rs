//! A run that is to give its workers back, or to go for good: a checkpoint is made first.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::Planning;
use crate::conditions::{reasons, types};
use crate::names;

/// Seconds that a checkpoint before a suspension may take.
const SUSPENSION: i64 = 300;
/// Seconds that a checkpoint before a deletion may take: nobody may hold an object for long.
const DELETION: i64 = 25;
/// When to look again whether it is there.
const AGAIN: Duration = Duration::from_secs(2);

impl Planning<'_> {
    pub(super) fn suspend(&mut self) {
        let Some(_) = self.running_job() else { return self.suspended() };
        self.take_progress();
        self.freshness();
        if self.conditions.reason(types::SUSPENDED) != reasons::SUSPENDING {
            self.conditions.set(types::SUSPENDED, true, reasons::SUSPENDING, "");
            self.conditions.set(types::SUSPENDED, false, reasons::SUSPENDING, "a checkpoint is made first");
        }
        let since = self.conditions.get(types::SUSPENDED).map(|condition| condition.last_transition_time.0);
        let attempt = self.attempt();
        if self.waits_for_checkpoint(since, SUSPENSION) {
            return self.serve(attempt);
        }
        self.plan.memory.keep_round = None;
        self.change_job(true, attempt);
    }

    fn suspended(&mut self) {
        if !self.conditions.is(types::SUSPENDED) {
            self.plan.status.active_seconds = self.plan.status.start_time.as_ref().map(|_| self.active_seconds());
        }
        let message = match (&self.run.spec.checkpoint, &self.plan.status.last_checkpoint) {
            (Some(_), Some(last)) => format!("it goes on from the checkpoint of round {}", last.round),
            (_, None) | (None, _) if self.attempt() == 0 => "nothing was started yet".to_owned(),
            (Some(_), None) => "it begins anew: no checkpoint was made".to_owned(),
            (None, _) => "it begins anew: the run keeps no checkpoints".to_owned(),
        };
        self.conditions.set(types::SUSPENDED, true, reasons::SUSPENDED, message);
        self.conditions.set(types::PROGRESSING, false, reasons::SUSPENDED, "");
    }

    /// Seconds for which the run was active, suspensions left out.
    pub(super) fn active_seconds(&self) -> i64 {
        let before = self.plan.status.active_seconds.unwrap_or(0);
        let resumed = self.conditions.get(types::SUSPENDED).filter(|condition| condition.reason == reasons::RESUMED);
        let since = resumed.map(|condition| condition.last_transition_time.0);
        let since = since.or(self.plan.status.start_time.as_ref().map(|start| start.0));
        before + since.map_or(0, |since| self.observed.now.as_second() - since.as_second())
    }

    /// The object is being deleted; only the finalizer keeps it.
    pub(super) fn deleting(&mut self) {
        if !self.run.finalizers().iter().any(|found| found == names::FINALIZER) {
            return;
        }
        let skips = self.run.annotations().get(names::SKIP_CHECKPOINT).is_some_and(|value| value == "true");
        let since = self.run.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        if !skips && !self.is_over() && self.running_job().is_some() {
            self.take_progress();
            if self.waits_for_checkpoint(since, DELETION) {
                let attempt = self.attempt();
                return self.serve(attempt);
            }
        }
        self.plan.finalizer = Some(false);
    }

    /// Whether a checkpoint of all that was trained on is still to come. It is not where there is nothing new, where the run
    /// keeps none, and where it has taken too long.
    fn waits_for_checkpoint(&mut self, since: Option<Timestamp>, patience: i64) -> bool {
        let round = self.observed.heard.progress.as_ref().map_or(0, |(progress, _)| progress.round);
        let kept = self.plan.status.last_checkpoint.as_ref().map_or(0, |last| last.round.unsigned_abs());
        if self.run.spec.checkpoint.is_none() || round == 0 || self.workers.alive == 0 {
            return false;
        }
        let wanted = *self.plan.memory.keep_round.get_or_insert(round);
        let waited = since.map_or(0, |since| self.observed.now.as_second() - since.as_second());
        if kept >= wanted || waited >= patience {
            return false;
        }
        self.look_again(AGAIN);
        true
    }
}
