//! Where three workers, their arbiter, and what is on the way between them stand.

use std::collections::BTreeSet;

use atoll_collective::arbiter::Single;
use atoll_collective::coordinator::Coordinator;
use atoll_collective::peer::Peer;
use atoll_collective::v1::{Begin, CommitRecord, EpochRecord, Ruling, Start};

use super::machines::{Ended, Machines, Question, WORKERS, attempt};
use super::network::{Connection, Service};
use super::shared::Shared;

/// Most connections of one peer with one coordinator at a time: the newest, and one whose end is not noticed yet.
const CONNECTIONS: usize = 2;

/// The session of a worker's peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Session {
    None,
    /// It tries to reach the coordinator of a term.
    Dialling(u32, u64),
    /// With the coordinator of this term on the same worker; and whether that knows of it.
    Itself(u64, bool),
    /// One of [`State::connections`].
    Remote,
}

/// One worker: a sidecar and its trainer, which calls one operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Node {
    /// None once its process has ended.
    pub(super) peer: Option<Shared<Peer>>,
    pub(super) coordinator: Option<Shared<Coordinator>>,
    pub(super) session: Session,
    /// The newest term that it knows.
    pub(super) known: u64,
    /// The arbiter has not heard it for so long that another may have its role.
    pub(super) silent: bool,
    pub(super) start: Option<Shared<Start>>,
    /// The attempt that it moves data for, and those to which it gave its own, by term and number.
    pub(super) moving: Option<Shared<Begin>>,
    pub(super) gave: BTreeSet<(u64, u64)>,
    /// What its output holds.
    pub(super) held: Option<Vec<u8>>,
    /// The deadline of its call has passed.
    pub(super) late: bool,
    pub(super) ended: Option<Ended>,
}

/// What happens next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// The coordinator's end of a connection gets the next message, or its end.
    Up(usize),
    UpEnds(usize),
    /// The peer's end does.
    Down(usize),
    DownEnds(usize),
    /// A worker that dials reaches the other.
    Connect(u32),
    /// It hears of the newest granted record.
    Locate(u32),
    /// Its pause between two attempts to find a coordinator is over.
    Retry(u32),
    /// It has the result; or it learns that the other's lanes broke.
    Moved(u32),
    Broke(u32, u32),
    /// The arbiter is asked, and its answer arrives.
    Ask(u32, Question),
    Answer(u32, Shared<Ruling>),
    /// A coordinator has waited for the members of the last epoch; a suspect lives on.
    Recovers(u32),
    Judges(u32),
    /// Faults: a process ends; a coordinator does not hear a peer for too long; a peer and the arbiter its coordinator; a
    /// coordinator takes one that lives for lost; a connection breaks; a call's deadline passes; a question is asked twice; a
    /// lane between two that live breaks.
    Crash(u32),
    MissesPeer(u32, u32),
    MissesCoordinator(u32, u32),
    RecoversEarly(u32),
    Cut(usize),
    Deadline(u32),
    AskTwice(u32, Question),
    Tear(u32, u32),
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) nodes: Vec<Node>,
    /// By term, coordinator and peer; those of one peer in the order of dialling.
    pub(super) connections: Vec<Connection>,
    pub(super) arbiter: Shared<Single>,
    /// The record of the newest term, as it was granted.
    pub(super) granted: Shared<EpochRecord>,
    pub(super) questions: BTreeSet<(u32, Question)>,
    pub(super) answers: BTreeSet<(u32, Shared<Ruling>)>,
    pub(super) faults: u32,
    /// Committed rounds, by whoever knows of one; and who committed one by votes, by term.
    pub(super) rounds: BTreeSet<Shared<CommitRecord>>,
    pub(super) committers: BTreeSet<(u64, u32)>,
    /// A call returned that its round is committed, and its output does not hold the result.
    pub(super) not_held: bool,
}

impl Node {
    fn new(machines: &Machines, slot: u32) -> Self {
        Self {
            peer: Some(machines.new_peer(slot)),
            coordinator: None,
            session: Session::None,
            known: 0,
            silent: false,
            start: None,
            moving: None,
            gave: BTreeSet::new(),
            held: None,
            late: false,
            ended: None,
        }
    }

    pub(super) fn lives(&self) -> bool {
        self.peer.is_some()
    }
}

impl Step {
    pub(super) fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Crash(_)
                | Self::MissesPeer(..)
                | Self::MissesCoordinator(..)
                | Self::RecoversEarly(_)
                | Self::Cut(_)
                | Self::Deadline(_)
                | Self::AskTwice(..)
                | Self::Tear(..)
        )
    }
}

impl State {
    /// Nothing has happened.
    pub(super) fn new(machines: &Machines) -> Self {
        let arbiter = machines.new_arbiter();
        Self {
            nodes: (0..WORKERS).map(|slot| Node::new(machines, slot)).collect(),
            connections: Vec::new(),
            granted: machines.record(&arbiter),
            arbiter,
            questions: BTreeSet::new(),
            answers: BTreeSet::new(),
            faults: 0,
            rounds: BTreeSet::new(),
            committers: BTreeSet::new(),
            not_held: false,
        }
    }

    pub(super) fn node(&self, slot: u32) -> &Node {
        &self.nodes[slot as usize]
    }

    pub(super) fn living(&self) -> impl Iterator<Item = (u32, &Node)> {
        (0..).zip(&self.nodes).filter(|(_, node)| node.lives())
    }

    /// How the trainers' calls ended, by slot.
    pub(super) fn endings(&self) -> impl Iterator<Item = (u32, &Ended)> {
        (0..).zip(&self.nodes).filter_map(|(slot, node)| Some((slot, node.ended.as_ref()?)))
    }

    /// Everything that may happen next without another fault.
    pub(super) fn steps(&self, steps: &mut Vec<Step>) {
        for (index, connection) in self.connections.iter().enumerate() {
            if connection.service != Service::Closed {
                steps.extend((!connection.up.waiting.is_empty()).then_some(Step::Up(index)));
                steps.extend(connection.up.may_end().then_some(Step::UpEnds(index)));
            }
            if connection.used {
                steps.extend((!connection.down.waiting.is_empty()).then_some(Step::Down(index)));
                steps.extend(connection.down.may_end().then_some(Step::DownEnds(index)));
            }
        }
        steps.extend(self.questions.iter().map(|(slot, question)| Step::Ask(*slot, question.clone())));
        steps.extend(self.answers.iter().map(|(slot, ruling)| Step::Answer(*slot, ruling.clone())));
        for (slot, node) in self.living() {
            match node.session {
                Session::None if node.known > 0 => steps.push(Step::Retry(slot)),
                Session::Dialling(to, _) if self.between(slot, to) < CONNECTIONS => steps.push(Step::Connect(slot)),
                _ => {}
            }
            steps.extend((node.known < self.granted.term).then_some(Step::Locate(slot)));
            self.movements(slot, node, steps);
        }
        self.clocks(steps);
    }

    /// Connections of this peer with this coordinator's worker of which one end at least has not noticed the end.
    fn between(&self, peer: u32, coordinator: u32) -> usize {
        let both = |connection: &&Connection| (connection.peer, connection.coordinator) == (peer, coordinator);
        self.connections.iter().filter(both).count()
    }

    /// How the data movement of a worker may end. Who gave its data and ended may have given it to some and not to others.
    fn movements(&self, slot: u32, node: &Node, steps: &mut Vec<Step>) {
        let Some(begin) = &node.moving else { return };
        let others = || begin.contributions.iter().map(|given| given.slot).filter(|other| *other != slot);
        if others().all(|other| self.node(other).gave.contains(&attempt(begin))) {
            steps.push(Step::Moved(slot));
        }
        steps.extend(others().filter(|other| !self.node(*other).lives()).map(|other| Step::Broke(slot, other)));
    }

    /// Clocks that run out because somebody has ended.
    fn clocks(&self, steps: &mut Vec<Step>) {
        for (slot, _) in self.living().filter(|(_, node)| node.coordinator.is_some()) {
            steps.extend(self.somebody_ended().then_some(Step::Recovers(slot)));
            steps.extend((self.faults > 0).then_some(Step::Judges(slot)));
        }
    }

    fn somebody_ended(&self) -> bool {
        self.nodes.iter().any(|node| !node.lives())
    }

    /// The faults that may happen next.
    pub(super) fn faults(&self, steps: &mut Vec<Step>) {
        for (slot, node) in self.living() {
            steps.push(Step::Crash(slot));
            steps.extend((node.coordinator.is_some() && !self.somebody_ended()).then_some(Step::RecoversEarly(slot)));
            steps.extend((!node.late && node.ended.is_none() && node.start.is_some()).then_some(Step::Deadline(slot)));
            let others = node.moving.iter().flat_map(|begin| &begin.contributions).map(|given| given.slot);
            let torn = others.filter(|other| *other != slot && self.node(*other).lives());
            steps.extend(torn.map(|other| Step::Tear(slot, other)));
        }
        for connection in &self.connections {
            let (peer, coordinator) = (connection.peer, connection.coordinator);
            steps.extend((connection.service == Service::Open).then_some(Step::MissesPeer(coordinator, peer)));
            steps.extend(connection.used.then_some(Step::MissesCoordinator(peer, coordinator)));
        }
        let whole = |(_, connection): &(usize, &Connection)| connection.is_whole();
        steps.extend(self.connections.iter().enumerate().filter(whole).map(|(index, _)| Step::Cut(index)));
        let twice = |(slot, question): &(u32, Question)| {
            matches!(question, Question::Epoch(_)).then(|| Step::AskTwice(*slot, question.clone()))
        };
        steps.extend(self.questions.iter().filter_map(twice));
    }
}
