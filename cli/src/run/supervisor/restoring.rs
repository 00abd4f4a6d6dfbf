//! A run whose newest state nobody holds any more: all of it begins again, from the newest checkpoint that is whole.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atoll_collective::v1::Ledger;
use atoll_sdk::events::Event;
use atoll_sidecar::ARBITER;

use super::{End, Outcome, Supervisor, Worker, settings};
use crate::run::checkpoints;
use crate::supervision::arbiter::ArbiterService;
use crate::supervision::loopback;

/// Most times that all of a run begins again.
const MOST: u32 = 20;

impl Supervisor<'_> {
    /// Makes all ready to begin again; false where the run keeps no checkpoints.
    ///
    /// # Errors
    /// There is none to go back to, or it went back too often.
    pub(super) async fn begin_again(&mut self, lost: &Outcome) -> Result<bool> {
        let Some(keeping) = self.checkpoints.keeping.clone() else { return Ok(false) };
        let why = lost.failure.clone().unwrap_or_default();
        ensure!(self.restored < MOST, "{why}; it went back {MOST} times before");
        self.restored += 1;
        self.log(&Event::now("", "StateLost").with("reason", why.as_str()))?;
        self.checkpoints = checkpoints::again(self.file, &keeping, &self.ready.own()).await?;
        let diverged = self.diverged.take();
        if let Some(diverged) = &diverged {
            let resume = self.checkpoints.resume.as_mut();
            let resume = resume.with_context(|| format!("{}; there is no checkpoint to go back to", diverged.why))?;
            // The samples that led there are not trained on again.
            let reached = diverged.samples_end.max(self.progress.samples_end);
            let ledger = resume.committed.ledger.clone().unwrap_or_default();
            resume.committed.ledger = Some(Ledger { next: ledger.next.max(reached), holes: Vec::new() });
        }
        self.progress.rewind(self.checkpoints.after());
        self.settings = settings(self.file, self.checkpoints.resume.as_ref());
        self.arbiter = ArbiterService::new(self.settings.liveness, self.wanted);
        let identity = self.authority.identity(ARBITER)?;
        self.serving = self.arbiter.serve(&self.file.name, loopback(0), &self.token, Some(&identity)).await?;
        self.ready.sockets.renew()?;
        self.knew_newest = None;
        self.writing = None;
        self.first_finished = None;
        for worker in &mut self.workers {
            let Worker { sidecar_starts, trainer_starts, end, .. } = std::mem::take(worker);
            // Who ended because it diverged may go on.
            let end = end.filter(|end| diverged.is_none() || matches!(end, End::Gone));
            *worker = Worker { sidecar_starts, trainer_starts, end, ..Worker::default() };
        }
        // Who is gone, or cannot go on, is not waited for.
        let able = self.workers.iter().filter(|worker| worker.end.is_none()).count();
        self.settings.minimum = self.settings.minimum.min(able).max(self.settings.quorum);
        // What the ended processes still had to say is of a run that is over.
        while tokio::time::timeout(Duration::ZERO, self.told.recv()).await.is_ok() {}
        Ok(true)
    }

    /// Which checkpoint it goes on from, and what of it nobody takes over.
    pub(super) fn log_checkpoints(&mut self) -> Result<()> {
        let checkpoints = self.checkpoints.clone();
        for (place, why) in &checkpoints.skipped {
            self.log(&Event::now("", "CheckpointSkipped").with("checkpoint", place.as_str()).with("reason", why.as_str()))?;
        }
        let Some(resume) = &checkpoints.resume else { return Ok(()) };
        let resumed = Event::now("", "Resumed").round(resume.committed.round).step(resume.manifest.step);
        let resumed = resumed.with("checkpoint", resume.manifest.place.to_string());
        self.log(&resumed.with("from", resume.location.uri.as_str()))?;
        let surplus = resume.manifest.private.iter().map(|state| state.slot).filter(|slot| *slot as usize >= self.workers.len());
        let surplus: Vec<u32> = surplus.collect();
        if surplus.is_empty() {
            return Ok(());
        }
        self.log(&Event::now("", "PrivateStateDropped").with("slots", surplus))
    }
}
