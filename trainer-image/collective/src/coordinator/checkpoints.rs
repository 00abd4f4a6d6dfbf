//! When the state is kept, who writes which share of it, and when all of them are there.
//!
//! A checkpoint begins with a round: all members hold the same state then, and each copies it before its trainer goes on. The next one
//! does not begin before it has ended, however long the store takes; training waits for none. What a writer that is lost had not written
//! is divided among the others.

use std::collections::BTreeMap;

use super::{Action, Coordinator, beginning};
use crate::v1::{CheckpointEnded, CommitRecord, EpochRecord, Upload, Uploaded, coordinator_message};
use crate::{Millis, Notice};

/// Longest share that a peer reports: the names of some ten thousand files.
const LONGEST_SHARE: usize = 2 << 20;

/// How often the state is kept; by rounds, by time, or by whichever comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cadence {
    /// Each so many rounds.
    pub rounds: Option<u64>,
    /// So long after the last one began.
    pub time: Option<Millis>,
}

/// A checkpoint of which all shares are written.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Complete {
    /// The newest round in it.
    pub committed: CommitRecord,
    /// The membership that wrote it.
    pub record: EpochRecord,
    /// What each has written, by slot.
    pub shares: BTreeMap<u32, Vec<u8>>,
}

/// The checkpoint that is being written, and when the last one began.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Checkpoints {
    open: Option<Open>,
    /// Rounds in the last one that was begun; absent where an earlier coordinator may have begun others.
    last: Option<u64>,
    began: Millis,
    /// It was said that one was left out since.
    late: bool,
    /// One of this or a later round is wanted, whatever the cadence.
    #[serde(default)]
    wish: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Open {
    committed: CommitRecord,
    record: EpochRecord,
    /// Who writes: slots and incarnations.
    writers: Vec<(u32, u64)>,
    division: u32,
    /// What has been written: by division and slot.
    shares: BTreeMap<u32, (u32, Vec<u8>)>,
    publishing: bool,
}

impl Open {
    fn rounds(&self) -> u64 {
        self.committed.round
    }

    fn upload(&self) -> Upload {
        let slots = self.writers.iter().map(|(slot, _)| *slot).collect();
        Upload { rounds: self.rounds(), division: self.division, slots, term: self.record.term }
    }

    fn has_reported(&self, slot: u32) -> bool {
        self.shares.get(&slot).is_some_and(|(division, _)| *division == self.division)
    }
}

impl Checkpoints {
    /// The last one that was begun has `last` rounds, as far as this coordinator knows.
    pub(super) fn new(last: Option<u64>, now: Millis) -> Self {
        Self { open: None, last, began: now, late: false, wish: None }
    }

    fn is_due(&self, cadence: Cadence, rounds: u64, ends: bool, now: Millis) -> bool {
        let asked = cadence.rounds.is_some() || cadence.time.is_some();
        if self.wish.is_some_and(|wish| rounds >= wish && self.last.is_none_or(|last| wish > last)) {
            return true;
        }
        let Some(last) = self.last else { return asked && rounds > 0 };
        if ends {
            return asked && rounds > last;
        }
        let by_rounds = cadence.rounds.is_some_and(|every| rounds / every.max(1) > last / every.max(1));
        let by_time = cadence.time.is_some_and(|every| now.saturating_sub(self.began) >= every);
        rounds > last && (by_rounds || by_time)
    }
}

impl Coordinator {
    /// A checkpoint of this or a later round is wanted: it begins with the first round from there on, unless one was begun that has it.
    pub(super) fn wish_for_checkpoint(&mut self, round: u64) {
        self.checkpoints.wish = self.checkpoints.wish.max(Some(round));
    }

    /// A checkpoint is being written or published.
    #[must_use]
    pub fn is_keeping(&self) -> bool {
        self.checkpoints.open.is_some()
    }

    /// Begins a checkpoint with the round that begins, where one is due: trusted members of those who wait write it.
    pub(super) fn begin_checkpoint(&mut self, waiting: &[u32], now: Millis, actions: &mut Vec<Action>) -> Option<Upload> {
        let committed = self.committed.clone()?;
        let rounds = committed.round;
        let ends = self.has_ended(waiting);
        if !self.checkpoints.is_due(self.settings.checkpoints, rounds, ends, now) {
            return None;
        }
        if let Some(open) = &self.checkpoints.open {
            if !std::mem::replace(&mut self.checkpoints.late, true) {
                actions.push(Action::Report(Notice::CheckpointLate { rounds, writing: open.rounds() }));
            }
            return None;
        }
        let trusted = self.trusted().filter(|session| waiting.contains(&session.member.slot));
        let writers: Vec<_> = trusted.map(|session| (session.member.slot, session.member.incarnation)).collect();
        if writers.is_empty() {
            return None;
        }
        let record = self.record.clone();
        let open = Open { committed, record, writers, division: 1, shares: BTreeMap::new(), publishing: false };
        let upload = open.upload();
        actions.push(Action::Report(Notice::CheckpointStarted { rounds, slots: upload.slots.clone() }));
        let wish = self.checkpoints.wish;
        self.checkpoints = Checkpoints { open: Some(open), last: Some(rounds), began: now, late: false, wish };
        Some(upload)
    }

    /// One who waits has done its last round: nobody trains any more, and all are here for a checkpoint of it.
    pub(super) fn has_ended(&self, waiting: &[u32]) -> bool {
        let last =
            |slot: &u32| self.sessions.get(slot).and_then(|session| session.arrive.as_ref()).is_some_and(|arrive| arrive.last);
        waiting.iter().any(last)
    }

    /// The last checkpoint waits for the one before: nobody trains any more.
    pub(super) fn waits_for_checkpoint(&self, waiting: &[u32]) -> bool {
        self.checkpoints.open.is_some() && self.has_ended(waiting)
    }

    /// A peer has written its share, or cannot.
    pub(super) fn uploaded(&mut self, slot: u32, uploaded: Uploaded, now: Millis, actions: &mut Vec<Action>) {
        let Some(open) = &mut self.checkpoints.open else { return };
        let wanted = (open.rounds(), open.record.term, open.division);
        let current = wanted == (uploaded.rounds, uploaded.term, uploaded.division);
        if !current || open.publishing || !open.writers.iter().any(|(writer, _)| *writer == slot) {
            return;
        }
        let too_long = uploaded.share.len() > LONGEST_SHARE;
        if too_long || !uploaded.failure.is_empty() {
            let why = if too_long { "its share has too many files" } else { beginning(&uploaded.failure) };
            return self.end_checkpoint(Err(format!("slot {slot}: {why}")), now, actions);
        }
        open.shares.insert(slot, (open.division, uploaded.share));
        self.publish_if_complete(actions);
    }

    /// Divides what lost writers have not written among the others.
    pub(super) fn redivide(&mut self, now: Millis, actions: &mut Vec<Action>) {
        // Who is no member any more may never have copied the state, and says nothing of it.
        let here = |(slot, incarnation): &(u32, u64)| {
            self.is_member(*slot) && self.sessions.get(slot).is_some_and(|session| session.member.incarnation == *incarnation)
        };
        let Some(open) = self.checkpoints.open.as_ref().filter(|open| !open.publishing) else { return };
        let gone = |writer: &(u32, u64)| !here(writer) && !open.has_reported(writer.0);
        if !open.writers.iter().any(gone) {
            return;
        }
        let left: Vec<_> = open.writers.iter().filter(|writer| here(writer)).copied().collect();
        if left.is_empty() {
            return self.end_checkpoint(Err("all that wrote it are lost".to_owned()), now, actions);
        }
        let Some(open) = &mut self.checkpoints.open else { return };
        open.writers = left;
        open.division += 1;
        let upload = open.upload();
        for slot in upload.slots.clone() {
            actions.push(self.send(slot, coordinator_message::Body::Upload(upload.clone())));
        }
    }

    fn publish_if_complete(&mut self, actions: &mut Vec<Action>) {
        let Some(open) = &mut self.checkpoints.open else { return };
        if !open.writers.iter().all(|(slot, _)| open.has_reported(*slot)) {
            return;
        }
        open.publishing = true;
        let shares = open.shares.iter().map(|(slot, (_, share))| (*slot, share.clone())).collect();
        let complete = Complete { committed: open.committed.clone(), record: open.record.clone(), shares };
        actions.push(Action::Publish(Box::new(complete)));
    }

    /// The checkpoint is there, or cannot be.
    pub(super) fn published(&mut self, rounds: u64, result: Result<(), String>, now: Millis, actions: &mut Vec<Action>) {
        let open = self.checkpoints.open.as_ref();
        if open.is_some_and(|open| open.publishing && open.rounds() == rounds) {
            self.end_checkpoint(result, now, actions);
        }
    }

    fn end_checkpoint(&mut self, result: Result<(), String>, now: Millis, actions: &mut Vec<Action>) {
        let Some(open) = self.checkpoints.open.take() else { return };
        let rounds = open.rounds();
        actions.push(Action::Report(match result {
            Ok(()) => Notice::Checkpointed { rounds, took: now.saturating_sub(self.checkpoints.began) },
            Err(detail) => Notice::CheckpointFailed { rounds, detail },
        }));
        for (slot, _) in open.writers {
            let ended = coordinator_message::Body::CheckpointEnded(CheckpointEnded { rounds });
            if self.sessions.contains_key(&slot) {
                actions.push(self.send(slot, ended));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(last: Option<u64>, cadence: Cadence, rounds: u64, now: Millis) -> bool {
        Checkpoints::new(last, 1_000).is_due(cadence, rounds, false, now)
    }

    #[test]
    fn one_is_due_at_each_multiple_and_once_where_that_was_missed() {
        let every = Cadence { rounds: Some(10), time: None };
        let first: Vec<u64> = (0..25).filter(|rounds| due(Some(0), every, *rounds, 1_000)).collect();
        assert_eq!(first, (10..25).collect::<Vec<_>>());
        assert!(!due(Some(12), every, 19, 1_000) && due(Some(12), every, 20, 1_000));
        assert!(!due(Some(0), Cadence::default(), 100, 1_000_000));
    }

    #[test]
    fn one_is_due_at_the_end_unless_it_is_there() {
        let due = |last, cadence| Checkpoints::new(Some(last), 1_000).is_due(cadence, 13, true, 1_000);
        let every = Cadence { rounds: Some(10), time: None };
        assert!(due(10, every) && !due(13, every) && !due(10, Cadence::default()));
    }

    #[test]
    fn one_is_due_by_time_where_a_round_was_committed_since() {
        let every = Cadence { rounds: None, time: Some(500) };
        assert!(!due(Some(3), every, 4, 1_499) && due(Some(3), every, 4, 1_500) && !due(Some(3), every, 3, 9_000));
    }

    #[test]
    fn one_that_is_wished_for_is_due_once_from_its_round_on_whatever_the_cadence() {
        for cadence in [Cadence::default(), Cadence { rounds: Some(100), time: None }] {
            let due =
                |wish, last, rounds| Checkpoints { wish, ..Checkpoints::new(last, 1_000) }.is_due(cadence, rounds, false, 1_000);
            assert!(!due(Some(7), Some(4), 6) && due(Some(7), Some(4), 7) && due(Some(7), Some(4), 9));
            assert!(!due(Some(7), Some(7), 9), "one was begun");
            assert!(!due(Some(7), Some(8), 9), "a later one was begun");
            assert!(!due(None, Some(4), 9));
        }
        let unknown = Checkpoints { wish: Some(7), ..Checkpoints::new(None, 1_000) };
        assert!(unknown.is_due(Cadence::default(), 7, false, 1_000) && !unknown.is_due(Cadence::default(), 6, false, 1_000));
    }

    #[test]
    fn a_recording_of_before_there_were_wishes_is_read() {
        let mut written = serde_json::to_value(Checkpoints::new(Some(3), 5)).unwrap();
        written.as_object_mut().unwrap().remove("wish");
        assert_eq!(serde_json::from_value::<Checkpoints>(written).unwrap(), Checkpoints::new(Some(3), 5));
    }

    #[test]
    fn a_new_coordinator_does_not_know_of_earlier_ones_and_keeps_the_state_at_once() {
        let every = Cadence { rounds: Some(10), time: None };
        assert!(due(None, every, 3, 1_000) && !due(None, every, 0, 1_000) && !due(None, Cadence::default(), 3, 1_000));
    }
}
