//! What a run was admitted with: its runtime as it was then, and the files that its pods read.

use atoll_crds::runtime::Runtime;
use atoll_crds::spec::{FailurePolicy, RunPolicy, TrainingRun, TrainingRunSpec};
use kube::ResourceExt;
use serde_json::json;

use super::pod::{self, PodParts};
use super::{DataError, Inputs, Object, Surroundings};
use crate::names;

/// Key of the runtime in the `ConfigMap`.
const RUNTIME: &str = "runtime.json";

/// A runtime that pods can be made from, and what the run's data needs of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The runtime as it was when the run was admitted.
    pub runtime: Runtime,
    pub(super) parts: PodParts,
    pub(super) inputs: Inputs,
}

/// Why no pod can be made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A part of the runtime is not what Kubernetes takes.
    #[error("spec.{field} of the runtime: {source}")]
    Part {
        /// Path of the field.
        field: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// What the run asks for its trainers is not what Kubernetes takes.
    #[error("spec.workers.resources of the run: {0}")]
    Resources(serde_json::Error),
    /// The data or the model cannot be brought to a pod.
    #[error(transparent)]
    Data(#[from] DataError),
    /// What was kept cannot be read.
    #[error("the runtime that was kept for the run cannot be read: {0}")]
    Kept(serde_json::Error),
    /// It is not there.
    #[error("ConfigMap {0} has no runtime in it")]
    Missing(String),
}

impl Snapshot {
    /// A snapshot of `runtime` for `run`.
    ///
    /// # Errors
    /// Which field of either cannot be used.
    pub fn new(run: &TrainingRun, runtime: Runtime) -> Result<Self, SnapshotError> {
        Ok(Self { parts: pod::parts(&run.spec, &runtime)?, inputs: Inputs::of(&run.spec)?, runtime })
    }

    /// What was kept in the `ConfigMap` of `run`.
    ///
    /// # Errors
    /// It is no snapshot.
    pub fn kept(run: &TrainingRun, data: &std::collections::BTreeMap<String, String>) -> Result<Self, SnapshotError> {
        let text = data.get(RUNTIME).ok_or_else(|| SnapshotError::Missing(names::snapshot(&run.name_any())))?;
        Self::new(run, serde_json::from_str(text).map_err(SnapshotError::Kept)?)
    }

    /// The run's policy, or its runtime's.
    #[must_use]
    pub fn run_policy(&self, spec: &TrainingRunSpec) -> RunPolicy {
        spec.run_policy.clone().or_else(|| self.runtime.run_policy.clone()).unwrap_or_default()
    }

    /// The run's failure policy, or its runtime's.
    #[must_use]
    pub fn failure_policy(&self, spec: &TrainingRunSpec) -> FailurePolicy {
        spec.failure_policy.clone().or_else(|| self.runtime.failure_policy.clone()).unwrap_or_default()
    }
}

/// The `ConfigMap` with the runtime, the spec as trainers read it, and the roots of the hub.
#[must_use]
pub fn snapshot_map(run: &TrainingRun, snapshot: &Snapshot, around: &Surroundings) -> Object {
    let spec = snapshot.inputs.rewritten(&run.spec);
    let content = json!({
        "data": {
            RUNTIME: json!(snapshot.runtime).to_string(),
            "spec.json": json!(spec).to_string(),
            "hub.pem": around.hub_roots,
        },
    });
    Object::of(run, ("", "v1", "ConfigMap", "configmaps"), names::snapshot(&run.name_any()), &content)
}
