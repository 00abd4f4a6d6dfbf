//! Checkpoints of the simulation: shares that take their time or fail, and what is asserted of every one that is published.

use std::collections::BTreeSet;

use atoll_collective::coordinator::{self, Cadence, Complete};
use atoll_collective::peer;
use atoll_collective::v1::{Start, Upload, Uploaded};
use atoll_collective::{Millis, Notice};

use super::{Happening, World};

/// Pieces of the state.
const PIECES: usize = 7;
/// Longest time of a checkpoint whose coordinator lives and does something: whoever does not write its share is lost by then.
const LONGEST: Millis = 30_000;

/// What became of the checkpoints.
#[derive(Default)]
pub(super) struct Checkpoints {
    published: usize,
    /// The one that is being written, by the word of the newest coordinator: who and in which term, and since when.
    writing: Option<(u32, u64, Millis)>,
}

impl World {
    /// Checkpoints that were published.
    pub(crate) fn checkpoints(&self) -> usize {
        self.checkpoints.published
    }

    /// When the state is kept.
    pub(super) fn cadence(&self) -> Cadence {
        Cadence { rounds: self.schedule.checkpoints.then_some(1), time: None }
    }

    /// A trainer is told to go on: what it holds is copied first.
    pub(super) fn copy(&mut self, slot: u32, start: &Start) {
        if let Some(upload) = start.upload.clone() {
            self.node(slot).kept = Some((upload.rounds, start.state_root.clone()));
            self.write(slot, upload);
        }
    }

    pub(super) fn write(&mut self, slot: u32, upload: Upload) {
        let incarnation = self.node(slot).me.incarnation;
        self.soon(3_000, Happening::Written { slot, incarnation, upload });
    }

    /// The share is written: the root of the state, and which pieces. Now and then the store fails.
    pub(super) fn written(&mut self, slot: u32, incarnation: u64, upload: &Upload) {
        if !self.is(&self.process(slot, incarnation)) {
            return;
        }
        let fails = self.below(20) == 0;
        let held = self.node(slot).kept.clone().filter(|(rounds, _)| *rounds == upload.rounds && !fails);
        let turn = upload.slots.iter().position(|writes| *writes == slot);
        let (share, failure) = match (held, turn) {
            (Some((_, root)), Some(turn)) => {
                let pieces = (0..PIECES).filter(|piece| piece % upload.slots.len() == turn).map(|piece| piece as u8);
                (root.into_iter().chain(pieces).collect(), String::new())
            }
            _ => (Vec::new(), "the store fails".to_owned()),
        };
        let Upload { rounds, division, term, .. } = *upload;
        let uploaded = Uploaded { rounds, division, share, failure, term };
        self.peer_event(slot, peer::Event::Uploaded(uploaded));
    }

    pub(super) fn forget_copy(&mut self, slot: u32, rounds: u64) {
        let node = self.node(slot);
        node.kept = node.kept.take().filter(|(held, _)| *held != rounds);
    }

    /// A checkpoint that was begun ends, unless its coordinator does.
    pub(super) fn follow_checkpoint(&mut self, slot: u32, term: u64, notice: &Notice) {
        let own = |writing: &(u32, u64, Millis)| (writing.0, writing.1) == (slot, term);
        if let Some((_, _, since)) = self.checkpoints.writing.filter(own) {
            let took = self.now - since;
            self.require(took <= LONGEST, || format!("the checkpoint that {slot} began {took} ms ago does not end"));
        }
        match notice {
            Notice::CheckpointStarted { .. } => self.checkpoints.writing = Some((slot, term, self.now)),
            Notice::Checkpointed { .. } | Notice::CheckpointFailed { .. } => {
                self.checkpoints.writing = self.checkpoints.writing.filter(|writing| !own(writing));
            }
            _ => {}
        }
    }

    /// What is published is whole, of one state that the run has held, and of a round that was committed.
    pub(super) fn publish(&mut self, slot: u32, term: u64, complete: &Complete) {
        let rounds = complete.committed.round;
        let roots: BTreeSet<&[u8]> = complete.shares.values().map(|share| &share[..32]).collect();
        let pieces: BTreeSet<u8> = complete.shares.values().flat_map(|share| share[32..].iter().copied()).collect();
        let held = roots.iter().all(|root| self.trusted_states.contains(*root));
        self.require(roots.len() == 1 && held, || format!("the checkpoint of {rounds} rounds is of several states"));
        self.require(pieces.len() == PIECES, || format!("the checkpoint of {rounds} rounds lacks pieces: it has {pieces:?}"));
        let committed = self.history.get(&rounds) == Some(&complete.committed);
        self.require(committed, || format!("the checkpoint of {rounds} rounds is of one that was not committed"));
        let incarnation = self.node(slot).me.incarnation;
        self.soon(500, Happening::Published { slot, incarnation, term, rounds });
    }

    pub(super) fn published(&mut self, slot: u32, incarnation: u64, term: u64, rounds: u64) {
        let serves = self.nodes[slot as usize].coordinator.as_ref().is_some_and(|coordinator| coordinator.term() == term);
        if !serves || !self.is(&self.process(slot, incarnation)) {
            return;
        }
        let result = if self.below(10) == 0 { Err("the store fails".to_owned()) } else { Ok(()) };
        self.checkpoints.published += usize::from(result.is_ok());
        self.coordinator_event(slot, coordinator::Event::Published(rounds, result));
    }
}
