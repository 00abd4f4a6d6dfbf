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
                assert_eq!(self.node(slot).trainer.rounds + 1, start.round, "a trainer begins from the round's state");
                assert_eq!(self.node(slot).trainer.state, start.state_hash);
                self.soon(800, Happening::Trained { slot, trainer, start });
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
        let contribution = Contribution { slot, weight: 1, samples: start.samples.clone(), loss: 1.0 };
        let enter = Enter { round: start.round, elements: 1, contribution: Some(contribution) };
        self.node(slot).trainer.entered = Some(enter.clone());
        let deadline = self.now + self.patience + self.below(15_000);
        self.peer_event(slot, peer::Event::Entered(enter, deadline));
    }

    pub(super) fn reduced(&mut self, slot: u32, outcome: Outcome) {
        let trainer = self.node(slot).trainer.incarnation;
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
            Outcome::Aborted(_) => self.soon(20, Happening::ArriveAgain { slot, trainer }),
            Outcome::InDoubt => {
                let enter = self.node(slot).trainer.entered.clone().unwrap();
                let deadline = self.now + 10_000;
                self.peer_event(slot, peer::Event::Entered(enter, deadline));
            }
        }
    }

    /// One history: the same record for everybody, the mean of exactly its contributions, linked to the round before.
    fn check_commit(&mut self, slot: u32, record: &CommitRecord) {
        assert_eq!(record.result_hash, reference_hash(&record.contributions), "slot {slot} at {}", self.now);
        assert_eq!(record.round, self.node(slot).trainer.rounds + 1);
        let previous = self.history.get(&(record.round - 1)).map(chain::hash).unwrap_or_default();
        assert_eq!(record.previous, previous, "round {} is not linked to the round before", record.round);
        let known = self.history.entry(record.round).or_insert_with(|| record.clone());
        assert_eq!(known, record, "round {} was committed twice", record.round);
    }

    pub(super) fn check_samples(&self) {
        let mut committed: BTreeSet<u64> = BTreeSet::new();
        for range in self.history.values().flat_map(|record| &record.contributions).flat_map(|given| &given.samples) {
            for position in range.start..range.end {
                assert!(committed.insert(position), "sample {position} was committed twice");
            }
        }
        let ledger = self.ledger();
        assert_eq!(committed.len() as u64 + ledger::count(&ledger.holes), ledger.next);
        let holes = |position: u64| ledger.holes.iter().any(|hole: &SampleRange| (hole.start..hole.end).contains(&position));
        assert!((0..ledger.next).all(|position| committed.contains(&position) != holes(position)));
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
