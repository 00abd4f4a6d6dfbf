//! The shipped state machines, behind a memory of what they do: equal ones do the same about equal events, so each such pair
//! is computed once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use atoll_collective::arbiter::Single;
use atoll_collective::coordinator::{self, Coordinator, Settings};
use atoll_collective::operation;
use atoll_collective::peer::{self, Failure, Outcome, Peer};
use atoll_collective::rules::Rules;
use atoll_collective::v1::{
    AbortReason, Arrive, Begin, CommitRecord, Contribution, CoordinatorMessage, Enter, EpochRecord, Member, PeerMessage, Ruling,
    Start, peer_message,
};
use atoll_collective::{Notice, chain};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, from_value, to_value};

use super::clocks::{self, CoordinatorClock, DEADLINE, LIVENESS, PeerClock};
use super::shared::{Pool, Shared};

/// Workers of the model.
pub(super) const WORKERS: u32 = 3;

/// What happens to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum PeerEvent {
    Arrived,
    Entered(Shared<Start>),
    Located(Shared<EpochRecord>),
    Opened(u64),
    Closed(u64),
    Message(Shared<CoordinatorMessage>),
    /// It holds the result of this attempt, or a lane to this slot broke.
    Moved(Shared<Begin>, Result<(), u32>),
    RanOut(PeerClock),
}

/// What a peer does.
#[derive(Debug, Clone)]
pub(super) enum PeerAction {
    Dial(u32, u64),
    Send(Shared<PeerMessage>),
    Hang,
    RequestTerm(u64),
    Move(Shared<Begin>),
    Halt,
    Begun(Shared<Start>),
    Ended(Ended),
}

/// How a trainer's call ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Ended {
    Committed(Shared<CommitRecord>),
    Aborted,
    /// The others go on without it, and decide whether its contribution counts.
    LeftOut,
    InDoubt,
}

/// What happens to a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum CoordinatorEvent {
    Said(u32, Shared<PeerMessage>),
    Disconnected(u32),
    Ruled(Shared<Ruling>),
    RanOut(CoordinatorClock),
}

/// What a coordinator does.
#[derive(Debug, Clone)]
pub(super) enum CoordinatorAction {
    Send(u32, Shared<CoordinatorMessage>),
    Propose(Shared<EpochRecord>),
    Close(u32),
    Committed(Shared<CommitRecord>),
    StepDown,
}

/// A question to the arbiter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Question {
    /// For the term after the one that was observed; and whether the arbiter has heard the coordinator of late.
    Term {
        observed: u64,
        lives: bool,
    },
    Epoch(Shared<EpochRecord>),
}

/// What was done about events, by machine and event.
type Memory<M, E, A> = Mutex<HashMap<(Shared<M>, E), Arc<(Shared<M>, A)>>>;

/// All that was ever computed.
pub(super) struct Machines {
    rules: Rules,
    peers: Pool<Peer>,
    coordinators: Pool<Coordinator>,
    arbiters: Pool<Single>,
    to_coordinators: Pool<PeerMessage>,
    to_peers: Pool<CoordinatorMessage>,
    records: Pool<EpochRecord>,
    rulings: Pool<Ruling>,
    begins: Pool<Begin>,
    starts: Pool<Start>,
    rounds: Pool<CommitRecord>,
    of_peers: Memory<Peer, PeerEvent, Vec<PeerAction>>,
    of_coordinators: Memory<Coordinator, CoordinatorEvent, Vec<CoordinatorAction>>,
    of_arbiters: Memory<Single, (u32, Question), Shared<Ruling>>,
}

/// The process of a slot.
pub(super) fn member(slot: u32) -> Member {
    Member { slot, worker: format!("w{slot}"), incarnation: 1, address: format!("w{slot}:1"), ..Member::default() }
}

fn settings() -> Settings {
    Settings { liveness: LIVENESS, round_timeout: DEADLINE, ..Settings::of("run", WORKERS as usize) }
}

/// The attempt of a begin: term and number.
pub(super) fn attempt(begin: &Begin) -> (u64, u64) {
    (begin.record.as_ref().map_or(0, |record| record.term), begin.number)
}

/// The result of an attempt: whose contributions are in it.
pub(super) fn result_of(begin: &Begin) -> Vec<u8> {
    begin.contributions.iter().map(|given| given.slot as u8).collect()
}

/// The same without explanations, which are for people: states that differ in nothing else are one.
fn wordless<T: Serialize + DeserializeOwned>(value: &T) -> T {
    fn strip(stored: &mut Value) {
        match stored {
            Value::String(text) if text.contains(' ') => text.clear(),
            Value::Array(items) => items.iter_mut().for_each(strip),
            Value::Object(fields) => fields.values_mut().for_each(strip),
            _ => {}
        }
    }
    let mut stored = to_value(value).unwrap();
    strip(&mut stored);
    from_value(stored).unwrap()
}

fn remembered<M, E, A>(
    memory: &Memory<M, E, A>,
    about: (Shared<M>, E),
    tick: impl FnOnce(&(Shared<M>, E)) -> (Shared<M>, A),
) -> Arc<(Shared<M>, A)>
where
    E: Eq + Hash,
{
    if let Some(done) = memory.lock().unwrap().get(&about) {
        return Arc::clone(done);
    }
    let done = Arc::new(tick(&about));
    memory.lock().unwrap().insert(about, Arc::clone(&done));
    done
}

impl Machines {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            peers: Pool::default(),
            coordinators: Pool::default(),
            arbiters: Pool::default(),
            to_coordinators: Pool::default(),
            to_peers: Pool::default(),
            records: Pool::default(),
            rulings: Pool::default(),
            begins: Pool::default(),
            starts: Pool::default(),
            rounds: Pool::default(),
            of_peers: Mutex::default(),
            of_coordinators: Mutex::default(),
            of_arbiters: Mutex::default(),
        }
    }

    pub(super) fn new_peer(&self, slot: u32) -> Shared<Peer> {
        self.peers.share(Peer::new("run".into(), member(slot), LIVENESS).with_rules(self.rules))
    }

    pub(super) fn new_coordinator(&self, record: &EpochRecord) -> Shared<Coordinator> {
        self.coordinators.share(Coordinator::new(settings(), record.clone(), 0).with_rules(self.rules))
    }

    pub(super) fn new_arbiter(&self) -> Shared<Single> {
        self.arbiters.share(Single::new(LIVENESS).with_rules(self.rules))
    }

    /// The arbiter's newest record.
    pub(super) fn record(&self, arbiter: &Single) -> Shared<EpochRecord> {
        self.records.share(arbiter.record().clone())
    }

    /// What a peer does about an event.
    pub(super) fn peer(&self, peer: &Shared<Peer>, event: PeerEvent) -> Arc<(Shared<Peer>, Vec<PeerAction>)> {
        remembered(&self.of_peers, (peer.clone(), event), |(peer, event)| {
            let (mut peer, event, now) = match event {
                PeerEvent::RanOut(clock) => {
                    let (peer, now) = clocks::when_peer(peer, *clock);
                    (peer, peer::Event::Tick, now)
                }
                event => ((**peer).clone(), peer_event(event), 0),
            };
            let actions = peer.tick(event, now);
            let peer = if now > 0 { clocks::peer_again(&peer) } else { peer };
            (self.peers.share(peer), actions.into_iter().filter_map(|action| self.peer_action(action)).collect())
        })
    }

    fn peer_action(&self, action: peer::Action) -> Option<PeerAction> {
        Some(match action {
            peer::Action::Dial(coordinator, term) => PeerAction::Dial(coordinator.slot, term),
            peer::Action::Send(message) => PeerAction::Send(self.to_coordinators.share(*message)),
            peer::Action::Hang(_) => PeerAction::Hang,
            peer::Action::RequestTerm(observed) => PeerAction::RequestTerm(observed),
            peer::Action::Move(begin) => PeerAction::Move(self.begins.share(*begin)),
            peer::Action::Halt(_) => PeerAction::Halt,
            peer::Action::Begun(Ok(start)) => PeerAction::Begun(self.starts.share(*start)),
            peer::Action::Ended(_, outcome) => PeerAction::Ended(match outcome {
                Outcome::Committed(commit) => Ended::Committed(self.rounds.share(commit.record.unwrap_or_default())),
                Outcome::Aborted(refusal) if refusal.reason == AbortReason::PeerLost => Ended::LeftOut,
                Outcome::Aborted(_) => Ended::Aborted,
                Outcome::InDoubt => Ended::InDoubt,
            }),
            peer::Action::Begun(Err(_))
            | peer::Action::Fetch(_)
            | peer::Action::StopFetching
            | peer::Action::Upload(_)
            | peer::Action::CheckpointEnded(_) => return None,
        })
    }

    /// What a coordinator does about an event.
    pub(super) fn coordinator(
        &self,
        coordinator: &Shared<Coordinator>,
        event: CoordinatorEvent,
    ) -> Arc<(Shared<Coordinator>, Vec<CoordinatorAction>)> {
        remembered(&self.of_coordinators, (coordinator.clone(), event), |(coordinator, event)| {
            let (mut coordinator, event, now) = match event {
                CoordinatorEvent::RanOut(clock) => {
                    let (coordinator, now) = clocks::when_coordinator(coordinator, *clock);
                    (coordinator, coordinator::Event::Tick, now)
                }
                event => ((**coordinator).clone(), coordinator_event(event), 0),
            };
            let actions = coordinator.tick(event, now);
            let coordinator = if now > 0 { clocks::coordinator_again(&coordinator) } else { coordinator };
            let actions = actions.into_iter().filter_map(|action| self.coordinator_action(action));
            (self.coordinators.share(wordless(&coordinator)), actions.collect())
        })
    }

    fn coordinator_action(&self, action: coordinator::Action) -> Option<CoordinatorAction> {
        Some(match action {
            coordinator::Action::Send { slot, message } => CoordinatorAction::Send(slot, self.to_peers.share(wordless(&message))),
            coordinator::Action::Propose(record) => CoordinatorAction::Propose(self.records.share(record)),
            coordinator::Action::Close { slot } => CoordinatorAction::Close(slot),
            coordinator::Action::Report(Notice::Committed(record)) => CoordinatorAction::Committed(self.rounds.share(record)),
            coordinator::Action::StepDown => CoordinatorAction::StepDown,
            coordinator::Action::Report(_) | coordinator::Action::Publish(_) => return None,
        })
    }

    /// What the arbiter answers to the question of a slot.
    pub(super) fn arbiter(
        &self,
        arbiter: &Shared<Single>,
        slot: u32,
        question: Question,
    ) -> Arc<(Shared<Single>, Shared<Ruling>)> {
        remembered(&self.of_arbiters, (arbiter.clone(), (slot, question)), |(arbiter, (slot, question))| {
            let mut arbiter = (**arbiter).clone();
            let ruling = match question {
                Question::Term { observed, lives } => {
                    if let Some(coordinator) = arbiter.record().coordinator.clone().filter(|_| *lives) {
                        arbiter.beat(&coordinator, 0);
                    }
                    arbiter.request_term(&member(*slot), *observed, 0)
                }
                Question::Epoch(record) => arbiter.grant_epoch(record),
            };
            // Whom it has heard is said with each question.
            for slot in 0..WORKERS {
                arbiter.ended(slot, 1);
            }
            (self.arbiters.share(arbiter), self.rulings.share(ruling))
        })
    }
}

fn peer_event(event: &PeerEvent) -> peer::Event {
    match event {
        PeerEvent::Arrived => {
            let state = vec![7; chain::HASH];
            let arrive =
                Arrive { round: 1, state_root: state.clone(), state_shape: state, samples_wanted: 1, ..Arrive::default() };
            peer::Event::Arrived(arrive, None)
        }
        PeerEvent::Entered(start) => {
            let contribution = Contribution { weight: 1, samples: start.samples.clone(), ..Contribution::default() };
            let operation = Some(operation::ends_round(start.round, 0, 1));
            peer::Event::Entered(Enter { operation, contribution: Some(contribution), bandwidth: 0 }, DEADLINE)
        }
        PeerEvent::Located(record) => peer::Event::Located((**record).clone()),
        PeerEvent::Opened(term) => peer::Event::Opened(*term),
        PeerEvent::Closed(term) => peer::Event::Closed(*term),
        PeerEvent::Message(message) => peer::Event::Message(Box::new((**message).clone())),
        PeerEvent::Moved(begin, result) => {
            let failure = |culprit: &u32| Failure { reason: AbortReason::PeerLost, culprit: *culprit, detail: String::new() };
            let result = result.as_ref().map(|()| result_of(begin)).map_err(failure);
            peer::Event::Moved(operation::key(begin.operation.as_ref()), attempt(begin), result)
        }
        PeerEvent::RanOut(_) => peer::Event::Tick,
    }
}

fn coordinator_event(event: &CoordinatorEvent) -> coordinator::Event {
    match event {
        CoordinatorEvent::Said(slot, message) => match message.body.clone().unwrap() {
            peer_message::Body::Hello(hello) => coordinator::Event::Connected(Box::new(hello)),
            body => coordinator::Event::Message { slot: *slot, incarnation: 1, learned: message.learned, body: Box::new(body) },
        },
        CoordinatorEvent::Disconnected(slot) => coordinator::Event::Disconnected { slot: *slot, incarnation: 1 },
        CoordinatorEvent::Ruled(ruling) => coordinator::Event::Ruled((**ruling).clone()),
        CoordinatorEvent::RanOut(_) => coordinator::Event::Tick,
    }
}
