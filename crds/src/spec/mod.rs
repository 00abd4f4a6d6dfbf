//! The fields of a `TrainingRun`.
//!
//! One struct or enum per concept, camelCase in YAML. Ranges and lengths are attributes of the fields, rules between fields
//! are CEL; the manifest made from both is what the API server and the validation of run files apply. A value that passed has
//! exactly one member in every union, so unions are plain enums here. Doc comments become the descriptions in the CRD.

mod checkpoint;
mod dataset;
mod divergence;
mod evaluation;
mod method;
mod model;
mod optimizer;
mod placement;
mod policy;
mod reduction;
mod rounds;
mod rules;
mod workers;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    checkpoint::{Checkpoint, SecretRef},
    dataset::{Dataset, DatasetSource, Tokenizer},
    divergence::{Divergence, DivergencePolicy},
    evaluation::Evaluation,
    method::{DiLoCo, FedAvg, Method},
    model::{Architecture, Llama, Model, Objective},
    optimizer::{AdamW, Algorithm, Optimizer, Schedule, Sgd},
    placement::{LabelSelector, Members, Placement, RuntimeKind, RuntimeRef, Volunteers},
    policy::{FailureAction, FailurePolicy, FailureRule, RunPolicy},
    reduction::{Codec, Reduction},
    rounds::{Quorum, Rounds, StragglerPolicy},
    workers::Workers,
};
use crate::rule::Structural;

/// Fields below the spec that only a cluster reads; a local run accepts them and lists them as unused.
pub(crate) const CLUSTER_ONLY: [&str; 13] = [
    "runtimeRef",
    "placement",
    "suspend",
    "managedBy",
    "runPolicy",
    "failurePolicy",
    "workers.resources",
    "dataset.source.secretRef",
    "dataset.source.digest",
    "dataset.tokenizer.file.secretRef",
    "dataset.tokenizer.file.digest",
    "model.source.secretRef",
    "model.source.digest",
];

/// What to train, on what, how, and with how many workers; a field that may be changed while the run goes says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "atoll.dev",
        version = "v1alpha1",
        kind = "TrainingRun",
        doc = "One training run: a model, its data, a method, and the workers that train it together.",
        plural = "trainingruns",
        shortname = "trun",
        category = "training",
        label("app.kubernetes.io/part-of", "atoll"),
        namespaced,
        derive = "PartialEq",
        status = "crate::status::TrainingRunStatus",
        scale(
            spec_replicas_path = ".spec.workers.target",
            status_replicas_path = ".status.workers.ready",
            label_selector_path = ".status.selector"
        ),
        selectable = ".status.phase",
        validation = kube::core::Rule::new("size(self.metadata.name) <= 40")
            .message("the name must have at most 40 characters, because names of workers are made from it"),
        validation = kube::core::Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
            .message("the name must begin with a letter, end with a letter or digit, and have only a-z, 0-9 and - in it"),
        printcolumn(name = "State", type_ = "string", json_path = ".status.phase"),
        printcolumn(name = "Workers", type_ = "string", json_path = ".status.workers.summary"),
        printcolumn(name = "Round", type_ = "integer", json_path = ".status.progress.round"),
        printcolumn(name = "Loss", type_ = "string", json_path = ".status.progress.lossText"),
        printcolumn(name = "Done", type_ = "integer", json_path = ".status.progress.percent"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
        printcolumn(name = "Checkpoint", type_ = "integer", json_path = ".status.lastCheckpoint.round", priority = 1),
        printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt", priority = 1),
        printcolumn(
            name = "Reason",
            type_ = "string",
            json_path = ".status.conditions[?(@.type=='Progressing')].reason",
            priority = 1
        )
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = Structural, extend("x-kubernetes-validations" = rules::of_spec()))]
pub struct TrainingRunSpec {
    /// Template of images and resources that a cluster uses for the workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_ref: Option<RuntimeRef>,
    /// Whether the workers are given back, after a checkpoint where the run keeps any; false lets it go on. May be changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// Controller that is responsible for the run where it is not Atoll's own, such as kueue.x-k8s.io/multikueue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub managed_by: Option<String>,
    /// Seeds the initial weights and the order of the data.
    #[serde(default)]
    pub seed: u64,
    /// What is trained: a new model of a given shape, or one from a folder.
    pub model: Model,
    /// What the model learns to do.
    #[serde(default)]
    pub objective: Objective,
    /// The text to learn from, and how it becomes tokens.
    pub dataset: Dataset,
    /// The optimizer that each worker runs between synchronisations.
    pub optimizer: Optimizer,
    /// How the workers' models become one.
    pub method: Method,
    /// How the workers' vectors are added up, as numbers.
    #[serde(default)]
    pub reduction: Reduction,
    /// How many workers train, and what each of them does in one step.
    pub workers: Workers,
    /// Which clusters and volunteers may train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Who must take part in a round, and how long the others wait.
    #[serde(default)]
    pub rounds: Rounds,
    /// Where and how often the state is kept; when unset, it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// What becomes of it when its loss is no number any more, or leaps; when unset, a worker whose loss is no number ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// How long the run may take, and how long it stays after its end. May be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicy>,
    /// What happens when a worker's pod fails. May be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicy>,
    /// When the run is complete.
    pub stop: Stop,
    /// How the model is measured on text that it does not train on.
    #[serde(default)]
    pub evaluation: Evaluation,
}

/// When the run is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    /// Inner optimizer steps of each worker.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub steps: u64,
}
