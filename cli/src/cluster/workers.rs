//! What the pods of a run say of its workers: one row for each slot.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use kube::ResourceExt;
use serde::Serialize;

use super::text::{plain, shortened};

/// Annotation and label of Kubernetes with a pod's index in its Job.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Longest text of a failure, in characters.
const LONGEST: usize = 400;

/// One worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Worker {
    pub(super) slot: u32,
    pub(super) name: String,
    pub(super) pod: Option<String>,
    pub(super) node: Option<String>,
    /// One word, or the word that Kubernetes has for it.
    pub(super) state: String,
    /// Pods of this slot that were replaced, and restarts of the present one's containers.
    pub(super) restarts: u32,
    /// Why it waits, or what it said last before it failed.
    pub(super) words: Option<String>,
}

/// Slot of a pod's worker.
pub(super) fn slot(pod: &Pod) -> Option<u32> {
    pod.annotations().get(INDEX).or_else(|| pod.labels().get(INDEX))?.parse().ok()
}

/// The pods of each slot, the oldest first.
pub(super) fn by_slot(pods: &[Pod]) -> BTreeMap<u32, Vec<&Pod>> {
    let mut slots: BTreeMap<u32, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        if let Some(slot) = slot(pod) {
            slots.entry(slot).or_default().push(pod);
        }
    }
    for pods in slots.values_mut() {
        pods.sort_by_key(|pod| (pod.creation_timestamp().map(|time| time.0), pod.name_any()));
    }
    slots
}

/// The workers of slots 0 to `wanted`, and of every other slot that has a pod.
pub(super) fn workers(pods: &[Pod], wanted: u32) -> Vec<Worker> {
    let mut slots = by_slot(pods);
    for slot in 0..wanted {
        slots.entry(slot).or_default();
    }
    slots.into_iter().map(|(slot, pods)| worker(slot, &pods)).collect()
}

fn worker(slot: u32, pods: &[&Pod]) -> Worker {
    let name = format!("w{slot}");
    let Some(pod) = pods.last() else {
        return Worker { slot, name, state: "NoPod".into(), ..Worker::default() };
    };
    let restarts: i32 = containers(pod).map(|container| container.restart_count).sum();
    Worker {
        slot,
        name,
        pod: Some(pod.name_any()),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        state: state(pod),
        restarts: restarts.max(0).unsigned_abs() + pods.len() as u32 - 1,
        words: waits(pod).or_else(|| pods.iter().rev().find_map(|pod| failure(pod))).map(|words| shortened(&words, LONGEST)),
    }
}

fn status(pod: &Pod) -> Option<&PodStatus> {
    pod.status.as_ref()
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let lists = status(pod).map(|status| [&status.init_container_statuses, &status.container_statuses]);
    lists.into_iter().flatten().flatten().flatten()
}

/// A container of a pod, once Kubernetes tells of it.
pub(super) fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    containers(pod).find(|container| container.name == name)
}

/// Whether a container of this name has been started, so that it may have said something.
pub(super) fn has_begun(pod: &Pod, name: &str) -> bool {
    let state = container(pod, name).and_then(|container| container.state.as_ref());
    state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

fn state(pod: &Pod) -> String {
    let phase = status(pod).and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let trainer = container(pod, "trainer").and_then(|container| container.state.as_ref());
    let ended = trainer.and_then(|state| state.terminated.as_ref());
    let running = |name| container(pod, name).and_then(|container| container.state.as_ref()?.running.as_ref()).is_some();
    match phase {
        "Succeeded" => "Finished".into(),
        "Failed" => "Failed".into(),
        _ if ended.is_some_and(|ended| ended.exit_code == 0) => "Finished".into(),
        _ if pod.metadata.deletion_timestamp.is_some() => "Ending".into(),
        _ if ended.is_some() => "Failed".into(),
        _ if unplaced(pod).is_some() => "Unschedulable".into(),
        _ if is_ready(pod) => "Running".into(),
        _ if running("trainer") => "NotReady".into(),
        _ => match waiting(pod) {
            Some((reason, _)) => reason,
            None if running("initializer") => "FetchingData".into(),
            None if running("sidecar") => "Joining".into(),
            None => "Starting".into(),
        },
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = status(pod).and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Why no node takes it.
fn unplaced(pod: &Pod) -> Option<String> {
    let mut conditions = status(pod)?.conditions.iter().flatten();
    let found = conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some(plain(found.message.as_deref().unwrap_or_default()))
}

/// The first container that waits for something that may never come, with Kubernetes' word and sentence for it.
fn waiting(pod: &Pod) -> Option<(String, String)> {
    containers(pod).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| !matches!(*reason, "PodInitializing" | "ContainerCreating"))?;
        let message = waiting.message.as_deref().unwrap_or_default();
        Some((reason.to_owned(), plain(&format!("{}: {message}", container.name))))
    })
}

fn waits(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() || is_ready(pod) {
        return None;
    }
    unplaced(pod).or_else(|| waiting(pod).map(|(_, message)| message)).filter(|message| !message.is_empty())
}

/// How a pod failed, and what it said last.
fn failure(pod: &Pod) -> Option<String> {
    let ended = |container: &ContainerStatus| {
        let states = [&container.state, &container.last_state];
        states.into_iter().flatten().find_map(|state| state.terminated.clone()).filter(|ended| ended.exit_code != 0)
    };
    let mut all: Vec<(&ContainerStatus, ContainerStateTerminated)> =
        containers(pod).filter_map(|container| Some((container, ended(container)?))).collect();
    all.sort_by_key(|(container, _)| container.name != "trainer");
    if let Some((container, ended)) = all.into_iter().next() {
        let reason = ended.reason.filter(|reason| reason != "Error").map(|reason| format!(" ({reason})")).unwrap_or_default();
        let whose = if container.name == "trainer" { String::new() } else { format!("{}: ", container.name) };
        let words = last_line(ended.message.as_deref().unwrap_or_default());
        let words = if words.is_empty() { words } else { format!(": {words}") };
        return Some(format!("{whose}exit code {}{reason}{words}", ended.exit_code));
    }
    let status = status(pod).filter(|status| status.phase.as_deref() == Some("Failed"))?;
    let words = plain(status.message.as_deref().unwrap_or_default());
    let reason = status.reason.clone().unwrap_or_else(|| "Failed".into());
    Some(if words.is_empty() { reason } else { format!("{reason}: {words}") })
}

fn last_line(text: &str) -> String {
    plain(text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A pod of a slot, made at a second of a minute, with this status.
    pub(in crate::cluster) fn pod(slot: u32, name: &str, second: u32, status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": name,
                "creationTimestamp": format!("2026-11-28T12:00:{second:02}Z"),
                "annotations": { INDEX: slot.to_string() },
            },
            "spec": { "nodeName": format!("node-{slot}"), "containers": [] },
            "status": status,
        }))
        .unwrap()
    }

    /// The status of a pod that trains.
    pub(in crate::cluster) fn running() -> Value {
        let container = |name: &str| json!({ "name": name, "restartCount": 0, "ready": true, "image": "", "imageID": "", "state": { "running": {} } });
        json!({
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True" }],
            "initContainerStatuses": [container("sidecar")],
            "containerStatuses": [container("trainer")],
        })
    }

    /// The status of a pod whose trainer is in this state.
    pub(in crate::cluster) fn trainer(phase: &str, state: &Value) -> Value {
        json!({ "phase": phase, "containerStatuses": [
            { "name": "trainer", "restartCount": 0, "ready": false, "image": "", "imageID": "", "state": state },
        ] })
    }

    fn only(pods: &[Pod]) -> Worker {
        workers(pods, 0).remove(0)
    }

    #[test]
    fn a_replaced_pod_is_a_restart_and_its_last_words_stay() {
        let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled", "message": "step 12\nallocating\n\n" } });
        let pods = [pod(2, "kjv-local-2-new", 30, &running()), pod(2, "kjv-local-2-old", 10, &trainer("Failed", &killed))];
        let worker = only(&pods);
        assert_eq!((worker.state.as_str(), worker.restarts, worker.pod.as_deref()), ("Running", 1, Some("kjv-local-2-new")));
        assert_eq!(worker.words.as_deref(), Some("exit code 137 (OOMKilled): allocating"));
    }

    #[test]
    fn what_a_pod_waits_for_is_said_in_kubernetes_words() {
        let waiting = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\"" } });
        let worker = only(&[pod(0, "p", 1, &trainer("Pending", &waiting))]);
        assert_eq!(
            (worker.state.as_str(), worker.words.as_deref()),
            ("ImagePullBackOff", Some("trainer: Back-off pulling image \"x\""))
        );
        let status = json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "message": "0/3 nodes are available" },
        ] });
        let worker = only(&[pod(0, "p", 1, &status)]);
        assert_eq!((worker.state.as_str(), worker.words.as_deref()), ("Unschedulable", Some("0/3 nodes are available")));
        let initializing = json!({ "waiting": { "reason": "PodInitializing" } });
        let worker = only(&[pod(0, "p", 1, &trainer("Pending", &initializing))]);
        assert_eq!((worker.state.as_str(), worker.words), ("Starting", None));
    }

    #[test]
    fn a_trainer_that_ended_well_has_finished_while_its_sidecar_goes_on() {
        let ended = json!({ "terminated": { "exitCode": 0 } });
        assert_eq!(only(&[pod(0, "p", 1, &trainer("Running", &ended))]).state, "Finished");
        let evicted = json!({ "phase": "Failed", "reason": "Evicted", "message": "low on memory" });
        let worker = only(&[pod(0, "p", 1, &evicted)]);
        assert_eq!((worker.state.as_str(), worker.words.as_deref()), ("Failed", Some("Evicted: low on memory")));
    }

    #[test]
    fn a_slot_without_a_pod_is_listed() {
        let workers = workers(&[pod(3, "p", 1, &running())], 2);
        let states: Vec<_> = workers.iter().map(|worker| (worker.name.as_str(), worker.state.as_str())).collect();
        assert_eq!(states, [("w0", "NoPod"), ("w1", "NoPod"), ("w3", "Running")]);
    }
}
