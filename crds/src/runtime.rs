//! What a platform team offers: templates of images, resources and pods.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kubernetes::{LABEL_VALUE, QUANTITY, conditions, named_list, opaque, opaque_list, resources};
use crate::rule::{Structural, rule};
use crate::spec::{FailurePolicy, RunPolicy};

/// What a platform team offers to all namespaces; a run keeps the template as it was when the run was admitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, kube::CustomResource)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "ClusterTrainingRuntime",
    doc = "A template of images, resources and pods that the platform offers to the runs of all namespaces.",
    plural = "clustertrainingruntimes",
    shortname = "ctruntime",
    category = "training",
    label("app.kubernetes.io/part-of", "atoll"),
    derive = "PartialEq",
    status = "RuntimeStatus",
    printcolumn(name = "Trainer", type_ = "string", json_path = ".spec.images.trainer"),
    printcolumn(name = "Usable", type_ = "string", json_path = ".status.conditions[?(@.type=='Usable')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = Structural)]
pub struct ClusterTrainingRuntimeSpec {
    /// The template.
    #[serde(flatten)]
    pub runtime: Runtime,
}

/// A template that is private to a namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, kube::CustomResource)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "TrainingRuntime",
    doc = "A template of images, resources and pods for the runs of its own namespace.",
    plural = "trainingruntimes",
    shortname = "truntime",
    category = "training",
    label("app.kubernetes.io/part-of", "atoll"),
    namespaced,
    derive = "PartialEq",
    status = "RuntimeStatus",
    printcolumn(name = "Trainer", type_ = "string", json_path = ".spec.images.trainer"),
    printcolumn(name = "Usable", type_ = "string", json_path = ".status.conditions[?(@.type=='Usable')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = Structural)]
pub struct TrainingRuntimeSpec {
    /// The template.
    #[serde(flatten)]
    pub runtime: Runtime,
}

/// A template of images, resources and pods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// Images of the two containers of a worker.
    pub images: Images,
    /// The container that trains.
    #[serde(default)]
    pub trainer: Container,
    /// The container beside it, which owns the network.
    #[serde(default)]
    pub sidecar: Container,
    /// What else the pods of workers have.
    #[serde(default)]
    pub pod: PodPatch,
    /// Deadlines of runs that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicy>,
    /// Failure policy of runs that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicy>,
}

/// Images of the two containers of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// Image of the trainer.
    #[schemars(length(min = 1, max = 512))]
    pub trainer: String,
    /// Image of the sidecar.
    #[schemars(length(min = 1, max = 512))]
    pub sidecar: String,
    /// When images are pulled; when unset, Kubernetes decides by the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// Names of Secrets with credentials of image registries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub pull_secrets: Vec<String>,
}

/// When images are pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// Where the node has none.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// What a container of a worker has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Requests and limits, as in any pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources")]
    pub resources: Option<serde_json::Value>,
    /// Environment variables, as in any pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "named_list")]
    pub env: Vec<serde_json::Value>,
}

/// What else the pods of workers have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    own_prefix("labels"),
    own_prefix("annotations"),
]))]
pub struct PodPatch {
    /// Labels of the pods, beside Atoll's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = { "type": "string", "maxLength": 63, "pattern": LABEL_VALUE }))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = { "type": "string", "maxLength": 4096 }))]
    pub annotations: BTreeMap<String, String>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = { "type": "string", "maxLength": 63, "pattern": LABEL_VALUE }))]
    pub node_selector: BTreeMap<String, String>,
    /// Tolerations, as in any pod; without any for them, pods leave nodes that are not ready or unreachable after 5 seconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "opaque_list")]
    pub tolerations: Vec<serde_json::Value>,
    /// Affinity, as in any pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "opaque")]
    pub affinity: Option<serde_json::Value>,
    /// Topology spread constraints, as in any pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "opaque_list")]
    pub topology_spread_constraints: Vec<serde_json::Value>,
    /// Priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub scheduler_name: Option<String>,
    /// Runtime class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// ServiceAccount of the pods; when unset, the namespace's default, whose token for the API server is not mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Seconds that a worker has to end in good order, and to finish a checkpoint; when unset, 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub termination_grace_period_seconds: Option<i64>,
    /// Most bytes of prepared data and checkpoints on the node, as a quantity such as 20Gi; when unset, the node's limit holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = QUANTITY))]
    pub scratch_size_limit: Option<String>,
}

/// What the operator says of a template.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = Structural)]
pub struct RuntimeStatus {
    /// The generation of the spec that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Usable: whether pods can be made from it.
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// The rule that a map of the pod's metadata leaves Atoll's own names alone.
fn own_prefix(field: &str) -> serde_json::Value {
    rule(
        &format!("!has(self.{field}) || self.{field}.all(name, !name.startsWith('atoll.dev/'))"),
        &format!("pod.{field} must have no name that begins with atoll.dev/, which are Atoll's own"),
        &format!(".{field}"),
    )
}
