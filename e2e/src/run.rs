//! A run of a test.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use atoll_crds::spec::TrainingRun;
use atoll_crds::status::RunResult;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::wait::{Look, wait};

/// A run in a namespace.
pub(crate) struct Run<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// The README's run, with so many steps.
pub(crate) fn kjv(steps: u64) -> Value {
    json!({
        "apiVersion": "atoll.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": { "name": "kjv" },
        "spec": {
            "runtimeRef": { "kind": "ClusterTrainingRuntime", "name": "candle-cpu" },
            "model": { "architecture": { "llama": {
                "layers": 2, "hiddenSize": 64, "heads": 4, "intermediateSize": 192, "contextLength": 64,
            } } },
            "dataset": { "source": { "uri": "builtin:kjv" }, "tokenizer": { "characters": {} } },
            "optimizer": { "adamW": { "learningRate": 3.0e-3, "weightDecay": 0.1 } },
            "method": { "diLoCo": { "innerSteps": 20, "outerLearningRate": 0.7, "outerMomentum": 0.5 } },
            "workers": { "min": 4, "target": 4, "batchSize": 4 },
            "rounds": { "quorum": { "min": 2 } },
            "stop": { "steps": steps },
        },
    })
}

/// Puts the members of `change` over those of `value`.
pub(crate) fn with(mut value: Value, change: &Value) -> Value {
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
    merge(&mut value, change);
    value
}

impl<'a> Run<'a> {
    /// Applies a run.
    pub(crate) async fn start(cluster: &'a Cluster, namespace: &str, run: Value) -> Result<Self> {
        let run: TrainingRun = serde_json::from_value(run)?;
        let created = cluster.api::<TrainingRun>(namespace).create(&PostParams::default(), &run).await?;
        Ok(Self { cluster, namespace: namespace.to_owned(), name: created.name_any() })
    }

    fn api(&self) -> Api<TrainingRun> {
        self.cluster.api(&self.namespace)
    }

    /// The run as it is now.
    pub(crate) async fn get(&self) -> Result<TrainingRun> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Changes the run.
    pub(crate) async fn change(&self, patch: Value) -> Result<TrainingRun> {
        self.cluster.change(&self.namespace, &self.name, patch).await
    }

    /// Deletes the run.
    pub(crate) async fn delete(&self) -> Result<()> {
        self.api().delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Pods of its workers.
    pub(crate) async fn pods(&self) -> Result<Vec<Pod>> {
        self.cluster.pods(&self.namespace, &format!("atoll.dev/run={}", self.name)).await
    }

    /// The pod of a worker that is there and not going.
    pub(crate) async fn pod(&self, slot: u32) -> Result<Pod> {
        let is = |pod: &Pod| {
            let index = pod.annotations().get("batch.kubernetes.io/job-completion-index");
            index.is_some_and(|index| *index == slot.to_string()) && pod.metadata.deletion_timestamp.is_none()
        };
        self.pods().await?.into_iter().find(is).with_context(|| format!("there is no pod of w{slot}"))
    }

    /// Waits until something is true of the run; a run that has failed is an error, unless that is waited for.
    pub(crate) async fn until<T>(&self, what: &str, limit: Duration, is: impl Fn(&TrainingRun) -> Option<T>) -> Result<T> {
        wait(what, limit, async || {
            let run = self.get().await?;
            if let Some(value) = is(&run) {
                return Ok(Look::Yes(value));
            }
            if let Some(message) = condition(&run, "Failed").filter(|(status, ..)| status == "True") {
                bail!("{what}: the run has failed: {}: {}", message.1, message.2);
            }
            Ok(Look::NotYet(summary(&run)))
        })
        .await
    }

    /// Waits until this round is committed.
    pub(crate) async fn round(&self, round: i64, limit: Duration) -> Result<()> {
        self.until(&format!("round {round}"), limit, |run| (round_of(run) >= round).then_some(())).await
    }

    /// Waits until so many more rounds are committed.
    pub(crate) async fn goes_on(&self, rounds: i64, limit: Duration) -> Result<()> {
        let now = round_of(&self.get().await?);
        self.round(now + rounds, limit).await
    }

    /// Waits until so many workers take part.
    pub(crate) async fn trained_by(&self, workers: i32, limit: Duration) -> Result<()> {
        let trained = |run: &TrainingRun| {
            let status = run.status.as_ref()?;
            (status.workers.training == workers).then_some(())
        };
        self.until(&format!("{workers} workers train"), limit, trained).await
    }

    /// Waits for its end, and gives its result.
    pub(crate) async fn complete(&self, limit: Duration) -> Result<RunResult> {
        let complete = |run: &TrainingRun| {
            condition(run, "Complete").filter(|(status, ..)| status == "True")?;
            run.status.as_ref()?.result.clone()
        };
        self.until("the run is complete", limit, complete).await
    }
}

/// Committed rounds.
pub(crate) fn round_of(run: &TrainingRun) -> i64 {
    run.status.as_ref().and_then(|status| status.progress.as_ref()).map_or(0, |progress| progress.round)
}

/// Status, reason and message of a condition.
pub(crate) fn condition(run: &TrainingRun, kind: &str) -> Option<(String, String, String)> {
    let found = run.status.as_ref()?.condition(kind)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}

fn summary(run: &TrainingRun) -> String {
    let Some(status) = &run.status else { return "no status".to_owned() };
    let conditions = status.conditions.iter().map(|c| format!("{}={} {} {}", c.type_, c.status, c.reason, c.message));
    let (workers, round) = (&status.workers, round_of(run));
    format!(
        "{}, workers {} ready {} training, round {round}; {}",
        status.phase,
        workers.ready,
        workers.training,
        conditions.collect::<Vec<_>>().join("; ")
    )
}
