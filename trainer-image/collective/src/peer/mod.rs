//! The peer: one worker's side of every round, as a state machine between its trainer, the coordinator and the data lanes.
//!
//! A peer that reported its result's hash is *prepared*: it may not abort by itself, and keeps the result until it learns
//! the outcome. It answers a new coordinator with everything it knows, and from then on refuses the old one.

mod operations;

use std::collections::BTreeMap;

use crate::clock::Clock;
use crate::operation::Key;
use crate::rules::Rules;
use crate::v1::{
    AbortReason, Arrive, Begin, Commit, CommitRecord, CoordinatorMessage, Enter, EpochRecord, Heartbeat, Hello, Leave, Member,
    PeerMessage, Start, Upload, Uploaded, coordinator_message, leave, peer_message,
};
use crate::{Millis, Refusal, chain};
use operations::Flight;

/// What happened.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Event {
    /// The trainer asks for the next round.
    Arrived(Arrive, Option<CommitRecord>),
    /// The trainer delivers its contribution to an operation, and waits until the deadline at most. Which start of the round
    /// it belongs to is the peer's to know.
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
    /// The data movement of an attempt, by its term and number, ended: the result's hash, or what went wrong.
    Moved(Key, (u64, u64), Result<Vec<u8>, Failure>),
    /// The state is the round's, every chunk of it checked; or no donor could give it.
    Fetched(Result<(), String>),
    /// Its share of a checkpoint is written, or cannot be.
    Uploaded(Uploaded),
    /// Time has passed.
    Tick,
}

/// Why data could not be moved.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub reason: AbortReason,
    /// Slot of the peer to blame.
    pub culprit: u32,
    /// The facts.
    pub detail: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Action {
    /// Open a session with this coordinator, of this term.
    Dial(Member, u64),
    /// Send on the open session.
    Send(Box<PeerMessage>),
    /// End the session of this term.
    Hang(u64),
    /// Ask the arbiter for the term after this one.
    RequestTerm(u64),
    /// Move the data of this operation.
    Move(Box<Begin>),
    /// Stop moving the data of this operation: its output is not written from here on.
    Halt(Key),
    /// Stop fetching the state: it is not written from here on.
    StopFetching,
    /// Make the state the round's, from all donors that hold it.
    Fetch(Box<Start>),
    /// Answer the trainer that waits for a round.
    Begun(Result<Box<Start>, Refusal>),
    /// Answer the trainer that waits for an operation.
    Ended(Key, Outcome),
    /// Another share of the checkpoint that was begun is to be written.
    Upload(Upload),
    /// The checkpoint of so many rounds is published or given up.
    CheckpointEnded(u64),
}

/// How an operation ended for the trainer that waited for it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Outcome {
    /// The output holds the result; the same bytes on all who took part.
    Committed(Box<Commit>),
    /// Nothing was applied anywhere; inputs untouched. With the reason `PeerLost` and this peer as the culprit nothing was applied
    /// here: the others went on without it, and decide whether its contribution counts.
    Aborted(Refusal),
    /// Prepared and cut off: the others decide. The same call asks again.
    InDoubt,
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
    /// A share of a checkpoint that it was told to write, and has not begun to copy.
    #[serde(default)]
    owes: Option<Upload>,
    /// Its trainer waits for the next round.
    waiting: bool,
    flights: BTreeMap<Key, Flight>,
    /// Commits that it was told and others may not have learned, ascending; and the newest.
    commits: Vec<Commit>,
    learned: u64,
    /// An operation of the round has ended.
    operated: bool,
    /// Why its trainer takes part no more, until one arrives again; every new coordinator has to hear it.
    left: Option<i32>,
    clock: Clock,
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
            owes: None,
            waiting: false,
            flights: BTreeMap::new(),
            commits: Vec::new(),
            learned: 0,
            operated: false,
            left: None,
            clock: Clock::default(),
            rules: Rules::default(),
        }
    }

    /// The same, keeping `rules`; for the simulation.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// The same, of a run that goes on from a checkpoint whose last round is `resumed`.
    #[must_use]
    pub fn resuming(self, resumed: Option<CommitRecord>) -> Self {
        Self { committed: resumed, ..self }
    }

    /// The newest committed round that it knows.
    #[must_use]
    pub fn committed(&self) -> Option<&CommitRecord> {
        self.committed.as_ref()
    }

    /// Whether it waits for the outcome of an operation whose result it reported.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        self.flights.values().any(|flight| flight.prepared.is_some())
    }

    /// Takes one event at time `now` and says what to do about it.
    pub fn tick(&mut self, event: Event, now: Millis) -> Vec<Action> {
        let now = self.clock.at(now);
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
            Event::Moved(key, attempt, result) => self.moved(&key, attempt, result, &mut actions),
            Event::Fetched(result) => self.fetched(result, &mut actions),
            Event::Uploaded(uploaded) => self.send(peer_message::Body::Uploaded(uploaded), &mut actions),
            Event::Tick => self.watch(now, &mut actions),
        }
        self.connect(now, &mut actions);
        actions
    }

    fn arrived(&mut self, arrive: Arrive, committed: Option<CommitRecord>, actions: &mut Vec<Action>) {
        if chain::rounds(committed.as_ref()) > chain::rounds(self.committed.as_ref()) {
            self.committed = committed;
        }
        self.waiting = true;
        self.left = None;
        // A trainer that arrives has given up whatever it was in; only a prepared operation is not its to give up.
        self.abandon(actions);
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

    fn trainer_lost(&mut self, actions: &mut Vec<Action>) {
        self.waiting = false;
        self.abandon(actions);
        // The coordinator may have committed what it is prepared for: that stays true without a trainer.
        if !self.is_bound() {
            self.leave_round(actions);
        }
        self.leave_for_good(leave::Reason::TrainerLost, actions);
    }

    /// It reported a result: the coordinator may have committed it.
    fn is_bound(&self) -> bool {
        self.is_prepared() && self.rules.prepared_waits
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
        let hello = Hello {
            run: self.run.clone(),
            member: Some(self.me.clone()),
            epoch: self.epoch,
            committed: self.committed.clone(),
            arrive: self.arrive.clone(),
            start: self.start.clone(),
            flights: self.flights.values().filter_map(Flight::told).collect(),
            commits: self.commits.clone(),
            learned: self.learned,
            operated: self.operated,
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

    fn hang_up(&mut self, actions: &mut Vec<Action>) {
        if let Link::Dialling { term, .. } | Link::Open { term, .. } = self.link {
            actions.push(Action::Hang(term));
            self.link = Link::Lost;
        }
    }

    /// Finds the coordinator, or asks to become it.
    fn connect(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if matches!(self.link, Link::Dialling { term, .. } | Link::Open { term, .. } if self.located.term > term) {
            self.hang_up(actions);
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
            Link::Open { heard: since, .. } | Link::Dialling { since, .. } if now.saturating_sub(*since) > self.liveness => {
                self.hang_up(actions);
            }
            Link::Open { sent, .. } if now.saturating_sub(*sent) >= self.liveness / 8 => {
                *sent = now;
                self.send(peer_message::Body::Heartbeat(Heartbeat {}), actions);
            }
            _ => {}
        }
        for key in self.overdue(now) {
            self.out_of_time(&key, actions);
        }
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
        self.commits.retain(|commit| commit.index > message.settled);
        match message.body {
            Some(coordinator_message::Body::Start(start)) => self.started(start, actions),
            Some(coordinator_message::Body::Begin(begin)) => self.begun(begin, actions),
            Some(coordinator_message::Body::Commit(commit)) => self.learn_commit(commit, actions),
            Some(coordinator_message::Body::Abort(abort)) => self.learn_abort(abort, actions),
            Some(coordinator_message::Body::Evict(evict)) => {
                let refusal = self.own_fault(evict.reason(), evict.detail);
                self.evicted(&refusal, actions);
            }
            Some(coordinator_message::Body::Upload(upload)) => actions.push(Action::Upload(upload)),
            Some(coordinator_message::Body::CheckpointEnded(ended)) => actions.push(Action::CheckpointEnded(ended.rounds)),
            Some(coordinator_message::Body::Heartbeat(_)) | None => {}
        }
    }

    fn started(&mut self, start: Start, actions: &mut Vec<Action>) {
        // An answer to an earlier arrival would start the trainer from a state that it may not hold.
        let answers =
            self.arrive.as_ref().is_some_and(|arrive| arrive.attempt == start.attempt) || !self.rules.starts_answer_arrivals;
        // Rounds count from 1: the start of no round is none.
        if !self.waiting || !answers || start.round == 0 {
            self.owes = start.upload;
            return self.disclaim(actions);
        }
        if chain::rounds(start.committed.as_ref()) > chain::rounds(self.committed.as_ref()) {
            self.committed.clone_from(&start.committed);
        }
        self.start = Some(start.clone());
        if start.synchronise {
            self.fetching = true;
            self.owes.clone_from(&start.upload);
            actions.push(Action::Fetch(Box::new(start)));
        } else {
            self.waiting = false;
            actions.push(Action::Begun(Ok(Box::new(start))));
        }
    }

    fn fetched(&mut self, result: Result<(), String>, actions: &mut Vec<Action>) {
        if !std::mem::take(&mut self.fetching) || !self.waiting {
            return;
        }
        match (result, self.start.clone()) {
            (Ok(()), Some(start)) => {
                self.waiting = false;
                self.owes = None;
                if let Some(arrive) = &mut self.arrive {
                    arrive.round = start.round;
                    arrive.state_root.clone_from(&start.state_root);
                    arrive.state_shape.clone_from(&start.state_shape);
                    arrive.mixture = false;
                    // From here on it can give the state to others.
                    let arrive = arrive.clone();
                    self.send(peer_message::Body::Arrive(arrive), actions);
                }
                actions.push(Action::Begun(Ok(Box::new(start))));
            }
            (Err(detail), _) => {
                self.waiting = false;
                self.leave_round(actions);
                self.send(leave_body(leave::Reason::TrainerLost), actions);
                actions.push(Action::Begun(Err(Refusal { reason: AbortReason::LaneFailed, culprit: None, detail })));
            }
            (Ok(()), None) => {}
        }
    }

    fn evicted(&mut self, refusal: &Refusal, actions: &mut Vec<Action>) {
        self.end_flights(refusal, actions);
        self.leave_round(actions);
        if std::mem::take(&mut self.waiting) {
            actions.push(Action::Begun(Err(refusal.clone())));
        }
    }

    /// Takes part in no round any more; operations that it is prepared for are not in it to give up.
    fn leave_round(&mut self, actions: &mut Vec<Action>) {
        if self.fetching {
            actions.push(Action::StopFetching);
        }
        self.abandon(actions);
        self.disclaim(actions);
        self.forget_round();
    }

    /// The state that it was to keep a share of is not its trainer's: the others must not wait for it.
    fn disclaim(&mut self, actions: &mut Vec<Action>) {
        if let Some(Upload { rounds, division, term, .. }) = self.owes.take() {
            let failure = "its trainer did not begin the round".to_owned();
            self.send(peer_message::Body::Uploaded(Uploaded { rounds, division, share: Vec::new(), failure, term }), actions);
        }
    }

    fn forget_round(&mut self) {
        self.arrive = None;
        self.start = None;
        self.fetching = false;
        self.operated = false;
    }

    /// It is left out, or leaves: the cause is here.
    fn own_fault(&self, reason: AbortReason, detail: impl Into<String>) -> Refusal {
        Refusal { reason, culprit: Some(self.me.slot), detail: detail.into() }
    }

    fn send(&self, body: peer_message::Body, actions: &mut Vec<Action>) {
        if let Link::Open { term, .. } = self.link {
            actions.push(Action::Send(Box::new(PeerMessage { term, learned: self.learned, body: Some(body) })));
        }
    }
}

fn leave_body(reason: leave::Reason) -> peer_message::Body {
    peer_message::Body::Leave(Leave { reason: reason.into() })
}
