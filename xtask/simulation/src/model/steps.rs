//! What one step makes of a state: the sidecar's part between the state machines, the sessions and the arbiter.

use std::collections::{BTreeSet, VecDeque};

use atoll_collective::v1::{CommitRecord, CoordinatorMessage, PeerMessage, Ruling, coordinator_message, peer_message};

use super::clocks::{CoordinatorClock, PeerClock};
use super::machines::{
    CoordinatorAction, CoordinatorEvent, Ended, Machines, PeerAction, PeerEvent, Question, WORKERS, attempt, member, result_of,
};
use super::network::{Connection, End, Service};
use super::shared::Shared;
use super::state::{Node, Session, State, Step};

/// Terms of the model: the first coordinator's and its successor's.
const TERMS: u64 = 2;

/// What the two machines of one worker say to each other: handled before anything else happens, as the sidecar does.
enum Local {
    Opened(u32, u64),
    Closed(u32, u64),
    Up(u32, Shared<PeerMessage>),
    Down(u32, Shared<CoordinatorMessage>),
}

/// A step that is being taken.
struct Happening<'m> {
    machines: &'m Machines,
    state: State,
    local: VecDeque<Local>,
}

/// All three have entered the operation that ends round 1, in the first coordinator's term; nothing has gone wrong yet.
pub(super) fn first(machines: &Machines) -> State {
    let mut happening = Happening { machines, state: State::new(machines), local: VecDeque::new() };
    for slot in 0..WORKERS {
        happening.peer(slot, PeerEvent::Arrived);
        happening.state.questions.insert((slot, Question::Term { observed: 0, lives: false }));
    }
    let mut state = happening.settled();
    // How a run begins is not what is looked at: one order of it.
    loop {
        let mut steps = Vec::new();
        state.steps(&mut steps);
        let Some(step) = steps.into_iter().find(|step| !matches!(step, Step::Retry(_))) else { break };
        state = after(machines, &state, &step);
    }
    let mut happening = Happening { machines, state, local: VecDeque::new() };
    for slot in 0..WORKERS {
        let start = happening.state.node(slot).start.clone().unwrap();
        happening.peer(slot, PeerEvent::Entered(start));
    }
    happening.settled()
}

/// The state after one of [`State::steps`] or [`State::faults`].
pub(super) fn after(machines: &Machines, state: &State, step: &Step) -> State {
    let mut happening = Happening { machines, state: state.clone(), local: VecDeque::new() };
    happening.state.faults += u32::from(step.is_fault());
    happening.take(step);
    happening.settled()
}

impl Happening<'_> {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Up(index) => self.up(*index),
            Step::UpEnds(index) => self.up_ends(*index),
            Step::Down(index) => {
                let connection = &mut self.state.connections[*index];
                let (slot, message) = (connection.peer, connection.down.waiting.pop_front().unwrap());
                self.peer(slot, PeerEvent::Message(message));
            }
            Step::DownEnds(index) => {
                let connection = &mut self.state.connections[*index];
                connection.hang_up();
                let (slot, term) = (connection.peer, connection.term);
                self.node(slot).session = Session::None;
                self.peer(slot, PeerEvent::Closed(term));
            }
            Step::Connect(slot) => self.connect(*slot),
            Step::Locate(slot) => self.locate(*slot),
            Step::Retry(slot) => self.peer(*slot, PeerEvent::RanOut(PeerClock::Pause)),
            Step::Moved(slot) => self.moved(*slot, None),
            Step::Broke(slot, other) | Step::Tear(slot, other) => self.moved(*slot, Some(*other)),
            Step::Ask(slot, question) => {
                self.state.questions.remove(&(*slot, question.clone()));
                self.ask(*slot, question);
            }
            Step::AskTwice(slot, question) => self.ask(*slot, question),
            Step::Answer(slot, ruling) => self.answer(*slot, ruling),
            Step::MissesPeer(slot, peer) => {
                self.coordinator(*slot, CoordinatorEvent::RanOut(CoordinatorClock::Liveness(*peer)));
            }
            Step::MissesCoordinator(slot, coordinator) => {
                self.node(*coordinator).silent = true;
                self.peer(*slot, PeerEvent::RanOut(PeerClock::Liveness));
            }
            Step::Recovers(slot) | Step::RecoversEarly(slot) => {
                self.coordinator(*slot, CoordinatorEvent::RanOut(CoordinatorClock::Recovery));
            }
            Step::Judges(slot) => self.coordinator(*slot, CoordinatorEvent::RanOut(CoordinatorClock::Suspicion)),
            Step::Crash(slot) => self.crash(*slot),
            Step::Cut(index) => self.state.connections[*index].cut(),
            Step::Deadline(slot) => {
                self.node(*slot).late = true;
                self.peer(*slot, PeerEvent::RanOut(PeerClock::Deadline));
            }
        }
    }

    /// The state, in its one form: what has no choice left, and touches nothing else, is done at once.
    fn settled(mut self) -> State {
        loop {
            self.talk();
            self.refuse_hellos();
            let Some(index) = self.told_in_vain() else { break };
            self.take(&Step::Down(index));
        }
        self.drop_questions();
        self.state.connections.retain(|connection| !connection.is_over());
        self.state.connections.sort_by_key(|connection| (connection.term, connection.coordinator, connection.peer));
        self.forget_attempts();
        self.state
    }

    /// Who introduces itself to a coordinator that has lost its role is refused, whenever the introduction arrives.
    fn refuse_hellos(&mut self) {
        let nodes = &self.state.nodes;
        let deposed = |connection: &Connection| {
            let node = &nodes[connection.coordinator as usize];
            node.known >= connection.term && node.coordinator.as_ref().is_none_or(|found| found.term() != connection.term)
        };
        for connection in &mut self.state.connections {
            if connection.service == Service::New && deposed(connection) {
                connection.close();
            }
        }
    }

    /// A message to a peer whose call has ended without result, and that does nothing about it: it has nothing left to say
    /// that depends on when it hears the message.
    fn told_in_vain(&self) -> Option<usize> {
        let in_vain = |connection: &Connection| {
            let node = self.state.node(connection.peer);
            let idle = connection.used && matches!(node.ended, Some(Ended::LeftOut | Ended::Aborted));
            let next = || Some((node.peer.as_ref()?, connection.down.waiting.front()?.clone()));
            let told = next().filter(|_| idle);
            told.is_some_and(|(peer, message)| self.machines.peer(peer, PeerEvent::Message(message)).1.is_empty())
        };
        self.state.connections.iter().position(in_vain)
    }

    /// A question that a newer term has overtaken, and that the arbiter refuses, is answered with that term: everybody hears
    /// of it anyhow.
    fn drop_questions(&mut self) {
        let (machines, arbiter, term) = (self.machines, &self.state.arbiter, self.state.granted.term);
        self.state.questions.retain(|(slot, question)| {
            let overtaken = match question {
                Question::Term { observed, .. } => *observed < term,
                Question::Epoch(record) => record.term < term,
            };
            !overtaken || machines.arbiter(arbiter, *slot, question.clone()).1.granted
        });
    }

    /// Data of attempts that nobody moves, or will, is of no interest; nor is what the output of a call holds that has ended.
    fn forget_attempts(&mut self) {
        let mut open: BTreeSet<(u64, u64)> =
            self.state.nodes.iter().filter_map(|node| node.moving.as_deref()).map(attempt).collect();
        for message in self.state.connections.iter().flat_map(|connection| &connection.down.waiting) {
            if let Some(coordinator_message::Body::Begin(begin)) = &message.body {
                open.insert(attempt(begin));
            }
        }
        for node in &mut self.state.nodes {
            node.gave.retain(|attempt| open.contains(attempt));
            node.held.take_if(|_| node.ended.is_some());
        }
    }

    fn node(&mut self, slot: u32) -> &mut Node {
        &mut self.state.nodes[slot as usize]
    }

    fn talk(&mut self) {
        while let Some(said) = self.local.pop_front() {
            match said {
                Local::Opened(slot, term) => self.peer(slot, PeerEvent::Opened(term)),
                Local::Closed(slot, term) => {
                    if matches!(self.node(slot).session, Session::Itself(open, _) if open == term) {
                        self.node(slot).session = Session::None;
                        self.peer(slot, PeerEvent::Closed(term));
                    }
                }
                Local::Down(slot, message) => {
                    if matches!(self.node(slot).session, Session::Itself(open, _) if open == message.term) {
                        self.peer(slot, PeerEvent::Message(message));
                    }
                }
                Local::Up(slot, message) => self.heard_from_itself(slot, message),
            }
        }
    }

    fn serves(&self, slot: u32, term: u64) -> bool {
        self.state.node(slot).coordinator.as_ref().is_some_and(|found| found.term() == term)
    }

    fn heard_from_itself(&mut self, slot: u32, message: Shared<PeerMessage>) {
        let hello = matches!(message.body, Some(peer_message::Body::Hello(_)));
        let serves = self.serves(slot, message.term);
        match &mut self.node(slot).session {
            Session::Itself(_, served) if serves && (hello || *served) => {
                *served = true;
                self.coordinator(slot, CoordinatorEvent::Said(slot, message));
            }
            _ => self.local.push_back(Local::Closed(slot, message.term)),
        }
    }

    fn up(&mut self, index: usize) {
        let connection = &mut self.state.connections[index];
        let message = connection.up.waiting.pop_front().unwrap();
        let (slot, by, term, service) = (connection.peer, connection.coordinator, connection.term, connection.service);
        if service == Service::New {
            if !self.serves(by, term) {
                return self.state.connections[index].close();
            }
            // Who introduces itself again leaves its earlier session.
            self.close_session(by, slot);
            self.state.connections[index].service = Service::Open;
        }
        self.coordinator(by, CoordinatorEvent::Said(slot, message));
    }

    fn up_ends(&mut self, index: usize) {
        let connection = &mut self.state.connections[index];
        let (slot, by, service) = (connection.peer, connection.coordinator, connection.service);
        connection.close();
        if service == Service::Open {
            self.coordinator(by, CoordinatorEvent::Disconnected(slot));
        }
    }

    fn connect(&mut self, slot: u32) {
        let Session::Dialling(to, term) = self.state.node(slot).session else { return };
        if self.state.node(to).lives() {
            self.state.connections.push(Connection::new(slot, to, term));
            self.node(slot).session = Session::Remote;
            self.peer(slot, PeerEvent::Opened(term));
        } else {
            self.node(slot).session = Session::None;
            self.peer(slot, PeerEvent::Closed(term));
        }
    }

    fn moved(&mut self, slot: u32, broke: Option<u32>) {
        let Some(begin) = self.node(slot).moving.take() else { return };
        self.node(slot).held = broke.is_none().then(|| result_of(&begin));
        self.peer(slot, PeerEvent::Moved(begin, broke.map_or(Ok(()), Err)));
    }

    fn ask(&mut self, slot: u32, question: &Question) {
        let coordinator = self.state.granted.coordinator.as_ref().map(|coordinator| self.state.node(coordinator.slot));
        let lives = coordinator.is_some_and(|node| node.lives() && !node.silent);
        let question = match question {
            Question::Term { observed, .. } => Question::Term { observed: *observed, lives },
            Question::Epoch(_) => question.clone(),
        };
        // An answer about a term is the newest record, which everybody hears of anyhow.
        let answered = matches!(question, Question::Epoch(_));
        let done = self.machines.arbiter(&self.state.arbiter, slot, question);
        self.state.arbiter = done.0.clone();
        if self.state.arbiter.record().term > self.state.granted.term {
            self.state.granted = self.machines.record(&self.state.arbiter);
            self.state.nodes.iter_mut().for_each(|node| node.silent = false);
        }
        if answered && self.state.node(slot).lives() {
            self.state.answers.insert((slot, done.1.clone()));
        }
    }

    fn answer(&mut self, slot: u32, ruling: &Shared<Ruling>) {
        self.state.answers.remove(&(slot, ruling.clone()));
        if ruling.record.as_ref().is_some_and(|record| record.term > self.state.node(slot).known) {
            self.locate(slot);
        }
        self.coordinator(slot, CoordinatorEvent::Ruled(ruling.clone()));
    }

    /// Learns of the newest term: takes the coordinator's role when it is this worker's, and gives it back.
    fn locate(&mut self, slot: u32) {
        let record = self.state.granted.clone();
        self.node(slot).known = record.term;
        self.step_down(slot);
        if record.coordinator.as_ref() == Some(&member(slot)) {
            self.node(slot).coordinator = Some(self.machines.new_coordinator(&record));
        }
        self.peer(slot, PeerEvent::Located(record));
    }

    /// Every session of the role ends.
    fn step_down(&mut self, slot: u32) {
        for peer in 0..WORKERS {
            self.close_session(slot, peer);
        }
        self.node(slot).coordinator = None;
    }

    /// The coordinator on `slot` ends the session of a peer.
    fn close_session(&mut self, slot: u32, peer: u32) {
        if let Some(index) = self.served(slot, peer) {
            self.state.connections[index].close();
        }
        if let Session::Itself(term, served) = &mut self.node(slot).session
            && slot == peer
            && std::mem::take(served)
        {
            let term = *term;
            self.local.push_back(Local::Closed(slot, term));
        }
    }

    fn served(&self, slot: u32, peer: u32) -> Option<usize> {
        let theirs = |connection: &Connection| {
            (connection.coordinator, connection.peer, connection.service) == (slot, peer, Service::Open)
        };
        self.state.connections.iter().position(theirs)
    }

    fn dial(&mut self, slot: u32, coordinator: u32, term: u64) {
        self.hang_up(slot);
        if slot == coordinator {
            self.node(slot).session = Session::Itself(term, false);
            self.local.push_back(Local::Opened(slot, term));
        } else {
            self.node(slot).session = Session::Dialling(coordinator, term);
        }
    }

    fn hang_up(&mut self, slot: u32) {
        match std::mem::replace(&mut self.node(slot).session, Session::None) {
            Session::Remote => {
                if let Some(connection) = self.session_of(slot) {
                    connection.hang_up();
                }
            }
            Session::Itself(_, true) => self.coordinator(slot, CoordinatorEvent::Disconnected(slot)),
            _ => {}
        }
    }

    fn session_of(&mut self, slot: u32) -> Option<&mut Connection> {
        self.state.connections.iter_mut().find(|connection| connection.peer == slot && connection.used)
    }

    /// What it sent may still arrive, or a part of it; what was sent to it does not.
    fn crash(&mut self, slot: u32) {
        for connection in &mut self.state.connections {
            if connection.peer == slot && connection.used {
                connection.hang_up();
            }
            if connection.coordinator == slot && connection.service != Service::Closed {
                connection.close();
                connection.down.end = End::Any;
            }
        }
        self.state.answers.retain(|(to, _)| *to != slot);
        let node = self.node(slot);
        (node.peer, node.coordinator, node.session, node.moving) = (None, None, Session::None, None);
        (node.known, node.silent, node.start, node.held, node.late) = (0, false, None, None, false);
    }

    fn peer(&mut self, slot: u32, event: PeerEvent) {
        let Some(peer) = &self.state.node(slot).peer else { return };
        let done = self.machines.peer(peer, event);
        self.node(slot).peer = Some(done.0.clone());
        for action in &done.1 {
            match action {
                PeerAction::Dial(coordinator, term) => self.dial(slot, *coordinator, *term),
                PeerAction::Send(message) => match self.state.node(slot).session {
                    Session::Itself(..) => self.local.push_back(Local::Up(slot, message.clone())),
                    Session::Remote => {
                        if let Some(connection) = self.session_of(slot) {
                            connection.send_up(message.clone());
                        }
                    }
                    Session::None | Session::Dialling(..) => {}
                },
                PeerAction::Hang => self.hang_up(slot),
                PeerAction::RequestTerm(observed) if *observed < TERMS => {
                    self.state.questions.insert((slot, Question::Term { observed: *observed, lives: false }));
                }
                PeerAction::RequestTerm(_) => {}
                PeerAction::Move(begin) => {
                    let node = self.node(slot);
                    node.held = None;
                    node.gave.insert(attempt(begin));
                    node.moving = Some(begin.clone());
                }
                PeerAction::Halt => (self.node(slot).moving, self.node(slot).held) = (None, None),
                PeerAction::Begun(start) => self.node(slot).start = Some(start.clone()),
                PeerAction::Ended(Ended::InDoubt) => {
                    // The same call asks again.
                    let start = self.state.node(slot).start.clone().unwrap();
                    self.peer(slot, PeerEvent::Entered(start));
                }
                PeerAction::Ended(ended) => self.ended(slot, ended),
            }
        }
    }

    fn ended(&mut self, slot: u32, ended: &Ended) {
        if let Ended::Committed(round) = ended {
            self.state.not_held |= self.state.node(slot).held.as_ref() != Some(&round.result_hash);
            self.committed(round);
        }
        self.node(slot).ended.get_or_insert_with(|| ended.clone());
    }

    fn committed(&mut self, round: &Shared<CommitRecord>) {
        self.state.rounds.insert(round.clone());
    }

    fn coordinator(&mut self, slot: u32, event: CoordinatorEvent) {
        let Some(coordinator) = &self.state.node(slot).coordinator else { return };
        let term = coordinator.term();
        let done = self.machines.coordinator(coordinator, event);
        self.node(slot).coordinator = Some(done.0.clone());
        for action in &done.1 {
            match action {
                CoordinatorAction::Send(to, message) => self.send_down(slot, *to, message),
                CoordinatorAction::Propose(record) => {
                    self.state.questions.insert((slot, Question::Epoch(record.clone())));
                }
                CoordinatorAction::Close(peer) => self.close_session(slot, *peer),
                CoordinatorAction::Committed(round) => {
                    self.committed(round);
                    self.state.committers.insert((term, slot));
                }
                CoordinatorAction::StepDown => self.step_down(slot),
            }
        }
    }

    fn send_down(&mut self, slot: u32, to: u32, message: &Shared<CoordinatorMessage>) {
        if slot == to {
            if matches!(self.state.node(slot).session, Session::Itself(_, true)) {
                self.local.push_back(Local::Down(slot, message.clone()));
            }
        } else if let Some(index) = self.served(slot, to) {
            self.state.connections[index].send_down(message.clone());
        }
    }
}
