//! All that is known of a run, as one value: what the screen, the report and programs are given.

use atoll_crds::island::TrainingIsland;
use atoll_crds::status::{LastCheckpoint, Progress, RunResult, WorkersStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use serde::Serialize;

use super::connection::{Connection, Run};
use super::losses::{self, Loss};
use super::waiting::{Cause, causes};
use super::workers::{Worker, workers};
use crate::Ending;

/// What was read of a run; parts that may not be read say so.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) run: Run,
    pub(super) pods: Result<Vec<Pod>, String>,
    pub(super) islands: Result<Vec<TrainingIsland>, String>,
    pub(super) losses: Vec<Loss>,
}

/// What is known of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) phase: String,
    pub(super) attempt: Option<i64>,
    pub(super) created: Option<Time>,
    pub(super) start_time: Option<Time>,
    pub(super) completion_time: Option<Time>,
    /// Steps of each worker after which the run is complete.
    pub(super) steps: Option<i64>,
    pub(super) causes: Vec<Cause>,
    pub(super) progress: Option<Progress>,
    pub(super) losses: Vec<Loss>,
    pub(super) last_checkpoint: Option<LastCheckpoint>,
    /// Whether the run is to keep checkpoints.
    pub(super) keeps_checkpoints: bool,
    pub(super) counts: WorkersStatus,
    pub(super) islands: Vec<Island>,
    pub(super) workers: Vec<Worker>,
    pub(super) result: Option<RunResult>,
    pub(super) conditions: Vec<Condition>,
    /// What could not be read, and why.
    pub(super) unread: Vec<String>,
}

/// Workers that are placed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Island {
    pub(super) name: String,
    pub(super) replicas: i32,
    pub(super) ready: i32,
    pub(super) phase: String,
}

/// Reads a run and all around it.
///
/// # Errors
/// Where the run itself cannot be read.
pub(super) async fn see(connection: &Connection, name: &str) -> Result<Seen, Ending> {
    let run = connection.run(name).await?;
    let (pods, islands) = tokio::join!(connection.pods(name), connection.islands(name));
    let losses = match &pods {
        Ok(pods) => losses::recent(connection, pods).await,
        Err(_) => Vec::new(),
    };
    let said = |ending: Ending| ending.message().to_owned();
    Ok(Seen { run, pods: pods.map_err(said), islands: islands.map_err(said), losses })
}

/// Workers that a run is to have.
pub(super) fn wanted(run: &Run) -> u32 {
    run.spec["workers"]["target"].as_u64().unwrap_or(0).min(1024) as u32
}

/// Whether a run has ended for ever.
pub(super) fn is_over(run: &Run) -> bool {
    run.status.as_ref().is_some_and(|status| matches!(status.phase.as_str(), "Complete" | "Failed"))
}

/// The phase, and what to call it before there is one.
pub(super) fn phase(run: &Run) -> &str {
    run.status.as_ref().map(|status| status.phase.as_str()).filter(|phase| !phase.is_empty()).unwrap_or("Pending")
}

impl View {
    pub(super) fn of(seen: &Seen) -> Self {
        let run = &seen.run;
        let status = run.status.clone().unwrap_or_default();
        let (pods, islands) = (seen.pods.as_deref().unwrap_or_default(), seen.islands.as_deref().unwrap_or_default());
        Self {
            name: run.name_any(),
            namespace: run.namespace().unwrap_or_default(),
            phase: phase(run).to_owned(),
            attempt: status.attempt,
            created: run.metadata.creation_timestamp.clone(),
            start_time: status.start_time.clone(),
            completion_time: status.completion_time.clone(),
            steps: run.spec["stop"]["steps"].as_i64(),
            causes: causes(run.status.as_ref()),
            progress: status.progress,
            losses: seen.losses.clone(),
            last_checkpoint: status.last_checkpoint,
            keeps_checkpoints: run.spec.get("checkpoint").is_some_and(serde_json::Value::is_object),
            counts: status.workers,
            islands: islands.iter().map(island).collect(),
            // After its end a run has the pods that are left, no more.
            workers: if seen.pods.is_ok() { workers(pods, if is_over(run) { 0 } else { wanted(run) }) } else { Vec::new() },
            result: status.result,
            conditions: status.conditions,
            unread: [seen.pods.as_ref().err(), seen.islands.as_ref().err()].into_iter().flatten().cloned().collect(),
        }
    }
}

fn island(island: &TrainingIsland) -> Island {
    let status = island.status.clone().unwrap_or_default();
    Island { name: island.spec.island.clone(), replicas: island.spec.replicas, ready: status.ready, phase: status.phase }
}
