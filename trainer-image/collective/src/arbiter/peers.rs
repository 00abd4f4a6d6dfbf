//! One voter of the `Peers` arbiter: what it has promised and accepted in the place after the newest record that it knows.
//!
//! It keeps this in memory alone: a process that starts again is no voter of any record that was granted before, so what it
//! forgot is never asked for. [`Petition`](super::Petition) has the argument for safety.

use super::{Process, follows, is_newer, is_trusted, process, proposer, voters};
use crate::Millis;
use crate::clock::Clock;
use crate::rules::Rules;
use crate::v1::{Ballot, BeatRequest, EpochRecord, EpochRequest, Member, Ruling, TermRequest};

/// Who got a promise has this part of the liveness time to make something of it before another is heard.
pub(super) const HEAD_START: Millis = 4;

/// A voter; `Serialize` so that it can be inspected.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Acceptor {
    me: Member,
    liveness: Millis,
    record: EpochRecord,
    /// When it last heard the coordinator of `record`.
    heard: Option<Millis>,
    promised: Ballot,
    promised_at: Millis,
    accepted: Option<(Ballot, EpochRecord)>,
    /// Its own process was told to stop.
    leaving: bool,
    clock: Clock,
    rules: Rules,
}

impl Acceptor {
    /// A voter that knows nothing yet. A coordinator is lost after `liveness` milliseconds without heartbeat.
    #[must_use]
    pub fn new(me: Member, liveness: Millis) -> Self {
        Self {
            me,
            liveness,
            record: EpochRecord::default(),
            heard: None,
            promised: Ballot::default(),
            promised_at: 0,
            accepted: None,
            leaving: false,
            clock: Clock::default(),
            rules: Rules::default(),
        }
    }

    /// The same, keeping `rules`; for the simulation.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// Its own process.
    #[must_use]
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// The newest granted record that it knows.
    #[must_use]
    pub fn record(&self) -> &EpochRecord {
        &self.record
    }

    /// Takes a granted record; false where it knows it, or a newer one.
    ///
    /// The place of that record is closed: from here on the record is the answer to every question about it.
    pub fn learn(&mut self, record: &EpochRecord, now: Millis) -> bool {
        let now = self.clock.at(now);
        if !is_newer(record, &self.record) {
            return false;
        }
        if record.term > self.record.term {
            // A coordinator of which it has only just heard has its time.
            self.heard = Some(now);
        }
        self.record = record.clone();
        self.promised = Ballot::default();
        self.accepted = None;
        true
    }

    /// A sidecar lives, and tells the newest record that it knows; a contributor's word is no record.
    pub fn beat(&mut self, request: &BeatRequest, now: Millis) {
        let now = self.clock.at(now);
        let Some(member) = request.member.as_ref().filter(|member| is_trusted(&self.record, member)) else { return };
        if let Some(record) = &request.record {
            self.learn(record, now);
        }
        if self.coordinator() == Some(process(member)) {
            self.heard = Some(now).filter(|_| !request.leaves);
        }
    }

    /// Its own process was told to stop: where it coordinates, that is no reason against another candidate any more.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Its own process was told to stop.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// A sidecar's process has ended: known, not guessed.
    pub fn ended(&mut self, slot: u32, incarnation: u64) {
        if self.coordinator() == Some((slot, incarnation)) {
            self.heard = None;
        }
    }

    /// Promises to accept nothing in a lower ballot, and tells what it has accepted so far.
    ///
    /// Refused to whoever is outbid, or would depose a coordinator that this voter still hears.
    pub fn promise(&mut self, request: &TermRequest, now: Millis) -> Ruling {
        let now = self.clock.at(now);
        let (Some(after), Some(ballot), Some(candidate)) = (&request.after, request.ballot, &request.candidate) else {
            return self.refusal();
        };
        let own = proposer(&ballot) == process(candidate) || !self.rules.ballots_differ;
        if !is_trusted(&self.record, candidate) || !own {
            return self.refusal();
        }
        self.learn(after, now);
        if !self.votes_after(after) {
            return self.refusal();
        }
        let may_be_asked = request.forced || !(self.hears_coordinator(candidate, now) || self.is_promised_away(candidate, now));
        let granted = ballot >= self.promised && may_be_asked;
        if granted {
            self.promised = ballot;
            self.promised_at = now;
        }
        self.ruling(granted)
    }

    /// Accepts a record in the place after the newest, unless it has promised to leave that to a higher ballot.
    pub fn accept(&mut self, request: &EpochRequest, now: Millis) -> Ruling {
        let now = self.clock.at(now);
        let (Some(after), Some(ballot), Some(proposed)) = (&request.after, request.ballot, &request.proposed) else {
            return self.refusal();
        };
        let asks = request.proposer.iter().chain(&proposed.coordinator);
        if asks.into_iter().any(|asker| !is_trusted(&self.record, asker)) {
            return self.refusal();
        }
        self.learn(after, now);
        if !self.votes_after(after) {
            return self.refusal();
        }
        let entitled = ballot.number > 0 || self.coordinator() == Some(proposer(&ballot));
        let bound = ballot < self.promised && self.rules.promises_bind;
        let granted = entitled && !bound && follows(proposed, after);
        if granted {
            self.promised = ballot;
            self.promised_at = now;
            self.accepted = Some((ballot, proposed.clone()));
        }
        self.ruling(granted)
    }

    /// This very process is named, and knows nothing newer.
    fn votes_after(&self, after: &EpochRecord) -> bool {
        let is_me = |voter: &&Member| {
            process(voter) == process(&self.me) || (voter.slot == self.me.slot && !self.rules.voters_are_processes)
        };
        self.record == *after && (voters(after).iter().any(is_me) || !self.rules.last_record_names_voters)
    }

    fn coordinator(&self) -> Option<Process> {
        self.record.coordinator.as_ref().map(process)
    }

    /// The candidate itself is never the reason to refuse it: it lost its own role.
    fn hears_coordinator(&self, candidate: &Member, now: Millis) -> bool {
        self.coordinator().is_some_and(|coordinator| {
            let heard = || self.heard.is_some_and(|heard| now.saturating_sub(heard) <= self.liveness);
            let serves = if coordinator == process(&self.me) { !self.leaving } else { heard() };
            coordinator != process(candidate) && serves
        })
    }

    /// Somebody else got its promise a moment ago. Its own process, a candidate itself, has no head start: of two that began at
    /// once, the higher goes on.
    fn is_promised_away(&self, candidate: &Member, now: Millis) -> bool {
        let holder = proposer(&self.promised);
        let recently = now.saturating_sub(self.promised_at) <= self.liveness / HEAD_START;
        self.promised.number > 0 && holder != process(candidate) && holder != process(&self.me) && recently
    }

    fn ruling(&self, granted: bool) -> Ruling {
        let (accepted_in, accepted) = self.accepted.clone().unzip();
        Ruling { granted, record: Some(self.record.clone()), promised: Some(self.promised), accepted, accepted_in }
    }

    /// It has no vote there, or knows better.
    fn refusal(&self) -> Ruling {
        Ruling { record: Some(self.record.clone()), ..Ruling::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HUB, next_term};
    use super::*;
    use crate::v1::ArbiterKind;

    const LIVENESS: Millis = 2_000;

    fn member(slot: u32, incarnation: u64) -> Member {
        Member { slot, incarnation, ..Member::default() }
    }

    /// Epoch 1 of slots 0, 1 and 2 under coordinator 0.
    fn first() -> EpochRecord {
        let members = (0..3).map(|slot| member(slot, 1)).collect();
        EpochRecord {
            term: 1,
            epoch: 1,
            coordinator: Some(member(0, 1)),
            members,
            arbiter: ArbiterKind::Peers.into(),
            hub: Some(member(HUB, 1)),
            ..EpochRecord::default()
        }
    }

    fn second(members: &[u32]) -> EpochRecord {
        EpochRecord { epoch: 2, members: members.iter().map(|slot| member(*slot, 1)).collect(), ..first() }
    }

    fn ballot(number: u64, slot: u32) -> Ballot {
        Ballot { number, slot, incarnation: 1 }
    }

    fn term(number: u64, slot: u32) -> TermRequest {
        let candidate = Some(member(slot, 1));
        TermRequest { candidate, after: Some(first()), ballot: Some(ballot(number, slot)), ..TermRequest::default() }
    }

    fn epoch(number: u64, slot: u32, proposed: EpochRecord) -> EpochRequest {
        EpochRequest {
            proposed: Some(proposed),
            after: Some(first()),
            ballot: Some(ballot(number, slot)),
            ..EpochRequest::default()
        }
    }

    /// The voter of slot 2, which has heard nothing of the coordinator for too long.
    fn voter() -> (Acceptor, Millis) {
        let mut voter = Acceptor::new(member(2, 1), LIVENESS);
        voter.learn(&first(), 0);
        (voter, LIVENESS + 1)
    }

    #[test]
    fn a_promise_binds_against_lower_ballots_and_tells_what_was_accepted_before() {
        let (mut voter, now) = voter();
        assert!(voter.accept(&epoch(0, 0, second(&[0, 2])), now).granted);
        let promise = voter.promise(&term(1, 1), now);
        assert_eq!((promise.granted, promise.accepted, promise.accepted_in), (true, Some(second(&[0, 2])), Some(ballot(0, 0))));
        assert!(!voter.accept(&epoch(0, 0, second(&[0, 2])), now).granted);
        assert!(voter.accept(&epoch(1, 1, second(&[0, 2])), now).granted);
    }

    #[test]
    fn equal_numbers_of_two_candidates_are_two_ballots() {
        let (mut voter, now) = voter();
        assert!(voter.promise(&term(1, 1), now).granted);
        let refused = voter.accept(&epoch(1, 0, second(&[0, 2])), now);
        assert_eq!((refused.granted, refused.promised), (false, Some(ballot(1, 1))));
    }

    #[test]
    fn a_coordinator_that_is_heard_is_not_deposed_unless_a_human_says_so() {
        let (mut voter, now) = voter();
        let beat = BeatRequest { member: Some(member(0, 1)), ..BeatRequest::default() };
        voter.beat(&beat, now);
        assert!(!voter.promise(&term(1, 1), now + LIVENESS).granted);
        assert!(voter.promise(&term(1, 0), now + LIVENESS).granted, "it may ask itself");
        assert!(voter.promise(&TermRequest { forced: true, ..term(2, 1) }, now + LIVENESS).granted);
        voter.ended(0, 1);
        assert!(voter.promise(&term(3, 1), now + 2 * LIVENESS).granted);
    }

    #[test]
    fn a_coordinator_that_leaves_is_followed_at_once() {
        let (mut voter, now) = voter();
        let beat = BeatRequest { member: Some(member(0, 1)), ..BeatRequest::default() };
        voter.beat(&beat, now);
        voter.beat(&BeatRequest { leaves: true, member: Some(member(1, 1)), ..BeatRequest::default() }, now);
        assert!(!voter.promise(&term(1, 1), now).granted, "another one left");
        voter.beat(&BeatRequest { leaves: true, ..beat }, now);
        assert!(voter.promise(&term(1, 1), now).granted);
        let mut coordinator = Acceptor::new(member(0, 1), LIVENESS);
        assert!(!coordinator.promise(&term(1, 1), now).granted);
        coordinator.leave();
        assert!(coordinator.promise(&term(1, 1), now).granted, "it votes as long as it is there");
    }

    #[test]
    fn who_got_a_promise_has_time_to_use_it() {
        let (mut voter, now) = voter();
        assert!(voter.promise(&term(1, 1), now).granted);
        assert!(!voter.promise(&term(2, 0), now + LIVENESS / 4).granted);
        assert!(voter.promise(&term(2, 0), now + LIVENESS / 4 + 1).granted);
    }

    #[test]
    fn the_coordinators_own_ballot_is_nobody_elses() {
        let (mut voter, now) = voter();
        assert!(!voter.accept(&epoch(0, 1, next_term(&first(), &member(1, 1))), now).granted);
        assert!(voter.accept(&epoch(1, 1, next_term(&first(), &member(1, 1))), now).granted);
        assert!(!voter.accept(&epoch(2, 1, EpochRecord { epoch: 3, ..first() }), now).granted, "a step is one step");
    }

    #[test]
    fn a_process_that_started_again_has_no_vote() {
        let mut restarted = Acceptor::new(member(2, 2), LIVENESS);
        let ruling = restarted.promise(&term(1, 1), 9_000);
        assert_eq!((ruling.granted, ruling.promised), (false, None));
        assert_eq!(ruling.record, Some(first()), "it has learned of the record all the same");
    }

    #[test]
    fn a_closed_place_is_answered_with_its_record() {
        let (mut voter, now) = voter();
        assert!(voter.learn(&second(&[0, 1, 2]), now));
        let late = voter.promise(&term(9, 1), now);
        assert_eq!((late.granted, late.promised, late.record), (false, None, Some(second(&[0, 1, 2]))));
        assert!(!voter.learn(&first(), now));
    }

    #[test]
    fn a_contributor_is_no_candidate_and_its_word_is_no_record() {
        let mut voter = Acceptor::new(member(2, 1), LIVENESS);
        let volunteer = Member { contributor: true, ..member(1, 1) };
        let request = TermRequest { candidate: Some(volunteer.clone()), ..term(1, 1) };
        assert!(!voter.promise(&request, 0).granted);
        voter.beat(&BeatRequest { member: Some(volunteer), record: Some(first()), ..BeatRequest::default() }, 0);
        assert_eq!(voter.record(), &EpochRecord::default());
    }

    #[test]
    fn a_contributor_that_says_it_is_another_or_started_again_is_heard_as_little() {
        let mut known = first();
        known.members.iter_mut().for_each(|member| member.worker = format!("w{}", member.slot));
        known.members.push(Member { worker: "w9".into(), contributor: true, ..member(9, 1) });
        let mut voter = Acceptor::new(known.members[2].clone(), LIVENESS);
        voter.learn(&known, 0);
        let newer = EpochRecord { epoch: 7, ..known.clone() };
        for (slot, worker, incarnation) in [(9, "w9", 2), (7, "w9", 1), (1, "w9", 2), (1, "w1", 0)] {
            let liar = Member { worker: worker.into(), ..member(slot, incarnation) };
            voter.beat(&BeatRequest { member: Some(liar.clone()), record: Some(newer.clone()), ..BeatRequest::default() }, 1);
            let ballot = Some(Ballot { number: 1, slot, incarnation });
            let request = TermRequest { candidate: Some(liar), after: Some(newer.clone()), ballot, ..TermRequest::default() };
            assert!(!voter.promise(&request, 2 * LIVENESS).granted);
            assert_eq!(voter.record(), &known, "{slot} {worker} {incarnation}");
        }
        let again = Member { worker: "w1".into(), ..member(1, 2) };
        voter.beat(&BeatRequest { member: Some(again), record: Some(newer.clone()), ..BeatRequest::default() }, 1);
        assert_eq!(voter.record(), &newer);
    }
}
