//! Pods and Jobs as far as the operator reads them: of each object only this much is kept in memory.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::{Deserialize, Serialize};

/// The pod of a worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerPod {
    /// Its names and labels.
    pub metadata: ObjectMeta,
    /// Where it is.
    #[serde(default)]
    pub spec: PodSpec,
    /// What became of it.
    #[serde(default)]
    pub status: PodStatus,
}

/// Where a pod is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Its node.
    pub node_name: Option<String>,
}

/// What became of a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// Pending, Running, Succeeded, Failed or Unknown.
    pub phase: String,
    /// Why it failed as a whole.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// `PodScheduled`, `Ready`, `DisruptionTarget` and others.
    pub conditions: Vec<PodCondition>,
    /// The initializer and the sidecar.
    pub init_container_statuses: Vec<ContainerStatus>,
    /// The trainer.
    pub container_statuses: Vec<ContainerStatus>,
}

/// A condition of a pod or a Job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// Why.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
}

/// A container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Times that it was started again.
    pub restart_count: i32,
    /// What it is now.
    pub state: ContainerState,
}

/// What a container is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// It does not run yet.
    pub waiting: Option<Waiting>,
    /// It has ended.
    pub terminated: Option<Terminated>,
}

/// Why a container does not run yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// In one word.
    pub reason: Option<String>,
    /// For people.
    pub message: Option<String>,
}

/// How a container ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// Its exit code.
    pub exit_code: i32,
    /// In one word, such as `OOMKilled`.
    pub reason: Option<String>,
    /// The last that it said.
    pub message: Option<String>,
    /// When.
    pub finished_at: Option<Time>,
}

/// The Job of an island.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IslandJob {
    /// Its names and annotations.
    pub metadata: ObjectMeta,
    /// What it is to do.
    #[serde(default)]
    pub spec: JobSpec,
    /// What it has done.
    #[serde(default)]
    pub status: JobStatus,
}

/// What a Job is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSpec {
    /// It has no pods for the time being.
    pub suspend: Option<bool>,
    /// Pods that are to succeed.
    pub completions: Option<i32>,
}

/// What a Job has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    /// Pods that run or are about to.
    pub active: Option<i32>,
    /// Pods that are being deleted.
    pub terminating: Option<i32>,
    /// Pods that failed.
    pub failed: Option<i32>,
    /// Indexes that are not tried again, as in "1,3-5".
    pub failed_indexes: Option<String>,
    /// `Complete`, `Failed`, `Suspended` and others.
    pub conditions: Vec<PodCondition>,
}

impl Resource for WorkerPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Resource for IslandJob {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Job".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "batch".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "jobs".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl WorkerPod {
    /// Index of the pod in its Job.
    #[must_use]
    pub fn index(&self) -> Option<u32> {
        self.metadata.annotations.as_ref()?.get(crate::names::COMPLETION_INDEX)?.parse().ok()
    }

    /// Whether a condition is true.
    #[must_use]
    pub fn is(&self, condition: &str) -> bool {
        self.status.conditions.iter().any(|found| found.kind == condition && found.status == "True")
    }

    /// Whether it has ended, one way or the other.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether it is being deleted.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// A container of it.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerStatus> {
        self.status.container_statuses.iter().chain(&self.status.init_container_statuses).find(|status| status.name == name)
    }
}

impl IslandJob {
    /// Whether it has no pods for the time being.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.spec.suspend.unwrap_or(false)
    }

    /// Whether none of its pods is left that has not ended.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.status.active.unwrap_or(0) == 0 && self.status.terminating.unwrap_or(0) == 0
    }

    /// Whether a condition is true.
    #[must_use]
    pub fn is(&self, condition: &str) -> bool {
        self.status.conditions.iter().any(|found| found.kind == condition && found.status == "True")
    }

    /// An annotation of it.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}
