//! The hub's part: it is the `Single` arbiter, one more voter of `Peers`, and says which of the two shall be in force.
//!
//! What `Single` grants is stored; what the voter promised is not, so a hub that starts again votes as another process once
//! an epoch names it.

use super::{Acceptor, Single, is_newer};
use crate::Millis;
use crate::clock::Clock;
use crate::rules::Rules;
use crate::v1::{ArbiterKind, BeatReply, BeatRequest, EpochRecord, EpochRequest, Hub as Told, Member, Ruling, TermRequest};

/// The hub of one run.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Hub {
    single: Single,
    acceptor: Acceptor,
    wanted: ArbiterKind,
    clock: Clock,
}

impl Hub {
    /// The hub's process `me`, with what `Single` has stored so far.
    #[must_use]
    pub fn new(me: Member, single: Single, liveness: Millis) -> Self {
        Self { single, acceptor: Acceptor::new(me, liveness), wanted: ArbiterKind::Single, clock: Clock::default() }
    }

    /// The same, keeping `rules`; for the simulation.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { single: self.single.with_rules(rules), acceptor: self.acceptor.with_rules(rules), ..self }
    }

    /// Wants `kind` to be the arbiter from the next epoch on; `Single` until it is told otherwise.
    pub fn want(&mut self, kind: ArbiterKind) {
        self.wanted = kind;
    }

    /// What has to be stored.
    #[must_use]
    pub fn single(&self) -> &Single {
        &self.single
    }

    /// The newest granted record that it knows.
    #[must_use]
    pub fn record(&self) -> &EpochRecord {
        let (one, other) = (self.single.record(), self.acceptor.record());
        if is_newer(other, one) { other } else { one }
    }

    /// A sidecar lives, and tells the newest record that it knows.
    pub fn beat(&mut self, request: &BeatRequest, now: Millis) -> BeatReply {
        let now = self.clock.at(now);
        self.acceptor.beat(request, now);
        self.single.learn(self.acceptor.record());
        match &request.member {
            Some(member) if request.leaves => self.single.leaves(member),
            Some(member) => _ = self.single.beat(member, now),
            None => {}
        }
        let hub = Told { voter: Some(self.acceptor.me().clone()), wanted: self.wanted.into() };
        BeatReply { record: Some(self.record().clone()), hub: Some(hub) }
    }

    /// A sidecar's process has ended: known, not guessed.
    pub fn ended(&mut self, slot: u32, incarnation: u64) {
        self.single.ended(slot, incarnation);
        self.acceptor.ended(slot, incarnation);
    }

    /// As `Single`, or as a voter where the question has a ballot.
    pub fn request_term(&mut self, request: &TermRequest, now: Millis) -> Ruling {
        let now = self.clock.at(now);
        let ruling = match (&request.candidate, request.ballot) {
            (_, Some(_)) => self.acceptor.promise(request, now),
            (Some(candidate), None) => self.single.request_term(candidate, request.observed_term, now),
            (None, None) => Ruling::default(),
        };
        self.telling_the_newest(ruling, now)
    }

    /// As `Single`, or as a voter where the question has a ballot.
    pub fn grant_epoch(&mut self, request: &EpochRequest, now: Millis) -> Ruling {
        let now = self.clock.at(now);
        let ruling = match (&request.proposed, request.ballot) {
            (_, Some(_)) => self.acceptor.accept(request, now),
            (Some(proposed), None) => self.single.grant_epoch(proposed),
            (None, None) => Ruling::default(),
        };
        self.telling_the_newest(ruling, now)
    }

    /// Each of the two arbiters in it learns what the other knows.
    fn telling_the_newest(&mut self, ruling: Ruling, now: Millis) -> Ruling {
        self.acceptor.learn(self.single.record(), now);
        self.single.learn(self.acceptor.record());
        Ruling { record: Some(self.record().clone()), ..ruling }
    }
}

#[cfg(test)]
mod tests {
    use super::super::HUB;
    use super::*;
    use crate::v1::Ballot;

    fn member(slot: u32) -> Member {
        Member { slot, incarnation: 1, ..Member::default() }
    }

    fn hub() -> Hub {
        Hub::new(member(HUB), Single::new(2_000), 2_000)
    }

    #[test]
    fn a_question_with_a_ballot_is_for_the_voter_one_without_for_single() {
        let mut hub = hub();
        let asked = TermRequest { candidate: Some(member(0)), ..TermRequest::default() };
        let record = hub.request_term(&asked, 1).record.unwrap();
        assert_eq!((record.term, record.coordinator.clone()), (1, Some(member(0))));
        let first = EpochRecord {
            epoch: 1,
            members: vec![member(0), member(1)],
            arbiter: ArbiterKind::Peers.into(),
            hub: Some(member(HUB)),
            ..record
        };
        assert!(hub.grant_epoch(&EpochRequest { proposed: Some(first.clone()), ..EpochRequest::default() }, 2).granted);
        let second = EpochRecord { epoch: 2, ..first.clone() };
        assert!(!hub.grant_epoch(&EpochRequest { proposed: Some(second.clone()), ..EpochRequest::default() }, 3).granted);
        let ballot = Some(Ballot { number: 0, slot: 0, incarnation: 1 });
        let voted = EpochRequest { proposed: Some(second), after: Some(first.clone()), ballot, ..EpochRequest::default() };
        assert!(hub.grant_epoch(&voted, 4).granted);
        assert_eq!(hub.record(), &first, "one vote grants nothing");
    }

    #[test]
    fn single_too_has_a_coordinator_that_leaves_followed_at_once() {
        let mut hub = hub();
        let asks = |slot, observed_term| TermRequest { candidate: Some(member(slot)), observed_term, ..TermRequest::default() };
        assert!(hub.request_term(&asks(0, 0), 1).granted);
        let beat = BeatRequest { member: Some(member(0)), ..BeatRequest::default() };
        hub.beat(&beat, 2);
        assert!(!hub.request_term(&asks(1, 1), 3).granted);
        let other = Member { worker: "other".into(), ..member(0) };
        hub.beat(&BeatRequest { leaves: true, member: Some(other), ..BeatRequest::default() }, 3);
        assert!(!hub.request_term(&asks(1, 1), 3).granted, "another worker said so");
        hub.beat(&BeatRequest { leaves: true, ..beat }, 4);
        assert!(hub.request_term(&asks(1, 1), 5).granted);
    }

    #[test]
    fn a_hub_that_starts_again_knows_what_single_stored_and_learns_the_rest() {
        let mut old = hub();
        old.request_term(&TermRequest { candidate: Some(member(0)), ..TermRequest::default() }, 1);
        let mut again = Hub::new(Member { incarnation: 2, ..member(HUB) }, old.single().clone(), 2_000);
        again.want(ArbiterKind::Peers);
        assert_eq!(again.record(), old.record());
        let newer = EpochRecord { epoch: 4, ..old.record().clone() };
        let told = again.beat(&BeatRequest { member: Some(member(0)), record: Some(newer.clone()), ..BeatRequest::default() }, 2);
        assert_eq!(told.record, Some(newer));
        let voter = Member { incarnation: 2, ..member(HUB) };
        assert_eq!(told.hub, Some(Told { voter: Some(voter), wanted: ArbiterKind::Peers.into() }));
    }
}
