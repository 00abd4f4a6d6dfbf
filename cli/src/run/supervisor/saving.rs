//! The end of a run that is complete: one of its trainers evaluates and writes the model.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::{ANSWER, Outcome, SAVING, Supervisor};
use crate::run::report::State;

/// How long the checkpoint of the last round is waited for.
const CHECKPOINT: Duration = Duration::from_mins(10);

impl Supervisor<'_> {
    /// Has one of the finished trainers evaluate and write the model.
    pub(super) async fn save(&mut self) -> Result<Outcome> {
        let partial = self.partial();
        for slot in 0..self.workers.len() {
            if !self.workers[slot].finished {
                continue;
            }
            let Some(trainer) = &mut self.workers[slot].trainer else { continue };
            if trainer.tell(&format!("save {}\n", std::path::absolute(&partial)?.display())).await.is_err() {
                continue;
            }
            let asked = tokio::time::Instant::now();
            while !self.saved && self.workers[slot].trainer.is_some() {
                let until = asked + if self.workers[slot].saving { SAVING } else { ANSWER };
                match tokio::time::timeout_at(until, self.told.recv()).await {
                    Ok(Some(told)) => self.hear(told).await?,
                    _ => break,
                }
            }
            if self.saved {
                std::fs::rename(&partial, self.output.path().join("model")).context("cannot put the model in its place")?;
                return Ok(Outcome::of(State::Complete, self.held_out_loss));
            }
            // One that slept must not write when it wakes.
            if let Some(trainer) = &self.workers[slot].trainer {
                trainer.signal(Signal::KILL);
            }
            self.remove_partial();
        }
        bail!("no trainer could write the model; see {}", self.output.path().join("logs").display())
    }

    /// Waits for the checkpoint that is being written, if there is one.
    pub(super) async fn last_checkpoint(&mut self) -> Result<()> {
        let until = tokio::time::Instant::now() + CHECKPOINT;
        while self.writing.is_some() && self.workers.iter().any(|worker| worker.sidecar.is_some()) {
            match tokio::time::timeout_at(until, self.told.recv()).await {
                Ok(Some(told)) => self.hear(told).await?,
                _ => break,
            }
        }
        Ok(())
    }

    /// Where the model is written before it is whole.
    fn partial(&self) -> std::path::PathBuf {
        self.output.path().join(".model.partial")
    }

    pub(super) fn remove_partial(&self) {
        let _usually_not_there = std::fs::remove_dir_all(self.partial());
    }
}
