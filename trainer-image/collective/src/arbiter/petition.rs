//! One sidecar's way to the run's arbiter: it asks `Single`, or the voters of `Peers` for one place of the chain after the
//! other, and is a voter itself.
//!
//! The peer and the coordinator beside it ask for a term or an epoch and hear of the newest record; which of the two
//! arbiters is in force, only the petition knows.

use std::collections::{BTreeMap, BTreeSet};

use super::peers::HEAD_START;
use super::{Acceptor, Action, Event, ForceError, Process, Question, follows, is_trusted, majority, next_term, process, voters};
use crate::clock::Clock;
use crate::rules::Rules;
use crate::v1::{ArbiterKind, Ballot, BeatReply, BeatRequest, EpochRecord, EpochRequest, Member, Ruling, TermRequest};
use crate::{Millis, Notice};

/// The peer's wish for a term.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Wish {
    observed: u64,
    /// Others ask before.
    from: Millis,
    /// The peer has found its coordinator if it did not repeat the wish by then.
    until: Millis,
}

/// What the voters are being asked.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
enum Stage {
    Idle,
    /// For promises; by the voter's slot, what it had accepted.
    Preparing {
        number: u64,
        promises: BTreeMap<u32, Option<(Ballot, EpochRecord)>>,
    },
    /// To accept a record.
    Accepting {
        number: u64,
        record: Box<EpochRecord>,
        accepted: BTreeSet<u32>,
    },
}

/// One sidecar's voter and proposer.
///
/// # Why no two records are granted in one place
/// The records that are granted form a chain, in which the sum of term and epoch counts the places. By induction over it:
/// 1. The record before says who decides, and that record is one and the same for all. Where it names `Single`, the hub's
///    one stored record decides. Where it names `Peers`, its voters do, as in Paxos' decree of one value (Lamport, *Paxos
///    Made Simple*, 2001): what is granted was accepted by a majority in one ballot; a higher ballot begins with the
///    promises of a majority, shares a voter with it, and so proposes the same record again. Ballots are numbered per
///    process, and a process proposes one record in each. Ballot 0, the lowest, needs no promises: it is the coordinator's
///    alone, for its one proposal at a time.
/// 2. A change of voters takes effect in the next place: voters of a record are asked about what follows it, by somebody who
///    knows that it was granted and tells them, and about nothing else.
/// 3. What a voter forgets when its process ends is not missed: it is a voter of no later question, and the process that
///    replaces it is a voter from the first record on that names it.
/// 4. A voter that knows the record of a place has closed it: it answers with that record, and needs its promises no more.
///
/// So the chain is one that `Single` could have stored: one coordinator per term, and on top of an epoch one next epoch.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Petition {
    run: String,
    acceptor: Acceptor,
    liveness: Millis,
    patience: Millis,
    wish: Option<Wish>,
    /// What the coordinator asks for; kept until the place is closed, so that its ballots carry one record.
    proposal: Option<EpochRecord>,
    stage: Stage,
    /// Counts questions; the answer to an earlier one is news, not a vote.
    question: u64,
    asked: Millis,
    /// The highest ballot that was heard of in this place, and when.
    highest: Ballot,
    outbid: Millis,
    /// By the voter's slot, when it answered last.
    answered: BTreeMap<u32, Millis>,
    /// Since when it asks without reaching a majority, and whether it has said so.
    alone_since: Option<Millis>,
    told: bool,
    /// The voters that a human lets count as all.
    survivors: Vec<Member>,
    /// When it was told to stop, and whether it was evicted since.
    leaves: Option<Millis>,
    let_go: bool,
    clock: Clock,
    rules: Rules,
}

/// How long an answer may take before a voter is asked again.
const ASK_AGAIN: Millis = 200;
/// Voters ask for a term in the order of their slots, each this part of the liveness time after the one before.
const TURN: Millis = 16;
/// Who leaves votes for this part of the liveness time.
const VOTES: Millis = 16;

impl Petition {
    /// The petition of the process `me`. A coordinator is lost after `liveness` milliseconds without heartbeat; people are
    /// told that there is no majority when none has answered for `patience` milliseconds.
    #[must_use]
    pub fn new(run: String, me: Member, liveness: Millis, patience: Millis) -> Self {
        Self {
            run,
            acceptor: Acceptor::new(me, liveness),
            liveness,
            patience,
            wish: None,
            proposal: None,
            stage: Stage::Idle,
            question: 0,
            asked: 0,
            highest: Ballot::default(),
            outbid: 0,
            answered: BTreeMap::new(),
            alone_since: None,
            told: false,
            survivors: Vec::new(),
            leaves: None,
            let_go: false,
            clock: Clock::default(),
            rules: Rules::default(),
        }
    }

    /// The same, keeping `rules`; for the simulation.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { acceptor: self.acceptor.with_rules(rules), rules, ..self }
    }

    /// The newest granted record that it knows.
    #[must_use]
    pub fn record(&self) -> &EpochRecord {
        self.acceptor.record()
    }

    /// It asks for something, and too few voters have answered for too long.
    #[must_use]
    pub fn is_without_majority(&self) -> bool {
        self.told
    }

    /// This sidecar was told to stop: it asks for no term any more, and its heartbeats say so. Who hears that the coordinator
    /// leaves asks for the next term at once.
    pub fn leave(&mut self, now: Millis) {
        self.wish = None;
        self.leaves = Some(self.clock.at(now));
        self.acceptor.leave();
    }

    /// It was evicted since it was told to stop: its vote is not needed any more, whatever record it knows.
    pub fn let_go(&mut self) {
        self.let_go = self.is_leaving();
    }

    /// Whether a sidecar that was told to stop has to stay: where it `serves` others as their coordinator, until one of them has
    /// the role, and no longer than for somebody who is lost; as a voter for a moment, because where all are told to stop
    /// nobody is left who would ask for its vote.
    #[must_use]
    pub fn is_needed(&self, serves: bool, now: Millis) -> bool {
        let leaving_for = self.leaves.map_or(0, |leaves| now.saturating_sub(leaves));
        let votes = !self.let_go && self.votes_with_others() && leaving_for < self.liveness / VOTES;
        votes || serves && leaving_for < self.liveness
    }

    /// Its sidecar was told to stop.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.acceptor.is_leaving()
    }

    /// The other members, where this sidecar coordinates and they have to hear it, besides the hub: under `Peers`, or because it
    /// leaves.
    #[must_use]
    pub fn listeners(&self) -> Vec<Member> {
        let heard = self.coordinates() && (self.in_force() || self.is_leaving());
        let listens = |member: &&Member| heard && !self.is_me(member);
        self.record().members.iter().filter(listens).cloned().collect()
    }

    /// Whether others may need its vote in order to do without it: under `Peers`, as long as the newest record that it knows names
    /// it as a voter beside them.
    fn votes_with_others(&self) -> bool {
        let trusted = || self.record().members.iter().filter(|member| !member.contributor);
        self.in_force() && trusted().any(|member| self.is_me(member)) && trusted().any(|member| !self.is_me(member))
    }

    /// Takes one event at time `now` and says what to do about it.
    pub fn tick(&mut self, event: Event, now: Millis) -> Vec<Action> {
        let now = self.clock.at(now);
        let mut actions = Vec::new();
        match event {
            Event::RequestTerm(observed) => self.want_term(observed, now, &mut actions),
            Event::Propose(record) => self.propose(record, &mut actions),
            Event::Ruled(ruling) => {
                if let Some(record) = &ruling.record {
                    self.learn(record, now, &mut actions);
                }
                actions.push(Action::Ruled(ruling));
            }
            Event::Answered { question, voter, ruling } => self.answered(question, &voter, ruling, now, &mut actions),
            Event::Learned(record) => self.learn(&record, now, &mut actions),
            Event::Tick => {}
        }
        self.advance(now, &mut actions);
        actions
    }

    /// Answers a heartbeat, as a voter.
    pub fn beat(&mut self, request: &BeatRequest, now: Millis) -> (BeatReply, Vec<Action>) {
        let now = self.clock.at(now);
        let ((), mut actions) = self.serve(|acceptor| acceptor.beat(request, now));
        let left = request.member.as_ref().filter(|member| request.leaves && self.is_another_trusted(member));
        if left.is_some_and(|left| self.record().coordinator.as_ref().map(process) == Some(process(left))) {
            self.want_term(self.record().term, now, &mut actions);
        }
        (BeatReply { record: Some(self.record().clone()), hub: None }, actions)
    }

    /// Answers another's question for its promise, as a voter.
    pub fn promise(&mut self, request: &TermRequest, now: Millis) -> (Ruling, Vec<Action>) {
        let now = self.clock.at(now);
        self.serve(|acceptor| acceptor.promise(request, now))
    }

    /// Answers another's question to accept a record, as a voter.
    pub fn accept(&mut self, request: &EpochRequest, now: Millis) -> (Ruling, Vec<Action>) {
        let now = self.clock.at(now);
        self.serve(|acceptor| acceptor.accept(request, now))
    }

    /// Lets `survivors` count as all voters until the next epoch, and asks for the term after `observed`: a human's word that
    /// the other voters are lost for ever, and whatever they may have granted since with them.
    ///
    /// **Dangerous**: where the others live after all, both sides go on, with two histories. Every survivor has to agree, so
    /// what one of them knows is kept.
    ///
    /// # Errors
    /// [`ForceError`] where there is nothing to force, or somebody is named who has no vote.
    pub fn force(&mut self, observed: u64, survivors: &[Member], now: Millis) -> Result<Vec<Action>, ForceError> {
        let now = self.clock.at(now);
        if !self.in_force() {
            return Err(ForceError::NotInForce);
        }
        if self.record().term != observed {
            return Err(ForceError::Outdated { term: self.record().term });
        }
        if self.acceptor.me().contributor {
            return Err(ForceError::Contributor);
        }
        let electorate = voters(self.record());
        let votes = |survivor: &&Member| electorate.iter().any(|voter| process(voter) == process(survivor));
        if let Some(Member { slot, incarnation, .. }) = survivors.iter().find(|survivor| !votes(survivor)) {
            return Err(ForceError::NoVoter { slot: *slot, incarnation: *incarnation });
        }
        let named = |voter: &&Member| survivors.iter().any(|survivor| process(survivor) == process(voter));
        self.survivors = electorate.into_iter().filter(named).cloned().collect();
        if self.survivors.is_empty() {
            return Err(ForceError::NoSurvivor);
        }
        self.wish = Some(Wish { observed, from: now, until: Millis::MAX });
        let mut actions = Vec::new();
        self.prepare(now, &mut actions);
        Ok(actions)
    }

    fn serve<T>(&mut self, answer: impl FnOnce(&mut Acceptor) -> T) -> (T, Vec<Action>) {
        let mut actions = Vec::new();
        let before = self.record().clone();
        let answer = answer(&mut self.acceptor);
        if *self.record() != before {
            self.close_place(before.epoch, &mut actions);
        }
        (answer, actions)
    }

    fn learn(&mut self, record: &EpochRecord, now: Millis, actions: &mut Vec<Action>) {
        let ((), closed) = self.serve(|acceptor| _ = acceptor.learn(record, now));
        actions.extend(closed);
    }

    /// A newer record is known: nothing is asked about the place before.
    fn close_place(&mut self, epoch: u64, actions: &mut Vec<Action>) {
        let record = self.record().clone();
        self.stage = Stage::Idle;
        self.question += 1;
        self.highest = Ballot::default();
        self.answered.clear();
        self.alone_since = None;
        self.told = false;
        self.wish.take_if(|wish| wish.observed < record.term);
        if record.epoch > epoch {
            self.survivors.clear();
        }
        actions.push(Action::Located(record.clone()));
        if let Some(proposal) = self.proposal.take() {
            actions.push(Action::Ruled(Ruling { granted: proposal == record, record: Some(record), ..Ruling::default() }));
        }
    }

    fn want_term(&mut self, observed: u64, now: Millis, actions: &mut Vec<Action>) {
        if self.record().term > observed {
            return actions.push(Action::Located(self.record().clone()));
        }
        if self.acceptor.me().contributor || self.is_leaving() {
            return;
        }
        if !self.in_force() || !self.rules.one_arbiter {
            let candidate = Some(self.acceptor.me().clone());
            let request = TermRequest { run: self.run.clone(), candidate, observed_term: observed, ..TermRequest::default() };
            actions.push(Action::AskSingle(Question::Term(request)));
        }
        let until = now.saturating_add(2 * self.liveness);
        let from = now.saturating_add(self.turn() * (self.liveness / TURN));
        let wish = self.wish.get_or_insert(Wish { observed, from, until });
        wish.until = wish.until.max(until);
    }

    /// How many voters ask before this one; the lost coordinator is not among them.
    fn turn(&self) -> u64 {
        let record = self.record();
        let before = |voter: &&&Member| voter.slot < self.acceptor.me().slot && record.coordinator.as_ref() != Some(**voter);
        let voters = voters(record);
        let mine = voters.iter().any(|voter| self.is_me(voter));
        if mine { voters.iter().filter(before).count() as u64 } else { voters.len() as u64 }
    }

    fn propose(&mut self, record: EpochRecord, actions: &mut Vec<Action>) {
        let known = self.record();
        if record == *known || !follows(&record, known) || !self.coordinates() {
            let ruling = Ruling { granted: record == *known, record: Some(known.clone()), ..Ruling::default() };
            return actions.push(Action::Ruled(ruling));
        }
        if self.in_force() {
            self.proposal.get_or_insert(record);
        } else {
            let request = EpochRequest { run: self.run.clone(), proposed: Some(record), ..EpochRequest::default() };
            actions.push(Action::AskSingle(Question::Epoch(request)));
        }
    }

    fn in_force(&self) -> bool {
        self.record().arbiter() == ArbiterKind::Peers
    }

    fn coordinates(&self) -> bool {
        self.record().coordinator.as_ref().is_some_and(|coordinator| self.is_me(coordinator))
    }

    /// Whether `member` is who it says, and somebody else.
    fn is_another_trusted(&self, member: &Member) -> bool {
        is_trusted(self.record(), member) && !self.is_me(member)
    }

    fn is_me(&self, member: &Member) -> bool {
        process(member) == process(self.acceptor.me())
    }

    /// Takes the steps that time and the last event ask for.
    fn advance(&mut self, now: Millis, actions: &mut Vec<Action>) {
        self.wish.take_if(|wish| now >= wish.until);
        let its_turn = self.wish.as_ref().is_some_and(|wish| now >= wish.from);
        if !self.in_force() || !(its_turn || self.proposal.is_some()) {
            self.stage = Stage::Idle;
            self.alone_since = None;
            return;
        }
        let due = now.saturating_sub(self.asked) >= ASK_AGAIN;
        match (&self.stage, &self.proposal) {
            (Stage::Idle, Some(proposal)) if self.highest.number == 0 => {
                let proposal = proposal.clone();
                self.ask_to_accept(0, proposal, now, actions);
            }
            (Stage::Idle, _) => self.prepare(now, actions),
            (Stage::Preparing { number, .. } | Stage::Accepting { number, .. }, _) if due => {
                let is_behind = self.highest > self.ballot(*number);
                if is_behind && now.saturating_sub(self.outbid) >= self.retreat() {
                    self.prepare(now, actions);
                } else {
                    self.ask(now, actions);
                }
            }
            _ => {}
        }
        self.watch_majority(now, actions);
    }

    /// How long who is outbid gives way: the other has the voters' head start, and they differ in when they try again. Without
    /// that, two that began at once would outbid each other for ever.
    fn retreat(&self) -> Millis {
        let turn = if self.coordinates() { 0 } else { self.turn() + 1 };
        self.liveness / HEAD_START + turn * (self.liveness / TURN)
    }

    /// Begins a ballot above all that it has heard of.
    fn prepare(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let number = self.highest.number + 1;
        self.highest = self.highest.max(self.ballot(number));
        self.stage = Stage::Preparing { number, promises: BTreeMap::new() };
        self.question += 1;
        self.ask(now, actions);
    }

    fn ask_to_accept(&mut self, number: u64, record: EpochRecord, now: Millis, actions: &mut Vec<Action>) {
        self.stage = Stage::Accepting { number, record: Box::new(record), accepted: BTreeSet::new() };
        self.question += 1;
        self.ask(now, actions);
    }

    /// Puts the stage's question to every voter that has not granted it; to itself at once.
    fn ask(&mut self, now: Millis, actions: &mut Vec<Action>) {
        self.asked = now;
        let (question, Some(body)) = (self.question, self.body()) else { return };
        let mut own = None;
        let mut open = self.electorate();
        open.retain(|voter| !self.has_granted(voter.slot));
        for voter in open {
            if self.is_me(&voter) {
                let ruling = match &body {
                    Question::Term(request) => self.acceptor.promise(request, now),
                    Question::Epoch(request) => self.acceptor.accept(request, now),
                };
                own = Some((voter, ruling));
            } else {
                actions.push(Action::Ask { voter, question, body: body.clone() });
            }
        }
        if let Some((me, ruling)) = own {
            self.answered(question, &me, ruling, now, actions);
        }
    }

    fn body(&self) -> Option<Question> {
        let (run, after) = (self.run.clone(), Some(self.record().clone()));
        match &self.stage {
            Stage::Idle => None,
            Stage::Preparing { number, .. } => Some(Question::Term(TermRequest {
                run,
                candidate: Some(self.acceptor.me().clone()),
                observed_term: self.record().term,
                after,
                ballot: Some(self.ballot(*number)),
                forced: !self.survivors.is_empty(),
            })),
            Stage::Accepting { number, record, .. } => {
                let (proposed, ballot) = (Some(record.as_ref().clone()), Some(self.ballot(*number)));
                let proposer = Some(self.acceptor.me().clone());
                Some(Question::Epoch(EpochRequest { run, proposed, after, ballot, proposer }))
            }
        }
    }

    fn ballot(&self, number: u64) -> Ballot {
        let own: Process = process(self.acceptor.me());
        let (slot, incarnation) = if self.rules.ballots_differ || number == 0 { own } else { Process::default() };
        Ballot { number, slot, incarnation }
    }

    fn electorate(&self) -> Vec<Member> {
        if !self.survivors.is_empty() {
            return self.survivors.clone();
        }
        let names = match &self.stage {
            Stage::Accepting { record, .. } if !self.rules.last_record_names_voters => record,
            _ => self.record(),
        };
        voters(names).into_iter().cloned().collect()
    }

    fn needed(&self) -> usize {
        let voters = self.electorate().len();
        match (self.survivors.is_empty(), self.rules.majority) {
            (true, true) => majority(voters),
            (true, false) => (voters / 2).max(1),
            (false, _) => voters,
        }
    }

    fn has_granted(&self, slot: u32) -> bool {
        match &self.stage {
            Stage::Idle => false,
            Stage::Preparing { promises, .. } => promises.contains_key(&slot),
            Stage::Accepting { accepted, .. } => accepted.contains(&slot),
        }
    }

    fn answered(&mut self, question: u64, voter: &Member, ruling: Ruling, now: Millis, actions: &mut Vec<Action>) {
        if let Some(record) = &ruling.record {
            self.learn(record, now, actions);
        }
        // Another process at the voter's address has no vote; what was said of another place is old.
        let Some(promised) = ruling.promised.filter(|_| ruling.record.as_ref() == Some(self.record())) else { return };
        if promised > self.highest {
            self.highest = promised;
            self.outbid = now;
        }
        self.answered.insert(voter.slot, now);
        if question != self.question || !ruling.granted {
            return;
        }
        match &mut self.stage {
            Stage::Idle => return,
            Stage::Preparing { promises, .. } => {
                promises.insert(voter.slot, ruling.accepted_in.zip(ruling.accepted));
            }
            Stage::Accepting { accepted, .. } => {
                accepted.insert(voter.slot);
            }
        }
        self.count(now, actions);
    }

    /// Goes on where enough voters have granted the stage's question.
    fn count(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let needed = self.needed();
        match &self.stage {
            Stage::Preparing { number, promises } if promises.len() >= needed => {
                let number = *number;
                let adopted = promises.values().flatten().max_by_key(|(ballot, _)| *ballot).map(|(_, record)| record.clone());
                let own = || self.proposal.clone().unwrap_or_else(|| next_term(self.record(), self.acceptor.me()));
                let record = adopted.filter(|_| self.rules.accepted_is_adopted).unwrap_or_else(own);
                self.ask_to_accept(number, record, now, actions);
            }
            Stage::Accepting { record, accepted, .. } if accepted.len() >= needed => {
                let granted = record.clone();
                self.learn(&granted, now, actions);
            }
            _ => {}
        }
    }

    /// Says once that too few voters answer.
    fn watch_majority(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let (electorate, needed) = (self.electorate(), self.needed());
        let late = |slot: u32| self.answered.get(&slot).is_none_or(|answered| now.saturating_sub(*answered) >= self.patience);
        let silent = |voter: &&Member| !self.is_me(voter) && !self.has_granted(voter.slot) && late(voter.slot);
        let absent: Vec<_> = electorate.iter().filter(silent).cloned().collect();
        let reached = electorate.len() - absent.len();
        if reached >= needed {
            self.alone_since = Some(now);
            self.told = false;
        }
        let alone_since = *self.alone_since.get_or_insert(now);
        if now.saturating_sub(alone_since) >= self.patience && !std::mem::replace(&mut self.told, true) {
            actions.push(Action::Report(Notice::NoMajority { reached: reached as u32, needed: needed as u32, absent }));
        }
    }
}
