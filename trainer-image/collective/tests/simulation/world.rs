//! A run of several sidecars and trainers on virtual time.

mod faults;
mod training;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use atoll_collective::arbiter::Arbiter;
use atoll_collective::coordinator::{self, Coordinator, Settings};
use atoll_collective::peer::{self, Peer};
use atoll_collective::v1::{
    Begin, CommitRecord, CoordinatorMessage, Enter, EpochRecord, Ledger, Member, PeerMessage, Ruling, Start, coordinator_message,
    peer_message,
};
use atoll_collective::{Millis, Notice, chain};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Rounds of a simulated run, and samples per worker and round.
const ROUNDS: u64 = 8;
const SAMPLES: u64 = 5;
/// Faults strike before this time; the run has until the end to finish.
const FAULTS_UNTIL: Millis = 6_000;
const END: Millis = 400_000;
const LIVENESS: Millis = 2_000;
/// Clocks of a patient run: never, so that nothing but the protocol itself brings it to its end.
const NEVER: Millis = 10 * END;

/// How many of each strike.
pub(crate) struct Faults {
    pub(crate) crashes: u32,
    pub(crate) trainer_crashes: u32,
    pub(crate) stops: u32,
    pub(crate) cuts: u32,
}

impl Faults {
    pub(crate) fn none() -> Self {
        Self { crashes: 0, trainer_crashes: 0, stops: 0, cuts: 0 }
    }
}

/// One side of a control session; both sides know it by the same number.
type SessionId = u64;

// A few thousand of either at most, in a test.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Happening {
    Tick(u32),
    ToCoordinator { session: SessionId, message: Option<PeerMessage> },
    ToPeer { session: SessionId, message: Option<CoordinatorMessage> },
    Dialled { slot: u32, incarnation: u64, coordinator: Member, term: u64 },
    ArbiterAsked { from: Member, question: Question },
    ArbiterAnswered { to: Member, ruling: Ruling, proposal: bool },
    Moved { slot: u32, incarnation: u64, begin: Box<Begin> },
    Fetched { slot: u32, incarnation: u64, start: Box<Start> },
    Trained { slot: u32, trainer: u64, start: Box<Start> },
    ArriveAgain { slot: u32, trainer: u64 },
    Crash(Option<u32>),
    CrashTrainer(u32),
    Restart(u32),
    RestartTrainer(u32),
    Stop(u32),
    Cut(u32, u32),
}

#[derive(Debug)]
enum Question {
    Beat,
    Term(u64),
    Epoch(EpochRecord),
}

/// A message on a session, or its end.
#[allow(clippy::large_enum_variant)]
enum Letter {
    Up(Option<PeerMessage>),
    Down(Option<CoordinatorMessage>),
}

struct Session {
    peer: Member,
    coordinator: Member,
    term: u64,
    open: bool,
    /// Delivery keeps the order of sending, each way.
    last: [Millis; 2],
}

#[derive(Default)]
struct Trainer {
    incarnation: u64,
    alive: bool,
    rounds: u64,
    state: Vec<u8>,
    entered: Option<Enter>,
    committed: Option<CommitRecord>,
}

struct Node {
    me: Member,
    alive: bool,
    stopped_until: Millis,
    peer: Peer,
    session: Option<SessionId>,
    coordinator: Option<Coordinator>,
    moving: Option<u64>,
    /// Epochs in which it gave its data to the lanes.
    gave: BTreeSet<u64>,
    trainer: Trainer,
}

pub(crate) struct World {
    now: Millis,
    /// The longest time for an operation and for a round; [`NEVER`] in every other schedule.
    patience: Millis,
    random: ChaCha8Rng,
    sequence: u64,
    queue: BinaryHeap<Reverse<(Millis, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    nodes: Vec<Node>,
    sessions: BTreeMap<SessionId, Session>,
    /// The session that a coordinator serves a peer on: the one that introduced itself last.
    served: BTreeMap<(u32, u32), SessionId>,
    arbiter: Arbiter,
    history: BTreeMap<u64, CommitRecord>,
    notices: Vec<Notice>,
}

fn member(slot: u32, incarnation: u64) -> Member {
    Member { slot, worker: format!("w{slot}"), incarnation, address: format!("w{slot}:{incarnation}") }
}

impl World {
    pub(crate) fn run(seed: u64, workers: u32, faults: &Faults) -> Self {
        Self::run_with(seed, workers, faults, false)
    }

    pub(crate) fn run_against_the_coordinator(seed: u64, workers: u32, faults: &Faults) -> Self {
        Self::run_with(seed, workers, faults, true)
    }

    fn run_with(seed: u64, workers: u32, faults: &Faults, coordinator: bool) -> Self {
        let mut world = Self::new(seed, workers);
        world.plan_faults(workers, faults, coordinator);
        for slot in 0..workers {
            world.restart(slot);
            world.restart_trainer(slot);
        }
        while let Some(Reverse((time, sequence))) = world.queue.pop() {
            if time > END || world.nodes.iter().all(|node| node.trainer.rounds == ROUNDS) {
                break;
            }
            world.now = time;
            let happening = world.happenings.remove(&sequence).unwrap();
            world.happen(happening);
        }
        world.check_samples();
        world
    }

    fn new(seed: u64, workers: u32) -> Self {
        let nodes = (0..workers).map(|slot| Node {
            me: member(slot, 0),
            alive: false,
            stopped_until: 0,
            peer: Peer::new("run".into(), member(slot, 0), LIVENESS),
            session: None,
            coordinator: None,
            moving: None,
            gave: BTreeSet::new(),
            trainer: Trainer::default(),
        });
        Self {
            now: 0,
            patience: if seed.is_multiple_of(2) { NEVER } else { 15_000 },
            random: ChaCha8Rng::seed_from_u64(seed),
            sequence: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            nodes: nodes.collect(),
            sessions: BTreeMap::new(),
            served: BTreeMap::new(),
            arbiter: Arbiter::new(LIVENESS),
            history: BTreeMap::new(),
            notices: Vec::new(),
        }
    }

    /// Final states of the trainers that did all rounds.
    pub(crate) fn finished(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.nodes.iter().filter(|node| node.trainer.rounds == ROUNDS).map(|node| &node.trainer.state)
    }

    /// Every member of the newest epoch that knew the history has ended as a process since.
    pub(crate) fn all_that_knew_died(&self) -> bool {
        let record = self.arbiter.record();
        let knows = |member: &Member| {
            self.is(member) && chain::rounds(self.nodes[member.slot as usize].peer.committed()) >= record.rounds
        };
        !record.members.iter().any(knows)
    }

    /// Where everybody stands, for a schedule that fails.
    pub(crate) fn describe(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| format!("{:?}\n  {:?}\n", node.peer, node.coordinator)).collect();
        format!("at {}: {:#?}\n{}\n{:?}", self.now, self.arbiter.record(), nodes.concat(), self.notices)
    }

    pub(crate) fn evictions(&self) -> usize {
        self.notices.iter().filter(|notice| matches!(notice, Notice::Evicted { .. })).count()
    }

    pub(crate) fn terms(&self) -> u64 {
        self.arbiter.record().term
    }

    pub(crate) fn history(&self) -> &BTreeMap<u64, CommitRecord> {
        &self.history
    }

    pub(crate) fn ledger(&self) -> Ledger {
        chain::ledger(self.history.values().last())
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    fn at(&mut self, when: Millis, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((when, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    fn soon(&mut self, most: Millis, happening: Happening) {
        let when = self.now + 1 + self.below(most);
        self.at(when, happening);
    }

    fn node(&mut self, slot: u32) -> &mut Node {
        &mut self.nodes[slot as usize]
    }

    fn is(&self, member: &Member) -> bool {
        let node = &self.nodes[member.slot as usize];
        node.alive && node.me.incarnation == member.incarnation
    }

    /// A stopped process handles nothing until it goes on.
    fn postponed(&mut self, slot: u32, happening: Happening) -> Option<Happening> {
        let until = self.nodes[slot as usize].stopped_until;
        if until > self.now {
            self.at(until, happening);
            return None;
        }
        Some(happening)
    }

    fn happen(&mut self, happening: Happening) {
        let slot = self.whose(&happening);
        let happening = match slot {
            Some(slot) => match self.postponed(slot, happening) {
                Some(happening) => happening,
                None => return,
            },
            None => happening,
        };
        match happening {
            Happening::Tick(slot) => self.tick(slot),
            Happening::ToCoordinator { session, message } => self.reach_coordinator(session, message),
            Happening::ToPeer { session, message } => self.reach_peer(session, message),
            Happening::Dialled { slot, incarnation, coordinator, term } => {
                self.dialled(&member(slot, incarnation), &coordinator, term);
            }
            Happening::ArbiterAsked { from, question } => self.asked(&from, question),
            Happening::ArbiterAnswered { to, ruling, proposal } => self.answered(&to, ruling, proposal),
            Happening::Moved { slot, incarnation, begin } => self.moved(slot, incarnation, begin),
            Happening::Fetched { slot, incarnation, start } => self.fetched(slot, incarnation, &start),
            Happening::Trained { slot, trainer, start } => self.trained(slot, trainer, &start),
            Happening::ArriveAgain { slot, trainer } => self.arrive(slot, trainer),
            Happening::Crash(slot) => {
                let coordinator = self.arbiter.record().coordinator.as_ref().map(|member| member.slot);
                if let Some(slot) = slot.or(coordinator) {
                    self.crash(slot);
                }
            }
            Happening::CrashTrainer(slot) => self.crash_trainer(slot),
            Happening::Restart(slot) => self.restart(slot),
            Happening::RestartTrainer(slot) => self.restart_trainer(slot),
            Happening::Stop(slot) => {
                let until = self.now + self.below(2 * LIVENESS);
                self.node(slot).stopped_until = until;
            }
            Happening::Cut(one, other) => self.cut(one, other),
        }
    }

    fn whose(&self, happening: &Happening) -> Option<u32> {
        match happening {
            Happening::Tick(slot)
            | Happening::Dialled { slot, .. }
            | Happening::Moved { slot, .. }
            | Happening::Fetched { slot, .. }
            | Happening::Trained { slot, .. }
            | Happening::ArriveAgain { slot, .. } => Some(*slot),
            Happening::ArbiterAnswered { to, .. } => Some(to.slot),
            Happening::ToCoordinator { session, .. } => Some(self.sessions[session].coordinator.slot),
            Happening::ToPeer { session, .. } => Some(self.sessions[session].peer.slot),
            _ => None,
        }
    }

    fn tick(&mut self, slot: u32) {
        if !self.node(slot).alive {
            return;
        }
        let from = self.node(slot).me.clone();
        self.soon(20, Happening::ArbiterAsked { from, question: Question::Beat });
        self.peer_event(slot, peer::Event::Tick);
        self.coordinator_event(slot, coordinator::Event::Tick);
        self.soon(60, Happening::Tick(slot));
        let heartbeats: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.open && session.coordinator == self.nodes[slot as usize].me)
            .map(|(id, _)| *id)
            .collect();
        if let Some((term, epoch)) = self.node(slot).coordinator.as_ref().map(|found| (found.term(), found.epoch())) {
            for session in heartbeats {
                let body = Some(coordinator_message::Body::Heartbeat(atoll_collective::v1::Heartbeat {}));
                self.deliver(session, Letter::Down(Some(CoordinatorMessage { term, epoch, body })));
            }
        }
    }

    /// Brings a message (or the session's end) over a session, in the order of sending.
    fn deliver(&mut self, session: SessionId, letter: Letter) {
        let up = matches!(letter, Letter::Up(_));
        let delay = 1 + self.below(30);
        let now = self.now;
        let Some(found) = self.sessions.get_mut(&session).filter(|session| session.open) else { return };
        let last = &mut found.last[usize::from(up)];
        *last = (*last).max(now + delay);
        let when = *last;
        let happening = match letter {
            Letter::Up(message) => Happening::ToCoordinator { session, message },
            Letter::Down(message) => Happening::ToPeer { session, message },
        };
        self.at(when, happening);
    }

    fn reach_coordinator(&mut self, id: SessionId, message: Option<PeerMessage>) {
        let session = &self.sessions[&id];
        let (peer, coordinator, term) = (session.peer.clone(), session.coordinator.clone(), session.term);
        let serves =
            self.is(&coordinator) && self.node(coordinator.slot).coordinator.as_ref().is_some_and(|found| found.term() == term);
        if !serves {
            return self.close(id);
        }
        let hello = matches!(message, Some(PeerMessage { body: Some(peer_message::Body::Hello(_)), .. }));
        if hello {
            self.served.insert((coordinator.slot, peer.slot), id);
        } else if self.served.get(&(coordinator.slot, peer.slot)) != Some(&id) {
            return;
        }
        let event = match message.and_then(|message| message.body) {
            None => coordinator::Event::Disconnected { slot: peer.slot, incarnation: peer.incarnation },
            Some(peer_message::Body::Hello(hello)) => coordinator::Event::Connected(Box::new(hello)),
            Some(body) => coordinator::Event::Message { slot: peer.slot, incarnation: peer.incarnation, body: Box::new(body) },
        };
        self.coordinator_event(coordinator.slot, event);
    }

    fn reach_peer(&mut self, id: SessionId, message: Option<CoordinatorMessage>) {
        let session = &self.sessions[&id];
        let (peer, term) = (session.peer.clone(), session.term);
        if !self.is(&peer) || self.node(peer.slot).session != Some(id) {
            return;
        }
        match message {
            Some(message) => self.peer_event(peer.slot, peer::Event::Message(Box::new(message))),
            None => self.peer_event(peer.slot, peer::Event::Closed(term)),
        }
    }

    /// Ends a session: both sides learn of it, each in its time.
    fn close(&mut self, id: SessionId) {
        if self.sessions[&id].open {
            self.deliver(id, Letter::Up(None));
            self.deliver(id, Letter::Down(None));
            self.sessions.get_mut(&id).unwrap().open = false;
        }
    }

    fn dialled(&mut self, peer: &Member, coordinator: &Member, term: u64) {
        if !self.is(peer) {
            return;
        }
        let serves =
            self.is(coordinator) && self.node(coordinator.slot).coordinator.as_ref().is_some_and(|found| found.term() == term);
        if !serves {
            return self.peer_event(peer.slot, peer::Event::Closed(term));
        }
        self.sequence += 1;
        let id = self.sequence;
        let now = self.now;
        self.sessions
            .insert(id, Session { peer: peer.clone(), coordinator: coordinator.clone(), term, open: true, last: [now; 2] });
        self.node(peer.slot).session = Some(id);
        self.peer_event(peer.slot, peer::Event::Opened(term));
    }

    fn asked(&mut self, from: &Member, question: Question) {
        let now = self.now;
        if !self.is(from) {
            return;
        }
        let (ruling, proposal) = match question {
            Question::Beat => (Ruling { granted: false, record: Some(self.arbiter.beat(from, now)) }, false),
            Question::Term(observed) => (self.arbiter.request_term(from, observed, now), false),
            Question::Epoch(proposed) => (self.arbiter.grant_epoch(&proposed), true),
        };
        self.soon(20, Happening::ArbiterAnswered { to: from.clone(), ruling, proposal });
    }

    fn answered(&mut self, to: &Member, ruling: Ruling, proposal: bool) {
        if !self.is(to) {
            return;
        }
        let record = ruling.record.clone().unwrap();
        let (now, patience) = (self.now, self.patience);
        let node = self.node(to.slot);
        if node.coordinator.as_ref().is_none_or(|coordinator| coordinator.term() < record.term) {
            let mine = record.coordinator.as_ref() == Some(&node.me);
            let workers = self.nodes.len();
            let settings = Settings {
                run: "run".into(),
                minimum: workers,
                target: workers,
                quorum: 2,
                join_window: 1_000,
                liveness: LIVENESS,
                round_timeout: 2 * patience,
                drop_stragglers: true,
            };
            self.node(to.slot).coordinator = mine.then(|| Coordinator::new(settings, record.clone(), now));
        }
        self.peer_event(to.slot, peer::Event::Located(record));
        if proposal {
            self.coordinator_event(to.slot, coordinator::Event::Ruled(ruling));
        }
    }

    fn coordinator_event(&mut self, slot: u32, event: coordinator::Event) {
        let now = self.now;
        let Some(coordinator) = &mut self.node(slot).coordinator else { return };
        let term = coordinator.term();
        let actions = coordinator.tick(event, now);
        if now.is_multiple_of(64) {
            let copy: Coordinator = serde_json::from_str(&serde_json::to_string(&coordinator).unwrap()).unwrap();
            assert_eq!(copy, *coordinator, "a coordinator's state survives being stored");
        }
        for action in actions {
            match action {
                coordinator::Action::Send { slot: to, epoch, body } => {
                    if let Some(session) = self.session_of(slot, to, term) {
                        self.deliver(session, Letter::Down(Some(CoordinatorMessage { term, epoch, body: Some(*body) })));
                    }
                }
                coordinator::Action::Propose(record) => {
                    let from = self.node(slot).me.clone();
                    self.soon(30, Happening::ArbiterAsked { from, question: Question::Epoch(record) });
                }
                coordinator::Action::Close { slot: to } => {
                    if let Some(session) = self.session_of(slot, to, term) {
                        self.close(session);
                    }
                }
                coordinator::Action::Report(notice) => self.notices.push(notice),
                coordinator::Action::StepDown => self.node(slot).coordinator = None,
            }
        }
    }

    fn session_of(&self, coordinator: u32, peer: u32, term: u64) -> Option<SessionId> {
        let found = |session: &Session| {
            session.open && session.term == term && session.coordinator.slot == coordinator && session.peer.slot == peer
        };
        self.sessions.iter().rev().find(|(_, session)| found(session)).map(|(id, _)| *id)
    }

    fn peer_event(&mut self, slot: u32, event: peer::Event) {
        let now = self.now;
        let actions = self.node(slot).peer.tick(event, now);
        let me = self.node(slot).me.clone();
        for action in actions {
            match action {
                peer::Action::Dial(coordinator, term) => {
                    self.soon(20, Happening::Dialled { slot, incarnation: me.incarnation, coordinator, term });
                }
                peer::Action::Send(term, body) => {
                    if let Some(session) = self.node(slot).session {
                        self.deliver(session, Letter::Up(Some(PeerMessage { term, body: Some(*body) })));
                    }
                }
                peer::Action::Hang(_) => {
                    if let Some(session) = self.node(slot).session.take() {
                        self.close(session);
                    }
                }
                peer::Action::RequestTerm(observed) => {
                    self.soon(20, Happening::ArbiterAsked { from: me.clone(), question: Question::Term(observed) });
                }
                peer::Action::Move(begin) => {
                    let epoch = begin.record.as_ref().unwrap().epoch;
                    self.node(slot).moving = Some(epoch);
                    self.node(slot).gave.insert(epoch);
                    self.soon(50, Happening::Moved { slot, incarnation: me.incarnation, begin });
                }
                peer::Action::Halt => self.node(slot).moving = None,
                peer::Action::Fetch(start) => self.soon(100, Happening::Fetched { slot, incarnation: me.incarnation, start }),
                peer::Action::Begun(result) => self.begun(slot, result.map_err(|_| ())),
                peer::Action::Reduced(outcome) => self.reduced(slot, outcome),
            }
        }
    }
}
