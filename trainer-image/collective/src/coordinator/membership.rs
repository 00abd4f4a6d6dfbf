//! Changes of membership: who is lost, who may come in, and the one proposal that waits for the arbiter.

use super::{Action, Coordinator, Phase, SUSPICION, Session, beginning, evict};
use crate::v1::{AbortReason, ArbiterKind, EpochRecord, Flight, Member, Operation, Ruling};
use crate::{Millis, Notice, Refusal, chain, operation};

/// A change of membership that the arbiter has not answered yet.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Proposal {
    record: EpochRecord,
    evicted: Vec<(u32, AbortReason, String)>,
    /// Why an operation that is under way has to be tried again.
    retry: Option<Refusal>,
    asked: Millis,
}

/// How long an answer of the arbiter may take before the proposal is sent again.
const ASK_AGAIN: Millis = 500;

impl Coordinator {
    pub(super) fn disconnected(&mut self, slot: u32, incarnation: u64) {
        let Some(session) = self.sessions.get(&slot).filter(|session| session.member.incarnation == incarnation) else {
            return;
        };
        if !session.finished {
            self.evict(slot, AbortReason::PeerLost, "its connection ended");
        }
        self.sessions.remove(&slot);
    }

    /// Marks a member for eviction; the next proposal carries it. A new coordinator's first one has all who are here, because their
    /// votes count: the one after it carries the mark.
    pub(super) fn evict(&mut self, slot: u32, reason: AbortReason, detail: &str) {
        if !self.is_member(slot) {
            return;
        }
        let why = || (reason, beginning(detail).to_owned());
        if !matches!(self.phase, Phase::Recovering { .. }) {
            self.evicting.entry(slot).or_insert_with(why);
        } else if let Some(session) = self.sessions.get_mut(&slot) {
            session.left.get_or_insert_with(why);
        }
    }

    /// The clocks: silent peers, suspects, stragglers, and answers of the arbiter that do not come.
    pub(super) fn watch(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let liveness = self.settings.liveness;
        let silent: Vec<_> = self
            .sessions
            .values()
            .filter(|session| now.saturating_sub(session.heard) > liveness)
            .map(|session| (session.member.slot, now - session.heard, session.finished))
            .collect();
        for (slot, silence, finished) in silent {
            if !finished {
                self.evict(slot, AbortReason::PeerLost, &format!("no heartbeat for {silence} ms"));
            }
            self.sessions.remove(&slot);
            actions.push(Action::Close { slot });
        }
        self.judge_suspects(now);
        self.drop_stragglers(now);
        self.drop_late_contributors(now);
        if let Some(proposal) = &mut self.proposal
            && now.saturating_sub(proposal.asked) > ASK_AGAIN
        {
            proposal.asked = now;
            actions.push(Action::Propose(proposal.record.clone()));
        }
    }

    /// A suspect that still lives: once, the operation is tried again with the same members; then it is evicted. Who waits for a
    /// contributor is waited for by others: it is judged before them.
    fn judge_suspects(&mut self, now: Millis) {
        if self.proposal.is_some() {
            return;
        }
        let suspected = || self.sessions.values().filter(|session| session.suspected.is_some());
        let ripe =
            |session: &&Session| session.suspected.as_ref().is_some_and(|(since, _, _)| now.saturating_sub(*since) >= SUSPICION);
        let contributor = suspected().find(|session| !self.decides(&session.member));
        let judged = contributor.map_or_else(|| suspected().find(ripe), |suspect| Some(suspect).filter(ripe));
        let Some(slot) = judged.map(|session| session.member.slot) else { return };
        let Some(suspect) = self.sessions.get_mut(&slot) else { return };
        if let Some((_, reason, detail)) = suspect.suspected.take() {
            suspect.strikes += 1;
            if suspect.strikes > 1 {
                self.evict(slot, reason, &detail);
            } else {
                self.retry =
                    Some(Refusal { reason, culprit: Some(slot), detail: format!("{}: {detail}", suspect.member.worker) });
            }
        }
    }

    fn drop_stragglers(&mut self, now: Millis) {
        if !self.settings.drop_stragglers || self.phase != Phase::Open {
            return;
        }
        let timeout = self.settings.round_timeout;
        let waited_for: Vec<_> = self.trusted().flat_map(|session| session.flights.values()).filter_map(entered).collect();
        let late = |session: &&Session| {
            session.start.is_some()
                && now.saturating_sub(session.started) > timeout
                && waited_for.iter().any(|operation| {
                    operation::includes(operation, session.member.slot)
                        && session.enter(&operation::key(Some(operation))).is_none()
                })
        };
        for slot in self.members().filter(late).map(|session| session.member.slot).collect::<Vec<_>>() {
            self.evict(slot, AbortReason::Straggler, &format!("its round took longer than {timeout} ms"));
        }
    }

    /// Peers that stand at a round's start and are not counted, in slot order.
    pub(super) fn candidates(&self) -> Vec<u32> {
        self.sessions
            .values()
            .filter(|session| session.arrive.is_some() && !session.finished && !chain::includes(&self.record, &session.member))
            .map(|session| session.member.slot)
            .collect()
    }

    /// Proposes what evictions and retries ask for. The last trusted members stay in the record, evicted or not, until somebody
    /// who is trusted and holds the newest state takes over: an epoch without would be the end of the history.
    pub(super) fn change(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let somebody_stays = self.trusted().any(|session| !self.evicting.contains_key(&session.member.slot));
        if somebody_stays {
            return self.propose(&[], now, actions);
        }
        for slot in self.members().map(|session| session.member.slot).collect::<Vec<_>>() {
            self.evict(slot, AbortReason::TooFewPeers, "no trusted member is left in its round");
        }
        let round = self.round();
        let holds_state = |session: &&Session| {
            let arrived = self.standing(session).is_some_and(|standing| standing.gives() && standing.state.rounds + 1 == round);
            arrived && session.start.is_none() && !session.finished && self.decides(&session.member)
        };
        let heirs: Vec<u32> = self.sessions.values().filter(holds_state).map(|session| session.member.slot).collect();
        if heirs.is_empty() {
            self.recall(actions);
            return self.hold(0, actions);
        }
        self.propose(&heirs, now, actions);
    }

    /// Members that came back after their sessions broke hold the newest state, but stand in a round that is lost: their
    /// trainers have to arrive again. Nothing they are prepared for can be committed any more.
    fn recall(&mut self, actions: &mut Vec<Action>) {
        for (slot, (reason, detail)) in self.evicting.clone() {
            let member = self.is_member(slot);
            let stands_in_it = |session: &&mut Session| session.arrive.is_none() || session.start.is_some();
            let Some(session) = self.sessions.get_mut(&slot).filter(|_| member).filter(stands_in_it) else { continue };
            if !std::mem::replace(&mut session.recalled, true) {
                actions.push(self.send(slot, evict(reason, &detail)));
            }
        }
    }

    /// Proposes the members that are left and `joining`, in a new epoch.
    pub(super) fn propose(&mut self, joining: &[u32], now: Millis, actions: &mut Vec<Action>) {
        let evicting = std::mem::take(&mut self.evicting);
        let leaves = |slot: u32| evicting.contains_key(&slot);
        let mut members: Vec<_> =
            self.record.members.iter().filter(|member| !leaves(member.slot) && self.is_member(member.slot)).cloned().collect();
        members.extend(joining.iter().filter_map(|slot| self.sessions.get(slot)).map(|session| session.member.clone()));
        members.sort_by_key(|member| member.slot);
        let evicted = evicting
            .into_iter()
            .filter(|(slot, _)| !joining.contains(slot))
            .map(|(slot, (reason, detail))| (slot, reason, detail))
            .collect();
        let rounds = chain::rounds(self.committed.as_ref());
        let committed = self.unsettled().filter_map(|commit| commit.key.clone()).collect();
        let (arbiter, hub) = self.arbiter_to_be();
        let epoch = self.record.epoch + 1;
        let record = EpochRecord { epoch, members, rounds, committed, arbiter, hub, ..self.record.clone() };
        actions.push(Action::Propose(record.clone()));
        self.proposal = Some(Proposal { record, evicted, retry: self.retry.take(), asked: now });
    }

    /// Whom the next epoch names as the arbiter, and the hub's vote in it; as it is, until the hub was heard.
    pub(super) fn arbiter_to_be(&self) -> (i32, Option<Member>) {
        match &self.hub {
            None => (self.record.arbiter, self.record.hub.clone()),
            Some(hub) => (hub.wanted, hub.voter.clone().filter(|_| hub.wanted() == ArbiterKind::Peers)),
        }
    }

    /// The arbiter answered. A refusal means that another term was granted.
    pub(super) fn ruled(&mut self, ruling: &Ruling, actions: &mut Vec<Action>) {
        let Some(proposal) = &self.proposal else { return };
        if ruling.record.as_ref().is_some_and(|stored| stored.term > self.record.term) {
            self.phase = Phase::Deposed;
            actions.extend([Action::Report(Notice::Deposed), Action::StepDown]);
            return;
        }
        if !ruling.granted || ruling.record.as_ref() != Some(&proposal.record) {
            return;
        }
        if let Some(proposal) = self.proposal.take() {
            self.adopt(proposal, actions);
        }
    }

    fn adopt(&mut self, proposal: Proposal, actions: &mut Vec<Action>) {
        let Proposal { record, evicted, retry, .. } = proposal;
        let names: Vec<_> = evicted
            .iter()
            .map(|(slot, ..)| chain::member(&self.record, *slot).map(|member| member.worker.clone()).unwrap_or_default())
            .collect();
        self.record = record;
        // Said again while the arbiter was asked.
        self.evicting.retain(|slot, _| chain::member(&self.record, *slot).is_some());
        actions.push(Action::Report(Notice::Epoch(self.record.clone())));
        let mut gone = Vec::new();
        for ((slot, reason, detail), worker) in evicted.iter().zip(names) {
            gone.push(Refusal { reason: *reason, culprit: Some(*slot), detail: format!("{worker}: {detail}") });
            actions.push(Action::Report(Notice::Evicted { slot: *slot, worker, reason: *reason, detail: detail.clone() }));
            // It came too late to stay, but its contribution counts: its trainer must not hear otherwise.
            if let Some(session) = self.sessions.get(slot) {
                self.tell_awaited(session, actions);
            }
            if let Some(session) = self.sessions.get_mut(slot) {
                session.leave_round();
                actions.push(self.send(*slot, evict(*reason, detail)));
            }
        }
        self.abort_all(gone.first().or(retry.as_ref()), actions);
        match self.phase {
            Phase::Gathering { .. } => self.phase = Phase::Open,
            Phase::Recovering { .. } => self.recovered(actions),
            Phase::Open | Phase::Deposed => {}
        }
        for refusal in &gone {
            self.give_up_without(refusal, actions);
        }
        self.evict_absent();
    }

    /// Members that were lost or left while the arbiter was asked, or before they were members.
    fn evict_absent(&mut self) {
        for member in &self.record.members {
            let reason = match self.sessions.get_mut(&member.slot) {
                Some(session) if session.member == *member => session.left.take(),
                _ => Some((AbortReason::PeerLost, "its connection ended".to_owned())),
            };
            if let Some(reason) = reason {
                self.evicting.entry(member.slot).or_insert(reason);
            }
        }
    }
}

fn entered(flight: &Flight) -> Option<&Operation> {
    flight.enter.as_ref()?.operation.as_ref()
}
