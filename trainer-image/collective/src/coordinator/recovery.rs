//! A new term: what became of the operation that the lost coordinator left behind.
//!
//! Any survivor who was told commit, or all survivors prepared with the same hash: commit. Any survivor not prepared:
//! nobody can have committed, because a commit needs every member prepared; abort. A vote of an earlier epoch counts for a
//! round that was committed when the newest epoch was proposed, and for no other. Then a new epoch with the survivors.

use super::{Action, Coordinator, Phase, Session, abort, commit};
use crate::v1::{AbortReason, CommitRecord, Prepared};
use crate::{Millis, Notice, chain};

impl Coordinator {
    /// Decides once all members of the last epoch have spoken, or the silent ones had their time.
    pub(super) fn recover(&mut self, since: Millis, now: Millis, actions: &mut Vec<Action>) {
        // A member whose slot speaks with another incarnation is known to be gone, and who lost the role is known to be silent.
        let deposed = self.record.deposed.as_ref();
        let all_known =
            self.record.members.iter().all(|member| self.sessions.contains_key(&member.slot) || Some(member) == deposed);
        let waited = now.saturating_sub(since) >= self.settings.liveness || !self.rules.waits_for_survivors;
        if self.members().next().is_none() || !(all_known || waited) {
            return;
        }
        self.committed = self.sessions.values().filter_map(|session| session.committed.clone()).max_by_key(|record| record.round);
        if let Some(record) = self.outcome_of_survivors() {
            self.committed = Some(record);
        }
        // All that are here came in with this epoch and have not caught up: they do not know the history that they would continue.
        let round = self.record.rounds;
        if self.rules.history_is_known && chain::rounds(self.committed.as_ref()) < round {
            if !std::mem::replace(&mut self.holding, true) {
                let absent = self.record.members.iter().filter(|member| !self.is_here(member)).cloned().collect();
                actions.push(Action::Report(Notice::HistoryMissing { round, absent }));
            }
            return;
        }
        for member in self.record.members.clone() {
            if !self.is_member(member.slot) {
                let detail = "not heard by the new coordinator".to_owned();
                self.evicting.insert(member.slot, (AbortReason::PeerLost, detail));
            }
        }
        // Nobody is told of the outcome before the arbiter has confirmed that this term is still the newest: a coordinator that
        // slept here would tell what its successor has decided otherwise.
        if !self.rules.stored_before_told {
            self.tell_outcome(actions);
        }
        self.propose(&[], now, actions);
    }

    /// The arbiter has stored the survivors' epoch: they are told the outcome, and the open round goes on.
    pub(super) fn recovered(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::Open;
        self.tell_outcome(actions);
        let round = self.round();
        let round_state = self
            .members()
            .filter_map(|session| session.start.as_ref())
            .find(|start| start.round == round)
            .map(|start| start.state_hash.clone());
        self.round_state = round_state;
    }

    /// The commit that all survivors are prepared for, if they are.
    fn outcome_of_survivors(&self) -> Option<CommitRecord> {
        let round = self.round();
        let mut survivors = self.members();
        let first = survivors.next()?;
        // The epoch says what was committed when it was proposed; what was not by then was given up with the epoch before.
        let stands = |vote: &&Prepared| {
            vote.epoch == self.record.epoch || vote.round <= self.record.rounds || !self.rules.votes_of_this_epoch
        };
        let vote = first.prepared.as_ref().filter(|prepared| prepared.round == round).filter(stands)?;
        let begin = first.begin.as_ref()?;
        (survivors.all(|session| session.prepared.as_ref() == Some(vote)) || !self.rules.survivors_agree)
            .then(|| chain::commit(self.committed.as_ref(), begin, &vote.result_hash))
    }

    /// Brings every survivor to the same round: commits for those that wait for one, aborts for those prepared in vain.
    fn tell_outcome(&mut self, actions: &mut Vec<Action>) {
        let rounds = chain::rounds(self.committed.as_ref());
        for slot in self.members().map(|session| session.member.slot).collect::<Vec<_>>() {
            let Some(session) = self.sessions.get(&slot) else { continue };
            let behind = chain::rounds(session.committed.as_ref()) < rounds;
            let prepared = session.prepared.as_ref().map(|prepared| prepared.round);
            if behind && let Some(record) = &self.committed {
                actions.push(self.send(slot, commit(record)));
            } else if let Some(round) = prepared {
                actions.push(self.send(slot, abort(round, AbortReason::CoordinatorLost, None, "it had not committed")));
            }
            if let Some(session) = self.sessions.get_mut(&slot) {
                session.settle(rounds, behind);
            }
        }
    }
}

impl Session {
    /// Forgets what belongs to rounds that are over.
    fn settle(&mut self, rounds: u64, told: bool) {
        self.prepared = None;
        self.begin = None;
        if told || self.start.as_ref().is_some_and(|start| start.round <= rounds) {
            self.leave_round();
        }
        if self.enter.as_ref().is_some_and(|enter| enter.round <= rounds) {
            self.enter = None;
        }
    }
}
