//! The objects of a run, made from its spec and the runtime that was kept for it. Pure: the same run gives the same objects.

mod data;
mod island;
mod job;
mod network;
mod pod;
mod snapshot;

use atoll_crds::spec::TrainingRun;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ApiResource;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

pub use data::{DataError, Inputs};
pub use island::{checkpoint, checkpoint_name, island, island_status};
pub use job::{JobState, changed_job, job};
pub use network::{disruption_budget, network_policy, service};
pub use snapshot::{Snapshot, SnapshotError, snapshot_map};

use crate::names;

/// What is the same for all runs of one operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// HOST:PORT by which workers reach the hub.
    pub hub_address: String,
    /// PEM of the roots that the hub's certificate is checked against.
    pub hub_roots: String,
    /// Namespace of the operator.
    pub namespace: String,
    /// Whether each run gets a network policy.
    pub network_policies: bool,
    /// Namespace whose pods may scrape workers; any when unset.
    pub monitoring_namespace: Option<String>,
}

/// An object to apply.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Its kind.
    pub resource: ApiResource,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// All that the operator says of it.
    pub value: Value,
}

impl Object {
    /// An object of `run`, which owns it: `content` has everything but its header.
    fn of(run: &TrainingRun, (group, version, kind, plural): (&str, &str, &str, &str), name: String, content: &Value) -> Self {
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.clone(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        let namespace = run.namespace().unwrap_or_default();
        let mut value = json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": names::labels(&run.name_any()),
                "ownerReferences": [owner(run)],
            },
        });
        merge(&mut value, content);
        Self { resource, namespace, name, value }
    }
}

/// The run as the owner of what is made for it.
fn owner(run: &TrainingRun) -> OwnerReference {
    OwnerReference {
        api_version: TrainingRun::api_version(&()).into_owned(),
        kind: TrainingRun::kind(&()).into_owned(),
        name: run.name_any(),
        uid: run.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Puts the members of `change` over those of `value`, member by member.
fn merge(value: &mut Value, change: &Value) {
    match (value, change) {
        (Value::Object(members), Value::Object(changes)) => {
            for (name, change) in changes {
                merge(members.entry(name.clone()).or_insert(Value::Null), change);
            }
        }
        (value, change) => *value = change.clone(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn run() -> TrainingRun {
        let run = json!({
            "apiVersion": "atoll.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": { "name": "kjv", "namespace": "research", "uid": "0a1b2c3d-0000-4000-8000-000000000000" },
            "spec": {
                "runtimeRef": { "kind": "ClusterTrainingRuntime", "name": "candle-cpu" },
                "model": { "architecture": { "llama": {
                    "layers": 2, "hiddenSize": 64, "heads": 4, "intermediateSize": 192, "contextLength": 64,
                } } },
                "dataset": { "source": { "uri": "builtin:kjv" }, "tokenizer": { "characters": {} } },
                "optimizer": { "adamW": { "learningRate": 0.003 } },
                "method": { "diLoCo": { "innerSteps": 20 } },
                "workers": { "min": 4, "target": 4 },
                "stop": { "steps": 100 },
            },
        });
        serde_json::from_value(run).unwrap()
    }

    pub(crate) fn snapshot() -> Snapshot {
        let runtime = json!({
            "images": { "trainer": "registry.local/atoll-trainer:1", "sidecar": "registry.local/atoll-sidecar:1" },
            "trainer": { "resources": { "requests": { "cpu": "250m" }, "limits": { "memory": "256Mi" } } },
        });
        Snapshot::new(&run(), serde_json::from_value(runtime).unwrap()).unwrap()
    }

    pub(crate) fn surroundings() -> Surroundings {
        Surroundings {
            hub_address: "atoll-hub.atoll-system.svc:7470".into(),
            hub_roots: "PEM".into(),
            namespace: "atoll-system".into(),
            monitoring_namespace: None,
            network_policies: true,
        }
    }

    #[test]
    fn members_are_merged_and_others_stay() {
        let mut value = json!({ "metadata": { "name": "a", "labels": { "x": "1" } } });
        merge(&mut value, &json!({ "metadata": { "labels": { "y": "2" } }, "spec": {} }));
        assert_eq!(value, json!({ "metadata": { "name": "a", "labels": { "x": "1", "y": "2" } }, "spec": {} }));
    }
}
