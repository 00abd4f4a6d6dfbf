//! The chain of committed rounds: each record names the one before it by hash, so that two histories cannot be mistaken
//! for one.

use prost::Message;

use crate::v1::{Begin, Commit, CommitRecord, EpochRecord, Ledger, Member, Prepared};
use crate::{ledger, operation};

/// Bytes of a BLAKE3 hash.
pub const HASH: usize = 32;

/// Hash of a record: the `previous` of the next.
#[must_use]
pub fn hash(record: &CommitRecord) -> Vec<u8> {
    blake3::hash(&record.encode_to_vec()).as_bytes().to_vec()
}

/// Committed rounds so far; the next round is one more.
#[must_use]
pub fn rounds(committed: Option<&CommitRecord>) -> u64 {
    committed.map_or(0, |record| record.round)
}

/// The ledger after the newest committed round.
#[must_use]
pub fn ledger(committed: Option<&CommitRecord>) -> Ledger {
    committed.and_then(|record| record.ledger.clone()).unwrap_or_default()
}

/// The record that commits the round of `begin` with `result_hash` after `previous`. A function of what all members know,
/// so that any coordinator makes the same one.
#[must_use]
pub fn commit(previous: Option<&CommitRecord>, begin: &Begin, result_hash: &[u8]) -> CommitRecord {
    let delivered: Vec<_> =
        begin.contributions.iter().filter(|given| given.weight > 0).flat_map(|given| given.samples.clone()).collect();
    let (term, epoch) = begin.record.as_ref().map_or((0, 0), |record| (record.term, record.epoch));
    let operation = begin.operation.as_ref();
    CommitRecord {
        round: operation::key(operation).round,
        term,
        epoch,
        elements: operation.map_or(0, |operation| operation.elements),
        contributions: begin.contributions.clone(),
        result_hash: result_hash.to_vec(),
        previous: previous.map(hash).unwrap_or_default(),
        ledger: Some(ledger::settle(&ledger(previous), &delivered)),
    }
}

/// The member with this slot.
#[must_use]
pub fn member(record: &EpochRecord, slot: u32) -> Option<&Member> {
    record.members.iter().find(|member| member.slot == slot)
}

/// Whether this very process is a member: slot and incarnation.
#[must_use]
pub fn includes(record: &EpochRecord, member: &Member) -> bool {
    self::member(record, member.slot).is_some_and(|found| found.incarnation == member.incarnation)
}

/// Whether `commit` is of what a peer is prepared for, with the same result.
#[must_use]
pub fn commits(commit: &Commit, prepared: Option<&Prepared>) -> bool {
    prepared.is_some_and(|prepared| prepared.key == commit.key && prepared.result_hash == commit.result_hash)
}
