//! One round: members arrive, are dealt samples, and start from one state.

use std::collections::BTreeMap;

use super::{Action, Coordinator, Phase, Session};
use crate::v1::{AbortReason, Flight, Start, coordinator_message};
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
        let between = !begun && arrived;
        let renamed = (self.record.arbiter, self.record.hub.clone()) != self.arbiter_to_be();
        let changes = (!candidates.is_empty() && (short || between)) || (renamed && between);
        // New members come in between rounds, and another arbiter; where the quorum is lost, at once.
        if changes && self.members().all(|session| !session.finished) {
            if begun && self.members().any(Session::operates) {
                return self.begin_again(now, actions);
            }
            return self.propose(&candidates, now, actions);
        }
        if short {
            return self.hold(present, actions);
        }
        self.holding = false;
        if begun && self.members().any(Session::operates) {
            self.evict_latecomers();
            if !self.evicting.is_empty() {
                return self.change(now, actions);
            }
        } else if begun || arrived {
            self.start_members(round, now, actions);
        }
        self.operate(now, actions);
    }

    /// A member whose trainer came back in the middle of the round's operations: it joins the next round.
    fn evict_latecomers(&mut self) {
        let late = |session: &&Session| session.start.is_none() && session.arrive.is_some() && !session.finished;
        for slot in self.members().filter(late).map(|session| session.member.slot).collect::<Vec<_>>() {
            self.evict(slot, AbortReason::TrainerLost, "its trainer began the round again");
        }
    }

    /// Nobody can join a round in the middle of its operations: its members give it up.
    fn begin_again(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let quorum = self.settings.quorum;
        for slot in self.members().map(|session| session.member.slot).collect::<Vec<_>>() {
            self.evict(slot, AbortReason::TooFewPeers, &format!("fewer than {quorum} members are left in its round"));
        }
        self.change(now, actions);
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
        if self.members().all(|session| session.start.is_none()) {
            self.round_started = self.record.epoch;
        }
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
                started: self.round_started,
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
}

impl Session {
    /// It has taken part in an operation before the one that ends its round.
    fn operates(&self) -> bool {
        let ends_round = |flight: &Flight| flight.enter.as_ref()?.operation.as_ref().map(|operation| operation.ends_round);
        self.operated || self.flights.values().any(|flight| ends_round(flight) == Some(false))
    }
}
