//! Types and reasons of conditions, and how a condition changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Types of a run's conditions.
pub mod types {
    /// The run was taken, with a snapshot of its runtime.
    pub const ADMITTED: &str = "Admitted";
    /// The cluster has taken the objects of its workers.
    pub const PLACED: &str = "Placed";
    /// Enough workers have joined for a first round.
    pub const QUORUM_REACHED: &str = "QuorumReached";
    /// Rounds are committed.
    pub const PROGRESSING: &str = "Progressing";
    /// It goes on with fewer workers than it is to have.
    pub const DEGRADED: &str = "Degraded";
    /// The newest checkpoint is as new as it is to be.
    pub const CHECKPOINT_FRESH: &str = "CheckpointFresh";
    /// Its workers were given back.
    pub const SUSPENDED: &str = "Suspended";
    /// It has done its last step; for ever.
    pub const COMPLETE: &str = "Complete";
    /// It cannot go on; for ever.
    pub const FAILED: &str = "Failed";
    /// A runtime: pods can be made from it.
    pub const USABLE: &str = "Usable";
    /// An island: the cluster has taken its objects.
    pub const APPLIED: &str = "Applied";
    /// A checkpoint: its files are there.
    pub const VERIFIED: &str = "Verified";
}

/// Reasons: each is in the user guide.
pub mod reasons {
    /// The runtime was kept for the run.
    pub const RUNTIME_SNAPSHOTTED: &str = "RuntimeSnapshotted";
    /// The run names no runtime that exists.
    pub const RUNTIME_NOT_FOUND: &str = "RuntimeNotFound";
    /// No pod can be made from the runtime.
    pub const RUNTIME_INVALID: &str = "RuntimeInvalid";
    /// The API server has taken all objects.
    pub const APPLIED: &str = "Applied";
    /// It has refused one; the message says why.
    pub const REFUSED: &str = "Refused";
    /// Nothing was made yet.
    pub const PENDING: &str = "Pending";
    /// Pods are starting, or wait for a place.
    pub const WAITING_FOR_WORKERS: &str = "WaitingForWorkers";
    /// A pod waits for its image.
    pub const IMAGE_UNAVAILABLE: &str = "ImageUnavailable";
    /// A Secret, `ConfigMap` or volume that a pod needs is not there.
    pub const VOLUME_UNAVAILABLE: &str = "VolumeUnavailable";
    /// No node has room for a pod.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// The folder of checkpoints cannot be used.
    pub const STORE_UNAVAILABLE: &str = "StoreUnavailable";
    /// The first round can begin, or has.
    pub const JOINED: &str = "Joined";
    /// Rounds are committed.
    pub const TRAINING: &str = "Training";
    /// Fewer workers are left than a round needs.
    pub const HOLDING: &str = "Holding";
    /// All state was lost: it begins again.
    pub const RESTARTING: &str = "Restarting";
    /// Somebody set `suspend`.
    pub const SUSPENDED: &str = "Suspended";
    /// A checkpoint is made before it is.
    pub const SUSPENDING: &str = "Suspending";
    /// Who grants terms is stored otherwise than the operator left it.
    pub const RECORD_NOT_OURS: &str = "RecordNotOurs";
    /// It is not.
    pub const RESUMED: &str = "Resumed";
    /// All workers take part.
    pub const ALL_WORKERS: &str = "AllWorkers";
    /// Some do not.
    pub const WORKERS_MISSING: &str = "WorkersMissing";
    /// The last checkpoint is new enough.
    pub const FRESH: &str = "Fresh";
    /// It is not.
    pub const STALE: &str = "Stale";
    /// There is none yet.
    pub const NONE_YET: &str = "NoneYet";
    /// The last try failed.
    pub const CHECKPOINT_FAILED: &str = "CheckpointFailed";
    /// The last step is done.
    pub const FINISHED: &str = "Finished";
    /// Workers failed too often.
    pub const WORKERS_FAILED: &str = "WorkersFailed";
    /// A rule of the failure policy says so.
    pub const FAILURE_POLICY: &str = "FailurePolicy";
    /// It took longer than it may.
    pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
    /// Workers ended with different weights.
    pub const WEIGHTS_DIFFER: &str = "WeightsDiffer";
    /// It began again too often.
    pub const STATE_LOST: &str = "StateLost";
    /// It has ended.
    pub const ENDED: &str = "Ended";
    /// What was published was read again.
    pub const PUBLISHED: &str = "Published";
}

/// Longest message of a condition, in bytes.
const LONGEST_MESSAGE: usize = 1024;

/// Conditions of one object, as they will be.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditions {
    list: Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl Conditions {
    /// The conditions that an object has, to be changed at `now` for this generation of its spec.
    #[must_use]
    pub fn new(list: Vec<Condition>, generation: Option<i64>, now: Timestamp) -> Self {
        Self { list, generation, now }
    }

    /// Whether a condition is true.
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        self.get(kind).is_some_and(|condition| condition.status == "True")
    }

    /// A condition.
    #[must_use]
    pub fn get(&self, kind: &str) -> Option<&Condition> {
        self.list.iter().find(|condition| condition.type_ == kind)
    }

    /// The reason of a condition; empty where there is none.
    #[must_use]
    pub fn reason(&self, kind: &str) -> &str {
        self.get(kind).map_or("", |condition| &condition.reason)
    }

    /// Sets a condition. Its transition time changes with its status alone; `Complete` and `Failed` never turn once they are true.
    pub fn set(&mut self, kind: &str, status: bool, reason: &str, message: impl Into<String>) {
        if matches!(kind, types::COMPLETE | types::FAILED) && self.is(kind) {
            return;
        }
        let message = shortened(message.into());
        let status = if status { "True" } else { "False" };
        let changed = Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: Time(self.now),
            observed_generation: self.generation,
        };
        match self.list.iter_mut().find(|condition| condition.type_ == kind) {
            Some(found) if found.status == changed.status => {
                *found = Condition { last_transition_time: found.last_transition_time.clone(), ..changed };
            }
            Some(found) => *found = changed,
            None => self.list.push(changed),
        }
    }

    /// All of them.
    #[must_use]
    pub fn into_list(self) -> Vec<Condition> {
        self.list
    }
}

fn shortened(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE - 4));
        message.push_str(" ...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_of_a_transition_is_the_statuss_and_not_the_messages() {
        let mut first = Conditions::new(Vec::new(), Some(1), at(1));
        first.set(types::PLACED, false, reasons::REFUSED, "quota");
        let mut second = Conditions::new(first.into_list(), Some(2), at(2));
        second.set(types::PLACED, false, reasons::REFUSED, "another quota");
        let kept = second.get(types::PLACED).unwrap().clone();
        assert_eq!(
            (kept.last_transition_time.0, kept.message.as_str(), kept.observed_generation),
            (at(1), "another quota", Some(2))
        );
        let mut third = Conditions::new(second.into_list(), Some(2), at(3));
        third.set(types::PLACED, true, reasons::APPLIED, "");
        assert_eq!(third.get(types::PLACED).unwrap().last_transition_time.0, at(3));
    }

    #[test]
    fn the_end_is_for_ever() {
        let mut conditions = Conditions::new(Vec::new(), None, at(1));
        conditions.set(types::FAILED, true, reasons::DEADLINE_EXCEEDED, "late");
        conditions.set(types::FAILED, false, reasons::TRAINING, "on again");
        assert!(conditions.is(types::FAILED));
        assert_eq!(conditions.reason(types::FAILED), reasons::DEADLINE_EXCEEDED);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let mut conditions = Conditions::new(Vec::new(), None, at(1));
        conditions.set(types::FAILED, true, reasons::WORKERS_FAILED, "\u{e9}".repeat(2000));
        let message = &conditions.get(types::FAILED).unwrap().message;
        assert!(message.len() <= LONGEST_MESSAGE && message.ends_with("\u{e9} ..."));
    }
}
