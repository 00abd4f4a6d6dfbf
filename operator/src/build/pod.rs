//! The pod of a worker: the sidecar as a native sidecar container, and the trainer.

use atoll_crds::runtime::{Container, PullPolicy, Runtime};
use atoll_crds::spec::{TrainingRun, TrainingRunSpec};
use k8s_openapi::api::core::v1::{Affinity, EnvVar, ResourceRequirements, Toleration, TopologySpreadConstraint};
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Snapshot, SnapshotError, Surroundings};
use crate::{names, ports};

/// User and group of every process, and group of every file: no name in any image.
const USER: i64 = 65_532;
/// Seconds that a worker has to end in good order.
const GRACE: i64 = 60;
/// Seconds of them that are left when the sidecar has written its last checkpoint.
const MARGIN: i64 = 10;
/// Seconds after which a pod leaves a node that is not ready.
const LEAVES_AFTER: i64 = 5;
/// How the kubelet checks the projected token's age: it is renewed at 80 % of this.
const TOKEN_SECONDS: i64 = 3600;

/// Parts of a runtime that Kubernetes defines, after a look at whether they are what it takes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PodParts {
    trainer: ContainerParts,
    sidecar: ContainerParts,
    tolerations: Vec<Toleration>,
    affinity: Option<Affinity>,
    spread: Vec<TopologySpreadConstraint>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct ContainerParts {
    resources: ResourceRequirements,
    env: Vec<EnvVar>,
}

/// Reads the parts of a runtime.
///
/// # Errors
/// Which of them is not what Kubernetes takes.
pub(super) fn parts(spec: &TrainingRunSpec, runtime: &Runtime) -> Result<PodParts, SnapshotError> {
    let mut trainer = container(&runtime.trainer, "trainer.resources", "trainer.env")?;
    if let Some(resources) = &spec.workers.resources {
        trainer.resources = ResourceRequirements::deserialize(resources).map_err(SnapshotError::Resources)?;
    }
    Ok(PodParts {
        trainer,
        sidecar: container(&runtime.sidecar, "sidecar.resources", "sidecar.env")?,
        tolerations: read_all("pod.tolerations", &runtime.pod.tolerations)?,
        affinity: runtime.pod.affinity.as_ref().map(|affinity| read("pod.affinity", affinity)).transpose()?,
        spread: read_all("pod.topologySpreadConstraints", &runtime.pod.topology_spread_constraints)?,
    })
}

fn container(container: &Container, resources: &'static str, env: &'static str) -> Result<ContainerParts, SnapshotError> {
    let read_resources = container.resources.as_ref().map(|value| read(resources, value)).transpose()?;
    Ok(ContainerParts { resources: read_resources.unwrap_or_default(), env: read_all(env, &container.env)? })
}

fn read<T: DeserializeOwned>(field: &'static str, value: &Value) -> Result<T, SnapshotError> {
    T::deserialize(value).map_err(|source| SnapshotError::Part { field, source })
}

fn read_all<T: DeserializeOwned>(field: &'static str, values: &[Value]) -> Result<Vec<T>, SnapshotError> {
    values.iter().map(|value| read(field, value)).collect()
}

/// The template of the pods of a run.
pub(super) fn template(run: &TrainingRun, snapshot: &Snapshot, around: &Surroundings) -> Value {
    let (patch, parts) = (&snapshot.runtime.pod, &snapshot.parts);
    let mut labels = patch.labels.clone();
    labels.extend(names::labels(&run.name_any()));
    let grace = patch.termination_grace_period_seconds.unwrap_or(GRACE);
    let mut init: Vec<Value> = fetcher(snapshot).into_iter().collect();
    init.push(sidecar(run, snapshot, around, grace));
    let pull_secrets: Vec<Value> = snapshot.runtime.images.pull_secrets.iter().map(|name| json!({ "name": name })).collect();
    let spec = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "subdomain": run.name_any(),
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "serviceAccountName": patch.service_account_name,
        "nodeSelector": patch.node_selector,
        "tolerations": tolerations(&parts.tolerations),
        "affinity": parts.affinity,
        "topologySpreadConstraints": parts.spread,
        "priorityClassName": patch.priority_class_name,
        "schedulerName": patch.scheduler_name,
        "runtimeClassName": patch.runtime_class_name,
        "imagePullSecrets": pull_secrets,
        "volumes": volumes(run, snapshot),
        "initContainers": init,
        "containers": [trainer(run, snapshot)],
    });
    let spec: serde_json::Map<String, Value> = spec
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !is_empty(value))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    json!({ "metadata": { "labels": labels, "annotations": patch.annotations }, "spec": spec })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// Pods leave a node that is not ready soon, because others go on without them meanwhile; unless the runtime says when.
fn tolerations(given: &[Toleration]) -> Vec<Toleration> {
    let own = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(|key| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(LEAVES_AFTER),
        value: None,
    });
    let said = |own: &Toleration| given.iter().any(|given| given.key == own.key);
    given.iter().cloned().chain(own.into_iter().filter(|own| !said(own))).collect()
}

fn volumes(run: &TrainingRun, snapshot: &Snapshot) -> Vec<Value> {
    let audience = names::audience(&run.uid().unwrap_or_default());
    let mut scratch = serde_json::Map::new();
    if let Some(limit) = &snapshot.runtime.pod.scratch_size_limit {
        scratch.insert("sizeLimit".into(), json!(limit));
    }
    let mut volumes = vec![
        json!({ "name": "shared", "emptyDir": { "medium": "Memory", "sizeLimit": "64Mi" } }),
        json!({ "name": "run", "configMap": { "name": names::snapshot(&run.name_any()) } }),
        json!({ "name": "token", "projected": { "sources": [{ "serviceAccountToken": {
            "path": "token", "audience": audience, "expirationSeconds": TOKEN_SECONDS,
        } }] } }),
        json!({ "name": "scratch", "emptyDir": scratch }),
    ];
    volumes.extend(snapshot.inputs.volumes());
    volumes
}

fn mount(name: &str, path: &str, read_only: bool) -> Value {
    if read_only {
        json!({ "name": name, "mountPath": path, "readOnly": true })
    } else {
        json!({ "name": name, "mountPath": path })
    }
}

fn security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

fn variable(name: &str, value: impl Into<String>) -> Value {
    json!({ "name": name, "value": value.into() })
}

/// The credentials of the store of checkpoints, each under the name that it has in an environment.
fn credentials(run: &TrainingRun) -> Vec<Value> {
    let secret = run.spec.checkpoint.as_ref().and_then(|checkpoint| checkpoint.secret_ref.as_ref());
    secret.map(|secret| json!({ "secretRef": { "name": secret.name } })).into_iter().collect()
}

fn container_of(name: &str, image: &str, pull: Option<PullPolicy>, parts: &ContainerParts, env: Vec<Value>) -> Value {
    let given = parts.env.iter().map(|variable| json!(variable));
    let mut container = json!({
        "name": name,
        "image": image,
        "env": env.into_iter().chain(given).collect::<Vec<_>>(),
        "resources": parts.resources,
        "securityContext": security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if let Some(pull) = pull {
        container["imagePullPolicy"] = json!(pull);
    }
    container
}

fn sidecar(run: &TrainingRun, snapshot: &Snapshot, around: &Surroundings, grace: i64) -> Value {
    let images = &snapshot.runtime.images;
    let env = vec![
        variable("ATOLL_HUB", &around.hub_address),
        json!({ "name": "ATOLL_POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }),
        variable("ATOLL_LANE_PORT", ports::LANES.to_string()),
        variable("ATOLL_METRICS_PORT", ports::WORKER_METRICS.to_string()),
        variable("ATOLL_GRACE_SECONDS", (grace - MARGIN).max(1).to_string()),
    ];
    let mut container = container_of("sidecar", &images.sidecar, images.pull_policy, &snapshot.parts.sidecar, env);
    let probe = |path: &str| json!({ "path": path, "port": "metrics" });
    let content = json!({
        "restartPolicy": "Always",
        "ports": [
            { "name": "lanes", "containerPort": ports::LANES },
            { "name": "metrics", "containerPort": ports::WORKER_METRICS },
        ],
        "envFrom": credentials(run),
        // The trainer is started when the sidecar knows what the worker is in the run.
        "startupProbe": { "httpGet": probe("/started"), "periodSeconds": 1, "failureThreshold": 86_400 },
        "livenessProbe": { "httpGet": probe("/healthz"), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6 },
        "volumeMounts": [
            mount("shared", "/run/atoll", false),
            mount("run", "/etc/atoll", true),
            mount("token", "/var/run/secrets/atoll.dev", true),
            mount("scratch", "/tmp", false),
        ],
    });
    super::merge(&mut container, &content);
    container
}

fn trainer(run: &TrainingRun, snapshot: &Snapshot) -> Value {
    let images = &snapshot.runtime.images;
    let threads = threads(&snapshot.parts.trainer.resources);
    let env = threads
        .into_iter()
        .flat_map(|threads| ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"].map(|name| variable(name, threads.to_string())));
    let mut container = container_of("trainer", &images.trainer, images.pull_policy, &snapshot.parts.trainer, env.collect());
    let mut mounts = trainer_mounts();
    mounts.extend(snapshot.inputs.mounts());
    super::merge(&mut container, &json!({ "envFrom": credentials(run), "volumeMounts": mounts }));
    container
}

fn trainer_mounts() -> Vec<Value> {
    vec![
        mount("shared", "/run/atoll", false),
        mount("run", "/etc/atoll", true),
        mount("scratch", "/scratch", false),
        mount("scratch", "/tmp", false),
    ]
}

/// The initializer, where something is to be fetched before the trainer starts.
fn fetcher(snapshot: &Snapshot) -> Option<Value> {
    let fetches = snapshot.inputs.fetches();
    if fetches.is_empty() {
        return None;
    }
    let images = &snapshot.runtime.images;
    let env = vec![variable("ATOLL_FETCH", json!(fetches).to_string())];
    let mut container = container_of("initializer", &images.trainer, images.pull_policy, &snapshot.parts.trainer, env);
    let content = json!({ "args": ["fetch"], "envFrom": snapshot.inputs.secrets(), "volumeMounts": trainer_mounts() });
    super::merge(&mut container, &content);
    Some(container)
}

/// Threads of a trainer: whole processors that it is given; none where nothing is said.
fn threads(resources: &ResourceRequirements) -> Option<u64> {
    let cpu =
        |map: &Option<std::collections::BTreeMap<String, _>>| map.as_ref().and_then(|map| map.get("cpu")).and_then(processors);
    cpu(&resources.limits).or_else(|| cpu(&resources.requests))
}

fn processors(quantity: &impl Serialize) -> Option<u64> {
    let text = serde_json::to_value(quantity).ok()?;
    let text = text.as_str()?;
    let milli = match text.strip_suffix('m') {
        Some(milli) => milli.parse::<f64>().ok()?,
        None => text.parse::<f64>().ok()? * 1000.0,
    };
    (milli > 0.0).then(|| (milli / 1000.0).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::super::tests::{run, snapshot, surroundings};
    use super::*;

    fn pod() -> Value {
        template(&run(), &snapshot(), &surroundings())["spec"].clone()
    }

    #[test]
    fn every_container_is_restricted() {
        let pod = pod();
        let containers = ["initContainers", "containers"].map(|kind| pod[kind].as_array().unwrap().clone()).concat();
        assert_eq!(containers.len(), 2);
        for container in containers {
            assert_eq!(container["securityContext"], security(), "{}", container["name"]);
        }
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert!(pod["volumes"].as_array().unwrap().iter().all(|volume| volume.get("hostPath").is_none()));
    }

    #[test]
    fn the_sidecar_is_started_first_and_never_ends_before_the_trainer() {
        let pod = pod();
        let sidecar = &pod["initContainers"][0];
        assert_eq!((sidecar["name"].as_str(), sidecar["restartPolicy"].as_str()), (Some("sidecar"), Some("Always")));
        assert_eq!(sidecar["startupProbe"]["httpGet"]["path"], "/started");
    }

    #[test]
    fn the_token_is_for_this_run_alone() {
        let pod = pod();
        let token = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "token").unwrap().clone();
        let projected = &token["projected"]["sources"][0]["serviceAccountToken"];
        assert_eq!(projected["audience"], "run.atoll.dev/0a1b2c3d-0000-4000-8000-000000000000");
    }

    #[test]
    fn what_the_runtime_says_of_tolerations_holds() {
        let given = Toleration { key: Some("node.kubernetes.io/unreachable".into()), ..Toleration::default() };
        let all = tolerations(std::slice::from_ref(&given));
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], given);
    }

    #[test]
    fn threads_are_whole_processors() {
        for (quantity, threads) in [("250m", Some(1)), ("1", Some(1)), ("1500m", Some(2)), ("2.5", Some(3)), ("x", None)] {
            assert_eq!(processors(&Quantity(quantity.into())), threads, "{quantity}");
        }
    }

    #[test]
    fn a_part_that_kubernetes_does_not_take_is_named() {
        let mut runtime = snapshot().runtime;
        runtime.pod.tolerations = vec![json!({ "tolerationSeconds": "soon" })];
        let error = parts(&run().spec, &runtime).unwrap_err().to_string();
        assert!(error.starts_with("spec.pod.tolerations of the runtime:"), "{error}");
    }
}
