//! The `Single` arbiter: the one place that grants terms and memberships of a run, by compare-and-swap on one record.
//!
//! A term is granted to whoever asks first after the coordinator was lost; an epoch only to the coordinator of the
//! current term, and only on top of the record it knows. So two halves of a partition cannot both go on.

use std::collections::BTreeMap;

use super::{is_itself, is_newer, is_trusted, next_term, process};
use crate::clock::Clock;
use crate::coordinator::MOST_SESSIONS;
use crate::rules::Rules;
use crate::v1::{ArbiterKind, EpochRecord, Member, Ruling};
use crate::{Millis, chain};

/// State of the arbiter; `Serialize` so that it can be stored and inspected.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Single {
    record: EpochRecord,
    /// By slot: the latest incarnation that was heard, and when last.
    heard: BTreeMap<u32, (u64, Millis)>,
    liveness: Millis,
    clock: Clock,
    rules: Rules,
}

/// Most slots of which it is known when they were heard.
const MOST_HEARD: usize = MOST_SESSIONS;

impl Single {
    /// An arbiter of a run that has not begun. A coordinator is lost after `liveness` milliseconds without heartbeat.
    #[must_use]
    pub fn new(liveness: Millis) -> Self {
        Self { liveness, ..Self::default() }
    }

    /// The same, keeping `rules`; for the simulation.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// The newest record.
    #[must_use]
    pub fn record(&self) -> &EpochRecord {
        &self.record
    }

    /// Takes a record that `Peers` granted: the next may be this arbiter's again.
    pub fn learn(&mut self, record: &EpochRecord) {
        if is_newer(record, &self.record) {
            self.record = record.clone();
        }
    }

    /// A sidecar lives.
    pub fn beat(&mut self, member: &Member, now: Millis) -> EpochRecord {
        let now = self.clock.at(now);
        self.hear(member, now);
        self.record.clone()
    }

    /// Notes that a process lives: one that the record knows, or no earlier one than was heard, and never in a slot that is
    /// another's. Where too many were heard, the one that has been silent for longest is forgotten, and never the coordinator.
    fn hear(&mut self, member: &Member, now: Millis) {
        let coordinator = self.record.coordinator.as_ref();
        let known = chain::includes(&self.record, member) || coordinator.map(process) == Some(process(member));
        let later = self.heard.get(&member.slot).is_none_or(|(incarnation, _)| *incarnation <= member.incarnation);
        if !(known || later) || !is_itself(&self.record, member) {
            return;
        }
        let coordinator = coordinator.map(|coordinator| coordinator.slot);
        if self.heard.len() >= MOST_HEARD && !self.heard.contains_key(&member.slot) {
            let others = self.heard.iter().filter(|(slot, _)| Some(**slot) != coordinator);
            let silent = others.min_by_key(|(_, (_, heard))| *heard).map(|(slot, _)| *slot);
            silent.and_then(|slot| self.heard.remove(&slot));
        }
        self.heard.insert(member.slot, (member.incarnation, now));
    }

    /// A sidecar was told to stop: nobody waits for it any more, if it is who it says.
    pub fn leaves(&mut self, member: &Member) {
        if is_itself(&self.record, member) {
            self.ended(member.slot, member.incarnation);
        }
    }

    /// A sidecar's process has ended: known, not guessed.
    pub fn ended(&mut self, slot: u32, incarnation: u64) {
        if self.heard.get(&slot).is_none_or(|(heard, _)| *heard != incarnation) {
            return;
        }
        self.heard.remove(&slot);
    }

    /// Grants the term after `observed` to `candidate`, if `observed` is still the newest and its coordinator is lost.
    pub fn request_term(&mut self, candidate: &Member, observed: u64, now: Millis) -> Ruling {
        let now = self.clock.at(now);
        let follows = observed == self.record.term;
        let trusted = is_trusted(&self.record, candidate);
        let granted = self.is_in_force() && follows && trusted && !self.coordinator_lives(candidate, now);
        if granted {
            self.record = next_term(&self.record, candidate);
        }
        self.hear(candidate, now);
        Ruling { granted, record: Some(self.record.clone()), ..Ruling::default() }
    }

    /// Stores `proposed`, if its coordinator has the newest term and it follows the stored epoch.
    ///
    /// A proposal that is already stored is granted again: its answer was lost on the way.
    pub fn grant_epoch(&mut self, proposed: &EpochRecord) -> Ruling {
        let same = *proposed == self.record;
        let follows = proposed.term == self.record.term
            && proposed.coordinator == self.record.coordinator
            && proposed.epoch == self.record.epoch + 1;
        let granted = self.is_in_force() && (follows || !self.rules.epochs_follow);
        if granted {
            self.record = proposed.clone();
        }
        Ruling { granted: same || granted, record: Some(self.record.clone()), ..Ruling::default() }
    }

    /// The newest record names who decides on the next.
    fn is_in_force(&self) -> bool {
        self.record.arbiter() == ArbiterKind::Single || !self.rules.one_arbiter
    }

    /// The candidate itself is never the reason to refuse it: it lost its own role.
    fn coordinator_lives(&self, candidate: &Member, now: Millis) -> bool {
        self.record.coordinator.as_ref().is_some_and(|coordinator| {
            let heard = self.heard.get(&coordinator.slot).filter(|(incarnation, _)| *incarnation == coordinator.incarnation);
            process(coordinator) != process(candidate)
                && heard.is_some_and(|(_, heard)| now.saturating_sub(*heard) <= self.liveness)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(slot: u32) -> Member {
        Member { slot, incarnation: 1, ..Member::default() }
    }

    #[test]
    fn the_first_to_ask_gets_the_term_and_the_second_learns_of_it() {
        let mut arbiter = Single::new(2_000);
        assert!(!arbiter.request_term(&Member { contributor: true, ..member(3) }, 0, 0).granted, "it may not coordinate");
        assert!(arbiter.request_term(&member(1), 0, 0).granted);
        assert!(!arbiter.request_term(&member(1), 0, 1).granted, "a question that comes twice is for one term");
        let refused = arbiter.request_term(&member(2), 0, 1);
        assert!(!refused.granted);
        assert_eq!(refused.record.unwrap().coordinator, Some(member(1)));
    }

    #[test]
    fn a_living_coordinator_is_not_deposed() {
        let mut arbiter = Single::new(2_000);
        arbiter.request_term(&member(1), 0, 0);
        arbiter.beat(&member(1), 1_000);
        assert!(!arbiter.request_term(&member(2), 1, 3_000).granted);
        assert!(arbiter.request_term(&member(2), 1, 3_001).granted);
    }

    #[test]
    fn a_coordinator_whose_process_ended_is_replaced_at_once() {
        let mut arbiter = Single::new(2_000);
        arbiter.request_term(&member(1), 0, 0);
        arbiter.ended(1, 1);
        assert!(arbiter.request_term(&member(2), 1, 1).granted);
    }

    #[test]
    fn an_epoch_needs_the_newest_term_and_the_newest_record() {
        let mut arbiter = Single::new(2_000);
        let record = arbiter.request_term(&member(1), 0, 0).record.unwrap();
        let first = EpochRecord { epoch: 1, members: vec![member(1), member(2)], ..record.clone() };
        assert!(arbiter.grant_epoch(&first).granted);
        assert!(arbiter.grant_epoch(&first).granted, "a lost answer is given again");
        let rival = EpochRecord { epoch: 1, members: vec![member(1)], ..record };
        assert!(!arbiter.grant_epoch(&rival).granted, "an epoch is granted once");
        arbiter.ended(1, 1);
        arbiter.request_term(&member(2), 1, 0);
        let late = EpochRecord { epoch: 2, ..first };
        assert!(!arbiter.grant_epoch(&late).granted, "a deposed coordinator changes nothing");
    }

    #[test]
    fn it_grants_nothing_after_a_record_that_names_the_peers_until_one_names_it_again() {
        let mut arbiter = Single::new(2_000);
        let record = arbiter.request_term(&member(1), 0, 0).record.unwrap();
        let peers = EpochRecord { epoch: 1, arbiter: ArbiterKind::Peers.into(), ..record };
        assert!(arbiter.grant_epoch(&peers).granted);
        assert!(arbiter.grant_epoch(&peers).granted, "a lost answer is given again");
        let next = EpochRecord { epoch: 2, ..peers.clone() };
        assert!(!arbiter.grant_epoch(&next).granted);
        assert!(!arbiter.request_term(&member(2), 1, 9_000).granted);
        arbiter.learn(&EpochRecord { arbiter: ArbiterKind::Single.into(), ..next.clone() });
        arbiter.learn(&peers);
        assert!(arbiter.request_term(&member(2), 1, 9_000).granted);
        assert_eq!(arbiter.record().epoch, 2);
    }

    fn worker(slot: u32, name: &str, incarnation: u64) -> Member {
        Member { slot, worker: name.into(), incarnation, ..Member::default() }
    }

    #[test]
    fn whatever_processes_say_that_they_live_few_are_remembered_and_the_coordinator_is() {
        let mut arbiter = Single::new(2_000);
        arbiter.request_term(&worker(0, "w0", 1), 0, 0);
        (1..100).for_each(|incarnation| _ = arbiter.beat(&worker(1, "w1", incarnation), 1));
        assert_eq!(arbiter.heard.len(), 2);
        (1..MOST_HEARD as u32 + 9).for_each(|slot| _ = arbiter.beat(&worker(slot, "w9", 1), 2));
        assert_eq!(arbiter.heard.len(), MOST_HEARD);
        assert!(!arbiter.request_term(&worker(2, "w2", 1), 1, 3).granted, "the coordinator lives");
    }

    #[test]
    fn nobody_makes_a_living_coordinator_silent_by_taking_its_slot() {
        let mut arbiter = Single::new(2_000);
        // Before anybody knows whose slot it is, and after.
        arbiter.beat(&worker(0, "w9", u64::MAX), 0);
        assert!(arbiter.request_term(&worker(0, "w0", 5), 0, 0).granted);
        arbiter.beat(&worker(0, "w9", u64::MAX), 1);
        arbiter.beat(&worker(0, "w0", 4), 1);
        arbiter.ended(0, 4);
        assert!(!arbiter.request_term(&worker(1, "w1", 1), 1, 2).granted);
        arbiter.beat(&worker(0, "w0", 6), 2);
        assert!(arbiter.request_term(&worker(1, "w1", 1), 1, 3).granted, "it has started again: that process is gone");
    }
}
