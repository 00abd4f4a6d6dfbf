//! Trainers and the data movement of the simulation, and what is asserted of every commit.

use std::collections::BTreeSet;

use atoll_collective::peer::{self, Failure, Outcome};
use atoll_collective::v1::{AbortReason, Arrive, Begin, CommitRecord, Contribution, Enter, SampleRange, Start};
use atoll_collective::{chain, ledger};

use super::{Happening, ROUNDS, SAMPLES, World, member};

fn contribution_value(given: &Contribution) -> u64 {
    given.samples.iter().fold(u64::from(given.slot) + 1, |value, range| value * 31 + range.start * 7 + range.end)
}

/// The mean, as bytes: a function of the contributions alone.
fn reference_hash(begin_contributions: &[Contribution]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    for given in begin_contributions {
        hasher.update(&contribution_value(given).to_le_bytes()).update(&given.weight.to_le_bytes());
    }
    hasher.finalize().as_bytes().to_vec()
}

fn state_after(state: &[u8], result: &[u8]) -> Vec<u8> {
    blake3::Hasher::new().update(state).update(result).finalize().as_bytes().to_vec()
}

impl World {
    pub(super) fn moved(&mut self, slot: u32, incarnation: u64, begin: Box<Begin>) {
        let record = begin.record.clone().unwrap();
        if !self.is(&member(slot, incarnation)) || self.node(slot).moving != Some(record.epoch) {
            return;
        }
        let dead = record.members.iter().find(|member| !self.is(member)).map(|member| member.slot);
        let all_gave = record.members.iter().all(|member| self.nodes[member.slot as usize].gave.contains(&record.epoch));
        let result = match dead {
            Some(culprit) => Err(Failure { reason: AbortReason::PeerLost, culprit, detail: "its lane broke".into() }),
            None if all_gave => Ok(reference_hash(&begin.contributions)),
            None => return self.soon(50, Happening::Moved { slot, incarnation, begin }),
        };
        self.node(slot).moving = None;
        self.node(slot).output = result.as_ref().ok().cloned();
        self.peer_event(slot, peer::Event::Moved(record.epoch, result));
    }

    pub(super) fn fetched(&mut self, slot: u32, incarnation: u64, start: &Start) {
        if !self.is(&member(slot, incarnation)) {
            return;
        }
        let donor = start
            .donors
            .iter()
            .map(|donor| &self.nodes[*donor as usize])
            .find(|node| node.alive && node.trainer.alive && node.trainer.state == start.state_hash)
            .map(|node| (node.trainer.rounds, node.trainer.state.clone()));
        let result = match donor {
            Some((rounds, state)) => {
                let trainer = &mut self.node(slot).trainer;
                (trainer.rounds, trainer.state) = (rounds, state);
                Ok(())
            }
            None => Err("no donor".to_owned()),
        };
        self.peer_event(slot, peer::Event::Fetched(result));
    }

    pub(super) fn begun(&mut self, slot: u32, result: Result<Box<Start>, ()>) {
        let trainer = self.node(slot).trainer.incarnation;
        match result {
            Ok(start) => {
                let held = &self.node(slot).trainer;
                let fits = held.rounds + 1 == start.round && held.state == start.state_hash;
                self.require(fits, || format!("w{slot} begins round {} from another state", start.round));
                let slowness = self.node(slot).slowness;
                self.soon(800 * slowness, Happening::Trained { slot, trainer, start });
            }
            Err(()) => self.soon(20, Happening::ArriveAgain { slot, trainer }),
        }
    }

    pub(super) fn trained(&mut self, slot: u32, incarnation: u64, start: &Start) {
        let node = &self.nodes[slot as usize];
        if !node.alive || !node.trainer.alive || node.trainer.incarnation != incarnation || node.trainer.rounds + 1 != start.round
        {
            return;
        }
        self.sequence += 1;
        // Each contribution has a number of its own, where its loss would be.
        let contribution = Contribution { slot, weight: 1, samples: start.samples.clone(), loss: self.sequence as f64 };
        let enter = Enter { round: start.round, elements: 1, contribution: Some(contribution) };
        self.node(slot).trainer.entered = Some(enter.clone());
        let deadline = self.now + self.patience + self.below(15_000);
        self.node(slot).trainer.returns_by = Some(deadline);
        self.peer_event(slot, peer::Event::Entered(enter, deadline));
    }

    pub(super) fn reduced(&mut self, slot: u32, outcome: Outcome) {
        let trainer = self.node(slot).trainer.incarnation;
        self.node(slot).trainer.returns_by = None;
        match outcome {
            Outcome::Committed(record) => {
                self.check_commit(slot, &record);
                let trainer = &mut self.node(slot).trainer;
                trainer.rounds = record.round;
                trainer.committed = Some((*record).clone());
                trainer.state = state_after(&trainer.state, &record.result_hash);
                let rounds = trainer.rounds;
                let incarnation = trainer.incarnation;
                if rounds == ROUNDS {
                    self.peer_event(slot, peer::Event::Finished);
                } else {
                    self.arrive(slot, incarnation);
                }
            }
            Outcome::Aborted(refusal) => {
                let entered = self.node(slot).trainer.entered.take();
                // Who was lost to the others is told that it is left out; whether its contribution counts, they decide.
                let entered = entered.filter(|_| refusal.reason != AbortReason::PeerLost);
                self.given_up.extend(entered.and_then(|enter| enter.contribution).map(|given| given.loss as u64));
                self.soon(20, Happening::ArriveAgain { slot, trainer });
            }
            Outcome::InDoubt => {
                let Some(enter) = self.node(slot).trainer.entered.clone() else { return };
                let deadline = self.now + 10_000;
                self.node(slot).trainer.returns_by = Some(deadline);
                self.peer_event(slot, peer::Event::Entered(enter, deadline));
            }
        }
    }

    /// One history: the same record for everybody, the mean of exactly its contributions, linked to the round before; and
    /// this worker holds its result.
    fn check_commit(&mut self, slot: u32, record: &CommitRecord) {
        let round = record.round;
        let held = self.node(slot).output.take();
        self.require(held.as_ref() == Some(&record.result_hash), || format!("w{slot} does not hold the result of round {round}"));
        let mean = reference_hash(&record.contributions);
        self.require(record.result_hash == mean, || format!("round {round} is not the mean of its contributions"));
        let next = self.node(slot).trainer.rounds + 1;
        self.require(round == next, || format!("w{slot} takes round {round} for round {next}"));
        let previous = self.history.get(&(round - 1)).map(chain::hash).unwrap_or_default();
        self.require(record.previous == previous, || format!("round {round} is not linked to the round before"));
        let known = self.history.entry(round).or_insert_with(|| record.clone()).clone();
        self.require(known == *record, || format!("round {round} was committed twice: {known:?} and {record:?}"));
        let both = record.contributions.iter().find(|given| self.given_up.contains(&(given.loss as u64))).cloned();
        self.require(both.is_none(), || format!("round {round} counts what its trainer was told is aborted: {both:?}"));
    }

    pub(super) fn check_samples(&mut self) {
        let mut committed: BTreeSet<u64> = BTreeSet::new();
        let mut twice = None;
        for range in self.history.values().flat_map(|record| &record.contributions).flat_map(|given| &given.samples) {
            for position in range.start..range.end {
                if !committed.insert(position) {
                    twice = Some(position);
                }
            }
        }
        self.require(twice.is_none(), || format!("sample {twice:?} was committed twice"));
        let ledger = self.ledger();
        let all = committed.len() as u64 + ledger::count(&ledger.holes) == ledger.next;
        self.require(all, || format!("{} samples and the holes of {ledger:?} are not a prefix", committed.len()));
        let in_hole = |position: u64| ledger.holes.iter().any(|hole: &SampleRange| (hole.start..hole.end).contains(&position));
        let right = (0..ledger.next).all(|position| committed.contains(&position) != in_hole(position));
        self.require(right, || format!("the holes of {ledger:?} are not what was left out"));
    }

    pub(super) fn arrive(&mut self, slot: u32, incarnation: u64) {
        let node = self.node(slot);
        if !node.alive || !node.trainer.alive || node.trainer.incarnation != incarnation || node.trainer.rounds == ROUNDS {
            return;
        }
        let arrive = Arrive {
            round: node.trainer.rounds + 1,
            state_hash: node.trainer.state.clone(),
            samples_wanted: SAMPLES,
            attempt: 0,
        };
        let committed = node.trainer.committed.clone();
        self.peer_event(slot, peer::Event::Arrived(arrive, committed));
    }
}
