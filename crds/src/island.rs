//! Workers of one run that are placed together.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kubernetes::conditions;
use crate::rule::{Structural, rule};

/// Workers of one run that are placed together in one cluster: the operator's object, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, kube::CustomResource)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "TrainingIsland",
    doc = "Workers of one run that are placed together in one cluster; made by the operator.",
    plural = "trainingislands",
    shortname = "tisland",
    category = "training",
    label("app.kubernetes.io/part-of", "atoll"),
    namespaced,
    derive = "PartialEq",
    status = "TrainingIslandStatus",
    selectable = ".spec.run",
    printcolumn(name = "Run", type_ = "string", json_path = ".spec.run"),
    printcolumn(name = "Workers", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.ready"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = Structural, extend("x-kubernetes-validations" = [
    rule("self.run == oldSelf.run", "run cannot be changed; an island belongs to one run", ".run"),
    rule("self.island == oldSelf.island", "island cannot be changed; certificates have it", ".island"),
    rule("self.generation >= oldSelf.generation", "generation must not go down", ".generation"),
]))]
pub struct TrainingIslandSpec {
    /// Name of the run.
    #[schemars(length(min = 1, max = 40))]
    pub run: String,
    /// Name of the island in the run, as certificates have it.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub island: String,
    /// Slot of its first worker; the others follow it.
    #[schemars(range(min = 0, max = 65_535))]
    pub first_slot: i32,
    /// Workers that it is to have.
    #[schemars(range(min = 0, max = 256))]
    pub replicas: i32,
    /// Counts the versions of the island, written by the hub alone.
    #[schemars(range(min = 0))]
    pub generation: i64,
    /// BLAKE3 of the pod template.
    #[schemars(length(max = 64))]
    pub template_hash: String,
}

/// What the cluster of an island says of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = Structural)]
pub struct TrainingIslandStatus {
    /// The generation of the island that this status answers.
    #[schemars(range(min = 0))]
    pub generation: i64,
    /// Workers whose pods are ready.
    #[schemars(range(min = 0))]
    pub ready: i32,
    /// One word for people: Applied, Running, Ended or Refused.
    #[schemars(length(max = 32))]
    pub phase: String,
    /// Applied: whether the cluster took the island's objects.
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}
