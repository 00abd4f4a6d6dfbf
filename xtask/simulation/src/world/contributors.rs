//! Contributors of a schedule: what they say that is not so, and what is asserted of them.

use atoll_collective::v1::{
    AbortReason, Commit, CommitRecord, Enter, EpochRecord, Failed, Leave, Member, OperationKey, OperationKind, PeerMessage,
    Prepared, Start, leave, peer_message,
};
use atoll_collective::{Notice, chain, ledger, operation};

use super::{FAULTS_UNTIL, Happening, SAMPLES, World, member};
use crate::Schedule;

/// Whether the worker of this slot is a contributor.
pub(super) fn contributes(schedule: &Schedule, slot: u32) -> bool {
    schedule.contributors >> slot & 1 == 1
}

/// A trusted member's contribution is infinite.
fn accusation(epoch: u64, key: Option<OperationKey>, culprit: u32) -> peer_message::Body {
    let (reason, detail) = (AbortReason::NotFinite.into(), "it says so".to_owned());
    peer_message::Body::Failed(Failed { epoch, key, reason, culprit, detail })
}

fn gathers(enter: &Enter) -> bool {
    enter.operation.as_ref().is_some_and(|operation| operation.kind() == OperationKind::AllGather)
}

/// What a contributor says of operations that nobody knows, before it enters one; or how much it declares to give to that.
fn pretend(bogus: u64, enter: &mut Enter, culprit: u32) -> Option<peer_message::Body> {
    let mut other = enter.clone();
    let key = other.operation.as_mut()?.key.as_mut()?;
    match bogus {
        0 => key.tag = "bogus".into(),
        1 => key.round += 1,
        2 => key.slots = vec![culprit],
        _ => {}
    }
    let key = Some(key.clone());
    match bogus {
        0 | 1 => Some(peer_message::Body::Enter(other)),
        2 => Some(accusation(1, key, culprit)),
        3 => {
            let key = key.map(|key| OperationKey { sequence: u64::MAX, ..key });
            Some(peer_message::Body::Prepared(Prepared { epoch: 1, key, result_hash: vec![0; chain::HASH] }))
        }
        _ => {
            // More than others have room for, and more than any result may have.
            let given = enter.contribution.as_mut()?;
            given.elements = if (given.loss as u64).is_multiple_of(2) { 1 << 20 } else { u64::MAX };
            None
        }
    }
}

impl World {
    /// A process of this slot.
    pub(super) fn process(&self, slot: u32, incarnation: u64) -> Member {
        Member { contributor: contributes(&self.schedule, slot), ..member(slot, incarnation) }
    }

    /// Whether nobody may take its state.
    pub(super) fn never_gives(&self, slot: u32) -> bool {
        self.only_receives(slot) || contributes(&self.schedule, slot)
    }

    pub(super) fn plan_slanders(&mut self, slanders: u32) {
        let schedule = self.schedule;
        for _ in 0..slanders {
            let when = self.below(FAULTS_UNTIL);
            for slot in (0..schedule.workers).filter(|slot| contributes(&schedule, *slot)) {
                self.at(when, Happening::Slander(slot));
            }
        }
    }

    /// A contributor says what is not so: of its result, of others, of what it gives, of how much it trains on, that it has
    /// finished, or of a round that nobody committed. Gives what it says besides the message.
    pub(super) fn slander(&mut self, slot: u32, message: &mut PeerMessage) -> Option<PeerMessage> {
        if !self.node(slot).slanders {
            return None;
        }
        let (which, mut besides) = (self.below(3), None);
        let culprit = (0..self.nodes.len() as u32).find(|slot| !contributes(&self.schedule, *slot)).unwrap_or(0);
        match &mut message.body {
            Some(body @ peer_message::Body::Prepared(_)) if which == 0 => {
                let peer_message::Body::Prepared(Prepared { epoch, key, .. }) = body.clone() else { return None };
                *body = accusation(epoch, key, culprit);
            }
            Some(body @ peer_message::Body::Prepared(_)) if which == 1 => {
                *body = peer_message::Body::Leave(Leave { reason: leave::Reason::Finished.into() });
            }
            Some(peer_message::Body::Prepared(prepared)) => prepared.result_hash[0] ^= 1,
            Some(peer_message::Body::Enter(enter)) if which == 0 || which == 1 && gathers(enter) => {
                let bogus = if gathers(enter) { 4 } else { self.below(4) };
                besides = pretend(bogus, enter, culprit).map(|body| PeerMessage { body: Some(body), ..*message });
            }
            Some(peer_message::Body::Arrive(arrive)) if which == 0 => arrive.samples_wanted = u64::MAX,
            Some(peer_message::Body::Hello(hello)) if hello.epoch > 0 => {
                let before = hello.committed.clone();
                let round = chain::rounds(before.as_ref()) + 1;
                let previous = before.as_ref().map(chain::hash).unwrap_or_default();
                let record = CommitRecord { round, result_hash: vec![0; chain::HASH], previous, ..before.unwrap_or_default() };
                let key = operation::ends_round(round, hello.epoch, 1).key;
                let (index, epoch) = (hello.learned + 1, hello.epoch);
                let (result_hash, record) = (record.result_hash.clone(), Some(record));
                hello.commits.push(Commit { index, key, epoch, result_hash, record: record.clone(), ..Commit::default() });
                hello.committed = record;
            }
            _ => return None,
        }
        self.node(slot).slanders = false;
        besides
    }

    /// Takes note of a state that a trusted trainer holds.
    pub(super) fn note_state(&mut self, slot: u32) {
        if !contributes(&self.schedule, slot) {
            let state = self.node(slot).trainer.state.clone();
            self.trusted_states.insert(state);
        }
    }

    /// A round begins from a state that somebody trusted has held, and only such give it. Nobody is dealt more than trainers want.
    pub(super) fn check_start(&mut self, start: &Start) {
        let held = self.trusted_states.contains(&start.state_root);
        self.require(held, || format!("round {} begins from a state that nobody trusted has held", start.round));
        let dealt = ledger::count(&start.samples);
        self.require(dealt <= SAMPLES, || format!("{dealt} samples are dealt where {SAMPLES} are wanted"));
        let gives = start.donors.iter().copied().find(|donor| contributes(&self.schedule, *donor));
        self.require(gives.is_none(), || format!("the contributor w{} gives the state", gives.unwrap_or(0)));
    }

    /// Nothing in a schedule makes a trusted worker's result differ, or infinite, or what it gives unfit where nobody claims samples
    /// that are not its own: only a contributor can have said so.
    pub(super) fn check_eviction(&mut self, notice: &Notice) {
        let Notice::Evicted { slot, reason, detail, .. } = notice else { return };
        let unfit = *reason == AbortReason::Mismatch && self.schedule.faults.lies == 0;
        let slandered = unfit || matches!(reason, AbortReason::Disagreement | AbortReason::NotFinite);
        let trusted = !contributes(&self.schedule, *slot);
        self.require(!(slandered && trusted), || format!("w{slot} was evicted by a contributor's word: {detail}"));
    }

    /// A contributor never coordinates, and is never left alone.
    pub(super) fn check_trust(&mut self, record: &EpochRecord) {
        let coordinates = record.coordinator.iter().any(|member| member.contributor);
        self.require(!coordinates, || format!("a contributor coordinates: {record:?}"));
        let alone = !record.members.is_empty() && record.members.iter().all(|member| member.contributor);
        self.require(!alone, || format!("an epoch of contributors alone: {record:?}"));
    }
}
