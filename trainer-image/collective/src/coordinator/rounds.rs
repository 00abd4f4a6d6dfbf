//! One round: members arrive, are dealt samples, enter, move the data, and vote.

use std::collections::BTreeMap;

use super::{Action, Coordinator, Phase, commit};
use crate::v1::{AbortReason, Begin, Prepared, Start, coordinator_message};
use crate::{Millis, Notice, chain, ledger};

impl Coordinator {
    /// Takes every step that the last event made possible.
    pub(super) fn advance(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if let Phase::Recovering { since } = self.phase
            && self.proposal.is_none()
        {
            self.recover(since, now, actions);
        }
        // Nothing is begun and nothing is committed while the membership is being changed.
        if self.proposal.is_some() || matches!(self.phase, Phase::Recovering { .. } | Phase::Deposed) {
            return;
        }
        if !self.evicting.is_empty() || self.retry.is_some() {
            return self.change(now, actions);
        }
        match &self.phase {
            Phase::Gathering { since } => self.gather(*since, now, actions),
            Phase::Open => self.open(now, actions),
            Phase::Moving(begin) => self.vote(&begin.as_ref().clone(), now, actions),
            Phase::Recovering { .. } | Phase::Deposed => {}
        }
    }

    /// The first members: the target, or the minimum once the join window is over.
    fn gather(&mut self, since: Option<Millis>, now: Millis, actions: &mut Vec<Action>) {
        let candidates = self.candidates();
        if candidates.len() < self.settings.minimum {
            return;
        }
        let since = since.unwrap_or(now);
        self.phase = Phase::Gathering { since: Some(since) };
        if candidates.len() >= self.settings.target || now.saturating_sub(since) >= self.settings.join_window {
            self.propose(&candidates, now, actions);
        }
    }

    fn open(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let round = self.round();
        let candidates = self.candidates();
        let present = self.members().filter(|session| !session.finished).count();
        let short = present < self.settings.quorum;
        let begun = self.members().any(|session| session.start.is_some());
        let arrived = self.members().all(|session| session.arrive.is_some());
        let named = (self.record.arbiter, self.record.hub.clone()) == self.arbiter_to_be();
        // New members come in between rounds, and another arbiter; where the quorum is lost, at once.
        if !(candidates.is_empty() && named) && self.members().all(|session| !session.finished) && (short || (!begun && arrived))
        {
            return self.propose(&candidates, now, actions);
        }
        if short {
            return self.hold(present, actions);
        }
        self.holding = false;
        if begun || arrived {
            self.start_members(round, now, actions);
        }
        if self.members().all(|session| session.enter.is_some()) {
            self.begin(round, now, actions);
        }
    }

    pub(super) fn hold(&mut self, present: usize, actions: &mut Vec<Action>) {
        let finished = self.members().any(|session| session.finished);
        if !self.holding && !finished {
            self.holding = true;
            actions.push(Action::Report(Notice::Holding { members: present as u32, quorum: self.settings.quorum as u32 }));
        }
    }

    /// Starts every member that stands at the round's start: deals its samples, and names donors where its state is another.
    fn start_members(&mut self, round: u64, now: Millis, actions: &mut Vec<Action>) {
        let waiting: Vec<u32> = self
            .members()
            .filter(|session| session.start.is_none() && session.arrive.is_some() && !session.finished)
            .map(|session| session.member.slot)
            .collect();
        if waiting.is_empty() {
            return;
        }
        let Some(state_hash) = self.state_of(round) else { return };
        let donors: Vec<u32> = self
            .members()
            .filter(|session| {
                session.arrive.as_ref().is_some_and(|arrive| arrive.round == round && arrive.state_hash == state_hash)
            })
            .map(|session| session.member.slot)
            .collect();
        let ledger = chain::ledger(self.committed.as_ref());
        let mut held: Vec<_> =
            self.members().filter_map(|session| session.start.as_ref()).flat_map(|start| start.samples.clone()).collect();
        for slot in waiting {
            let Some(arrive) = self.sessions.get(&slot).and_then(|session| session.arrive.clone()) else { continue };
            let samples = ledger::deal(&ledger, &held, arrive.samples_wanted);
            held.extend(samples.iter().copied());
            let synchronise = !donors.contains(&slot);
            if synchronise {
                let mismatch = arrive.round == round;
                actions.push(Action::Report(Notice::Synchronised { slot, round, mismatch }));
            }
            let start = Start {
                round,
                record: Some(self.record.clone()),
                samples,
                synchronise,
                donors: donors.clone(),
                state_hash: state_hash.clone(),
                committed: self.committed.clone(),
                attempt: arrive.attempt,
            };
            actions.push(self.send(slot, coordinator_message::Body::Start(start.clone())));
            if let Some(session) = self.sessions.get_mut(&slot) {
                session.start = Some(start);
                session.started = now;
            }
        }
        self.round_state = Some(state_hash);
    }

    /// The state from which `round` begins: what its members began with; else what most of them hold (the lowest slot's
    /// where as many hold another). None where nobody holds any.
    fn state_of(&self, round: u64) -> Option<Vec<u8>> {
        if self.round_state.is_some() {
            return self.round_state.clone();
        }
        let mut votes: BTreeMap<&[u8], (usize, std::cmp::Reverse<u32>)> = BTreeMap::new();
        for session in self.members() {
            if let Some(arrive) = session.arrive.as_ref().filter(|arrive| arrive.round == round) {
                votes.entry(&arrive.state_hash).or_insert((0, std::cmp::Reverse(session.member.slot))).0 += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, support)| *support).map(|(hash, _)| hash.to_vec())
    }

    /// All members of the epoch entered: the operation begins, unless their vectors differ in length.
    fn begin(&mut self, round: u64, now: Millis, actions: &mut Vec<Action>) {
        let entered: Vec<_> = self.members().filter_map(|session| Some((session.member.slot, session.enter.clone()?))).collect();
        let Some((_, first)) = entered.first() else { return };
        let elements = first.elements;
        if let Some((slot, enter)) = entered.iter().find(|(_, enter)| enter.elements != elements) {
            let detail = format!("its vector has {} elements, the others' {elements}", enter.elements);
            self.evict(*slot, AbortReason::Mismatch, &detail);
            return self.propose(&[], now, actions);
        }
        let mut contributions: Vec<_> = entered
            .into_iter()
            .map(|(slot, enter)| crate::v1::Contribution { slot, ..enter.contribution.unwrap_or_default() })
            .collect();
        // Nobody's experience counts more than anybody's: all joined in this round.
        if contributions.iter().all(|given| given.weight == 0) {
            for given in &mut contributions {
                given.weight = 1;
            }
        }
        let begin = Begin { round, record: Some(self.record.clone()), elements, contributions };
        self.send_to_members(&coordinator_message::Body::Begin(begin.clone()), actions);
        self.phase = Phase::Moving(Box::new(begin));
    }

    /// Commits when all members are prepared with one hash; evicts the minority when they are not.
    fn vote(&mut self, begin: &Begin, now: Millis, actions: &mut Vec<Action>) {
        let epoch = self.record.epoch;
        let mut votes: BTreeMap<Vec<u8>, Vec<u32>> = BTreeMap::new();
        let rules = self.rules;
        let counts =
            |prepared: &Prepared| prepared.round == begin.round && (prepared.epoch == epoch || !rules.votes_of_this_epoch);
        for session in self.members() {
            match session.prepared.as_ref().filter(|prepared| counts(prepared)) {
                Some(prepared) => votes.entry(prepared.result_hash.clone()).or_default().push(session.member.slot),
                None if !rules.unanimous => {}
                None => return,
            }
        }
        let enough = if rules.unanimous { self.record.members.len() } else { self.record.members.len() / 2 + 1 };
        if votes.len() == 1 && votes.values().all(|slots| slots.len() >= enough) {
            let record = chain::commit(self.committed.as_ref(), begin, &votes.into_keys().next().unwrap_or_default());
            return self.commit(record, actions);
        }
        let Some(most) = votes.values().map(Vec::len).max().filter(|_| rules.unanimous) else { return };
        let detail = format!("{} different results", votes.len());
        if votes.values().filter(|slots| slots.len() == most).count() > 1 {
            let slot = self.record.members.first().map_or(0, |member| member.slot);
            self.retry = Some((AbortReason::Disagreement, slot, detail));
        } else {
            for slot in votes.into_values().filter(|slots| slots.len() < most).flatten() {
                self.evict(slot, AbortReason::Disagreement, &detail);
            }
        }
        self.propose(&[], now, actions);
    }

    /// Tells everyone, and opens the next round.
    pub(super) fn commit(&mut self, record: crate::v1::CommitRecord, actions: &mut Vec<Action>) {
        self.send_to_members(&commit(&record), actions);
        actions.push(Action::Report(Notice::Committed(record.clone())));
        self.committed = Some(record);
        self.phase = Phase::Open;
        self.round_state = None;
        let record = &self.record;
        for session in self.sessions.values_mut().filter(|session| chain::includes(record, &session.member)) {
            session.leave_round();
        }
    }
}
