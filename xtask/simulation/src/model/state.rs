//! Where three sidecars, their arbiter and what is on the way between them stand, and what one step makes of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use atoll_collective::arbiter::Single;
use atoll_collective::coordinator::{self, Coordinator, Settings};
use atoll_collective::operation;
use atoll_collective::peer::{self, Failure, Outcome, Peer};
use atoll_collective::rules::Rules;
use atoll_collective::v1::{
    AbortReason, Arrive, Begin, CommitRecord, Contribution, CoordinatorMessage, Enter, EpochRecord, Heartbeat, Member,
    PeerMessage, Ruling, Start, peer_message,
};
use atoll_collective::{Millis, Notice, chain};

use super::shared::Shared;

/// Workers of the model.
pub(super) const WORKERS: u32 = 3;
const LIVENESS: Millis = 2_000;
/// Time passes in steps that a coordinator does not take for its own sleep, until whoever is silent is lost.
const STEP: Millis = LIVENESS / 2;
const STEPS: usize = 3;
/// The calls return at the end of the second time that passes: before a cut-off worker can have learned anything.
const DEADLINE: Millis = 5 * STEP;
const NEVER: Millis = Millis::MAX / 2;

/// How a trainer's call ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Ended {
    Committed(Vec<u8>),
    Aborted,
    /// The others go on without it, and decide whether its contribution counts.
    LeftOut,
}

/// A question to the arbiter, or its answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Term { observed: u64 },
    Epoch { proposed: Shared<EpochRecord> },
    Ruled { ruling: Shared<Ruling> },
}

/// A control session; what is on the way, in the order of sending. None is its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Session {
    peer: u32,
    coordinator: u32,
    term: u64,
    up: VecDeque<Option<Shared<PeerMessage>>>,
    down: VecDeque<Option<Shared<CoordinatorMessage>>>,
    /// Which ends have closed it.
    hung_up: bool,
    dropped: bool,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Node {
    alive: bool,
    /// It neither hears nor reaches anybody, except over lanes.
    isolated: bool,
    peer: Shared<Peer>,
    coordinator: Option<Shared<Coordinator>>,
    /// In its session with itself, of this term.
    itself: Option<u64>,
    dialling: Option<(u32, u64)>,
    located: (u64, u64),
    /// The attempt that it moves data for, and those to which it gave its own.
    moving: Option<Shared<Begin>>,
    gave: BTreeSet<(u64, u64)>,
    /// What its output holds.
    held: Option<Vec<u8>>,
    in_doubt: bool,
    ended: Option<Ended>,
}

/// What the two halves of a sidecar say to each other, by slot: handled before anything else happens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Local {
    Opened(u32, u64),
    Closed(u32, u64),
    Up(u32, Shared<PeerMessage>),
    Down(u32, Shared<CoordinatorMessage>),
}

/// What happens next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Up(usize),
    Down(usize),
    Connect(u32),
    Moved(u32),
    Locate(u32),
    Ask(usize),
    Answer(usize),
    Wait,
    Heal(u32),
    Crash(u32),
    Isolate(u32),
    Cut(usize),
    AskTwice(usize),
}

impl Step {
    pub(super) fn is_fault(&self) -> bool {
        matches!(self, Self::Crash(_) | Self::Isolate(_) | Self::Cut(_) | Self::AskTwice(_))
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    rules: Rules,
    now: Millis,
    nodes: Vec<Node>,
    sessions: Vec<Session>,
    local: VecDeque<Local>,
    arbiter: Shared<Single>,
    asked: Vec<(u32, Asked)>,
    pub(super) faults: u32,
    pub(super) waits: u32,
    /// Rounds that a coordinator committed by votes, with who it is; and contributions of which each round consists.
    pub(super) commits: BTreeSet<(u64, u32, Vec<u8>)>,
    pub(super) records: BTreeMap<Vec<u8>, Vec<u32>>,
    /// A committed round that a living member of it does not hold.
    pub(super) not_held: bool,
}

fn member(slot: u32) -> Member {
    Member { slot, worker: format!("w{slot}"), incarnation: 1, address: format!("w{slot}:1"), ..Member::default() }
}

fn settings() -> Settings {
    Settings {
        run: "run".into(),
        minimum: WORKERS as usize,
        target: WORKERS as usize,
        quorum: 1,
        join_window: 0,
        liveness: LIVENESS,
        round_timeout: NEVER,
        drop_stragglers: false,
    }
}

/// The attempt of a begin: term and number.
fn attempt(begin: &Begin) -> (u64, u64) {
    (begin.record.as_ref().map_or(0, |record| record.term), begin.number)
}

/// The result of an attempt: a function of what was given, by whom.
fn result_of(begin: &Begin) -> Vec<u8> {
    let given: Vec<u8> = begin.contributions.iter().map(|given| given.slot as u8).collect();
    blake3::hash(&given).as_bytes().to_vec()
}

impl State {
    /// All have begun to end the first round, under the coordinator of slot 0; nothing has gone wrong yet.
    pub(super) fn first(rules: Rules) -> Self {
        let node = |slot| Node {
            alive: true,
            isolated: false,
            peer: Shared::new(Peer::new("run".into(), member(slot), LIVENESS).with_rules(rules)),
            coordinator: None,
            itself: None,
            dialling: None,
            located: (0, 0),
            moving: None,
            gave: BTreeSet::new(),
            held: None,
            in_doubt: false,
            ended: None,
        };
        let mut state = Self {
            rules,
            now: 0,
            nodes: (0..WORKERS).map(node).collect(),
            sessions: Vec::new(),
            local: VecDeque::new(),
            arbiter: Shared::new(Single::new(LIVENESS).with_rules(rules)),
            asked: Vec::new(),
            faults: 0,
            waits: 0,
            commits: BTreeSet::new(),
            records: BTreeMap::new(),
            not_held: false,
        };
        let arrive = Arrive { round: 1, state_hash: vec![7; chain::HASH], samples_wanted: 4, attempt: 0 };
        for slot in 0..WORKERS {
            state.peer_event(slot, peer::Event::Arrived(arrive.clone(), None));
        }
        state.talk();
        // What follows happens in one order, until all move data.
        let fixed = |step: &Step| !step.is_fault() && !matches!(step, Step::Wait | Step::Moved(_));
        while let Some(step) = state.steps().into_iter().find(fixed) {
            state = state.after(&step);
        }
        state
    }

    /// Everything that can happen next, faults included.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, session) in self.sessions.iter().enumerate() {
            let reached = [session.peer, session.coordinator].iter().all(|end| !self.node(*end).isolated);
            steps.extend((reached && !session.up.is_empty()).then_some(Step::Up(index)));
            steps.extend((reached && !session.down.is_empty()).then_some(Step::Down(index)));
        }
        for (index, (slot, asked)) in self.asked.iter().enumerate().filter(|(_, (slot, _))| !self.node(*slot).isolated) {
            let answer = matches!(asked, Asked::Ruled { .. });
            steps.extend((self.node(*slot).alive || !answer).then_some(if answer {
                Step::Answer(index)
            } else {
                Step::Ask(index)
            }));
        }
        let record = self.arbiter.record();
        for slot in self.living().filter(|slot| !self.node(*slot).isolated) {
            steps.extend(self.node(slot).dialling.map(|_| Step::Connect(slot)));
            steps.extend((self.node(slot).located < (record.term, record.epoch)).then_some(Step::Locate(slot)));
        }
        // Time passes when nothing is on the way between those who hear each other: timeouts are longer than delays.
        steps.extend(steps.is_empty().then_some(Step::Wait));
        for slot in self.living() {
            steps.extend(self.can_end_moving(slot).then_some(Step::Moved(slot)));
            steps.extend(self.node(slot).isolated.then_some(Step::Heal(slot)));
            steps.push(Step::Crash(slot));
            steps.extend((!self.node(slot).isolated).then_some(Step::Isolate(slot)));
        }
        steps.extend((0..self.sessions.len()).filter(|index| !self.sessions[*index].hung_up).map(Step::Cut));
        let questions = self.asked.iter().enumerate().filter(|(_, (_, asked))| !matches!(asked, Asked::Ruled { .. }));
        steps.extend(questions.map(|(index, _)| Step::AskTwice(index)));
        steps
    }

    /// The state after one of [`State::steps`].
    pub(super) fn after(&self, step: &Step) -> Self {
        let mut state = self.clone();
        state.faults += u32::from(step.is_fault());
        match step {
            Step::Up(index) => state.up(*index),
            Step::Down(index) => state.down(*index),
            Step::Connect(slot) => state.connect(*slot),
            Step::Moved(slot) => state.moved(*slot),
            Step::Locate(slot) => {
                let record = state.arbiter.record().clone();
                state.locate(*slot, record);
            }
            Step::Ask(index) => {
                let (slot, asked) = state.asked.remove(*index);
                state.ask(slot, &asked);
            }
            Step::AskTwice(index) => {
                let (slot, asked) = state.asked[*index].clone();
                state.ask(slot, &asked);
            }
            Step::Answer(index) => {
                let (slot, asked) = state.asked.remove(*index);
                state.answer(slot, asked);
            }
            Step::Wait => state.wait(),
            Step::Heal(slot) => state.node_mut(*slot).isolated = false,
            Step::Crash(slot) => state.crash(*slot),
            Step::Isolate(slot) => state.node_mut(*slot).isolated = true,
            Step::Cut(index) => state.cut(*index),
        }
        state.talk();
        state
            .sessions
            .retain(|session| !(session.hung_up && session.dropped && session.up.is_empty() && session.down.is_empty()));
        state.sessions.sort_by_key(|session| (session.term, session.coordinator, session.peer));
        state
    }

    /// How the trainers' calls ended, by slot.
    pub(super) fn endings(&self) -> impl Iterator<Item = (u32, &Ended)> {
        (0..).zip(&self.nodes).filter_map(|(slot, node)| Some((slot, node.ended.as_ref()?)))
    }

    /// A call was in doubt and has ended since.
    pub(super) fn doubt_resolved(&self) -> bool {
        self.nodes.iter().any(|node| node.in_doubt && matches!(node.ended, Some(Ended::Committed(_))))
    }

    fn node(&self, slot: u32) -> &Node {
        &self.nodes[slot as usize]
    }

    fn node_mut(&mut self, slot: u32) -> &mut Node {
        &mut self.nodes[slot as usize]
    }

    fn living(&self) -> impl Iterator<Item = u32> + use<> {
        let living: Vec<u32> = (0..).zip(&self.nodes).filter(|(_, node)| node.alive).map(|(slot, _)| slot).collect();
        living.into_iter()
    }

    fn up(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        let (Some(message), slot, by, term) = (session.up.pop_front(), session.peer, session.coordinator, session.term) else {
            return;
        };
        let dropped = session.dropped;
        let serves = self.node(by).alive && self.node(by).coordinator.as_ref().is_some_and(|found| found.term() == term);
        if dropped || !serves {
            return self.drop_session(index);
        }
        let event = match message.as_ref().map(|message| (message.learned, message.body.clone())) {
            None => {
                self.drop_session(index);
                coordinator::Event::Disconnected { slot, incarnation: 1 }
            }
            Some((_, Some(peer_message::Body::Hello(hello)))) => coordinator::Event::Connected(Box::new(hello)),
            Some((learned, Some(body))) => coordinator::Event::Message { slot, incarnation: 1, learned, body: Box::new(body) },
            Some((_, None)) => return,
        };
        self.coordinator_event(by, event);
    }

    fn down(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        let Some(message) = session.down.pop_front() else { return };
        let (slot, term) = (session.peer, session.term);
        if session.hung_up || !self.node(slot).alive {
            return;
        }
        match message {
            Some(message) => self.peer_event(slot, peer::Event::Message(Box::new((*message).clone()))),
            None => {
                self.sessions[index].hung_up = true;
                self.sessions[index].up.clear();
                self.peer_event(slot, peer::Event::Closed(term));
            }
        }
    }

    /// The coordinator's end closes: the peer hears of it behind what was sent before.
    fn drop_session(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        session.up.clear();
        if !std::mem::replace(&mut session.dropped, true) {
            session.down.push_back(None);
        }
        if session.hung_up {
            session.down.clear();
        }
    }

    /// The peer's end closes: the coordinator hears of it behind what was sent before.
    fn hang_up(&mut self, slot: u32, term: u64) {
        let open = |session: &&mut Session| session.peer == slot && session.term == term && !session.hung_up;
        if let Some(session) = self.sessions.iter_mut().find(open) {
            session.hung_up = true;
            session.down.clear();
            if !session.dropped {
                session.up.push_back(None);
            }
        }
    }

    fn connect(&mut self, slot: u32) {
        let Some((coordinator, term)) = self.node_mut(slot).dialling.take() else { return };
        let there = self.node(coordinator);
        if there.isolated {
            self.node_mut(slot).dialling = Some((coordinator, term));
            return;
        }
        let serves = there.alive && there.coordinator.as_ref().is_some_and(|found| found.term() == term);
        if !serves {
            return self.peer_event(slot, peer::Event::Closed(term));
        }
        let (up, down) = (VecDeque::new(), VecDeque::new());
        self.sessions.push(Session { peer: slot, coordinator, term, up, down, hung_up: false, dropped: false });
        self.peer_event(slot, peer::Event::Opened(term));
    }

    /// All who take part gave their data, or one of them can do so no more.
    fn can_end_moving(&self, slot: u32) -> bool {
        let Some(begin) = &self.node(slot).moving else { return false };
        let gave = |given: &Contribution| self.node(given.slot).gave.contains(&attempt(begin));
        begin.contributions.iter().all(|given| gave(given) || !self.node(given.slot).alive)
    }

    fn moved(&mut self, slot: u32) {
        let Some(begin) = self.node_mut(slot).moving.take() else { return };
        let gone = begin.contributions.iter().find(|given| !self.node(given.slot).gave.contains(&attempt(&begin)));
        let result = match gone {
            Some(given) => Err(Failure { reason: AbortReason::PeerLost, culprit: given.slot, detail: String::new() }),
            None => Ok(result_of(&begin)),
        };
        self.node_mut(slot).held = result.as_ref().ok().cloned();
        let key = operation::key(begin.operation.as_ref());
        self.peer_event(slot, peer::Event::Moved(key, attempt(&begin), result));
    }

    fn ask(&mut self, slot: u32, asked: &Asked) {
        let mut arbiter = (*self.arbiter).clone();
        let ruling = match asked {
            Asked::Term { observed } => arbiter.request_term(&member(slot), *observed, self.now),
            Asked::Epoch { proposed } => arbiter.grant_epoch(proposed),
            Asked::Ruled { .. } => return,
        };
        self.arbiter = Shared::new(arbiter);
        // An answer about a term is the newest record, which everybody learns anyhow.
        if matches!(asked, Asked::Epoch { .. }) {
            self.put((slot, Asked::Ruled { ruling: Shared::new(ruling) }));
        }
    }

    fn put(&mut self, question: (u32, Asked)) {
        if !self.asked.contains(&question) {
            self.asked.push(question);
        }
    }

    fn answer(&mut self, slot: u32, asked: Asked) {
        let Asked::Ruled { ruling } = asked else { return };
        self.locate(slot, ruling.record.clone().unwrap_or_default());
        self.coordinator_event(slot, coordinator::Event::Ruled((*ruling).clone()));
    }

    fn locate(&mut self, slot: u32, record: EpochRecord) {
        let node = self.node_mut(slot);
        node.located = node.located.max((record.term, record.epoch));
        if node.coordinator.as_ref().is_none_or(|found| found.term() < record.term) {
            self.step_down(slot);
            if record.coordinator.as_ref() == Some(&member(slot)) {
                let coordinator = Coordinator::new(settings(), record.clone(), self.now).with_rules(self.rules);
                self.node_mut(slot).coordinator = Some(Shared::new(coordinator));
            }
        }
        self.peer_event(slot, peer::Event::Located(record));
    }

    fn step_down(&mut self, slot: u32) {
        let Some(old) = self.node_mut(slot).coordinator.take() else { return };
        let mine = |session: &Session| session.coordinator == slot && session.term == old.term();
        for index in (0..self.sessions.len()).filter(|index| mine(&self.sessions[*index])).collect::<Vec<_>>() {
            self.drop_session(index);
        }
        if self.node(slot).itself == Some(old.term()) {
            self.local.push_back(Local::Closed(slot, old.term()));
        }
    }

    fn talk(&mut self) {
        while let Some(said) = self.local.pop_front() {
            match said {
                Local::Opened(slot, term) => self.peer_event(slot, peer::Event::Opened(term)),
                Local::Closed(slot, term) if self.node(slot).itself == Some(term) => {
                    self.node_mut(slot).itself = None;
                    self.peer_event(slot, peer::Event::Closed(term));
                }
                Local::Down(slot, message) if self.node(slot).itself == Some(message.term) => {
                    self.peer_event(slot, peer::Event::Message(Box::new((*message).clone())));
                }
                Local::Up(slot, message) => self.heard_from_itself(slot, &message),
                Local::Closed(..) | Local::Down(..) => {}
            }
        }
    }

    fn heard_from_itself(&mut self, slot: u32, message: &PeerMessage) {
        let serves = self.node(slot).coordinator.as_ref().is_some_and(|found| found.term() == message.term);
        match message.body.clone().filter(|_| serves) {
            Some(peer_message::Body::Hello(hello)) => {
                self.coordinator_event(slot, coordinator::Event::Connected(Box::new(hello)))
            }
            Some(body) => {
                let (learned, body) = (message.learned, Box::new(body));
                self.coordinator_event(slot, coordinator::Event::Message { slot, incarnation: 1, learned, body });
            }
            None => self.local.push_back(Local::Closed(slot, message.term)),
        }
    }

    /// Time passes until whoever is silent is lost; those who hear each other exchange signs of life.
    fn wait(&mut self) {
        self.waits += 1;
        for _ in 0..STEPS {
            self.now += STEP;
            for slot in self.living().filter(|slot| !self.node(*slot).isolated).collect::<Vec<_>>() {
                let mut arbiter = (*self.arbiter).clone();
                arbiter.beat(&member(slot), self.now);
                self.arbiter = Shared::new(arbiter);
            }
            self.beat();
            for slot in self.living() {
                self.peer_event(slot, peer::Event::Tick);
                self.coordinator_event(slot, coordinator::Event::Tick);
                self.talk();
            }
        }
    }

    fn beat(&mut self) {
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        for session in self.sessions.iter().filter(|session| !session.hung_up && !session.dropped) {
            let hears = |slot: u32| self.node(slot).alive && !self.node(slot).isolated;
            pairs.extend((hears(session.peer) && hears(session.coordinator)).then_some((session.peer, session.coordinator)));
        }
        pairs.extend(self.living().filter(|slot| self.node(*slot).itself.is_some()).map(|slot| (slot, slot)));
        for (slot, coordinator) in pairs {
            let body = Box::new(peer_message::Body::Heartbeat(Heartbeat {}));
            self.coordinator_event(coordinator, coordinator::Event::Message { slot, incarnation: 1, learned: 0, body });
            if let Some(heartbeat) = self.node(coordinator).coordinator.as_ref().map(|found| found.heartbeat()) {
                self.peer_event(slot, peer::Event::Message(Box::new(heartbeat)));
            }
            self.talk();
        }
    }

    /// What it had sent arrives; what was sent to it does not.
    fn crash(&mut self, slot: u32) {
        self.step_down(slot);
        let node = self.node_mut(slot);
        node.alive = false;
        (node.itself, node.dialling, node.moving) = (None, None, None);
        for term in self.sessions.iter().filter(|session| session.peer == slot).map(|session| session.term).collect::<Vec<_>>() {
            self.hang_up(slot, term);
        }
        self.asked.retain(|(from, asked)| *from != slot || !matches!(asked, Asked::Ruled { .. }));
        let mut arbiter = (*self.arbiter).clone();
        arbiter.ended(slot, 1);
        self.arbiter = Shared::new(arbiter);
    }

    /// A session breaks, with all that is on the way.
    fn cut(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        session.up.clear();
        session.down.clear();
        if !std::mem::replace(&mut session.dropped, true) {
            session.up.push_back(None);
        }
        session.dropped = false;
        session.down.push_back(None);
    }

    pub(super) fn peer_event(&mut self, slot: u32, event: peer::Event) {
        if !self.node(slot).alive {
            return;
        }
        let mut peer = (*self.node(slot).peer).clone();
        let actions = peer.tick(event, self.now);
        self.node_mut(slot).peer = Shared::new(peer);
        for action in actions {
            match action {
                peer::Action::Dial(coordinator, term) => self.dial(slot, coordinator.slot, term),
                peer::Action::Send(message) => self.send_up(slot, *message),
                peer::Action::Hang(term) => {
                    self.node_mut(slot).dialling = None;
                    if self.node(slot).itself == Some(term) {
                        self.node_mut(slot).itself = None;
                        self.coordinator_event(slot, coordinator::Event::Disconnected { slot, incarnation: 1 });
                    }
                    self.hang_up(slot, term);
                }
                peer::Action::RequestTerm(observed) => self.put((slot, Asked::Term { observed })),
                peer::Action::Move(begin) => {
                    let node = self.node_mut(slot);
                    node.held = None;
                    node.gave.insert(attempt(&begin));
                    node.moving = Some(Shared::new(*begin));
                }
                peer::Action::Halt(_) => {
                    let node = self.node_mut(slot);
                    (node.moving, node.held) = (None, None);
                }
                peer::Action::Begun(Ok(start)) => self.begun(slot, &start),
                peer::Action::Ended(_, outcome) => self.ended(slot, outcome),
                peer::Action::Begun(Err(_)) | peer::Action::Fetch(_) | peer::Action::StopFetching => {}
            }
        }
    }

    fn dial(&mut self, slot: u32, coordinator: u32, term: u64) {
        self.node_mut(slot).dialling = None;
        if slot != coordinator {
            self.node_mut(slot).dialling = Some((coordinator, term));
            return;
        }
        self.node_mut(slot).itself = Some(term);
        self.local.push_back(Local::Opened(slot, term));
    }

    fn send_up(&mut self, slot: u32, message: PeerMessage) {
        if self.node(slot).itself == Some(message.term) {
            return self.local.push_back(Local::Up(slot, Shared::new(message)));
        }
        let heartbeat = matches!(message.body, Some(peer_message::Body::Heartbeat(_)));
        let open = |session: &&mut Session| session.peer == slot && session.term == message.term && !session.hung_up;
        if let Some(session) = self.sessions.iter_mut().find(open).filter(|_| !heartbeat) {
            session.up.push_back(Some(Shared::new(message)));
        }
    }

    fn begun(&mut self, slot: u32, start: &Start) {
        let contribution = Contribution { slot, weight: 1, samples: start.samples.clone(), ..Contribution::default() };
        let operation = Some(operation::ends_round(start.round, 0, 1));
        let enter = Enter { operation, contribution: Some(contribution), bandwidth: 0 };
        self.peer_event(slot, peer::Event::Entered(enter, DEADLINE));
    }

    fn ended(&mut self, slot: u32, outcome: Outcome) {
        let ended = match outcome {
            Outcome::Committed(commit) => {
                let record = commit.record.unwrap_or_default();
                let held = self.node(slot).held.as_ref() == Some(&record.result_hash);
                self.not_held |= !held;
                Ended::Committed(self.noted(&record))
            }
            Outcome::Aborted(refusal) if refusal.reason == AbortReason::PeerLost => Ended::LeftOut,
            Outcome::Aborted(_) => Ended::Aborted,
            Outcome::InDoubt => {
                // It asks again.
                self.node_mut(slot).in_doubt = true;
                let enter = Enter { operation: Some(operation::ends_round(1, 0, 1)), ..Enter::default() };
                return self.peer_event(slot, peer::Event::Entered(enter, NEVER));
            }
        };
        self.node_mut(slot).ended.get_or_insert(ended);
    }

    /// Remembers who is counted in a record.
    fn noted(&mut self, record: &CommitRecord) -> Vec<u8> {
        let hash = chain::hash(record);
        self.records.insert(hash.clone(), record.contributions.iter().map(|given| given.slot).collect());
        hash
    }

    fn coordinator_event(&mut self, slot: u32, event: coordinator::Event) {
        let Some(found) = self.node(slot).coordinator.clone().filter(|_| self.node(slot).alive) else { return };
        let mut coordinator = (*found).clone();
        let term = coordinator.term();
        let actions = coordinator.tick(event, self.now);
        self.node_mut(slot).coordinator = Some(Shared::new(coordinator));
        for action in actions {
            match action {
                coordinator::Action::Send { slot: to, message } => self.send_down(slot, to, term, *message),
                coordinator::Action::Propose(record) => self.put((slot, Asked::Epoch { proposed: Shared::new(record) })),
                coordinator::Action::Close { slot: to } => {
                    let theirs = |session: &Session| {
                        session.coordinator == slot && session.term == term && session.peer == to && !session.dropped
                    };
                    if let Some(index) = self.sessions.iter().position(theirs) {
                        self.drop_session(index);
                    }
                }
                coordinator::Action::Report(Notice::Committed(record)) => {
                    let hash = self.noted(&record);
                    let holds = |node: &Node| {
                        node.held.as_ref() == Some(&record.result_hash) || matches!(node.ended, Some(Ended::Committed(_)))
                    };
                    let mut nodes = record.contributions.iter().map(|given| self.node(given.slot));
                    self.not_held |= nodes.any(|node| node.alive && !holds(node));
                    self.commits.insert((record.term, slot, hash));
                }
                coordinator::Action::Report(_) => {}
                coordinator::Action::StepDown => self.step_down(slot),
            }
        }
    }

    fn send_down(&mut self, slot: u32, to: u32, term: u64, message: CoordinatorMessage) {
        if slot == to {
            return self.local.push_back(Local::Down(slot, Shared::new(message)));
        }
        let open = |session: &&mut Session| {
            session.coordinator == slot && session.term == term && session.peer == to && !session.dropped && !session.hung_up
        };
        if let Some(session) = self.sessions.iter_mut().find(open) {
            session.down.push_back(Some(Shared::new(message)));
        }
    }
}
