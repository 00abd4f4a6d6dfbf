//! Labels, annotations, and names of objects: every one of them, in one place.

/// Label with the name of the run, on everything that is made for it.
pub const RUN: &str = "atoll.dev/run";
/// Label with the name of the island.
pub const ISLAND: &str = "atoll.dev/island";
/// Annotation of a Job: BLAKE3 of what it was made from.
pub const TEMPLATE: &str = "atoll.dev/template";
/// Annotation of a Job: the attempt that its pods belong to.
pub const ATTEMPT: &str = "atoll.dev/attempt";
/// Annotation of a run: "true" has it deleted without a last checkpoint.
pub const SKIP_CHECKPOINT: &str = "atoll.dev/skip-checkpoint";
/// Annotation of a run: a checkpoint of this or a later round is wanted, whoever asks.
pub const CHECKPOINT: &str = "atoll.dev/checkpoint-round";
/// Finalizer of a run that is to be kept once more before it goes.
pub const FINALIZER: &str = "atoll.dev/last-checkpoint";
/// Kueue's label with the queue of a Job.
pub const QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// Kueue's label with the priority of a Job.
pub const PRIORITY: &str = "kueue.x-k8s.io/priority-class";
/// Value of `managedBy` that names this operator.
pub const OPERATOR: &str = "atoll.dev/operator";
/// Manager of the fields that the operator applies, and the controller that its events name.
pub const MANAGER: &str = "atoll-operator";
/// Annotation of Kubernetes with a pod's index in its Job.
pub const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Name of the one island of a run that is placed in one cluster.
pub const LOCAL_ISLAND: &str = "local";

/// What the token of a pod must be for.
#[must_use]
pub fn audience(uid: &str) -> String {
    format!("run.atoll.dev/{uid}")
}

/// Name of the Job of an island.
#[must_use]
pub fn job(run: &str) -> String {
    format!("{run}-{LOCAL_ISLAND}")
}

/// Name of the `ConfigMap` with the runtime as it was when the run was admitted, and all that pods read.
#[must_use]
pub fn snapshot(run: &str) -> String {
    format!("{run}-run")
}

/// Labels of everything that belongs to a run.
#[must_use]
pub fn labels(run: &str) -> std::collections::BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "atoll"),
        ("app.kubernetes.io/component", "worker"),
        ("app.kubernetes.io/part-of", "atoll"),
        ("app.kubernetes.io/managed-by", MANAGER),
        ("app.kubernetes.io/instance", run),
        (RUN, run),
        (ISLAND, LOCAL_ISLAND),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Selects what belongs to a run.
#[must_use]
pub fn selector(run: &str) -> String {
    format!("{RUN}={run}")
}
