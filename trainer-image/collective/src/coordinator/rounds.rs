//! One round: members arrive, are dealt samples, and start from one state.

use std::collections::BTreeMap;

use super::{Action, Coordinator, Phase, Session};
use crate::state::election::{self, Revision, Standing};
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
        self.redivide(now, actions);
        self.drop_finished_contributors();
        if !self.evicting.is_empty() || self.retry.is_some() {
            return self.change(now, actions);
        }
        match &self.phase {
            Phase::Gathering { since } => self.gather(*since, now, actions),
            Phase::Open => self.open(now, actions),
            Phase::Recovering { .. } | Phase::Deposed => {}
        }
    }

    /// The first members: the target, or the minimum once the join window is over, and the contributors that are there by then.
    fn gather(&mut self, since: Option<Millis>, now: Millis, actions: &mut Vec<Action>) {
        let candidates = self.candidates();
        let trusted = |slot: &&u32| self.sessions.get(slot).is_some_and(|session| self.decides(&session.member));
        let trusted = candidates.iter().filter(trusted).count();
        if trusted < self.settings.minimum.max(1) {
            return;
        }
        let since = since.unwrap_or(now);
        self.phase = Phase::Gathering { since: Some(since) };
        if trusted >= self.settings.target || now.saturating_sub(since) >= self.settings.join_window {
            self.propose(&candidates, now, actions);
        }
    }

    fn open(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let round = self.round();
        let candidates = self.candidates();
        let present = self.trusted().filter(|session| !session.finished).count();
        let short = present < self.settings.quorum.max(1);
        let begun = self.members().any(|session| session.start.is_some());
        let arrived = self.members().all(|session| session.arrive.is_some());
        let between = !begun && arrived;
        let renamed = (self.record.arbiter, self.record.hub.clone()) != self.arbiter_to_be();
        let changes = (!candidates.is_empty() && (short || between)) || (renamed && between);
        // What contributors alone have entered is no operation of the round.
        let operates = begun && self.trusted().any(Session::operates);
        // New members come in between rounds, and another arbiter; where the quorum is lost, at once.
        if changes && self.trusted().all(|session| !session.finished) {
            if operates {
                return self.begin_again(now, actions);
            }
            return self.propose(&candidates, now, actions);
        }
        // Who has trained to the end waits for nobody.
        if short && !self.has_ended(&self.waiting()) {
            return self.hold(present, actions);
        }
        self.holding = false;
        if operates {
            self.evict_latecomers();
            if !self.evicting.is_empty() {
                return self.change(now, actions);
            }
        } else if begun || arrived {
            let waiting = self.waiting();
            match self.state_of(round) {
                Some(_) if self.waits_for_checkpoint(&waiting) => {}
                Some(state) if !waiting.is_empty() => self.start_members(round, state, waiting, now, actions),
                None if !waiting.is_empty() => return self.wait_for_state(round, actions),
                _ => {}
            }
        }
        self.state_missing = false;
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
        let finished = self.trusted().any(|session| session.finished);
        if !self.holding && !finished {
            self.holding = true;
            actions.push(Action::Report(Notice::Holding { members: present as u32, quorum: self.settings.quorum as u32 }));
        }
    }

    /// Nobody who gives its state holds that of the round.
    fn wait_for_state(&mut self, round: u64, actions: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.state_missing, true) {
            actions.push(Action::Report(Notice::StateMissing { round }));
        }
    }

    /// Members that stand at the round's start.
    fn waiting(&self) -> Vec<u32> {
        let waits = |session: &&Session| session.start.is_none() && session.arrive.is_some() && !session.finished;
        self.members().filter(waits).map(|session| session.member.slot).collect()
    }

    /// Starts members that stand at the round's start: deals their samples, and names donors where their state is another.
    /// One whose state cannot take part is evicted first.
    fn start_members(&mut self, round: u64, state: Revision, waiting: Vec<u32>, now: Millis, actions: &mut Vec<Action>) {
        let verdict = election::judge(round - 1, &state, &self.standings());
        let refused = waiting.iter().filter_map(|slot| Some((*slot, *verdict.refused.get(slot)?))).collect::<Vec<_>>();
        if !refused.is_empty() {
            for (slot, refusal) in refused {
                self.evict(slot, AbortReason::StateRefused, &refusal.to_string());
            }
            return self.change(now, actions);
        }
        let first = self.members().all(|session| session.start.is_none());
        if first {
            self.round_started = self.record.epoch;
        }
        let upload = if first { self.begin_checkpoint(&waiting, now, actions) } else { None };
        let ledger = chain::ledger(self.committed.as_ref());
        let mut held: Vec<_> =
            self.members().filter_map(|session| session.start.as_ref()).flat_map(|start| start.samples.clone()).collect();
        for slot in waiting {
            let Some(session) = self.sessions.get(&slot) else { continue };
            let Some(arrive) = session.arrive.clone() else { continue };
            let most = if session.member.contributor { self.most_wanted() } else { u64::MAX };
            let samples = ledger::deal(&ledger, &held, arrive.samples_wanted.min(most));
            held.extend(samples.iter().copied());
            let synchronise = verdict.repaired.contains(&slot);
            if synchronise {
                let mismatch = arrive.round == round;
                actions.push(Action::Report(Notice::Synchronised { slot, round, mismatch }));
            }
            let start = Start {
                round,
                record: Some(self.record.clone()),
                samples,
                synchronise,
                donors: verdict.donors.clone(),
                state_root: state.root.to_vec(),
                state_shape: state.shape.to_vec(),
                committed: self.committed.clone(),
                attempt: arrive.attempt,
                started: self.round_started,
                upload: upload.clone().filter(|upload| upload.slots.contains(&slot)),
            };
            actions.push(self.send(slot, coordinator_message::Body::Start(start.clone())));
            if let Some(session) = self.sessions.get_mut(&slot) {
                session.start = Some(start);
                session.started = now;
            }
        }
        self.round_state = Some(state);
    }

    /// The state from which `round` begins: what its members began with; else the one that they elect. None where nobody
    /// who gives its state holds the newest: the run waits for those who do.
    fn state_of(&self, round: u64) -> Option<Revision> {
        let standings = self.standings();
        let begun = self.members().any(|session| session.start.is_some());
        let given = |state: &Revision| standings.values().any(|standing| standing.gives() && standing.state == *state);
        // What nobody holds any more, and nobody has begun with, is not waited for.
        let known = self.round_state.filter(|state| begun || given(state));
        known.or_else(|| election::elect(round - 1, &standings).filter(|state| state.rounds + 1 == round))
    }

    /// What each member's trainer holds.
    fn standings(&self) -> BTreeMap<u32, Standing> {
        self.members().filter_map(|session| Some((session.member.slot, self.standing(session)?))).collect()
    }
}

impl Session {
    /// It has taken part in an operation before the one that ends its round.
    fn operates(&self) -> bool {
        let ends_round = |flight: &Flight| flight.enter.as_ref()?.operation.as_ref().map(|operation| operation.ends_round);
        self.operated || self.flights.values().any(|flight| ends_round(flight) == Some(false))
    }
}
