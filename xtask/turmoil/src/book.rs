//! What trainers were told, and what must hold of it by value. It knows what each of them gave, and nothing of the protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_collective::chain;
use atoll_collective::operation::Key;
use atoll_collective::v1::{AbortReason, Aborted, Commit, CommitRecord};

/// One contribution to the end of a round; no two have the same number.
pub(crate) type Entry = u64;

/// What a trainer gives: whole numbers, so that sums are exact in any order.
pub(crate) fn value(of: u64, index: usize) -> f32 {
    let mut bits = (of << 20 ^ index as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits ^= bits >> 29;
    bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((bits >> 40) % 2048) as f32 - 1024.0
}

/// What a trainer gives to an operation within a round, as one number for [`value`].
pub(crate) fn within(slot: u32, round: u64, sequence: u64) -> u64 {
    1 << 40 | u64::from(slot) << 32 | round << 8 | sequence
}

/// Weight of a worker's contributions to rounds.
pub(crate) fn weight(slot: u32) -> u32 {
    1 + slot % 3
}

/// Everything that all trainers of a run were told.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: Entry,
    given: BTreeMap<Entry, (u32, u64)>,
    aborted: BTreeSet<Entry>,
    rounds: BTreeMap<u64, CommitRecord>,
    /// After each round.
    states: BTreeMap<u64, Vec<f32>>,
    operations: BTreeMap<Key, Commit>,
    /// Newest round by slot.
    reached: BTreeMap<u32, u64>,
    pub(crate) in_doubt: usize,
    pub(crate) aborts: usize,
    pub(crate) evictions: usize,
    lines: Vec<String>,
    wrong: Option<String>,
}

impl Book {
    /// Notes what happened, for whoever replays it.
    pub(crate) fn note(&mut self, now: Duration, line: &str) {
        self.lines.push(format!("{:>9.3} {line}", now.as_secs_f64()));
    }

    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The first thing that went wrong, if anything did.
    pub(crate) fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    pub(crate) fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.wrong.is_none() {
            self.wrong = Some(what());
        }
    }

    /// Committed rounds and operations.
    pub(crate) fn committed(&self) -> (usize, usize) {
        (self.rounds.len(), self.operations.len())
    }

    /// The newest round that any worker was told of.
    pub(crate) fn newest(&self) -> u64 {
        self.rounds.keys().last().copied().unwrap_or_default()
    }

    /// Whether all of so many workers have done this round.
    pub(crate) fn all_reached(&self, workers: u32, round: u64) -> bool {
        (0..workers).all(|slot| self.reached.get(&slot).is_some_and(|reached| *reached >= round))
    }

    /// How far each worker is, in words.
    pub(crate) fn standing(&self) -> String {
        let each = self.reached.iter().map(|(slot, round)| format!("w{slot} has done round {round}"));
        each.collect::<Vec<_>>().join(", ")
    }

    /// A worker holds the state of so many rounds: the same as everybody who held it.
    pub(crate) fn holds(&mut self, slot: u32, rounds: u64, state: &[f32]) {
        let known = self.states.get(&rounds).is_none_or(|known| known == state);
        self.require(known, || format!("w{slot} holds another state of round {rounds} than others"));
        self.states.entry(rounds).or_insert_with(|| state.to_vec());
        self.reached.insert(slot, rounds);
    }

    /// The number of what a worker is about to give to a round.
    pub(crate) fn enters(&mut self, slot: u32, round: u64) -> Entry {
        self.entries += 1;
        self.given.insert(self.entries, (slot, round));
        self.entries
    }

    /// A worker was told that its contribution counts nowhere. Who was lost to the others itself is told that it is left out, no more.
    pub(crate) fn aborts(&mut self, slot: u32, entry: Entry, aborted: &Aborted) {
        self.aborts += 1;
        if aborted.reason() == AbortReason::PeerLost && aborted.culprit == Some(slot) {
            return;
        }
        self.aborted.insert(entry);
        let counted = self.rounds.values().find(|record| counts(record, entry)).map(|record| record.round);
        self.require(counted.is_none(), || format!("w{slot} was told that is aborted what round {counted:?} counts"));
    }

    /// A worker was told that a round is committed, and holds this result.
    pub(crate) fn commits_round(&mut self, slot: u32, record: &CommitRecord, output: &[f32]) {
        let round = record.round;
        let known = self.rounds.entry(round).or_insert_with(|| record.clone()).clone();
        self.require(known == *record, || format!("round {round} was committed twice: {known:?} and {record:?}"));
        let previous = round.checked_sub(1).and_then(|before| self.rounds.get(&before)).map(chain::hash).unwrap_or_default();
        self.require(record.previous == previous, || format!("round {round} is not linked to the round before"));
        let entries: Vec<_> = record.contributions.iter().map(|given| (given.slot, given.loss as Entry)).collect();
        let foreign = entries.iter().find(|(slot, entry)| self.given.get(entry) != Some(&(*slot, round)));
        let foreign = foreign.copied();
        self.require(foreign.is_none(), || format!("round {round} counts what was not given to it: {foreign:?}"));
        let aborted = entries.iter().find(|(_, entry)| self.aborted.contains(entry)).copied();
        self.require(aborted.is_none(), || format!("round {round} counts what its trainer was told is aborted: {aborted:?}"));
        let total: u32 = entries.iter().map(|(slot, _)| weight(*slot)).sum();
        let mean = |index| {
            let sum: f32 = entries.iter().map(|(slot, entry)| weight(*slot) as f32 * value(*entry, index)).sum();
            sum / total as f32
        };
        let differs = first_difference(output, mean);
        self.require(differs.is_none(), || {
            format!("round {round} on w{slot} is not the mean of what {entries:?} gave: element {differs:?}")
        });
    }

    /// A worker was told that an operation within a round is committed, and holds this result.
    pub(crate) fn commits_operation(&mut self, slot: u32, commit: &Commit, output: &[f32]) {
        let key: Key = commit.key.clone().unwrap_or_default().into();
        let first = Commit { index: 0, ..commit.clone() };
        let known = self.operations.entry(key.clone()).or_insert_with(|| first.clone()).clone();
        self.require(known == first, || format!("{key} was committed twice: {known:?} and {first:?}"));
        let sum = |index| commit.slots.iter().map(|slot| value(within(*slot, key.round, key.sequence), index)).sum();
        let differs = first_difference(output, sum);
        self.require(differs.is_none(), || {
            format!("{key} on w{slot} is not the sum of what {:?} gave: element {differs:?}", commit.slots)
        });
    }
}

fn counts(record: &CommitRecord, entry: Entry) -> bool {
    record.contributions.iter().any(|given| given.loss as Entry == entry)
}

/// The first element whose bits are not those that it must have, with both values.
pub(crate) fn first_difference(output: &[f32], expected: impl Fn(usize) -> f32) -> Option<(usize, f32, f32)> {
    let pairs = output.iter().enumerate().map(|(index, got)| (index, *got, expected(index)));
    pairs.into_iter().find(|(_, got, expected)| got.to_bits() != expected.to_bits())
}

#[cfg(test)]
mod tests {
    use atoll_collective::v1::Contribution;

    use super::*;

    const LENGTH: usize = 5;

    /// A round of two workers that went well: the book, its record and its result.
    fn good() -> (Book, CommitRecord, Vec<f32>) {
        let mut book = Book::default();
        let entries: Vec<_> = (0..2).map(|slot| (slot, book.enters(slot, 1))).collect();
        let given = |(slot, entry): &(u32, Entry)| Contribution { slot: *slot, loss: *entry as f64, ..Contribution::default() };
        let record = CommitRecord { round: 1, contributions: entries.iter().map(given).collect(), ..CommitRecord::default() };
        let mean = |index| (value(entries[0].1, index) + 2.0 * value(entries[1].1, index)) / 3.0;
        (book, record, (0..LENGTH).map(mean).collect())
    }

    #[test]
    fn the_mean_of_what_was_given_is_right_on_everybody() {
        let (mut book, record, mean) = good();
        book.commits_round(0, &record, &mean);
        book.commits_round(1, &record, &mean);
        assert_eq!(book.wrong(), None);
    }

    #[test]
    fn one_wrong_bit_is_noticed() {
        let (mut book, record, mut mean) = good();
        mean[LENGTH - 1] = f32::from_bits(mean[LENGTH - 1].to_bits() ^ 1);
        book.commits_round(0, &record, &mean);
        assert!(book.wrong().unwrap().contains("is not the mean of what [(0, 1), (1, 2)] gave: element Some((4"));
    }

    #[test]
    fn two_outcomes_of_one_round_are_noticed() {
        let (mut book, record, mean) = good();
        book.commits_round(0, &record, &mean);
        book.commits_round(1, &CommitRecord { term: 2, ..record }, &mean);
        assert!(book.wrong().unwrap().starts_with("round 1 was committed twice"));
    }

    fn aborted(reason: AbortReason, culprit: u32) -> Aborted {
        Aborted { reason: reason.into(), culprit: Some(culprit), ..Aborted::default() }
    }

    #[test]
    fn abort_and_commit_of_one_contribution_are_noticed_in_either_order() {
        let (mut book, record, mean) = good();
        book.aborts(1, 2, &aborted(AbortReason::LaneFailed, 0));
        book.commits_round(0, &record, &mean);
        assert!(book.wrong().unwrap().starts_with("round 1 counts what its trainer was told is aborted"));
        for (why, may_count) in [
            (aborted(AbortReason::PeerLost, 1), true),
            (aborted(AbortReason::PeerLost, 0), false),
            (aborted(AbortReason::Deadline, 1), false),
        ] {
            let (mut book, record, mean) = good();
            book.commits_round(0, &record, &mean);
            book.aborts(1, 2, &why);
            assert_eq!(book.wrong().is_none(), may_count, "who is left out does not know whether what it gave counts: {why:?}");
        }
    }

    #[test]
    fn a_broken_chain_and_a_contribution_to_another_round_are_noticed() {
        let (mut book, record, mean) = good();
        book.commits_round(0, &CommitRecord { previous: vec![1; 32], ..record.clone() }, &mean);
        assert_eq!(book.wrong(), Some("round 1 is not linked to the round before"));
        let (mut book, ..) = good();
        book.commits_round(0, &CommitRecord { round: 2, ..record }, &mean);
        assert!(book.wrong().unwrap().starts_with("round 2 counts what was not given to it"));
    }

    #[test]
    fn a_wrong_sum_and_another_state_are_noticed() {
        let mut book = Book::default();
        let key = atoll_collective::v1::OperationKey { round: 3, sequence: 1, ..Default::default() };
        let commit = Commit { key: Some(key), slots: vec![0, 2], ..Commit::default() };
        let sum: Vec<f32> = (0..LENGTH).map(|index| value(within(0, 3, 1), index) + value(within(2, 3, 1), index)).collect();
        book.commits_operation(0, &commit, &sum);
        assert_eq!(book.wrong(), None);
        book.commits_operation(2, &commit, &sum[1..]);
        assert!(book.wrong().unwrap().contains("is not the sum of what [0, 2] gave"));
        let mut book = Book::default();
        book.holds(0, 4, &[1.0, 2.0]);
        book.holds(1, 4, &[1.0, 2.5]);
        assert_eq!(book.wrong(), Some("w1 holds another state of round 4 than others"));
    }
}
