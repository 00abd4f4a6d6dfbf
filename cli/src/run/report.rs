//! What a run leaves behind: `report.json`, `loss.csv`, `loss.svg`, and the text for the terminal.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::curve;
use super::output::Output;
use super::progress::{Point, Progress, WorkerState};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum State {
    Complete,
    Failed,
    Interrupted,
    /// By the run's own policy; it can be resumed.
    Suspended,
}

/// One worker at the end.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkerReport {
    name: String,
    state: WorkerState,
    samples: u64,
    restarts: u32,
    compute_seconds: f64,
    sync_seconds: f64,
    payload_bytes: u64,
    wire_bytes: u64,
    weights_hash: Option<String>,
}

/// `report.json`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) run: String,
    pub(crate) state: State,
    pub(crate) failure: Option<String>,
    pub(crate) method: String,
    pub(crate) steps: u64,
    pub(crate) rounds: u64,
    pub(crate) epochs: u64,
    pub(crate) samples: u64,
    pub(crate) tokens: u64,
    pub(crate) held_out_loss: Option<f64>,
    pub(crate) train_loss: Option<f64>,
    pub(crate) wall_seconds: f64,
    pub(crate) training_seconds: f64,
    pub(crate) sync_seconds: f64,
    pub(crate) tokens_per_second: f64,
    /// Most of any worker.
    pub(crate) payload_bytes_per_worker: u64,
    /// Most of any worker.
    pub(crate) wire_bytes_per_worker: u64,
    pub(crate) aborts: BTreeMap<String, u64>,
    /// Within which the same seed gives the same hash.
    pub(crate) numerics: String,
    pub(crate) workers: Vec<WorkerReport>,
    #[serde(skip)]
    pub(crate) curve: Vec<Point>,
}

/// What the supervisor knows beside the events.
pub(crate) struct Facts {
    pub(crate) run: String,
    pub(crate) method: String,
    pub(crate) state: State,
    pub(crate) failure: Option<String>,
    pub(crate) held_out_loss: Option<f64>,
    pub(crate) wall_seconds: f64,
    pub(crate) training_seconds: f64,
    pub(crate) context_length: u64,
    /// Trained on before the checkpoint that this process began with, and before the one that it went on from last.
    pub(crate) tokens_before: [u64; 2],
    pub(crate) threads: usize,
}

impl Report {
    pub(crate) fn new(facts: Facts, progress: &Progress) -> Self {
        let workers = progress.workers.iter().map(|(name, worker)| WorkerReport {
            name: name.clone(),
            state: worker.state,
            samples: worker.samples,
            restarts: worker.restarts,
            compute_seconds: worker.compute_seconds,
            sync_seconds: worker.sync_seconds,
            payload_bytes: worker.payload_bytes(),
            wire_bytes: worker.wire_bytes(),
            weights_hash: worker.weights_hash.clone(),
        });
        let mut workers: Vec<_> = workers.collect();
        // w10 comes after w9.
        workers.sort_by(|one, other| (one.name.len(), &one.name).cmp(&(other.name.len(), &other.name)));
        let [at_start, before] = facts.tokens_before;
        let tokens = before + progress.samples * facts.context_length;
        Self {
            run: facts.run,
            state: facts.state,
            failure: facts.failure,
            method: facts.method,
            steps: progress.step,
            rounds: progress.round,
            epochs: progress.epoch,
            samples: tokens / facts.context_length.max(1),
            tokens,
            held_out_loss: facts.held_out_loss,
            train_loss: progress.train_loss(),
            wall_seconds: facts.wall_seconds,
            training_seconds: facts.training_seconds,
            sync_seconds: progress.sync_seconds(),
            tokens_per_second: if facts.training_seconds > 0.0 {
                tokens.saturating_sub(at_start) as f64 / facts.training_seconds
            } else {
                0.0
            },
            payload_bytes_per_worker: workers.iter().map(|worker| worker.payload_bytes).max().unwrap_or(0),
            wire_bytes_per_worker: workers.iter().map(|worker| worker.wire_bytes).max().unwrap_or(0),
            aborts: progress.aborts.clone(),
            numerics: atoll_trainer::numerics::class(facts.threads),
            workers,
            curve: progress.curve.values().cloned().collect(),
        }
    }

    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Writes the three files; each is there whole or not at all.
    pub(crate) fn write(&self, output: &Output) -> Result<()> {
        let folder = output.path();
        // The report first: it is what a full disk should take last.
        put(&folder.join("report.json"), &[serde_json::to_vec_pretty(self)?, b"\n".to_vec()].concat())?;
        put(&folder.join("loss.csv"), curve::csv(&self.curve).as_bytes())?;
        put(&folder.join("loss.svg"), curve::svg(&self.run, &self.curve)?.as_bytes())
    }

    /// The end of a run on a terminal: the loss curve, the workers, the figures.
    pub(crate) fn text(&self, folder: &Path) -> String {
        let mut workers = Table::new();
        workers.load_style(presets::UTF8_BORDERS_ONLY).set_header([
            "worker",
            "state",
            "samples",
            "compute s",
            "sync s",
            "sent MB",
            "weights",
        ]);
        for worker in &self.workers {
            workers.add_row([
                worker.name.clone(),
                format!("{:?}", worker.state),
                worker.samples.to_string(),
                format!("{:.1}", worker.compute_seconds),
                format!("{:.1}", worker.sync_seconds),
                format!("{:.1}", worker.wire_bytes as f64 / 1e6),
                worker.weights_hash.as_deref().map_or("-", |hash| &hash[..12.min(hash.len())]).to_owned(),
            ]);
        }
        let unfinished = |worker: &&WorkerReport| !matches!(worker.state, WorkerState::Finished | WorkerState::Gone);
        let unfinished = self.workers.iter().filter(unfinished);
        let unfinished: Vec<_> = unfinished.map(|worker| worker.name.as_str()).collect();
        let left_out = match unfinished.as_slice() {
            [] => String::new(),
            names => format!("{} of {} workers did not finish: {}\n", names.len(), self.workers.len(), names.join(", ")),
        };
        let loss = |loss: Option<f64>| loss.map_or("-".to_owned(), |loss| format!("{loss:.4}"));
        format!(
            "{}{workers}\n{left_out}{} {:?}: {} steps in {} rounds, {} tokens, {:.1} s, {:.0} tokens/s\nloss {} in training, {} held out (nats per token)\n{}\n",
            curve::text(&self.curve),
            self.run,
            self.state,
            self.steps,
            self.rounds,
            self.tokens,
            self.wall_seconds,
            self.tokens_per_second,
            loss(self.train_loss),
            loss(self.held_out_loss),
            folder.display(),
        )
    }
}

/// Writes a file under a temporary name and renames it.
fn put(path: &Path, content: &[u8]) -> Result<()> {
    let write = || -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(content)?;
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
