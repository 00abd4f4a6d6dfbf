//! What the pods of a run say of its workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::conditions::reasons;
use crate::watched::{ContainerStatus, IslandJob, WorkerPod};

/// The workers of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workers {
    /// Workers that it is to have.
    pub wanted: u32,
    /// Those whose pods are ready.
    pub ready: usize,
    /// What those ended with that have done their last round, by slot.
    pub finished: BTreeMap<u32, Finished>,
    /// Pods that failed by themselves.
    pub failures: Vec<Failure>,
    /// Indexes that are not tried again.
    pub given_up: usize,
    /// Why some do not run yet: a reason of [`reasons`], and what Kubernetes says.
    pub waiting: Option<(&'static str, String)>,
    /// Workers that have a pod which has not ended.
    pub alive: usize,
}

/// What a trainer ended with: its termination message.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Finished {
    /// BLAKE3 of the final weights.
    pub weights_hash: String,
    /// Inner steps.
    pub step: u64,
    /// Mean loss on text that was not trained on; of one worker.
    pub held_out_loss: Option<f64>,
    /// Binary, CPU features and threads.
    pub numerics_class: String,
    /// When, in seconds since 1970.
    #[serde(skip)]
    pub at: i64,
}

/// A pod that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Index of the worker.
    pub slot: u32,
    /// Its pod.
    pub pod: String,
    /// Exit code of its trainer; none where the pod failed as a whole.
    pub exit_code: Option<i32>,
    /// What Kubernetes calls it.
    pub reason: String,
    /// The last that the worker said.
    pub words: String,
    /// When, in seconds since 1970.
    pub at: i64,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "w{} (pod {})", self.slot, self.pod)?;
        match self.exit_code {
            Some(code) => write!(out, " ended with exit code {code}")?,
            None => write!(out, " failed")?,
        }
        if !self.reason.is_empty() && self.reason != "Error" {
            write!(out, " ({})", self.reason)?;
        }
        if self.words.is_empty() { Ok(()) } else { write!(out, ": {}", self.words) }
    }
}

impl Workers {
    /// What `pods` and `job` say of `wanted` workers.
    #[must_use]
    pub fn of(pods: &[Arc<WorkerPod>], job: Option<&IslandJob>, wanted: u32) -> Self {
        let mut workers = Self { wanted, given_up: job.map_or(0, given_up), ..Self::default() };
        let mut waiting = Vec::new();
        for pod in pods {
            let Some(slot) = pod.index() else { continue };
            if let Some(finished) = finished(pod) {
                workers.finished.insert(slot, finished);
            } else if pod.status.phase == "Failed" {
                workers.failures.extend(failure(pod, slot));
            } else if !pod.is_going() {
                workers.alive += 1;
                workers.ready += usize::from(pod.is("Ready"));
                waiting.extend(why_waiting(pod));
            }
        }
        workers.failures.sort_by_key(|failure| (failure.at, failure.slot));
        // What somebody has to mend is said before what passes by itself.
        let rank = |(reason, _): &(&str, String)| match *reason {
            reasons::IMAGE_UNAVAILABLE | reasons::VOLUME_UNAVAILABLE => 0,
            reasons::UNSCHEDULABLE => 1,
            _ => 2,
        };
        waiting.sort_by_key(rank);
        workers.waiting = waiting.into_iter().next();
        workers
    }

    /// The newest failure.
    #[must_use]
    pub fn last_failure(&self) -> Option<&Failure> {
        self.failures.last()
    }
}

/// How many indexes of a Job are not tried again: it lists them as in "1,3-5".
fn given_up(job: &IslandJob) -> usize {
    let text = job.status.failed_indexes.as_deref().unwrap_or_default();
    let count = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1),
        None => part.parse::<usize>().ok().map(|_| 1),
    };
    text.split(',').filter_map(count).sum()
}

fn finished(pod: &WorkerPod) -> Option<Finished> {
    let trainer = pod.container("trainer")?.state.terminated.as_ref()?;
    if pod.status.phase != "Succeeded" && trainer.exit_code != 0 {
        return None;
    }
    let mut finished: Finished = serde_json::from_str(trainer.message.as_deref()?).ok()?;
    finished.at = trainer.finished_at.as_ref().map_or(0, |time| time.0.as_second());
    Some(finished)
}

/// A pod that failed by itself: not because its node went, or somebody took it away.
fn failure(pod: &WorkerPod, slot: u32) -> Option<Failure> {
    if pod.is("DisruptionTarget") {
        return None;
    }
    let name = pod.metadata.name.clone().unwrap_or_default();
    let ended = |status: &ContainerStatus| status.state.terminated.clone().filter(|ended| ended.exit_code != 0);
    let mut containers = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    let Some(ended) = containers.find_map(ended) else {
        let (reason, words) = (pod.status.reason.clone().unwrap_or_default(), pod.status.message.clone().unwrap_or_default());
        return Some(Failure { slot, pod: name, exit_code: None, reason, words: last_line(&words), at: 0 });
    };
    Some(Failure {
        slot,
        pod: name,
        exit_code: Some(ended.exit_code),
        reason: ended.reason.unwrap_or_default(),
        words: last_line(&ended.message.unwrap_or_default()),
        at: ended.finished_at.map_or(0, |time| time.0.as_second()),
    })
}

fn last_line(text: &str) -> String {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().chars().take(400).collect()
}

fn why_waiting(pod: &WorkerPod) -> Option<(&'static str, String)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let unplaced = |condition: &&crate::watched::PodCondition| condition.kind == "PodScheduled" && condition.status == "False";
    if let Some(condition) = pod.status.conditions.iter().find(unplaced) {
        let message = condition.message.clone().unwrap_or_default();
        return Some((reasons::UNSCHEDULABLE, format!("pod {name}: {message}")));
    }
    let containers = pod.status.init_container_statuses.iter().chain(&pod.status.container_statuses);
    containers.filter_map(|status| Some((status, status.state.waiting.as_ref()?))).find_map(|(status, waiting)| {
        let reason = match waiting.reason.as_deref()? {
            "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => {
                reasons::IMAGE_UNAVAILABLE
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => reasons::VOLUME_UNAVAILABLE,
            "CrashLoopBackOff" => reasons::WAITING_FOR_WORKERS,
            _ => return None,
        };
        let message = waiting.message.clone().unwrap_or_default();
        Some((reason, format!("pod {name}, container {}: {message}", status.name)))
    })
}
