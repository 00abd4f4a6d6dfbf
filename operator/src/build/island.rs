//! The objects that only tell: the island of a run, and its checkpoints.

use atoll_crds::spec::TrainingRun;
use atoll_crds::status::TrainingRunStatus;
use atoll_proto::v1::KeptCheckpoint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::Object;
use crate::names;

/// The island of a run in this cluster, whose pods are made from a template with this hash.
#[must_use]
pub fn island(run: &TrainingRun, template: &str, attempt: u64) -> Object {
    let content = json!({
        "spec": {
            "run": run.name_any(),
            "island": names::LOCAL_ISLAND,
            "firstSlot": 0,
            "replicas": run.spec.workers.target,
            "generation": attempt,
            "templateHash": template,
        },
    });
    let kind = ("atoll.dev", "v1alpha1", "TrainingIsland", "trainingislands");
    Object::of(run, kind, names::job(&run.name_any()), &content)
}

/// What is said of the island: its part of the run's status.
#[must_use]
pub fn island_status(status: &TrainingRunStatus, phase: &str) -> Value {
    let applied =
        status.conditions.iter().filter(|condition| condition.type_ == crate::conditions::types::PLACED).map(|placed| {
            let mut applied = placed.clone();
            crate::conditions::types::APPLIED.clone_into(&mut applied.type_);
            applied
        });
    json!({
        "generation": status.attempt.unwrap_or(0),
        "ready": status.workers.ready,
        "phase": phase,
        "conditions": applied.collect::<Vec<_>>(),
    })
}

/// The object of a checkpoint that was published, with its status.
#[must_use]
pub fn checkpoint(run: &TrainingRun, kept: &KeptCheckpoint, now: &Time) -> Option<(Object, Value)> {
    let folder = run.spec.checkpoint.as_ref()?;
    let content = json!({
        "spec": {
            "run": run.name_any(),
            "uri": folder.uri,
            "place": kept.place,
            "secretRef": folder.secret_ref,
            "round": kept.round,
            "step": kept.step,
            "digest": kept.digest,
            "bytes": kept.bytes,
        },
    });
    let mut content = content;
    if let Some(spec) = content["spec"].as_object_mut() {
        spec.retain(|_, value| !value.is_null());
    }
    let kind = ("atoll.dev", "v1alpha1", "TrainingCheckpoint", "trainingcheckpoints");
    let object = Object::of(run, kind, checkpoint_name(run, &kept.place), &content);
    let status = json!({
        "time": now,
        "conditions": [{
            "type": crate::conditions::types::VERIFIED,
            "status": "True",
            "reason": crate::conditions::reasons::PUBLISHED,
            "message": "every writer checked its files before the manifest was written",
            "lastTransitionTime": now,
        }],
    });
    Some((object, status))
}

/// Name of the object of a checkpoint.
#[must_use]
pub fn checkpoint_name(run: &TrainingRun, place: &str) -> String {
    let place: String =
        place.to_ascii_lowercase().chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    format!("{}-{}", run.name_any(), place.trim_matches('-'))
}
