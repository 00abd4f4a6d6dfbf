//! Who may grant a term or a change of membership: exactly one arbiter per run, named in the newest record.
//!
//! Granted records form a chain: each follows one other, in the next term or in the next epoch. [`Single`] keeps the newest
//! and decides alone; under `Peers` every place of the chain is agreed among the voters that the record before it names
//! ([`Acceptor`], [`Petition`]). The [`Hub`] is both. A sidecar asks through its [`Petition`], whichever is in force.

mod asking;
mod hub;
mod peers;
mod petition;
mod service;
mod single;

pub use asking::{Action, Event, ForceError, Question};
pub use hub::Hub;
pub use peers::Acceptor;
pub use petition::Petition;
pub use service::{Answers, Service};
pub use single::Single;

use crate::v1::{Ballot, EpochRecord, Member};

/// The hub's slot as a voter: no worker's.
pub const HUB: u32 = u32::MAX;

/// A process: slot and incarnation. One that starts again is another.
type Process = (u32, u64);

/// The process of a member.
fn process(member: &Member) -> Process {
    (member.slot, member.incarnation)
}

/// Who decides under `Peers` what follows `record`: its members that are no contributors, in slot order, and the hub that
/// it names where their number is even.
#[must_use]
pub fn voters(record: &EpochRecord) -> Vec<&Member> {
    let trusted: Vec<_> = record.members.iter().filter(|member| !member.contributor).collect();
    let even = trusted.len().is_multiple_of(2);
    trusted.into_iter().chain(record.hub.as_ref().filter(|_| even)).collect()
}

/// Whether `member` is the process that `record` knows in its slot, or a later one of the same worker; whoever it does not know
/// may be one that comes.
fn is_itself(record: &EpochRecord, member: &Member) -> bool {
    let known = record.members.iter().chain(&record.coordinator).filter(|known| known.slot == member.slot);
    let same = |known: &Member| (&known.island, &known.worker) == (&member.island, &member.worker);
    known.into_iter().all(|known| same(known) && known.incarnation <= member.incarnation)
}

/// Whether `member` may coordinate and vote after `record`: it is itself, and no contributor, neither by its own word nor by the
/// record's, whatever slot and incarnation it says it has.
fn is_trusted(record: &EpochRecord, member: &Member) -> bool {
    let contributes = |known: &Member| known.contributor && (&known.island, &known.worker) == (&member.island, &member.worker);
    !member.contributor && is_itself(record, member) && !record.members.iter().any(contributes)
}

/// How many of `voters` decide: any two such groups share one.
#[must_use]
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether `one` has a later place in the chain than `other`. Neither term nor epoch ever falls along it.
#[must_use]
pub fn is_newer(one: &EpochRecord, other: &EpochRecord) -> bool {
    (one.term, one.epoch) > (other.term, other.epoch)
}

/// The record that makes `candidate` the coordinator of the term after `record`.
fn next_term(record: &EpochRecord, candidate: &Member) -> EpochRecord {
    let deposed = record.coordinator.clone();
    EpochRecord { term: record.term + 1, coordinator: Some(candidate.clone()), deposed, ..record.clone() }
}

/// Whether `next` is one step after `record`: the next epoch by the same coordinator, or the next term of the same epoch.
#[must_use]
pub fn follows(next: &EpochRecord, record: &EpochRecord) -> bool {
    let Some(coordinator) = &next.coordinator else { return false };
    let epoch = next.epoch == record.epoch + 1 && next.term == record.term && next.coordinator == record.coordinator;
    epoch || *next == next_term(record, coordinator)
}

/// The process that proposes in `ballot`.
fn proposer(ballot: &Ballot) -> Process {
    (ballot.slot, ballot.incarnation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(slot: u32) -> Member {
        Member { slot, incarnation: 1, ..Member::default() }
    }

    fn record(members: &[u32]) -> EpochRecord {
        let members = members.iter().map(|slot| member(*slot)).collect();
        EpochRecord { members, hub: Some(member(HUB)), coordinator: Some(member(0)), ..EpochRecord::default() }
    }

    fn slots(record: &EpochRecord) -> Vec<u32> {
        voters(record).iter().map(|voter| voter.slot).collect()
    }

    #[test]
    fn the_hub_votes_where_the_number_of_members_is_even() {
        assert_eq!(slots(&record(&[0, 1])), [0, 1, HUB]);
        assert_eq!(slots(&record(&[0, 1, 2])), [0, 1, 2]);
        assert_eq!(slots(&EpochRecord { hub: None, ..record(&[0, 1]) }), [0, 1]);
    }

    #[test]
    fn contributors_have_no_vote() {
        let mut mixed = record(&[0, 1, 2]);
        mixed.members[2].contributor = true;
        assert_eq!(slots(&mixed), [0, 1, HUB]);
    }

    #[test]
    fn two_majorities_share_a_voter() {
        assert_eq!([1, 2, 3, 4, 5].map(majority), [1, 2, 2, 3, 3]);
    }

    #[test]
    fn a_record_follows_by_one_term_or_by_one_epoch() {
        let first = record(&[0, 1]);
        let epoch = EpochRecord { epoch: 1, members: vec![member(0)], ..first.clone() };
        assert!(follows(&epoch, &first));
        assert!(follows(&next_term(&epoch, &member(1)), &epoch));
        assert!(!follows(&next_term(&epoch, &member(1)), &first));
        assert!(!follows(&EpochRecord { coordinator: Some(member(1)), ..epoch.clone() }, &first), "only its coordinator's");
        assert!(!follows(&EpochRecord { members: vec![], ..next_term(&epoch, &member(1)) }, &epoch), "a term changes no members");
        assert!(!follows(&first, &first));
    }

    #[test]
    fn trust_is_a_processs_own_and_not_its_slots() {
        let worker =
            |slot: u32, worker: &str, incarnation| Member { slot, worker: worker.into(), incarnation, ..Member::default() };
        let volunteer = Member { contributor: true, ..worker(3, "w3", 5) };
        let members = vec![worker(0, "w0", 5), volunteer.clone()];
        let known = EpochRecord { members, coordinator: Some(worker(1, "w1", 5)), ..EpochRecord::default() };
        for (member, trusted) in [
            (worker(0, "w0", 5), true),
            (worker(0, "w0", 6), true),
            (worker(2, "w2", 1), true),
            (worker(0, "w0", 4), false),
            (worker(1, "w1", 4), false),
            (worker(0, "w9", 6), false),
            (worker(1, "w9", 6), false),
            (volunteer, false),
            (worker(3, "w3", 6), false),
            (worker(9, "w3", 6), false),
        ] {
            assert_eq!(is_trusted(&known, &member), trusted, "{member:?}");
        }
    }
}
