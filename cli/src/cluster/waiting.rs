//! Why a run does not go on, from its conditions: the first that stands in the way, then what else a person should know.

use atoll_crds::status::TrainingRunStatus;
use serde::Serialize;

use super::text::plain;

/// Conditions in the order in which a run reaches them.
const ON_THE_WAY: [&str; 4] = ["Admitted", "Placed", "QuorumReached", "Progressing"];

/// A condition that a person should know of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cause {
    /// Type of the condition; empty where the run has none yet.
    pub(super) condition: String,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.condition.is_empty() {
            write!(out, "{} {}, {}", self.condition, self.status, self.reason)?;
            if !self.message.is_empty() {
                write!(out, ": ")?;
            }
        }
        write!(out, "{}", self.message)
    }
}

/// What stands in the way of a run, and what it lacks. Empty for one that goes on as it should, or is complete.
pub(super) fn causes(status: Option<&TrainingRunStatus>) -> Vec<Cause> {
    let Some(status) = status.filter(|status| !status.conditions.is_empty()) else {
        let message =
            "no operator has looked at it yet: kubectl get pods --all-namespaces --selector app.kubernetes.io/name=atoll";
        let none = || String::new();
        return vec![Cause { condition: none(), status: none(), reason: none(), message: message.into() }];
    };
    let has = |kind: &str, value: &str| {
        let found = status.conditions.iter().find(|condition| condition.type_ == kind && condition.status == value)?;
        Some(Cause {
            condition: found.type_.clone(),
            status: found.status.clone(),
            reason: found.reason.clone(),
            message: plain(&found.message),
        })
    };
    if has("Complete", "True").is_some() {
        return Vec::new();
    }
    if let Some(failed) = has("Failed", "True") {
        return vec![failed];
    }
    let suspending = || has("Suspended", "False").filter(|reason| reason.reason == "Suspending");
    let first = has("Suspended", "True").or_else(suspending);
    let first = first.or_else(|| ON_THE_WAY.iter().find_map(|kind| has(kind, "False")));
    let stale = has("CheckpointFresh", "False").filter(|reason| reason.reason != "NoneYet");
    first.into_iter().chain(has("Degraded", "True")).chain(stale).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A status with these conditions: type, status, reason, message.
    pub(in crate::cluster) fn status(conditions: &[(&str, &str, &str, &str)]) -> TrainingRunStatus {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status, reason, message)| {
                json!({
                    "type": kind, "status": status, "reason": reason, "message": message,
                    "lastTransitionTime": "2026-11-28T12:00:00Z",
                })
            })
            .collect();
        serde_json::from_value(json!({ "conditions": conditions })).unwrap()
    }

    fn said(conditions: &[(&str, &str, &str, &str)]) -> Vec<String> {
        causes(Some(&status(conditions))).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_condition_on_the_way_that_is_false_is_why_it_waits() {
        let said = said(&[
            ("Progressing", "False", "Holding", "2 of 4"),
            ("Placed", "False", "Refused", "exceeded quota"),
            ("Admitted", "True", "RuntimeSnapshotted", ""),
        ]);
        assert_eq!(said, ["Placed False, Refused: exceeded quota"]);
    }

    #[test]
    fn a_run_that_goes_on_tells_what_it_lacks() {
        let said = said(&[
            ("Progressing", "True", "Training", ""),
            ("Degraded", "True", "WorkersMissing", "3 of 4"),
            ("CheckpointFresh", "False", "Stale", "12 rounds"),
        ]);
        assert_eq!(said, ["Degraded True, WorkersMissing: 3 of 4", "CheckpointFresh False, Stale: 12 rounds"]);
    }

    #[test]
    fn suspension_comes_before_what_follows_from_it_and_the_end_before_all() {
        let suspended = ("Suspended", "True", "Suspended", "it goes on from the checkpoint of round 4");
        let stopped = ("Progressing", "False", "Suspended", "");
        assert_eq!(said(&[stopped, suspended]), ["Suspended True, Suspended: it goes on from the checkpoint of round 4"]);
        assert_eq!(said(&[stopped, ("Failed", "True", "DeadlineExceeded", "")]), ["Failed True, DeadlineExceeded"]);
        assert!(said(&[stopped, ("Complete", "True", "Finished", "")]).is_empty());
        assert!(causes(None)[0].to_string().starts_with("no operator has looked at it yet"));
    }
}
