//! A checkpoint of a run, as an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kubernetes::conditions;
use crate::rule::{Structural, rule};
use crate::spec::SecretRef;

/// One checkpoint that a run has published; deleted with the checkpoint by the run's own retention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, kube::CustomResource)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "TrainingCheckpoint",
    doc = "One checkpoint that a run has published; made by the operator.",
    plural = "trainingcheckpoints",
    shortname = "tckpt",
    category = "training",
    label("app.kubernetes.io/part-of", "atoll"),
    namespaced,
    derive = "PartialEq",
    status = "TrainingCheckpointStatus",
    selectable = ".spec.run",
    printcolumn(name = "Run", type_ = "string", json_path = ".spec.run"),
    printcolumn(name = "Round", type_ = "integer", json_path = ".spec.round"),
    printcolumn(name = "Step", type_ = "integer", json_path = ".spec.step"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".spec.bytes"),
    printcolumn(name = "Verified", type_ = "string", json_path = ".status.conditions[?(@.type=='Verified')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Place", type_ = "string", json_path = ".spec.place", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = Structural, extend("x-kubernetes-validations" = [
    rule("self == oldSelf", "the spec of a checkpoint cannot be changed; a checkpoint is what was published", ""),
]))]
pub struct TrainingCheckpointSpec {
    /// Name of the run.
    #[schemars(length(min = 1, max = 40))]
    pub run: String,
    /// Folder of the run's checkpoints.
    #[schemars(length(min = 1, max = 2048))]
    pub uri: String,
    /// The checkpoint in it, as its folder is called.
    #[schemars(length(min = 1, max = 128))]
    pub place: String,
    /// Secret with the credentials of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Committed rounds in it.
    #[schemars(range(min = 0))]
    pub round: i64,
    /// Inner steps of each worker in them.
    #[schemars(range(min = 0))]
    pub step: i64,
    /// BLAKE3 of its manifest.
    #[schemars(length(min = 1, max = 64))]
    pub digest: String,
    /// Bytes of all its files.
    #[schemars(range(min = 0))]
    pub bytes: i64,
}

/// What is known of a checkpoint beside its content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = Structural)]
pub struct TrainingCheckpointStatus {
    /// When it was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Verified: whether its files are there, with the sizes and hashes that its manifest names.
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}
