//! Checkpoints: what the two state machines want kept, and what came of it.

use atoll_collective::coordinator::{self, Complete};
use atoll_collective::peer;
use atoll_collective::v1::{Start, Upload};

use super::Core;
use crate::checkpoint::{Orders, Source, cannot};

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
