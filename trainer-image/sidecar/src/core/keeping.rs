//! Checkpoints: what the two state machines want kept, and what came of it.

use atoll_collective::coordinator::{self, Complete};
use atoll_collective::peer;
use atoll_collective::v1::{Start, Upload, Uploaded};
use atoll_collective::{Notice, chain};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval};

use super::{Core, Input};
use crate::checkpoint::{Orders, Source, cannot};

/// What this worker writes of a checkpoint.
#[derive(Debug, Default)]
pub(super) struct OwnShare {
    /// Rounds in the one whose share is being written.
    writing: Option<u64>,
    /// The trainer has finished and is gone meanwhile.
    trainer_gone: bool,
}

impl OwnShare {
    /// A share is being written, and stays of use without the trainer: it is not gone before that is done.
    pub(super) fn outlives_trainer(&mut self) -> bool {
        self.trainer_gone = self.writing.is_some();
        self.trainer_gone
    }

    /// A trainer is there.
    pub(super) fn has_trainer(&mut self) {
        self.trainer_gone = false;
    }

    /// It is written, or nobody wants it; whether the trainer is gone, which can be said now.
    fn ended(&mut self, rounds: u64) -> bool {
        self.writing.take_if(|writing| *writing == rounds).is_some() && std::mem::take(&mut self.trainer_gone)
    }
}

/// A copy that is to be made before the trainer goes on.
pub(super) struct Copying {
    source: Source,
    upload: Upload,
    orders: Orders,
}

impl Copying {
    /// Bytes to copy.
    pub(super) fn work(&self) -> usize {
        self.source.len()
    }

    pub(super) fn carry_out(self) {
        self.orders.keep(&self.source, self.upload);
    }
}

impl Core {
    /// What has to be copied of the trainer whose round begins; none where nothing is kept, and where it cannot be.
    pub(super) fn copying(&mut self, start: &Start) -> Option<Copying> {
        let upload = start.upload.clone()?;
        let source = self.trainer.as_ref().and_then(|trainer| trainer.kept().cloned());
        if let (Some(keeper), Some(source)) = (&self.shared.keeper, source) {
            self.share.writing = Some(upload.rounds);
            return Some(Copying { source, upload, orders: keeper.orders() });
        }
        self.cannot_keep(&upload);
        None
    }

    /// Nobody waits for this worker's share.
    pub(super) fn cannot_keep(&mut self, upload: &Upload) {
        let answer = cannot(upload, self.shared.keeper.is_some());
        self.peer_event(peer::Event::Uploaded(answer));
    }

    pub(super) fn divide(&mut self, upload: Upload) {
        match &self.shared.keeper {
            Some(keeper) => keeper.divide(upload),
            None => self.cannot_keep(&upload),
        }
    }

    pub(super) fn checkpoint_ended(&mut self, rounds: u64) {
        if let Some(keeper) = &self.shared.keeper {
            keeper.end(rounds);
        }
        self.share_ended(rounds);
    }

    /// This worker's share is written, or cannot be.
    pub(super) fn uploaded(&mut self, uploaded: Uploaded) {
        let rounds = uploaded.rounds;
        self.peer_event(peer::Event::Uploaded(uploaded));
        self.share_ended(rounds);
    }

    fn share_ended(&mut self, rounds: u64) {
        if self.share.ended(rounds) {
            self.peer_event(peer::Event::TrainerLost);
        }
    }

    /// Told to stop, it goes on until what it writes and publishes of a checkpoint is there, as long as it may.
    pub(super) async fn finish_checkpoint(&mut self, inputs: &mut mpsc::Receiver<Input>, ticks: &mut Interval) {
        let until = Instant::now() + self.shared.grace;
        let publishes = |core: &Self| core.coordinator.as_ref().is_some_and(coordinator::Coordinator::is_keeping);
        while (publishes(self) || self.share.writing.is_some()) && Instant::now() < until {
            tokio::select! {
                biased;
                _ = ticks.tick() => self.tick(),
                Some(input) = inputs.recv() => self.take(input),
            }
            self.talk_to_itself();
        }
    }

    /// Tells a notice of the coordinator, and how far the run is.
    pub(super) fn report(&mut self, notice: &Notice) {
        self.shared.report.notice(notice);
        if let Notice::Committed(record) = notice {
            self.shared.report.advanced(record, self.stage);
        }
    }

    /// Tells how far the run was when this sidecar became its coordinator, where its trainer has said what that means.
    pub(super) fn report_progress(&mut self) {
        let record = self.peer.committed().filter(|record| chain::rounds(Some(record)) > 0);
        if let (Some(record), Some(stage)) = (record, self.stage) {
            self.shared.report.advanced(record, Some(stage));
        }
    }

    pub(super) fn publish(&mut self, complete: Complete) {
        if let Some(keeper) = &self.shared.keeper {
            return keeper.publish(complete);
        }
        let rounds = complete.committed.round;
        let why = "this sidecar was given no folder for checkpoints".to_owned();
        self.coordinator_event(coordinator::Event::Published(rounds, Err(why)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trainer_that_ends_while_its_share_is_written_is_missed_once_that_is_done() {
        let mut share = OwnShare { writing: Some(5), trainer_gone: false };
        assert!(share.outlives_trainer());
        assert!(!share.ended(4) && share.ended(5) && !share.ended(5));
    }

    #[test]
    fn one_that_is_there_again_is_not_missed_and_one_without_a_share_is_missed_at_once() {
        let mut share = OwnShare { writing: Some(5), trainer_gone: false };
        assert!(share.outlives_trainer());
        share.has_trainer();
        assert!(!share.ended(5) && !share.outlives_trainer());
    }
}
