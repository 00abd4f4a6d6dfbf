//! The coordinator: rendezvous and vote counter of a run, as a state machine. It moves no tensors.
//!
//! Members arrive at a round's start, are dealt samples, enter with their contributions, move the data among
//! themselves, and report the hash of the result. The round is committed when all members of the epoch report the same
//! hash; whatever prevents that ends in a new epoch, granted by the arbiter, and another attempt with the survivors.

mod checkpoints;
mod contributors;
mod entering;
mod introduction;
mod membership;
mod operations;
mod recovery;
mod requests;
mod rounds;

use std::collections::BTreeMap;

use crate::operation::{self, Key, MOST_IN_FLIGHT};
use crate::rules::Rules;
use crate::state::election::{Revision, Standing};
use crate::v1::{
    Abort, AbortReason, Arrive, Begin, Commit, CommitRecord, CoordinatorMessage, Enter, EpochRecord, Evict, Flight, Heartbeat,
    Hello, Hub, Member, Ruling, Start, coordinator_message, leave::Reason as LeaveReason, peer_message,
};
use crate::{Millis, Notice, Refusal, chain, ledger};
use checkpoints::Checkpoints;
pub use checkpoints::{Cadence, Complete};
pub use introduction::MOST_SESSIONS;
use membership::Proposal;

/// What a run asks of its membership; from its specification.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// Name of the run; a peer of another is refused.
    pub run: String,
    /// Trusted workers that must have joined before the first round; one at least. Contributors come and go as they like.
    pub minimum: usize,
    /// Trusted workers for which the first round waits, as long as the join window is open.
    pub target: usize,
    /// Trusted members that a later round needs; one at least.
    pub quorum: usize,
    /// How long the first round waits for the target once the minimum is there.
    pub join_window: Millis,
    /// A peer without heartbeat for longer is lost.
    pub liveness: Millis,
    /// How long a member may train after its round began; and how long the others wait for a contributor, whatever for.
    pub round_timeout: Millis,
    /// Whether a trusted member that is later than that is evicted.
    pub drop_stragglers: bool,
    /// Bytes of all operations that are begun at once, of one member each; a larger one is begun alone.
    pub in_flight: u64,
    /// When the state is kept; never where nobody says.
    #[serde(default)]
    pub checkpoints: Cadence,
    /// The last round of the checkpoint that the run goes on from; absent where it begins from nothing.
    #[serde(default)]
    pub resumed: Option<CommitRecord>,
}

impl Settings {
    /// What a run of so many trusted workers has where nobody asks for anything else: all of them take part in the first round, one
    /// is enough for a later one, and late ones are waited for; contributors for 10 min. A silent peer is lost after 10 s.
    #[must_use]
    pub fn of(run: &str, workers: usize) -> Self {
        Self {
            run: run.to_owned(),
            minimum: workers,
            target: workers,
            quorum: 1,
            join_window: 0,
            liveness: 10_000,
            round_timeout: 600_000,
            drop_stragglers: false,
            in_flight: IN_FLIGHT,
            checkpoints: Cadence::default(),
            resumed: None,
        }
    }
}

/// [`Settings::in_flight`] where nobody says: a gibibyte.
pub const IN_FLIGHT: u64 = 1 << 30;

/// What happened.
// A few at a time, moved once.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Event {
    /// A peer opened a session.
    Connected(Box<Hello>),
    /// A peer sent a message.
    Message {
        /// Its slot.
        slot: u32,
        /// Its incarnation.
        incarnation: u64,
        /// The newest commit that it was told.
        learned: u64,
        /// What it says.
        body: Box<peer_message::Body>,
    },
    /// A session ended.
    Disconnected {
        /// The peer's slot.
        slot: u32,
        /// The peer's incarnation.
        incarnation: u64,
    },
    /// The arbiter answered [`Action::Propose`].
    Ruled(Ruling),
    /// The hub lives: who votes for it, and who shall be the arbiter from the next epoch on.
    Hub(Hub),
    /// The answer to [`Action::Publish`] of so many rounds: why it could not be done, if so.
    Published(u64, Result<(), String>),
    /// A checkpoint of this or a later round is wanted.
    Keep(u64),
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Action {
    /// Send to a peer's session.
    Send {
        /// The peer's slot.
        slot: u32,
        /// What to say.
        message: Box<CoordinatorMessage>,
    },
    /// Ask the arbiter to store this record.
    Propose(EpochRecord),
    /// End a peer's session.
    Close {
        /// The peer's slot.
        slot: u32,
    },
    /// Tell people.
    Report(Notice),
    /// Publish the checkpoint of which all shares are written.
    Publish(Box<Complete>),
    /// A newer term exists: end all sessions and drop this coordinator.
    StepDown,
}

/// What the coordinator knows of one peer.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Session {
    member: Member,
    heard: Millis,
    arrive: Option<Arrive>,
    start: Option<Start>,
    started: Millis,
    flights: BTreeMap<Key, Flight>,
    committed: Option<CommitRecord>,
    /// The newest commit that it was told, by its own word; and the newest that was sent to it.
    learned: u64,
    sent: u64,
    /// An operation of its round has ended.
    operated: bool,
    finished: bool,
    /// Why its trainer takes part no more, where that could not be acted on at once.
    left: Option<(AbortReason, String)>,
    /// It was told to arrive again, and has not yet.
    recalled: bool,
    /// Another peer could not reach it: since when, and how often before.
    suspected: Option<(Millis, AbortReason, String)>,
    strikes: u32,
}

/// Where the run stands.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
enum Phase {
    /// A new term: waits for the members of the last epoch before it decides what became of their operation.
    Recovering {
        since: Millis,
    },
    /// No epoch yet: waits for the first members.
    Gathering {
        since: Option<Millis>,
    },
    /// Members arrive, train, and take part in operations.
    Open,
    Deposed,
}

/// The coordinator of one term.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Coordinator {
    settings: Settings,
    record: EpochRecord,
    committed: Option<CommitRecord>,
    /// Commits that a member may not have learned, and some that all have; ascending.
    history: Vec<Commit>,
    /// The newest commit, and the newest that every member has learned.
    index: u64,
    settled: u64,
    sessions: BTreeMap<u32, Session>,
    phase: Phase,
    /// Operations whose members move data.
    moving: BTreeMap<Key, Begin>,
    /// Attempts that were begun in this term.
    attempts: u64,
    proposal: Option<Proposal>,
    /// Members to evict with the next proposal.
    evicting: BTreeMap<u32, (AbortReason, String)>,
    /// Contributors for whom the others wait, ascending.
    awaited: Vec<contributors::Awaited>,
    /// Set when an operation has to be tried again with the same members.
    retry: Option<Refusal>,
    /// The state from which the open round begins, and the epoch in which it was begun.
    round_state: Option<Revision>,
    round_started: u64,
    last_tick: Millis,
    holding: bool,
    /// It was said that nobody gives the round's state.
    state_missing: bool,
    hub: Option<Hub>,
    checkpoints: Checkpoints,
    rules: Rules,
}

/// Characters that others are told of what a peer says, at most.
const LONGEST_DETAIL: usize = 512;

/// How long another peer's complaint waits for the suspect's own session to end.
const SUSPICION: Millis = 250;

impl Coordinator {
    /// The coordinator of the term that the arbiter just granted with `record`.
    #[must_use]
    pub fn new(settings: Settings, record: EpochRecord, now: Millis) -> Self {
        let phase = if record.epoch == 0 { Phase::Gathering { since: None } } else { Phase::Recovering { since: now } };
        let first = record.epoch == 0;
        Self {
            committed: settings.resumed.clone(),
            checkpoints: Checkpoints::new(first.then(|| chain::rounds(settings.resumed.as_ref())), now),
            settings,
            record,
            history: Vec::new(),
            index: 0,
            settled: 0,
            sessions: BTreeMap::new(),
            phase,
            moving: BTreeMap::new(),
            attempts: 0,
            proposal: None,
            evicting: BTreeMap::new(),
            awaited: Vec::new(),
            retry: None,
            round_state: None,
            round_started: 0,
            last_tick: now,
            holding: false,
            state_missing: false,
            hub: None,
            rules: Rules::default(),
        }
    }

    /// The same, keeping `rules`; for the simulation.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// The term it serves.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.record.term
    }

    /// A sign of life for its peers.
    #[must_use]
    pub fn heartbeat(&self) -> CoordinatorMessage {
        self.message_of(coordinator_message::Body::Heartbeat(Heartbeat {}))
    }

    /// Takes one event at time `now` and says what to do about it.
    pub fn tick(&mut self, event: Event, now: Millis) -> Vec<Action> {
        let now = now.max(self.last_tick);
        let mut actions = Vec::new();
        if self.phase == Phase::Deposed {
            return actions;
        }
        self.forgive_own_sleep(now);
        match event {
            Event::Connected(hello) => self.connected(*hello, now, &mut actions),
            Event::Message { slot, incarnation, learned, body } => {
                if let Some(session) = self.heard(slot, incarnation, now) {
                    session.learned = session.learned.max(learned);
                    self.message(slot, *body, now, &mut actions);
                }
            }
            Event::Disconnected { slot, incarnation } => self.disconnected(slot, incarnation),
            Event::Ruled(ruling) => self.ruled(&ruling, &mut actions),
            Event::Hub(hub) => self.hub = Some(hub),
            Event::Published(rounds, result) => self.published(rounds, result, now, &mut actions),
            Event::Keep(round) => self.wish_for_checkpoint(round),
            Event::Tick => self.watch(now, &mut actions),
        }
        self.advance(now, &mut actions);
        actions
    }

    /// A coordinator that did not run for a while (a stopped process, a sleeping laptop) has no right to call others silent.
    fn forgive_own_sleep(&mut self, now: Millis) {
        if now.saturating_sub(self.last_tick) > self.settings.liveness / 2 {
            for session in self.sessions.values_mut() {
                session.heard = now;
            }
        }
        self.last_tick = now;
    }

    fn connected(&mut self, hello: Hello, now: Millis, actions: &mut Vec<Action>) {
        let Some(member) = hello.member else { return };
        if hello.run != self.settings.run {
            actions.push(Action::Close { slot: member.slot });
            return;
        }
        let (slot, decides) = (member.slot, self.decides(&member));
        if let Some(old) = self.sessions.get(&slot) {
            if old.member.incarnation > member.incarnation {
                return;
            }
            self.disconnected(slot, old.member.incarnation);
        }
        let recovering = matches!(self.phase, Phase::Recovering { .. });
        let known = recovering && chain::includes(&self.record, &member);
        let flights: BTreeMap<_, _> =
            hello.flights.into_iter().take(MOST_IN_FLIGHT).filter_map(|flight| Some((key_of(&flight)?, flight))).collect();
        let prepared = flights.values().any(|flight| flight.prepared.is_some());
        let mut session = Session {
            member,
            heard: now,
            arrive: hello.arrive.filter(says_a_state),
            start: hello.start.filter(|start| ledger::is_dealt(&start.samples)),
            started: now,
            flights,
            committed: hello.committed.filter(|_| decides),
            learned: hello.learned,
            // What it was told before its session broke, only it knows.
            sent: if prepared { self.index } else { 0 },
            operated: hello.operated,
            finished: false,
            left: None,
            recalled: false,
            suspected: None,
            strikes: 0,
        };
        if decides {
            // What it learns next must be new to it.
            self.index = self.index.max(hello.learned);
        }
        if recovering && decides {
            self.remember(hello.commits);
        }
        let in_a_round = session.start.is_some() || !session.flights.is_empty();
        if !known && in_a_round {
            // The commit was on its way when the session broke: it may be the last to hold the round's result.
            self.tell_awaited(&session, actions);
            session.leave_round();
            if chain::includes(&self.record, &session.member) {
                // It may be prepared for what was committed: it is told to forget it when it is no member any more, not before.
                let lost = || (AbortReason::PeerLost, "its connection ended".to_owned());
                self.evicting.entry(slot).or_insert_with(lost);
            } else {
                actions.push(self.send(slot, evict(AbortReason::PeerLost, "came back after it was lost")));
            }
        }
        session.drop_unacceptable(decides, self.rules);
        self.sessions.insert(slot, session);
    }

    fn heard(&mut self, slot: u32, incarnation: u64, now: Millis) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&slot).filter(|session| session.member.incarnation == incarnation)?;
        session.heard = now;
        Some(session)
    }

    fn message(&mut self, slot: u32, body: peer_message::Body, now: Millis, actions: &mut Vec<Action>) {
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        match body {
            peer_message::Body::Arrive(arrive) => session.arrived(arrive),
            peer_message::Body::Enter(enter) => self.entered(slot, enter, actions),
            peer_message::Body::Prepared(prepared) => {
                let key: Key = prepared.key.clone().unwrap_or_default().into();
                // Without a flight it is of a round that is over: its outcome is on its way to the peer.
                if let Some(flight) = session.flights.get_mut(&key) {
                    flight.prepared = Some(prepared);
                }
            }
            peer_message::Body::Failed(failed) => self.failed(slot, &failed, now, actions),
            peer_message::Body::Leave(leave) => self.left(slot, leave.reason()),
            peer_message::Body::Uploaded(uploaded) => self.uploaded(slot, uploaded, now, actions),
            peer_message::Body::Hello(_) | peer_message::Body::Heartbeat(_) => {}
        }
    }

    fn left(&mut self, slot: u32, reason: LeaveReason) {
        let (reason, detail) = match reason {
            LeaveReason::Finished => {
                if let Some(session) = self.sessions.get_mut(&slot) {
                    session.finished = true;
                }
                return;
            }
            LeaveReason::TrainerLost if self.sessions.get(&slot).is_some_and(|session| session.finished) => {
                (AbortReason::Left, "its trainer has finished")
            }
            LeaveReason::TrainerLost => (AbortReason::TrainerLost, "its trainer ended, is silent, or begins the round again"),
            LeaveReason::Deadline => (AbortReason::Deadline, "its operation's total deadline passed"),
            LeaveReason::Stopped | LeaveReason::Unspecified => (AbortReason::Left, "it was told to stop"),
        };
        self.evict(slot, reason, detail);
        let evicted = self.evicting.contains_key(&slot);
        // What it is prepared for stays true until it is no member any more: a new coordinator counts on it.
        if let Some(session) = self.sessions.get_mut(&slot) {
            session.left = (!evicted).then(|| (reason, detail.to_owned()));
            session.arrive = None;
            if session.flights.values().all(|flight| flight.prepared.is_none()) {
                session.leave_round();
            }
        }
    }

    /// A member cannot go on. Who is none takes part in nothing that can fail.
    fn failed(&mut self, slot: u32, failed: &crate::v1::Failed, now: Millis, actions: &mut Vec<Action>) {
        let key: Key = failed.key.clone().unwrap_or_default().into();
        let Some(session) = self.sessions.get(&slot).filter(|_| self.is_member(slot)) else { return };
        if failed.epoch != self.record.epoch || !self.moving.contains_key(&key) {
            return;
        }
        let reason = failed.reason();
        let detail = format!("reported by slot {slot}: {}", beginning(&failed.detail));
        let heard = !session.member.contributor || !self.rules.contributors_accuse_nobody;
        if reason == AbortReason::Overflow && heard {
            return self.overflowed(&key, detail, actions);
        }
        // A contributor that complains of others may be what it complains of.
        let culprit = if heard { failed.culprit } else { slot };
        // What a contributor gives or declares is no fault of the way between them.
        let given = reason == AbortReason::NotFinite || reason == AbortReason::Mismatch && self.is_contributor(culprit);
        // Its own contribution or its own decision is at fault: nothing to wait for.
        if (given && heard) || failed.culprit == slot {
            self.evict(culprit, reason, &detail);
        } else if let Some(suspect) = self.sessions.get_mut(&culprit)
            && suspect.suspected.is_none()
        {
            suspect.suspected = Some((now, reason, detail));
        }
    }

    /// Committed rounds plus one.
    fn round(&self) -> u64 {
        chain::rounds(self.committed.as_ref()) + 1
    }

    fn is_member(&self, slot: u32) -> bool {
        self.sessions.get(&slot).is_some_and(|session| chain::includes(&self.record, &session.member))
    }

    /// This very process has a session.
    fn is_here(&self, member: &Member) -> bool {
        self.sessions.get(&member.slot).is_some_and(|session| session.member == *member)
    }

    /// Sessions of the epoch's members, in slot order.
    fn members(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values().filter(|session| chain::includes(&self.record, &session.member))
    }

    fn message_of(&self, body: coordinator_message::Body) -> CoordinatorMessage {
        CoordinatorMessage { term: self.record.term, epoch: self.record.epoch, settled: self.settled, body: Some(body) }
    }

    fn send(&self, slot: u32, body: coordinator_message::Body) -> Action {
        Action::Send { slot, message: Box::new(self.message_of(body)) }
    }

    /// The commits that the session is prepared for and was not told.
    fn awaited<'a>(&'a self, session: &'a Session) -> impl Iterator<Item = &'a Commit> {
        let prepared = |commit: &&Commit| session.flights.values().any(|flight| chain::commits(commit, flight.prepared.as_ref()));
        self.history.iter().filter(prepared)
    }

    fn tell_awaited(&self, session: &Session, actions: &mut Vec<Action>) {
        actions.extend(self.awaited(session).map(|commit| self.send(session.member.slot, told(commit))));
    }
}

impl Session {
    /// Its trainer stands at a round's start. A start that answered an earlier arrival reached nobody.
    fn arrived(&mut self, arrive: Arrive) {
        if !says_a_state(&arrive) {
            return;
        }
        if self.start.as_ref().is_some_and(|start| start.attempt != arrive.attempt) {
            self.start = None;
            self.flights.clear();
            self.operated = false;
        }
        self.arrive = Some(arrive);
        self.finished = false;
        self.left = None;
        self.recalled = false;
    }

    /// It takes part in no round; its trainer has to arrive again.
    fn leave_round(&mut self) {
        self.arrive = None;
        self.start = None;
        self.flights.clear();
        self.operated = false;
        self.suspected = None;
        self.strikes = 0;
    }

    /// What it asks for under this name.
    fn enter(&self, key: &Key) -> Option<&Enter> {
        self.flights.get(key)?.enter.as_ref()
    }
}

/// Whether an arrival says what its trainer holds; one that does not is as good as none.
fn says_a_state(arrive: &Arrive) -> bool {
    Standing::of(arrive).is_some()
}

/// The name of the operation that a flight is of.
fn key_of(flight: &Flight) -> Option<Key> {
    let entered = flight.enter.as_ref().and_then(|enter| enter.operation.as_ref());
    let operation = entered.or(flight.begin.as_ref().and_then(|begin| begin.operation.as_ref()))?;
    Some(operation::key(Some(operation)))
}

/// What is told to others of a text that a peer may choose.
fn beginning(text: &str) -> &str {
    let end = text.char_indices().nth(LONGEST_DETAIL).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

fn told(commit: &Commit) -> coordinator_message::Body {
    coordinator_message::Body::Commit(commit.clone())
}

fn evict(reason: AbortReason, detail: &str) -> coordinator_message::Body {
    coordinator_message::Body::Evict(Evict { reason: reason.into(), detail: detail.to_owned() })
}

fn abort(key: &Key, why: &Refusal) -> Abort {
    let Refusal { reason, culprit, detail } = why.clone();
    Abort { key: Some(key.clone().into()), reason: reason.into(), culprit, detail, over: false }
}
