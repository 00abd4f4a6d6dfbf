//! A new term: what became of the operations that the lost coordinator left behind.
//!
//! Any survivor who was told commit, or all survivors prepared with the same hash: commit. Any survivor not prepared:
//! nobody can have committed, because a commit needs all who take part prepared; abort. A vote of an earlier epoch counts
//! for what was committed when the newest epoch was proposed, and for nothing else. Then a new epoch with the survivors. Those who
//! are asked are trusted members: a contributor's word is no evidence.

use std::collections::BTreeSet;

use super::{Action, Coordinator, Phase, Session, abort, evict, told};
use crate::operation::Key;
use crate::state::election::Revision;
use crate::v1::{AbortReason, Begin, Flight, Prepared, coordinator_message};
use crate::{Millis, Notice, Refusal, chain};

impl Coordinator {
    /// Decides once all members of the last epoch have spoken, or the silent ones had their time. It is for their places that they
    /// are waited for: what some of them say decides as well as what all say, since nothing is committed that one of them is not
    /// prepared for.
    pub(super) fn recover(&mut self, since: Millis, now: Millis, actions: &mut Vec<Action>) {
        // A member whose slot speaks with another incarnation is known to be gone, and who lost the role is known to be silent.
        let deposed = self.record.deposed.as_ref();
        let all_known =
            self.record.members.iter().all(|member| self.sessions.contains_key(&member.slot) || Some(member) == deposed);
        let waited = now.saturating_sub(since) >= self.settings.liveness;
        if !(all_known || waited) {
            return;
        }
        if self.trusted().next().is_none() {
            return self.miss_history(self.record.rounds, actions);
        }
        let told = self.sessions.values().filter_map(|session| session.committed.clone());
        self.committed = told.chain(self.settings.resumed.clone()).max_by_key(|record| record.round);
        self.decide();
        // All that are here came in with this epoch and have not caught up: they do not know the history that they would continue.
        let round = self.record.rounds;
        if self.rules.history_is_known && chain::rounds(self.committed.as_ref()) < round {
            return self.miss_history(round, actions);
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

    /// Says once who would have to come back.
    fn miss_history(&mut self, round: u64, actions: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.holding, true) {
            let absent = self.record.members.iter().filter(|member| !self.is_here(member)).cloned().collect();
            actions.push(Action::Report(Notice::HistoryMissing { round, absent }));
        }
    }

    /// The arbiter has stored the survivors' epoch: they are told the outcome, and the open round goes on.
    pub(super) fn recovered(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::Open;
        self.tell_outcome(actions);
        self.recall_contributors(actions);
        let round = self.round();
        let begun = self
            .trusted()
            .filter_map(|session| session.start.as_ref())
            .find(|start| start.round == round)
            .and_then(|start| Some((Revision::of(start)?, start.started)));
        self.round_started = begun.as_ref().map_or(0, |(_, started)| *started);
        self.round_state = begun.map(|(state, _)| state);
    }

    /// Commits what all survivors are prepared for, as far as nobody was told of it.
    fn decide(&mut self) {
        // Commits of one index may differ: told by a coordinator that was deposed, and by its successor. All are true.
        for commit in &mut self.history {
            self.index += 1;
            commit.index = self.index;
        }
        let known: BTreeSet<Key> = self.history.iter().filter_map(|commit| commit.key.clone()).map(Key::from).collect();
        let open: BTreeSet<Key> = self.trusted().flat_map(|session| session.flights.keys()).cloned().collect();
        for key in open.difference(&known) {
            if let Some((begin, vote)) = self.outcome_of_survivors(key) {
                self.append(&begin, &vote.result_hash);
            }
        }
        // Rounds that a survivor was told of are links of the chain.
        let newest = self.history.iter().filter_map(|commit| commit.record.as_ref()).max_by_key(|record| record.round);
        if newest.is_some_and(|newest| newest.round > chain::rounds(self.committed.as_ref())) {
            self.committed = newest.cloned();
        }
    }

    /// The operation of this name and the vote of all survivors who took part, if they all voted alike.
    fn outcome_of_survivors(&self, key: &Key) -> Option<(Begin, Prepared)> {
        let begin = self.trusted().find_map(|session| session.flights.get(key)?.begin.as_ref())?;
        let took_part = |session: &&Session| begin.contributions.iter().any(|given| given.slot == session.member.slot);
        let mut votes = self.trusted().filter(took_part).map(|session| session.flights.get(key)?.prepared.as_ref());
        // The epoch says what was committed when it was proposed; what was not by then was given up with the epoch before.
        let stands = |vote: &&Prepared| {
            let committed = || self.record.committed.iter().any(|committed| Key::from(committed.clone()) == *key);
            vote.epoch == self.record.epoch || committed() || !self.rules.votes_of_this_epoch
        };
        let vote = if self.rules.survivors_agree {
            let first = votes.next()??;
            votes.all(|vote| vote == Some(first)).then_some(first)?
        } else {
            votes.flatten().next()?
        };
        stands(&vote).then(|| (begin.clone(), vote.clone()))
    }

    /// Brings every survivor to the same history: commits for those that wait for one, aborts for those prepared in vain.
    fn tell_outcome(&mut self, actions: &mut Vec<Action>) {
        let rounds = chain::rounds(self.committed.as_ref());
        for slot in self.members().map(|session| session.member.slot).collect::<Vec<_>>() {
            let Some(session) = self.sessions.get(&slot) else { continue };
            let new: Vec<_> = self.awaited(session).cloned().collect();
            let is_new = |key: &Key| new.iter().any(|commit| commit.key.clone().map(Key::from).as_ref() == Some(key));
            let in_vain = |(key, flight): (&Key, &Flight)| (flight.prepared.is_some() && !is_new(key)).then(|| key.clone());
            let in_vain: Vec<Key> = session.flights.iter().filter_map(in_vain).collect();
            let (left_out, decides) = (self.is_left_out(session), self.decides(&session.member));
            actions.extend(new.iter().map(|commit| self.send(slot, told(commit))));
            for key in in_vain.iter().filter(|_| !left_out) {
                let detail = "it had not committed".to_owned();
                let lost = Refusal { reason: AbortReason::CoordinatorLost, culprit: None, detail };
                actions.push(self.send(slot, coordinator_message::Body::Abort(abort(key, &lost))));
            }
            let told_round = new.iter().any(|commit| commit.record.is_some());
            if left_out {
                actions.push(self.send(slot, evict(AbortReason::PeerLost, "the others decided an operation without it")));
            } else if !told_round && session.start.as_ref().is_some_and(|start| start.round <= rounds) {
                actions.push(self.send(slot, evict(AbortReason::PeerLost, "its round was committed without it")));
            }
            if let Some(session) = self.sessions.get_mut(&slot) {
                session.sent = new.last().map_or(session.learned, |commit| commit.index);
                session.operated |= !new.is_empty();
                for commit in &new {
                    session.flights.remove(&commit.key.clone().unwrap_or_default().into());
                }
                session.settle(rounds);
                session.drop_unacceptable(decides, self.rules);
                if left_out {
                    session.leave_round();
                }
            }
        }
    }
}

impl Session {
    /// Forgets votes, and what belongs to rounds that are over.
    fn settle(&mut self, rounds: u64) {
        for flight in self.flights.values_mut() {
            flight.prepared = None;
            flight.begin = None;
        }
        if self.start.as_ref().is_some_and(|start| start.round <= rounds) {
            self.leave_round();
        }
        self.flights.retain(|key, _| key.round > rounds);
    }
}
