//! Operations: begun when all who take part ask for the same, committed when all report the same result.
//!
//! A commit stays in the history until every member has learned it: a new coordinator needs it for those that were prepared
//! and not told.

use std::collections::{BTreeMap, BTreeSet};

use super::requests::Wanted;
use super::{Action, Coordinator, Session, abort, told};
use crate::operation::{self, Key};
use crate::v1::{
    Abort, AbortReason, Begin, Commit, Contribution, EpochRecord, Flight, Member, Operation, OperationKind, Prepared,
    coordinator_message,
};
use crate::{Millis, Notice, Refusal, chain};

/// Commits that are kept although every member has learned them: for one that was evicted and comes back.
const REMEMBERED: usize = 64;
/// Commits that some member has not learned; nothing more is begun then.
const MOST_UNSETTLED: usize = 64;

/// What became of an operation that may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    /// It was begun, or cannot be now for reasons of its own.
    Settled,
    /// It has to wait until others have ended.
    Later,
}

/// Elements of an operation's result.
fn elements(operation: &Operation, contributions: &[Contribution]) -> u64 {
    match operation.kind() {
        OperationKind::AllGather => contributions.iter().map(|given| given.elements).fold(0, u64::saturating_add),
        _ => operation.elements,
    }
}

/// Bytes of an operation's result.
fn bytes(operation: Option<&Operation>, contributions: &[Contribution]) -> u64 {
    let Some(operation) = operation else { return 0 };
    elements(operation, contributions).saturating_mul(operation::size(operation.data_type()))
}

/// Nobody's experience counts more than anybody's where all joined in this round.
fn count_newcomers(contributions: &mut [Contribution]) {
    if contributions.iter().all(|given| given.weight == 0) {
        for given in contributions {
            given.weight = 1;
        }
    }
}

impl Coordinator {
    /// Slots that have entered this operation, as far as that was accepted.
    pub fn who_entered(&self, key: &Key) -> impl Iterator<Item = u32> {
        self.sessions.values().filter(|session| session.enter(key).is_some()).map(|session| session.member.slot)
    }

    /// Commits what all are prepared for, and begins what all have entered.
    pub(super) fn operate(&mut self, now: Millis, actions: &mut Vec<Action>) {
        self.settle();
        for key in self.moving.keys().cloned().collect::<Vec<_>>() {
            self.vote(&key, now, actions);
            if self.proposal.is_some() {
                return;
            }
        }
        let asked: BTreeSet<Key> = self.members().flat_map(|session| session.flights.keys()).cloned().collect();
        for key in asked {
            // Those behind one that has to wait wait with it: it would wait for ever.
            let full = !self.moving.contains_key(&key) && self.begin(&key, now, actions) == Begun::Later;
            if full || self.proposal.is_some() {
                return;
            }
        }
    }

    /// Begins an operation that all who take part entered, unless they want different things.
    fn begin(&mut self, key: &Key, now: Millis, actions: &mut Vec<Action>) -> Begun {
        if self.has_no_trusted(&key.slots) {
            let detail = "no trusted member takes part".to_owned();
            self.give_up(key, &Refusal { reason: AbortReason::TooFewPeers, culprit: None, detail }, actions);
            return Begun::Settled;
        }
        let present = self.present_for(key);
        let Some(operation) = self.agreed_request(key, &present, now, actions) else { return Begun::Settled };
        let participants: Vec<&Member> = operation::participants(&operation, &present).collect();
        let slots: Vec<u32> = participants.iter().map(|member| member.slot).collect();
        if let Err(missing) = operation::possible(&operation, &present) {
            let detail = format!("slot {missing} is not a member");
            self.give_up(key, &Refusal { reason: AbortReason::PeerLost, culprit: Some(missing), detail }, actions);
            return Begun::Settled;
        }
        let entered = |slot: &u32| self.is_member(*slot) && self.sessions[slot].enter(key).is_some();
        let waits = self.unsettled().count() >= MOST_UNSETTLED || operation.ends_round && self.others_are_open(key);
        if waits || !slots.iter().all(entered) {
            return Begun::Settled;
        }
        let enters = slots.iter().filter_map(|slot| self.sessions.get(slot)?.enter(key));
        let bandwidths: Vec<u64> = enters.clone().map(|enter| enter.bandwidth).collect();
        // A contributor owns no shard: what its link carries does not matter.
        let known = participants.iter().zip(&bandwidths).all(|(member, bandwidth)| member.contributor || *bandwidth > 0);
        let mut contributions: Vec<_> = enters
            .zip(&slots)
            .map(|(enter, slot)| Contribution { slot: *slot, ..enter.contribution.clone().unwrap_or_default() })
            .collect();
        count_newcomers(&mut contributions);
        if elements(&operation, &contributions) > operation::MOST_ELEMENTS {
            self.refuse_parts(key, &contributions, now, actions);
            return Begun::Settled;
        }
        let moving = self.moving.values().map(|begin| bytes(begin.operation.as_ref(), &begin.contributions));
        let all = moving.fold(bytes(Some(&operation), &contributions), u64::saturating_add);
        if !self.moving.is_empty() && all > self.settings.in_flight {
            return Begun::Later;
        }
        self.attempts += 1;
        let begin = Begin {
            operation: Some(operation),
            number: self.attempts,
            record: Some(self.record.clone()),
            contributions,
            bandwidths: if known { bandwidths } else { Vec::new() },
        };
        actions.extend(slots.iter().map(|slot| self.send(*slot, coordinator_message::Body::Begin(begin.clone()))));
        self.moving.insert(key.clone(), begin);
        Begun::Settled
    }

    /// What is to be done under this name, where nobody wants anything else. Who asks for something else than most is left out.
    fn agreed_request(&mut self, key: &Key, present: &EpochRecord, now: Millis, actions: &mut Vec<Action>) -> Option<Operation> {
        let (operation, decided) = match self.wanted(key, present) {
            Wanted::Nothing | Wanted::Open => return None,
            Wanted::Tied(requests) => {
                // Nobody can say which of them is wrong.
                let detail = format!("{requests} different requests for {key}, none of them made by most");
                self.give_up(key, &Refusal { reason: AbortReason::Mismatch, culprit: None, detail }, actions);
                return None;
            }
            Wanted::One { operation, decided } => (*operation, decided),
        };
        let differs = |session: &&Session| {
            session.enter(key).and_then(|enter| enter.operation.as_ref()).is_some_and(|own| *own != operation)
        };
        let different: Vec<u32> = self.members().filter(differs).map(|session| session.member.slot).collect();
        if different.is_empty() {
            return Some(operation);
        }
        if decided {
            for slot in different {
                self.evict(slot, AbortReason::Mismatch, &format!("it asks for another {key} than most"));
            }
            self.propose(&[], now, actions);
        }
        None
    }

    /// Parts together are longer than any result may be: it goes on without the contributor that declares most, or not at all.
    fn refuse_parts(&mut self, key: &Key, parts: &[Contribution], now: Millis, actions: &mut Vec<Action>) {
        let lengths = parts.iter().map(|part| (part.elements, self.is_contributor(part.slot)));
        let detail = format!("the parts of {key} have more than {} elements together", operation::MOST_ELEMENTS);
        match operation::longest_of_contributors(lengths, operation::MOST_ELEMENTS) {
            Some(position) => {
                self.evict(parts[position].slot, AbortReason::Mismatch, &detail);
                self.propose(&[], now, actions);
            }
            None => self.give_up(key, &Refusal { reason: AbortReason::Mismatch, culprit: None, detail }, actions),
        }
    }

    /// The members that can take part: one that came into the round late knows nothing of its groups, and enters none.
    fn present_for(&self, key: &Key) -> EpochRecord {
        let in_time = |member: &Member| {
            let start = self.sessions.get(&member.slot).and_then(|session| session.start.as_ref());
            start.is_none_or(|start| start.record.as_ref().is_none_or(|record| record.epoch == start.started))
        };
        let mut present = self.record.clone();
        if !key.slots.is_empty() {
            present.members.retain(in_time);
        }
        present
    }

    /// Whether a trusted member has another operation than this one open.
    fn others_are_open(&self, key: &Key) -> bool {
        self.trusted().flat_map(|session| session.flights.keys()).any(|other| other != key)
    }

    /// It cannot be done, by whomever: those who wait are told.
    pub(super) fn give_up(&mut self, key: &Key, why: &Refusal, actions: &mut Vec<Action>) {
        let over = Abort { over: true, ..abort(key, why) };
        self.moving.remove(key);
        for slot in
            self.members().filter(|session| session.enter(key).is_some()).map(|session| session.member.slot).collect::<Vec<_>>()
        {
            actions.push(self.send(slot, coordinator_message::Body::Abort(over.clone())));
            if let Some(session) = self.sessions.get_mut(&slot) {
                session.flights.remove(key);
            }
        }
        actions.push(Action::Report(Notice::Aborted { key: key.clone(), why: why.clone() }));
    }

    /// Operations that cannot be done without an evicted slot: those who are left are told who it was and why.
    pub(super) fn give_up_without(&mut self, evicted: &Refusal, actions: &mut Vec<Action>) {
        let needs_it = |flight: &Flight| {
            let operation = flight.enter.as_ref().and_then(|enter| enter.operation.as_ref());
            operation.is_some_and(|operation| operation::possible(operation, &self.record).err() == evicted.culprit)
        };
        let flights = self.members().flat_map(|session| &session.flights).filter(|(_, flight)| needs_it(flight));
        for key in flights.map(|(key, _)| key.clone()).collect::<BTreeSet<_>>() {
            self.give_up(&key, evicted, actions);
        }
    }

    /// Commits when all who take part are prepared with one hash; evicts the minority of the trusted members when they are not,
    /// and contributors whose result is another.
    fn vote(&mut self, key: &Key, now: Millis, actions: &mut Vec<Action>) {
        let Some(begin) = self.moving.get(key) else { return };
        let (epoch, rules) = (self.record.epoch, self.rules);
        let mut votes: BTreeMap<&[u8], Vec<u32>> = BTreeMap::new();
        let mut others: Vec<(u32, &[u8])> = Vec::new();
        for given in &begin.contributions {
            let prepared = self.sessions.get(&given.slot).and_then(|session| session.flights.get(key)?.prepared.as_ref());
            let counts = |prepared: &&Prepared| prepared.epoch == epoch || !rules.votes_of_this_epoch;
            match prepared.filter(counts) {
                Some(prepared) if chain::member(&self.record, given.slot).is_some_and(|member| self.decides(member)) => {
                    votes.entry(&prepared.result_hash).or_default().push(given.slot);
                }
                Some(prepared) => others.push((given.slot, &prepared.result_hash)),
                None if !rules.unanimous => {}
                None => return,
            }
        }
        let voters = begin.contributions.len() - others.len();
        let enough = if rules.unanimous { voters } else { voters / 2 + 1 };
        let most = votes.values().map(Vec::len).max().unwrap_or(0);
        if votes.len() == 1 && most >= enough {
            let hash = votes.into_keys().next().unwrap_or_default().to_vec();
            let other: Vec<u32> = others.iter().filter(|(_, found)| *found != hash).map(|(slot, _)| *slot).collect();
            if !other.is_empty() {
                return self.disagree(&other, &format!("another result of {key} than the trusted members'"), now, actions);
            }
            let begin = begin.clone();
            return self.commit(&begin, &hash, actions);
        }
        if !rules.unanimous {
            return;
        }
        let detail = format!("{} different results of {key}", votes.len());
        if !others.is_empty() && Self::may_be_told_apart(begin) {
            let slots: Vec<u32> = others.iter().map(|(slot, _)| *slot).collect();
            return self.disagree(&slots, &detail, now, actions);
        }
        let minority: Vec<u32> = votes.values().filter(|slots| slots.len() < most).flatten().copied().collect();
        if votes.values().filter(|slots| slots.len() == most).count() > 1 {
            // Nobody can say which of them is wrong.
            self.retry = Some(Refusal { reason: AbortReason::Disagreement, culprit: None, detail });
            return self.propose(&[], now, actions);
        }
        self.disagree(&minority, &detail, now, actions);
    }

    /// Goes on without those whose results are others.
    fn disagree(&mut self, slots: &[u32], detail: &str, now: Millis, actions: &mut Vec<Action>) {
        for slot in slots {
            self.evict(*slot, AbortReason::Disagreement, detail);
        }
        self.propose(&[], now, actions);
    }

    /// Tells those who took part; a round that ends is the next link of the chain.
    fn commit(&mut self, begin: &Begin, result_hash: &[u8], actions: &mut Vec<Action>) {
        let commit = self.append(begin, result_hash);
        for slot in &commit.slots {
            actions.push(self.send(*slot, told(&commit)));
            if let Some(session) = self.sessions.get_mut(slot) {
                session.sent = commit.index;
                session.operated = true;
            }
        }
        let key: Key = commit.key.unwrap_or_default().into();
        self.moving.remove(&key);
        for session in self.sessions.values_mut() {
            session.flights.remove(&key);
        }
        if let Some(record) = commit.record {
            actions.push(Action::Report(Notice::Committed(record)));
            self.round_state = None;
            let record = &self.record;
            for session in self.sessions.values_mut().filter(|session| chain::includes(record, &session.member)) {
                session.leave_round();
            }
        }
    }

    /// The commit of `begin` as the newest of the history.
    pub(super) fn append(&mut self, begin: &Begin, result_hash: &[u8]) -> Commit {
        let ends_round = begin.operation.as_ref().is_some_and(|operation| operation.ends_round);
        // One who came back may have brought the round's record, while the commit itself reached nobody who is left.
        let round = operation::key(begin.operation.as_ref()).round;
        let known = self.committed.as_ref().filter(|known| known.round == round && known.result_hash == result_hash);
        let made = || chain::commit(self.committed.as_ref(), begin, result_hash);
        let record = ends_round.then(|| known.cloned().unwrap_or_else(made));
        self.index += 1;
        let (term, epoch) = begin.record.as_ref().map_or((0, 0), |record| (record.term, record.epoch));
        let commit = Commit {
            index: self.index,
            key: begin.operation.as_ref().and_then(|operation| operation.key.clone()),
            term,
            epoch,
            slots: begin.contributions.iter().map(|given| given.slot).collect(),
            result_hash: result_hash.to_vec(),
            record: record.clone(),
        };
        self.history.push(commit.clone());
        if record.is_some() {
            self.committed = record;
        }
        commit
    }

    /// Takes over what a survivor was told by an earlier coordinator.
    pub(super) fn remember(&mut self, commits: Vec<Commit>) {
        for commit in commits.into_iter().take(REMEMBERED + MOST_UNSETTLED) {
            if let Err(place) = self.history.binary_search_by_key(&commit.index, |known| known.index) {
                self.index = self.index.max(commit.index);
                self.history.insert(place, commit);
            }
        }
    }

    /// Commits that some trusted member may not have learned.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = &Commit> {
        self.history.iter().filter(|commit| commit.index > self.settled)
    }

    /// Finds out what every trusted member has learned. One that is not here may not have learned anything since.
    fn settle(&mut self) {
        let learned = self.record.members.iter().filter(|member| self.decides(member)).map(|member| {
            let session = self.sessions.get(&member.slot).filter(|session| session.member == *member);
            session.map_or(0, |session| if session.learned >= session.sent { self.index } else { session.learned })
        });
        self.settled = self.settled.max(learned.min().unwrap_or(0));
        let settled = self.history.partition_point(|commit| commit.index <= self.settled);
        self.history.drain(..settled.saturating_sub(REMEMBERED));
    }

    /// What is under way is over without result; contributions wait for the next attempt.
    pub(super) fn abort_all(&mut self, why: Option<&Refusal>, actions: &mut Vec<Action>) {
        let unknown = || Refusal { reason: AbortReason::Unspecified, culprit: None, detail: String::new() };
        let why = why.cloned().unwrap_or_else(unknown);
        for (key, begin) in std::mem::take(&mut self.moving) {
            for slot in begin.contributions.iter().map(|given| given.slot).filter(|slot| self.is_member(*slot)) {
                actions.push(self.send(slot, coordinator_message::Body::Abort(abort(&key, &why))));
            }
            actions.push(Action::Report(Notice::Aborted { key, why: why.clone() }));
        }
        if !matches!(self.phase, super::Phase::Recovering { .. }) {
            for session in self.sessions.values_mut() {
                session.suspected = None;
                for flight in session.flights.values_mut() {
                    flight.prepared = None;
                }
            }
        }
    }
}
