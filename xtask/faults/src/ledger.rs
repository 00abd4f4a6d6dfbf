//! What every worker was told of every round, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use atoll_collective::chain;
use atoll_proto::v1::CommitRecord;

/// What a call may take beyond its deadline: it has to be heard and answered on a busy machine.
const GRACE: Duration = Duration::from_secs(1);
/// Rounds that are kept.
const KEPT: usize = 5000;

/// A committed round, as one worker saw it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) slot: u32,
    pub(crate) record: CommitRecord,
    /// BLAKE3 of the result.
    pub(crate) result: [u8; 32],
    /// The result is the mean of what the record's slots gave.
    pub(crate) exact: bool,
    /// From the call to its return.
    pub(crate) took: Duration,
    pub(crate) time: Instant,
}

/// One committed round.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) record: CommitRecord,
    pub(crate) result: [u8; 32],
    /// Who was told of it, and when.
    pub(crate) told: BTreeMap<u32, (Instant, Duration)>,
}

/// All rounds.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    rounds: BTreeMap<u64, Round>,
    operations: u64,
    slowest: Duration,
    faults: Vec<String>,
}

impl Round {
    /// Slots whose contributions it counts.
    pub(crate) fn slots(&self) -> BTreeSet<u32> {
        self.record.contributions.iter().filter(|given| given.weight > 0).map(|given| given.slot).collect()
    }
}

impl Ledger {
    /// Takes what one worker was told.
    pub(crate) fn take(&mut self, told: Told) {
        let Told { slot, record, result, exact, took, time } = told;
        let number = record.round;
        self.operations += 1;
        while self.rounds.len() > KEPT {
            self.rounds.pop_first();
        }
        if !exact {
            self.fault(format!("w{slot} got a wrong result of round {number}"));
        }
        let before = number.checked_sub(1).and_then(|before| self.rounds.get(&before));
        if before.is_some_and(|before| chain::hash(&before.record) != record.previous) {
            self.fault(format!("round {number} of w{slot} does not follow the round before"));
        }
        match self.rounds.get_mut(&number) {
            None => {
                let round = Round { record, result, told: BTreeMap::from([(slot, (time, took))]) };
                self.rounds.insert(number, round);
            }
            Some(round) => {
                let same = (&round.record, round.result) == (&record, result);
                round.told.insert(slot, (time, took));
                if !same {
                    self.fault(format!("w{slot} was told of another round {number} than the others"));
                }
            }
        }
    }

    /// A call returned: with an outcome or without, it had to by its deadline, its input as it was.
    pub(crate) fn returned(&mut self, slot: u32, took: Duration, deadline: Duration, untouched: bool) {
        self.slowest = self.slowest.max(took);
        if took > deadline + GRACE {
            self.fault(format!("an operation of w{slot} took {} ms", took.as_millis()));
        }
        if !untouched {
            self.fault(format!("the input of w{slot} was written"));
        }
    }

    /// A worker was given a state to begin `round` from.
    pub(crate) fn synchronised(&mut self, slot: u32, round: u64, state: [u8; 32]) {
        let before = round.checked_sub(1).and_then(|before| self.rounds.get(&before));
        if before.is_some_and(|before| before.result != state) {
            self.fault(format!("w{slot} was given another state of round {round} than the others have"));
        }
    }

    pub(crate) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// What was wrong.
    pub(crate) fn faults(&self) -> &[String] {
        &self.faults
    }

    /// The newest round that anybody was told of; 0 before the first.
    pub(crate) fn newest(&self) -> u64 {
        self.rounds.keys().next_back().copied().unwrap_or(0)
    }

    pub(crate) fn round(&self, number: u64) -> Option<&Round> {
        self.rounds.get(&number)
    }

    /// Rounds that a worker was told of after an instant, in order.
    pub(crate) fn after(&self, slot: u32, instant: Instant) -> impl Iterator<Item = (u64, &Round)> {
        let later = move |round: &Round| round.told.get(&slot).is_some_and(|(time, _)| *time > instant);
        self.rounds.iter().filter(move |(_, round)| later(round)).map(|(number, round)| (*number, round))
    }

    /// The newest round of which all of `slots` were told, and which counts all of them.
    pub(crate) fn of_all(&self, slots: &BTreeSet<u32>) -> u64 {
        let whole = |round: &Round| slots.iter().all(|slot| round.told.contains_key(slot)) && slots.is_subset(&round.slots());
        self.rounds.iter().rev().find(|(_, round)| whole(round)).map_or(0, |(number, _)| *number)
    }

    /// Operations that ended in a commit, over all workers, and the longest that any call took.
    pub(crate) fn operations(&self) -> (u64, Duration) {
        (self.operations, self.slowest)
    }
}

#[cfg(test)]
mod tests {
    use atoll_proto::v1::Contribution;

    use super::*;

    fn told(slot: u32, round: u64, previous: Vec<u8>, counted: &[u32]) -> Told {
        let contributions =
            counted.iter().map(|slot| Contribution { slot: *slot, weight: 1, ..Contribution::default() }).collect();
        let record = CommitRecord { round, previous, contributions, ..CommitRecord::default() };
        Told { slot, record, result: [round as u8; 32], exact: true, took: Duration::ZERO, time: Instant::now() }
    }

    fn faults_of(told: impl IntoIterator<Item = Told>) -> String {
        let mut ledger = Ledger::default();
        told.into_iter().for_each(|told| ledger.take(told));
        ledger.faults().join("; ")
    }

    #[test]
    fn workers_that_were_told_the_same_have_no_faults() {
        let first = told(0, 1, Vec::new(), &[0, 1]);
        let second = told(0, 2, chain::hash(&first.record), &[0, 1]);
        assert_eq!(faults_of([first.clone(), Told { slot: 1, ..first }, Told { slot: 1, ..second.clone() }, second]), "");
    }

    #[test]
    fn each_fault_is_told() {
        let first = told(0, 1, Vec::new(), &[0, 1]);
        assert_eq!(faults_of([Told { exact: false, ..first.clone() }]), "w0 got a wrong result of round 1");
        let other = "w1 was told of another round 1 than the others";
        assert_eq!(faults_of([first.clone(), told(1, 1, Vec::new(), &[1])]), other);
        assert_eq!(faults_of([first.clone(), Told { slot: 1, result: [9; 32], ..first.clone() }]), other);
        assert_eq!(faults_of([first, told(0, 2, vec![1], &[0])]), "round 2 of w0 does not follow the round before");
        let mut ledger = Ledger::default();
        ledger.returned(3, Duration::from_secs(9), Duration::from_secs(8), true);
        ledger.returned(3, Duration::from_millis(9001), Duration::from_secs(8), false);
        assert_eq!(ledger.faults(), ["an operation of w3 took 9001 ms", "the input of w3 was written"]);
    }

    #[test]
    fn a_state_is_the_result_of_the_round_before() {
        let mut ledger = Ledger::default();
        ledger.take(told(0, 4, Vec::new(), &[0]));
        ledger.synchronised(1, 5, [4; 32]);
        assert!(ledger.faults().is_empty());
        ledger.synchronised(1, 5, [5; 32]);
        assert_eq!(ledger.faults(), ["w1 was given another state of round 5 than the others have"]);
    }

    #[test]
    fn a_round_is_of_all_when_it_counts_them_and_all_know() {
        let mut ledger = Ledger::default();
        let all = BTreeSet::from([0, 1]);
        ledger.take(told(0, 1, Vec::new(), &[0, 1]));
        assert_eq!((ledger.of_all(&all), ledger.newest(), ledger.operations().0), (0, 1, 1));
        ledger.take(told(1, 1, Vec::new(), &[0, 1]));
        assert_eq!(ledger.of_all(&all), 1);
    }
}
