//! What a run came to.

use std::collections::BTreeMap;

use atoll_collective::operation::Key;
use atoll_collective::v1::{Commit, CommitRecord, Ledger, Member};
use atoll_collective::{Notice, chain};

use super::{Node, ROUNDS, World};

impl World {
    /// Final states of the trainers that did all rounds.
    pub(crate) fn finished(&self) -> impl Iterator<Item = &Vec<u8>> {
        let ended = |node: &&Node| Some(node.trainer.rounds) == self.last;
        self.nodes.iter().filter(ended).map(|node| &node.trainer.state)
    }

    /// Whether a worker has done the last round, or was struck since somebody had.
    pub(super) fn has_ended(&self, node: &Node) -> bool {
        self.last.is_some_and(|last| node.trainer.rounds == last || self.struck.contains(&node.me.slot))
    }

    /// In half of the schedules nobody is struck any more once the last round is committed; in the others those who have not learned
    /// of it yet must learn it from the others all the same.
    pub(super) fn is_over(&self) -> bool {
        self.last.is_some() && self.schedule.patient
    }

    /// A process of this worker ends.
    pub(super) fn strike(&mut self, slot: u32) {
        if self.last.is_some() {
            self.struck.insert(slot);
        }
    }

    /// The run ends with this round, if it has gone on for long enough and everybody is in it: whatever has happened to a worker, it
    /// is back by then.
    pub(super) fn end_with(&mut self, commit: &Commit) {
        let round = chain::rounds(commit.record.as_ref());
        let key: Key = commit.key.clone().unwrap_or_default().into();
        let holds = |node: &Node| node.trainer.rounds == round || node.outputs.contains_key(&key);
        let is_in = |node: &Node| node.alive && !node.petition.is_leaving() && node.trainer.alive && holds(node);
        let counts = |node: &Node| commit.slots.contains(&node.me.slot);
        if self.last.is_none() && round >= ROUNDS && self.nodes.iter().all(|node| is_in(node) && counts(node)) {
            self.last = Some(round);
        }
    }

    /// Every member of the newest epoch that knew the history has ended as a process since.
    pub(crate) fn all_that_knew_died(&self) -> bool {
        let record = self.record();
        let knows = |member: &Member| {
            self.is(member)
                && !member.contributor
                && chain::rounds(self.nodes[member.slot as usize].peer.committed()) >= record.rounds
        };
        !record.members.iter().any(knows)
    }

    /// The newest state is held by one alone that never gives it, and that was said.
    pub(crate) fn only_a_receiver_knows(&self) -> bool {
        let newest = self.history.keys().last().copied().unwrap_or(0);
        let holds = |slot: u32, node: &Node| node.trainer.rounds == newest && !self.never_gives(slot);
        let said = |notice: &Notice| matches!(notice, Notice::StateMissing { round } if *round == newest + 1);
        !(0..).zip(&self.nodes).any(|(slot, node)| holds(slot, node)) && self.notices.iter().any(said)
    }

    /// Where everybody stands, for a schedule that fails.
    pub(crate) fn describe(&self) -> String {
        let nodes: Vec<_> =
            self.nodes.iter().map(|node| format!("{:?}\n  {:?}\n  {:?}\n", node.peer, node.coordinator, node.petition)).collect();
        format!("at {}: {:#?}\n{}\n{:?}", self.now, self.record(), nodes.concat(), self.notices)
    }

    pub(crate) fn evictions(&self) -> usize {
        self.notices.iter().filter(|notice| matches!(notice, Notice::Evicted { .. })).count()
    }

    pub(crate) fn operations(&self) -> usize {
        self.operations.values().filter(|commit| commit.record.is_none()).count()
    }

    pub(crate) fn in_doubt(&self) -> usize {
        self.doubts
    }

    pub(crate) fn terms(&self) -> u64 {
        self.record().term
    }

    pub(crate) fn history(&self) -> &BTreeMap<u64, CommitRecord> {
        &self.history
    }

    /// The first thing that went wrong, if anything did.
    pub(crate) fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    pub(crate) fn ledger(&self) -> Ledger {
        chain::ledger(self.history.values().last())
    }
}
