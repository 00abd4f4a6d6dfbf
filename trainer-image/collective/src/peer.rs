//! The peer: one worker's side of every round, as a state machine between its trainer, the coordinator and the data lanes.
//!
//! A peer that reported its result's hash is *prepared*: it may not abort by itself, and keeps the result until it learns
//! the outcome. It answers a new coordinator with everything it knows, and from then on refuses the old one.

use crate::rules::Rules;
use crate::v1::{
    AbortReason, Arrive, Begin, CommitRecord, CoordinatorMessage, Enter, EpochRecord, Failed, Heartbeat, Hello, Leave, Member,
    Prepared, Start, coordinator_message, leave, peer_message,
};
use crate::{Millis, chain, ledger};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The trainer asks for the next round.
    Arrived(Arrive, Option<CommitRecord>),
    /// The trainer delivers its contribution, and waits until the deadline at most.
    Entered(Enter, Millis),
    /// The trainer has done its last round.
    Finished,
    /// The trainer's process or heartbeat ended.
    TrainerLost,
    /// The sidecar was told to stop.
    Stopping,
    /// The arbiter's newest record.
    Located(EpochRecord),
    /// The session of this term is open; its first message must be [`Action::Send`]'s hello.
    Opened(u64),
    /// The session of this term ended, or could not be opened.
    Closed(u64),
    /// The coordinator sent a message.
    Message(Box<CoordinatorMessage>),
    /// The data movement of this epoch ended: the result's hash, or what went wrong.
    Moved(u64, Result<Vec<u8>, Failure>),
    /// The state was fetched from a donor and checked, or no donor could give it.
    Fetched(Result<(), String>),
    /// Time has passed.
    Tick,
}

/// Why data could not be moved.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What kind of failure.
    pub reason: AbortReason,
    /// Slot of the peer to blame.
    pub culprit: u32,
    /// The facts.
    pub detail: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Open a session with this coordinator, of this term.
    Dial(Member, u64),
    /// Send on the open session, in this term.
    Send(u64, Box<peer_message::Body>),
    /// End the session of this term.
    Hang(u64),
    /// Ask the arbiter for the term after this one.
    RequestTerm(u64),
    /// Move the data of this operation.
    Move(Box<Begin>),
    /// Stop moving data and fetching a state; nothing is prepared, and neither output nor state is written from here on.
    Halt,
    /// Fetch the round's state from a donor.
    Fetch(Box<Start>),
    /// Answer the trainer that waits for a round.
    Begun(Result<Box<Start>, Refusal>),
    /// Answer the trainer that waits for its mean.
    Reduced(Outcome),
}

/// Why a trainer has to arrive again.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// What kind.
    pub reason: AbortReason,
    /// The facts.
    pub detail: String,
}

/// How an operation ended for the trainer that waited for it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The output holds the mean; the same bytes on every member.
    Committed(Box<CommitRecord>),
    /// Nothing was applied anywhere; inputs untouched. With the reason `PeerLost` nothing was applied here: the others went
    /// on without this peer, and decide whether its contribution counts.
    Aborted(Refusal),
    /// Prepared and cut off: the others decide. The same call asks again.
    InDoubt,
}

/// What the trainer waits for.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
enum Waiting {
    Nothing,
    Round,
    Mean { deadline: Millis },
}

/// The session with the coordinator.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
enum Link {
    Lost,
    Dialling { term: u64, since: Millis },
    Open { term: u64, heard: Millis, sent: Millis },
}

/// One worker's side of the protocol.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Peer {
    run: String,
    me: Member,
    liveness: Millis,
    /// Highest term answered; messages of lower ones are refused.
    term: u64,
    /// Highest epoch seen; messages of lower ones are refused.
    epoch: u64,
    located: EpochRecord,
    link: Link,
    /// The term last dialled or asked for, and when.
    tried: Option<(u64, Millis)>,
    committed: Option<CommitRecord>,
    arrive: Option<Arrive>,
    /// Arrivals so far.
    attempts: u64,
    start: Option<Start>,
    fetching: bool,
    enter: Option<Enter>,
    begin: Option<Begin>,
    prepared: Option<Prepared>,
    waiting: Waiting,
    /// Why its trainer takes part no more, until one arrives again; every new coordinator has to hear it.
    left: Option<i32>,
    rules: Rules,
}

/// Pause between two attempts to reach a coordinator or to become it.
const ASK_AGAIN: Millis = 50;

impl Peer {
    /// A peer that has just started. `liveness`: silence of the coordinator after which it is lost.
    #[must_use]
    pub fn new(run: String, me: Member, liveness: Millis) -> Self {
        Self {
            run,
            me,
            liveness,
            term: 0,
            epoch: 0,
            located: EpochRecord::default(),
            link: Link::Lost,
            tried: None,
            committed: None,
            arrive: None,
            attempts: 0,
            start: None,
            fetching: false,
            enter: None,
            begin: None,
            prepared: None,
            waiting: Waiting::Nothing,
            left: None,
            rules: Rules::default(),
        }
    }

    /// The same, keeping `rules`; for the simulation.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// The newest committed round that it knows.
    #[must_use]
    pub fn committed(&self) -> Option<&CommitRecord> {
        self.committed.as_ref()
    }

    /// Whether it waits for the outcome of an operation whose result it reported.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        self.prepared.is_some()
    }

    /// Takes one event at time `now` and says what to do about it.
    pub fn tick(&mut self, event: Event, now: Millis) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Arrived(arrive, committed) => self.arrived(arrive, committed, &mut actions),
            Event::Entered(enter, deadline) => self.entered(enter, deadline, &mut actions),
            Event::Finished => self.leave_for_good(leave::Reason::Finished, &mut actions),
            Event::Stopping => self.leave_for_good(leave::Reason::Stopped, &mut actions),
            Event::TrainerLost => self.trainer_lost(&mut actions),
            Event::Located(record) => self.located(record),
            Event::Opened(term) => self.opened(term, now, &mut actions),
            Event::Closed(term) => self.closed(term),
            Event::Message(message) => self.message(*message, now, &mut actions),
            Event::Moved(epoch, result) => self.moved(epoch, result, &mut actions),
            Event::Fetched(result) => self.fetched(result, &mut actions),
            Event::Tick => self.watch(now, &mut actions),
        }
        self.connect(now, &mut actions);
        actions
    }

    fn arrived(&mut self, arrive: Arrive, committed: Option<CommitRecord>, actions: &mut Vec<Action>) {
        if chain::rounds(committed.as_ref()) > chain::rounds(self.committed.as_ref()) {
            self.committed = committed;
        }
        self.waiting = Waiting::Round;
        self.left = None;
        // A trainer that arrives has given up whatever it was in; only a prepared operation is not its to give up.
        if self.is_bound() {
            return;
        }
        if self.start.is_some() {
            self.leave_round(actions);
            self.send(leave_body(leave::Reason::TrainerLost), actions);
        }
        self.attempts += 1;
        let arrive = Arrive { attempt: self.attempts, ..arrive };
        self.arrive = Some(arrive.clone());
        self.send(peer_message::Body::Arrive(arrive), actions);
    }

    fn entered(&mut self, enter: Enter, deadline: Millis, actions: &mut Vec<Action>) {
        let settled = self.committed.as_ref().filter(|record| record.round == enter.round && self.counted_in(record));
        if let Some(record) = settled {
            actions.push(Action::Reduced(Outcome::Committed(Box::new(record.clone()))));
            return;
        }
        let start = self.start.as_ref().filter(|start| start.round == enter.round);
        let samples = enter.contribution.as_ref().map_or(&[][..], |given| &given.samples);
        let (reason, detail) = match start {
            None => (AbortReason::PeerLost, "the worker is not a member of this round"),
            // A trainer that still trained for a start that was given up since.
            Some(start) if self.rules.contributes_what_was_dealt && !ledger::covers(&start.samples, samples) => {
                (AbortReason::Mismatch, "the contribution is of samples that the worker was not dealt")
            }
            Some(_) => return self.contribute(enter, deadline, actions),
        };
        actions.push(Action::Reduced(Outcome::Aborted(Refusal { reason, detail: detail.to_owned() })));
    }

    fn contribute(&mut self, enter: Enter, deadline: Millis, actions: &mut Vec<Action>) {
        self.waiting = Waiting::Mean { deadline };
        if self.enter.is_none() {
            self.enter = Some(enter.clone());
            self.send(peer_message::Body::Enter(enter), actions);
        }
    }

    fn counted_in(&self, record: &CommitRecord) -> bool {
        record.contributions.iter().any(|given| given.slot == self.me.slot)
    }

    fn trainer_lost(&mut self, actions: &mut Vec<Action>) {
        self.waiting = Waiting::Nothing;
        // The coordinator may have committed what it is prepared for: that stays true without a trainer.
        if !self.is_bound() {
            self.leave_round(actions);
        }
        self.leave_for_good(leave::Reason::TrainerLost, actions);
    }

    /// It reported its result: the coordinator may have committed it.
    fn is_bound(&self) -> bool {
        self.prepared.is_some() && self.rules.prepared_waits
    }

    fn leave_for_good(&mut self, reason: leave::Reason, actions: &mut Vec<Action>) {
        self.left = Some(reason.into());
        self.send(leave_body(reason), actions);
    }

    fn located(&mut self, record: EpochRecord) {
        if (record.term, record.epoch) >= (self.located.term, self.located.epoch) {
            self.located = record;
        }
    }

    fn opened(&mut self, term: u64, now: Millis, actions: &mut Vec<Action>) {
        if term < self.term || !matches!(self.link, Link::Dialling { term: dialled, .. } if dialled == term) {
            actions.push(Action::Hang(term));
            return;
        }
        self.term = term;
        self.link = Link::Open { term, heard: now, sent: now };
        // What was not prepared under the old coordinator can no longer become so.
        if self.rules.unprepared_halts && self.prepared.is_none() && self.begin.take().is_some() {
            actions.push(Action::Halt);
        }
        let hello = Hello {
            run: self.run.clone(),
            member: Some(self.me.clone()),
            epoch: self.epoch,
            committed: self.committed.clone(),
            arrive: self.arrive.clone(),
            start: self.start.clone(),
            enter: self.enter.clone(),
            prepared: self.prepared.clone(),
            begin: self.begin.clone(),
        };
        self.send(peer_message::Body::Hello(hello), actions);
        if let Some(reason) = self.left {
            self.send(peer_message::Body::Leave(Leave { reason }), actions);
        }
    }

    fn closed(&mut self, term: u64) {
        if matches!(self.link, Link::Open { term: open, .. } | Link::Dialling { term: open, .. } if open == term) {
            self.link = Link::Lost;
        }
    }

    /// Finds the coordinator, or asks to become it.
    fn connect(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if let Link::Dialling { term, .. } | Link::Open { term, .. } = self.link
            && self.located.term > term
        {
            actions.push(Action::Hang(term));
            self.link = Link::Lost;
        }
        if self.link != Link::Lost {
            return;
        }
        let term = self.located.term;
        let again = self.tried.filter(|(tried, _)| *tried == term);
        if again.is_some_and(|(_, when)| now.saturating_sub(when) < ASK_AGAIN) {
            return;
        }
        self.tried = Some((term, now));
        // It may be well and only the connection lost, so both: dial it again, and ask for its role.
        if again.is_some() || self.located.coordinator.is_none() {
            actions.push(Action::RequestTerm(term));
        }
        if let Some(coordinator) = self.located.coordinator.clone() {
            actions.push(Action::Dial(coordinator, term));
            self.link = Link::Dialling { term, since: now };
        }
    }

    fn watch(&mut self, now: Millis, actions: &mut Vec<Action>) {
        match &mut self.link {
            Link::Open { term, heard, .. } if now.saturating_sub(*heard) > self.liveness => {
                actions.push(Action::Hang(*term));
                self.link = Link::Lost;
            }
            Link::Dialling { term, since } if now.saturating_sub(*since) > self.liveness => {
                actions.push(Action::Hang(*term));
                self.link = Link::Lost;
            }
            Link::Open { sent, .. } if now.saturating_sub(*sent) >= self.liveness / 8 => {
                *sent = now;
                self.send(peer_message::Body::Heartbeat(Heartbeat {}), actions);
            }
            _ => {}
        }
        if let Waiting::Mean { deadline } = self.waiting
            && now >= deadline
        {
            self.out_of_time(actions);
        }
    }

    fn out_of_time(&mut self, actions: &mut Vec<Action>) {
        self.waiting = Waiting::Nothing;
        if self.is_bound() {
            actions.push(Action::Reduced(Outcome::InDoubt));
            return;
        }
        let detail = "the operation's total deadline passed".to_owned();
        self.leave_round(actions);
        self.send(leave_body(leave::Reason::Deadline), actions);
        actions.push(Action::Reduced(Outcome::Aborted(Refusal { reason: AbortReason::Deadline, detail })));
    }

    fn message(&mut self, message: CoordinatorMessage, now: Millis, actions: &mut Vec<Action>) {
        let fenced = message.term != self.term || message.epoch < self.epoch;
        if fenced && self.rules.terms_fence {
            return;
        }
        if let Link::Open { heard, .. } = &mut self.link {
            *heard = now;
        }
        self.epoch = message.epoch;
        match message.body {
            Some(coordinator_message::Body::Start(start)) => self.started(start, actions),
            Some(coordinator_message::Body::Begin(begin)) => self.begun(begin, actions),
            Some(coordinator_message::Body::Commit(commit)) => {
                if let Some(record) = commit.record {
                    self.learn_commit(record, actions);
                }
            }
            Some(coordinator_message::Body::Abort(abort)) => self.learn_abort(abort.round, actions),
            Some(coordinator_message::Body::Evict(evict)) => {
                let refusal = Refusal { reason: evict.reason(), detail: evict.detail };
                self.evicted(refusal, actions);
            }
            Some(coordinator_message::Body::Heartbeat(_)) | None => {}
        }
    }

    fn started(&mut self, start: Start, actions: &mut Vec<Action>) {
        // An answer to an earlier arrival would start the trainer from a state that it may not hold.
        let answers =
            self.arrive.as_ref().is_some_and(|arrive| arrive.attempt == start.attempt) || !self.rules.starts_answer_arrivals;
        if self.waiting != Waiting::Round || !answers {
            return;
        }
        if chain::rounds(start.committed.as_ref()) > chain::rounds(self.committed.as_ref()) {
            self.committed.clone_from(&start.committed);
        }
        self.start = Some(start.clone());
        if start.synchronise {
            self.fetching = true;
            actions.push(Action::Fetch(Box::new(start)));
        } else {
            self.waiting = Waiting::Nothing;
            actions.push(Action::Begun(Ok(Box::new(start))));
        }
    }

    fn fetched(&mut self, result: Result<(), String>, actions: &mut Vec<Action>) {
        if !std::mem::take(&mut self.fetching) || self.waiting != Waiting::Round {
            return;
        }
        match (result, self.start.clone()) {
            (Ok(()), Some(start)) => {
                self.waiting = Waiting::Nothing;
                if let Some(arrive) = &mut self.arrive {
                    arrive.round = start.round;
                    arrive.state_hash.clone_from(&start.state_hash);
                    // From here on it can give the state to others.
                    let arrive = arrive.clone();
                    self.send(peer_message::Body::Arrive(arrive), actions);
                }
                actions.push(Action::Begun(Ok(Box::new(start))));
            }
            (Err(detail), _) => {
                self.waiting = Waiting::Nothing;
                self.leave_round(actions);
                self.send(leave_body(leave::Reason::TrainerLost), actions);
                actions.push(Action::Begun(Err(Refusal { reason: AbortReason::LaneFailed, detail })));
            }
            (Ok(()), None) => {}
        }
    }

    fn begun(&mut self, begin: Begin, actions: &mut Vec<Action>) {
        let mine = self.enter.as_ref().is_some_and(|enter| enter.round == begin.round && enter.elements == begin.elements)
            && begin.contributions.iter().any(|given| given.slot == self.me.slot)
            && begin.record.as_ref().is_some_and(|record| chain::includes(record, &self.me));
        if mine {
            self.prepared = None;
            self.begin = Some(begin.clone());
            actions.push(Action::Move(Box::new(begin)));
        }
    }

    fn moved(&mut self, epoch: u64, result: Result<Vec<u8>, Failure>, actions: &mut Vec<Action>) {
        let Some(begin) = &self.begin else { return };
        if self.prepared.is_some() || begin.record.as_ref().is_none_or(|record| record.epoch != epoch) {
            return;
        }
        let round = begin.round;
        match result {
            Ok(result_hash) => {
                let prepared = Prepared { epoch, round, result_hash };
                self.prepared = Some(prepared.clone());
                self.send(peer_message::Body::Prepared(prepared), actions);
            }
            Err(Failure { reason, culprit, detail }) => {
                let failed = Failed { epoch, round, reason: reason.into(), culprit, detail };
                self.send(peer_message::Body::Failed(failed), actions);
            }
        }
    }

    /// A commit counts only for what this peer is prepared for with the same hash.
    fn learn_commit(&mut self, record: CommitRecord, actions: &mut Vec<Action>) {
        if record.round <= chain::rounds(self.committed.as_ref()) {
            return;
        }
        if !chain::commits(&record, self.prepared.as_ref()) && self.rules.commits_what_is_prepared {
            let detail = format!("round {} was committed without this worker", record.round);
            return self.evicted(Refusal { reason: AbortReason::PeerLost, detail }, actions);
        }
        self.committed = Some(record.clone());
        self.forget_round();
        match std::mem::replace(&mut self.waiting, Waiting::Nothing) {
            Waiting::Mean { .. } => actions.push(Action::Reduced(Outcome::Committed(Box::new(record)))),
            Waiting::Round => actions.push(Action::Begun(Err(resolved()))),
            Waiting::Nothing => {}
        }
    }

    /// The operation is over without result; the contribution waits for the next attempt.
    fn learn_abort(&mut self, round: u64, actions: &mut Vec<Action>) {
        if self.begin.as_ref().is_some_and(|begin| begin.round == round) {
            self.begin = None;
            self.prepared = None;
            actions.push(Action::Halt);
        }
        // The trainer that contributed is gone; the one that waits has to arrive for itself.
        if self.waiting == Waiting::Round && self.enter.is_some() {
            self.leave_round(actions);
            self.waiting = Waiting::Nothing;
            self.send(leave_body(leave::Reason::TrainerLost), actions);
            actions.push(Action::Begun(Err(resolved())));
        }
    }

    fn evicted(&mut self, refusal: Refusal, actions: &mut Vec<Action>) {
        self.leave_round(actions);
        match std::mem::replace(&mut self.waiting, Waiting::Nothing) {
            Waiting::Round => actions.push(Action::Begun(Err(refusal))),
            Waiting::Mean { .. } => actions.push(Action::Reduced(Outcome::Aborted(refusal))),
            Waiting::Nothing => {}
        }
    }

    fn leave_round(&mut self, actions: &mut Vec<Action>) {
        if self.begin.is_some() || self.fetching {
            actions.push(Action::Halt);
        }
        self.forget_round();
    }

    fn forget_round(&mut self) {
        self.arrive = None;
        self.start = None;
        self.fetching = false;
        self.enter = None;
        self.begin = None;
        self.prepared = None;
    }

    fn send(&self, body: peer_message::Body, actions: &mut Vec<Action>) {
        if let Link::Open { term, .. } = self.link {
            actions.push(Action::Send(term, Box::new(body)));
        }
    }
}

fn resolved() -> Refusal {
    let detail = "an operation of the trainer before had to end first".to_owned();
    Refusal { reason: AbortReason::TrainerLost, detail }
}

fn leave_body(reason: leave::Reason) -> peer_message::Body {
    peer_message::Body::Leave(Leave { reason: reason.into() })
}
