//! A run of several sidecars and trainers on virtual time.

mod ambush;
mod arbitration;
mod contributors;
mod ending;
mod faults;
mod keeping;
mod leaving;
mod network;
mod shown;
mod training;
mod values;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use atoll_collective::arbiter::{self, HUB, Hub, Petition, Single};
use atoll_collective::coordinator::{self, Coordinator};
use atoll_collective::operation::{self, Key};
use atoll_collective::peer::{self, Peer};
use atoll_collective::rules::Rules;
use atoll_collective::v1::{
    ArbiterKind, Begin, Commit, CommitRecord, CoordinatorMessage, Enter, EpochRecord, Member, PeerMessage, Start, Upload,
};
use atoll_collective::{Millis, Notice};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::Schedule;
use ambush::Moment;
use arbitration::{Answer, Body};
use contributors::contributes;
use keeping::Checkpoints;
use network::{Block, End};
use shown::trace;
use values::{Gift, Vector};

/// Rounds of a simulated run, if all workers are in the last of them; and samples per worker and round.
const ROUNDS: u64 = 8;
const SAMPLES: u64 = 5;
/// Faults strike before this time; the run has until the end to finish.
const FAULTS_UNTIL: Millis = 6_000;
const END: Millis = 400_000;
const LIVENESS: Millis = 2_000;
/// Members that a round needs.
const QUORUM: u64 = 2;
/// How long after its deadline a call may return: clocks tick every 60 ms.
const GRACE: Millis = 200;
/// A coordinator's state is stored and read back at each multiple of this time.
const STORED: Millis = 1024;
/// Clocks of a patient run: never, so that nothing but the protocol itself brings it to its end.
const NEVER: Millis = 10 * END;

/// One side of a control session; both sides know it by the same number.
type SessionId = u64;

// A few thousand of either at most, in a test.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Happening {
    Tick(u32),
    ToCoordinator { session: SessionId, message: Option<PeerMessage> },
    ToPeer { session: SessionId, message: Option<CoordinatorMessage> },
    Dialled { slot: u32, incarnation: u64, dial: u64, coordinator: Member, term: u64 },
    Asked { from: Member, to: End, question: Option<u64>, body: Body },
    Answered { to: Member, from: Member, question: Option<u64>, answer: Answer },
    Moved { slot: u32, incarnation: u64, begin: Box<Begin> },
    Fetched { slot: u32, incarnation: u64, fetch: u64, start: Box<Start> },
    Trained { slot: u32, trainer: u64, start: Box<Start> },
    ArriveAgain { slot: u32, trainer: u64 },
    Written { slot: u32, incarnation: u64, upload: Upload },
    Published { slot: u32, incarnation: u64, term: u64, rounds: u64 },
    Crash(Option<u32>),
    Leave(Option<u32>),
    CrashTrainer(u32),
    Restart(u32),
    RestartTrainer(u32),
    Stop(u32),
    Cut(u32, u32),
    Block(Block),
    Slow(u32),
    Tear(u32),
    Lie(u32),
    Slander(u32),
    Corrupt,
    Ambush(Moment),
    CrashHub,
    RestartHub,
    Want(ArbiterKind),
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
    /// What would arrive from here on is lost, each way: it was cut.
    lost_from: [Millis; 2],
}

#[derive(Default)]
struct Trainer {
    incarnation: u64,
    alive: bool,
    rounds: u64,
    /// Root of its state.
    state: Vec<u8>,
    /// A repair of the state began and has not ended.
    mixture: bool,
    /// Operations that it waits for, and when each call must have returned.
    waits: BTreeMap<Key, (Enter, Millis)>,
    /// What its regions hold, by the operation that it uses each for; written anew for the next of that name.
    inputs: BTreeMap<Key, i64>,
    /// What it trains for now; a round that begins, and one that it asks for, end what it was doing.
    trains: Option<Start>,
    /// The round that it is in, and what it has learned from the operations within it.
    start: Option<Start>,
    /// The last round in which it was careless.
    careless_in: u64,
    committed: Option<CommitRecord>,
}

// Each is a fault of its own.
#[allow(clippy::struct_excessive_bools)]
struct Node {
    me: Member,
    alive: bool,
    stopped_until: Millis,
    peer: Peer,
    petition: Petition,
    next_beat: Millis,
    session: Option<SessionId>,
    /// Counts fetches: an earlier one that was stopped brings nothing.
    fetches: u64,
    /// Attempts to open a session; what an earlier one brings is dropped.
    dials: u64,
    coordinator: Option<Coordinator>,
    /// How many times longer everything takes on it.
    slowness: u64,
    /// The results that its outputs hold.
    outputs: BTreeMap<Key, Vector>,
    /// Attempts, by term and number, that it moves data for.
    moving: BTreeMap<Key, (u64, u64)>,
    /// Attempts, by term and number, in which it gave its data to the lanes, and what.
    gave: BTreeMap<(u64, u64), Gift>,
    /// The lanes of its next attempt tear; it claims other samples in its next round.
    torn: bool,
    lies: bool,
    /// A contributor's next word on what decides for others is not so.
    slanders: bool,
    /// The copy of a state that is being kept: rounds in it, and its root.
    kept: Option<(u64, Vec<u8>)>,
    trainer: Trainer,
}

/// A run in progress.
// Each says of the schedule, by itself, whether something happens in it.
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct World {
    rules: Rules,
    traced: bool,
    minimum: usize,
    /// The first thing that went wrong.
    wrong: Option<String>,
    blocks: Vec<Block>,
    /// Faults that wait for their moment; and the coordinator that ends at this instant, in the middle of what it says.
    ambushes: Vec<Moment>,
    dying: Option<(u32, Millis)>,
    hasty: bool,
    late: bool,
    /// The next commit that is sent names another result.
    corrupt: bool,
    /// Who committed in a term, by the coordinator's own word.
    committers: BTreeMap<u64, Member>,
    /// Contributions whose trainers were told that they were aborted.
    given_up: BTreeSet<u64>,
    now: Millis,
    /// The longest time for an operation and for a round; [`NEVER`] in every other schedule.
    patience: Millis,
    random: ChaCha8Rng,
    sequence: u64,
    queue: BinaryHeap<Reverse<(Millis, u64)>>,
    happenings: BTreeMap<u64, Box<Happening>>,
    nodes: Vec<Node>,
    sessions: BTreeMap<SessionId, Session>,
    /// The session that a coordinator serves a peer on: the one that introduced itself last.
    served: BTreeMap<(u32, u32), SessionId>,
    /// The hub's process, and whether it lives.
    hub: (Member, bool),
    arbiter: Hub,
    wanted: ArbiterKind,
    /// Every granted record, by its place, and when the newest was granted.
    granted: BTreeMap<u64, EpochRecord>,
    granted_at: Millis,
    /// When somebody said last that there is no majority.
    without_majority: Option<Millis>,
    ruinous: bool,
    history: BTreeMap<u64, CommitRecord>,
    /// The last round, once there is one with all workers; and who was struck since then, and may not learn of it any more.
    last: Option<u64>,
    struck: BTreeSet<u32>,
    operate: bool,
    schedule: Schedule,
    /// Roots of states whose repair began.
    mixtures: BTreeSet<Vec<u8>>,
    /// Roots of states that trusted trainers have held.
    trusted_states: BTreeSet<Vec<u8>>,
    /// Trainers take part in operations of groups, too.
    groups: bool,
    /// What was given to operations, by operation and slot; and how those ended that were committed.
    given: BTreeMap<(Key, u32), u64>,
    operations: BTreeMap<Key, Commit>,
    /// Operations that a coordinator has committed by votes.
    voted: BTreeSet<Key>,
    /// Calls that were in doubt.
    doubts: usize,
    checkpoints: Checkpoints,
    notices: Vec<Notice>,
}

fn member(slot: u32, incarnation: u64) -> Member {
    Member { slot, worker: format!("w{slot}"), incarnation, address: format!("w{slot}:{incarnation}"), ..Member::default() }
}

fn petition(me: &Member, rules: Rules) -> Petition {
    Petition::new("run".into(), me.clone(), LIVENESS, 2 * LIVENESS).with_rules(rules)
}

impl Node {
    /// A worker of which nothing has started yet.
    fn new(slot: u32, schedule: &Schedule, rules: Rules) -> Self {
        let me = Member { contributor: contributes(schedule, slot), ..member(slot, 0) };
        Self {
            peer: Peer::new("run".into(), me.clone(), LIVENESS),
            petition: petition(&me, rules),
            me,
            alive: false,
            stopped_until: 0,
            next_beat: 0,
            session: None,
            dials: 0,
            fetches: 0,
            slowness: 1,
            outputs: BTreeMap::new(),
            coordinator: None,
            moving: BTreeMap::new(),
            gave: BTreeMap::new(),
            torn: false,
            lies: false,
            slanders: false,
            kept: None,
            trainer: Trainer::default(),
        }
    }
}

impl World {
    /// Runs `schedule` to its end, or to the first thing that goes wrong.
    pub(crate) fn run(seed: u64, schedule: &Schedule, rules: Rules) -> Self {
        let mut world = Self::new(seed, schedule, rules);
        world.plan_faults(schedule);
        for slot in 0..schedule.workers {
            let when = if slot < schedule.workers - schedule.joiners { 0 } else { world.below(FAULTS_UNTIL) };
            world.at(when, Happening::Restart(slot));
            world.at(when, Happening::RestartTrainer(slot));
        }
        while let Some(Reverse((time, sequence))) = world.queue.pop() {
            let done = world.nodes.iter().all(|node| world.has_ended(node));
            if time > END || done || world.wrong.is_some() || world.holds_without_majority() {
                break;
            }
            world.now = time;
            let happening = world.happenings.remove(&sequence).unwrap();
            world.happen(sequence, *happening);
        }
        world.check_samples();
        world.check_ends();
        world
    }

    fn new(seed: u64, schedule: &Schedule, rules: Rules) -> Self {
        let nodes = (0..schedule.workers).map(|slot| Node::new(slot, schedule, rules));
        Self {
            rules,
            traced: schedule.traced,
            minimum: (0..schedule.workers - schedule.joiners).filter(|slot| !contributes(schedule, *slot)).count(),
            wrong: None,
            blocks: Vec::new(),
            ambushes: Vec::new(),
            dying: None,
            hasty: schedule.faults.hasty,
            late: schedule.faults.late,
            corrupt: false,
            committers: BTreeMap::new(),
            given_up: BTreeSet::new(),
            now: 0,
            patience: if schedule.patient { NEVER } else { 15_000 },
            random: ChaCha8Rng::seed_from_u64(seed),
            sequence: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            nodes: nodes.collect(),
            sessions: BTreeMap::new(),
            served: BTreeMap::new(),
            hub: (member(HUB, 1), true),
            arbiter: Hub::new(member(HUB, 1), Single::new(LIVENESS), LIVENESS).with_rules(rules),
            wanted: ArbiterKind::Single,
            granted: BTreeMap::new(),
            granted_at: 0,
            without_majority: None,
            ruinous: schedule.faults.ruinous,
            history: BTreeMap::new(),
            last: None,
            struck: BTreeSet::new(),
            operate: schedule.operations,
            schedule: *schedule,
            mixtures: BTreeSet::new(),
            trusted_states: BTreeSet::new(),
            groups: schedule.faults.ambushes == 0,
            given: BTreeMap::new(),
            operations: BTreeMap::new(),
            voted: BTreeSet::new(),
            doubts: 0,
            checkpoints: Checkpoints::default(),
            notices: Vec::new(),
        }
    }

    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.wrong.is_none() {
            self.wrong = Some(format!("at {} ms: {}", self.now, what()));
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    fn at(&mut self, when: Millis, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((when, self.sequence)));
        self.happenings.insert(self.sequence, Box::new(happening));
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

    /// A stopped process handles nothing until it goes on; then everything in the order in which it came.
    fn postponed(&mut self, slot: u32, sequence: u64, happening: Happening) -> Option<Happening> {
        let until = self.nodes[slot as usize].stopped_until;
        if until > self.now {
            self.queue.push(Reverse((until, sequence)));
            self.happenings.insert(sequence, Box::new(happening));
            return None;
        }
        Some(happening)
    }

    fn happen(&mut self, sequence: u64, happening: Happening) {
        let slot = self.whose(&happening);
        let happening = match slot {
            Some(slot) => match self.postponed(slot, sequence, happening) {
                Some(happening) => happening,
                None => return,
            },
            None => happening,
        };
        match happening {
            Happening::Tick(slot) => self.tick(slot),
            Happening::ToCoordinator { session, message } => self.reach_coordinator(session, message),
            Happening::ToPeer { session, message } => self.reach_peer(session, message),
            Happening::Dialled { slot, incarnation, dial, coordinator, term } => {
                self.dialled(&self.process(slot, incarnation), dial, &coordinator, term);
            }
            Happening::Asked { from, to, question, body } => self.asked(&from, to, question, &body),
            Happening::Answered { to, from, question, answer } => self.answered(&to, from, question, answer),
            Happening::Moved { slot, incarnation, begin } => self.moved(slot, incarnation, begin),
            Happening::Fetched { slot, incarnation, fetch, start } => {
                if self.node(slot).fetches == fetch {
                    self.fetched(slot, incarnation, &start);
                }
            }
            Happening::Trained { slot, trainer, start } => self.trained(slot, trainer, &start),
            Happening::ArriveAgain { slot, trainer } => self.arrive(slot, trainer),
            Happening::Written { slot, incarnation, upload } => self.written(slot, incarnation, &upload),
            Happening::Published { slot, incarnation, term, rounds } => self.published(slot, incarnation, term, rounds),
            Happening::Crash(slot) => {
                let coordinator = self.record().coordinator.as_ref().map(|member| member.slot);
                if let Some(slot) = slot.or(coordinator) {
                    self.crash(slot);
                }
            }
            Happening::Leave(slot) => self.leave(slot),
            Happening::CrashTrainer(slot) => self.crash_trainer(slot),
            Happening::Restart(slot) => self.restart(slot),
            Happening::RestartTrainer(slot) => self.restart_trainer(slot),
            Happening::Stop(slot) => {
                let until = self.now + self.below(2 * LIVENESS);
                self.stop(slot, until);
            }
            Happening::Cut(one, other) => self.cut(one, other),
            Happening::Block(block) => self.blocks.push(block),
            Happening::Slow(slot) => self.node(slot).slowness = 10,
            Happening::Tear(slot) => self.node(slot).torn = true,
            Happening::Lie(slot) => self.node(slot).lies = true,
            Happening::Slander(slot) => self.node(slot).slanders = true,
            Happening::Corrupt => self.corrupt = true,
            Happening::Ambush(moment) => self.ambushes.push(moment),
            Happening::CrashHub => self.crash_hub(),
            Happening::RestartHub => self.restart_hub(),
            Happening::Want(kind) => {
                self.wanted = kind;
                self.arbiter.want(kind);
            }
        }
    }

    fn whose(&self, happening: &Happening) -> Option<u32> {
        match happening {
            Happening::Tick(slot)
            | Happening::Dialled { slot, .. }
            | Happening::Moved { slot, .. }
            | Happening::Fetched { slot, .. }
            | Happening::Trained { slot, .. }
            | Happening::ArriveAgain { slot, .. }
            | Happening::Written { slot, .. }
            | Happening::Published { slot, .. }
            | Happening::Asked { to: End::Worker(slot), .. }
            | Happening::Answered { to: Member { slot, .. }, .. } => Some(*slot),
            Happening::ToCoordinator { session, .. } => Some(self.sessions[session].coordinator.slot),
            Happening::ToPeer { session, .. } => Some(self.sessions[session].peer.slot),
            _ => None,
        }
    }

    fn tick(&mut self, slot: u32) {
        self.end_what_left(slot);
        if !self.node(slot).alive {
            return;
        }
        self.beat(slot);
        self.petition_event(slot, arbiter::Event::Tick);
        self.peer_event(slot, peer::Event::Tick);
        self.check_deadline(slot);
        self.coordinator_event(slot, coordinator::Event::Tick);
        self.soon(60, Happening::Tick(slot));
        let serving = self.node(slot).coordinator.as_ref();
        let Some((term, heartbeat)) = serving.map(|coordinator| (coordinator.term(), coordinator.heartbeat())) else { return };
        for peer in 0..self.nodes.len() as u32 {
            if let Some(session) = self.session_of(slot, peer, term) {
                self.deliver(session, Letter::Down(Some(heartbeat.clone())));
            }
        }
    }

    fn coordinator_event(&mut self, slot: u32, event: coordinator::Event) {
        let (now, traced) = (self.now, self.traced);
        let Some(coordinator) = &mut self.node(slot).coordinator else { return };
        let term = coordinator.term();
        let shown = traced.then(|| format!("{event:?}"));
        let actions = coordinator.tick(event, now);
        if now.is_multiple_of(STORED) {
            let copy: Coordinator = serde_json::from_str(&serde_json::to_string(&coordinator).unwrap()).unwrap();
            let same = copy == *coordinator;
            self.require(same, || "a coordinator's state does not survive being stored".to_owned());
        }
        trace(now, ("coordinator", slot), shown, &actions);
        let mut proposals = Vec::new();
        for action in actions {
            match action {
                coordinator::Action::Send { slot: to, mut message } => {
                    self.check_votes(term, &message);
                    let session = self.session_of(slot, to, term);
                    if let Some(session) = session.filter(|session| self.passes_ambush(slot, to, *session, &mut message)) {
                        self.deliver(session, Letter::Down(Some(*message)));
                    }
                }
                coordinator::Action::Propose(record) => proposals.push(record),
                coordinator::Action::Close { slot: to } => {
                    if let Some(session) = self.session_of(slot, to, term) {
                        self.close(session);
                    }
                }
                coordinator::Action::Report(notice) => {
                    self.follow_checkpoint(slot, term, &notice);
                    self.note(slot, notice);
                }
                coordinator::Action::Publish(complete) => self.publish(slot, term, &complete),
                coordinator::Action::StepDown => self.node(slot).coordinator = None,
            }
        }
        for record in proposals {
            self.petition_event(slot, arbiter::Event::Propose(record));
        }
    }

    /// Takes a coordinator's word for what it did: two never commit in one term.
    fn note(&mut self, slot: u32, notice: Notice) {
        if let Notice::Committed(record) = &notice {
            let me = self.node(slot).me.clone();
            let committer = self.committers.entry(record.term).or_insert_with(|| me.clone()).clone();
            let term = record.term;
            self.require(committer == me, || format!("{committer:?} and {me:?} both committed in term {term}"));
        }
        self.check_eviction(&notice);
        self.notices.push(notice);
    }

    /// A call returns at its deadline, unless its process stands still.
    fn check_deadline(&mut self, slot: u32) {
        let node = &self.nodes[slot as usize];
        let late = node.trainer.waits.values().any(|(_, by)| self.now > (*by).max(node.stopped_until) + GRACE);
        self.require(!late, || format!("a call of w{slot} has not returned at its deadline"));
    }

    fn peer_event(&mut self, slot: u32, event: peer::Event) {
        let now = self.now;
        let shown = self.traced.then(|| format!("{event:?}"));
        let actions = self.node(slot).peer.tick(event, now);
        trace(now, ("peer", slot), shown, &actions);
        let me = self.node(slot).me.clone();
        let mut wished = None;
        for action in actions {
            match action {
                peer::Action::Dial(coordinator, term) => {
                    self.node(slot).dials += 1;
                    let dial = self.node(slot).dials;
                    self.soon(20, Happening::Dialled { slot, incarnation: me.incarnation, dial, coordinator, term });
                }
                peer::Action::Send(mut message) => {
                    self.take_note(slot, &message);
                    self.lie(slot, &mut message);
                    let besides = self.slander(slot, &mut message);
                    if let Some(session) = self.node(slot).session {
                        for message in besides.into_iter().chain([*message]) {
                            self.deliver(session, Letter::Up(Some(message)));
                        }
                    }
                }
                peer::Action::Hang(_) => {
                    self.node(slot).dials += 1;
                    if let Some(session) = self.node(slot).session.take() {
                        self.close(session);
                    }
                }
                peer::Action::RequestTerm(observed) => wished = Some(observed),
                peer::Action::Move(begin) => {
                    let (key, attempt) = attempt(&begin);
                    self.node(slot).outputs.remove(&key);
                    self.node(slot).moving.insert(key.clone(), attempt);
                    self.begin_to_give(slot, &key, attempt);
                    let slowness = self.node(slot).slowness;
                    self.soon(50 * slowness, Happening::Moved { slot, incarnation: me.incarnation, begin });
                }
                peer::Action::Halt(key) => {
                    let halted = self.node(slot).moving.remove(&key);
                    if let Some(attempt) = halted {
                        self.end_giving(slot, attempt);
                    }
                    self.node(slot).outputs.remove(&key);
                }
                peer::Action::StopFetching => self.node(slot).fetches += 1,
                peer::Action::Fetch(start) => self.fetch(slot, start),
                peer::Action::Begun(result) => self.begun(slot, result),
                peer::Action::Ended(key, outcome) => self.ended(slot, &key, outcome),
                peer::Action::Upload(upload) => self.write(slot, upload),
                peer::Action::CheckpointEnded(rounds) => self.forget_copy(slot, rounds),
            }
        }
        if let Some(observed) = wished {
            self.petition_event(slot, arbiter::Event::RequestTerm(observed));
        }
    }
}

/// The operation that a begin is of, and which attempt at it: term and number.
fn attempt(begin: &Begin) -> (Key, (u64, u64)) {
    (operation::key(begin.operation.as_ref()), (begin.record.as_ref().map_or(0, |record| record.term), begin.number))
}
