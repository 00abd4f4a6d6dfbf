//! What the operator says of a run.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kubernetes::conditions;

/// What the operator has seen of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::rule::Structural)]
pub struct TrainingRunStatus {
    /// The generation of the spec that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// One word for people, made from the conditions: Pending, Starting, Running, Holding, Suspending, Suspended, Complete or Failed.
    #[schemars(length(max = 32))]
    pub phase: String,
    /// Admitted, Placed, QuorumReached, Progressing, Degraded, CheckpointFresh, Suspended, Complete and Failed.
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// When the run was admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it was complete or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Seconds before the last suspension that count for the deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub active_seconds: Option<i64>,
    /// Times that all of it began: again after each suspension, and where all state was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub attempt: Option<i64>,
    /// Counts of workers.
    pub workers: WorkersStatus,
    /// How far the training is; written at most every 5 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The newest checkpoint that is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<LastCheckpoint>,
    /// What the run ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,
    /// The run's policy, or its runtime's, as it was when the run was admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<crate::spec::RunPolicy>,
    /// ConfigMap with the runtime as it was when the run was admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub runtime_snapshot: Option<String>,
    /// Selects the pods of the run's workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,
}

impl TrainingRunStatus {
    /// A condition, where it was ever set.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == kind)
    }

    /// Whether a condition is true.
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|condition| condition.status == "True")
    }
}

/// Counts of workers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkersStatus {
    /// Those that the run is to have.
    #[schemars(range(min = 0))]
    pub desired: i32,
    /// Those whose pods are running and ready.
    #[schemars(range(min = 0))]
    pub ready: i32,
    /// Those that took part in the last committed round.
    #[schemars(range(min = 0))]
    pub training: i32,
    /// Those that have done their last round.
    #[schemars(range(min = 0))]
    pub finished: i32,
    /// Pods that failed since the start of the run.
    #[schemars(range(min = 0))]
    pub failed: i32,
    /// Ready of desired, for people, as in 3/4.
    #[schemars(length(max = 32))]
    pub summary: String,
}

/// How far the training is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// Version of the membership.
    #[schemars(range(min = 0))]
    pub epoch: i64,
    /// Name of the worker whose sidecar coordinates.
    #[schemars(length(max = 63))]
    pub coordinator: String,
    /// Committed rounds.
    #[schemars(range(min = 0))]
    pub round: i64,
    /// Inner steps of each worker in them.
    #[schemars(range(min = 0))]
    pub step: i64,
    /// Tokens that were trained on in them.
    #[schemars(range(min = 0))]
    pub tokens: i64,
    /// Mean training loss of the last, in nats per token.
    pub loss: f64,
    /// The same with four digits, for people.
    #[schemars(length(max = 32))]
    pub loss_text: String,
    /// Tokens per second, over the last minutes.
    pub tokens_per_second: f64,
    /// Share of the steps that are done, in percent.
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
    /// Seconds until the last step, at the pace of the last minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub remaining_seconds: Option<i64>,
    /// When a round was committed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}

/// The newest checkpoint that is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LastCheckpoint {
    /// Its folder in the run's folder.
    #[schemars(length(max = 128))]
    pub place: String,
    /// Committed rounds in it.
    #[schemars(range(min = 0))]
    pub round: i64,
    /// BLAKE3 of its manifest.
    #[schemars(length(max = 64))]
    pub digest: String,
    /// When it was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}

/// What a run ended with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunResult {
    /// BLAKE3 of the final weights, the same on all workers.
    #[schemars(length(max = 64))]
    pub weights_hash: String,
    /// Mean loss on text that was not trained on, in nats per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    /// Binary, CPU features and threads, within which the same file gives the same weights.
    #[schemars(length(max = 256))]
    pub numerics_class: String,
}
