//! What a cluster does with a run that takes long, fails, or has ended. Local runs do not read these fields.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rule::rule;

/// How long a run may take, and how long it stays after its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunPolicy {
    /// Seconds from its start, times of suspension left out, after which the run fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub active_deadline_seconds: Option<u32>,
    /// Seconds from its end after which the run is deleted; when unset, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<u32>,
}

/// What happens when a worker's pod fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailurePolicy {
    /// Times that the pod of one worker is replaced; evictions and lost nodes are not counted.
    #[serde(default = "restarts")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_restarts_per_worker: u32,
    /// What other failures than a restart deserve; the first rule that fits counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<FailureRule>,
}

impl Default for FailurePolicy {
    fn default() -> Self {
        Self { max_restarts_per_worker: restarts(), rules: Vec::new() }
    }
}

/// Failures of a worker, and what they lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "has(self.onExitCodes) != has(self.onReason)",
    "give exactly one of onExitCodes, onReason",
    ".onExitCodes",
)]))]
pub struct FailureRule {
    /// Exit codes of the trainer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(range(min = 1, max = 255)), extend("x-kubernetes-list-type" = "atomic"))]
    pub on_exit_codes: Option<Vec<i32>>,
    /// Reason that Kubernetes gives for the failed container or pod, such as OOMKilled or Evicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub on_reason: Option<String>,
    /// What happens.
    pub action: FailureAction,
}

/// What a failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureAction {
    /// The worker's pod is replaced and the run goes on meanwhile; it is counted.
    RestartWorker,
    /// The same, and it is not counted.
    Ignore,
    /// The worker is not replaced; the run goes on with the others.
    EvictWorker,
    /// The run is suspended, for a human to look at.
    SuspendRun,
    /// The run fails.
    FailRun,
}

fn restarts() -> u32 {
    10
}
