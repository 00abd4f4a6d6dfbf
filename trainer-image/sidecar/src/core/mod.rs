//! The one task that owns the sidecar's two state machines: it feeds them events and carries out their actions.

mod calls;
mod sessions;
mod trainer;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_collective::coordinator::{self, Coordinator};
use atoll_collective::lane::{Lanes, Offer, Operations};
use atoll_collective::operation::Key;
use atoll_collective::peer::{self, Failure, Peer};
use atoll_collective::v1::{
    AttachReply, AttachRequest, BeginRoundReply, BeginRoundRequest, CoordinatorMessage, EpochRecord, FinishReply, Hello, Member,
    OperateReply, OperateRequest, PeerMessage, Ruling, Start,
};
use atoll_collective::{Millis, chain};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::arbiter::Arbiter;
use crate::control::ToPeer;
use crate::regions::Regions;
use crate::trainer::Answer;
use crate::{ARBITER, Config, operation, report};
pub(crate) use calls::Given;
use calls::{Attempt, Call};
use sessions::{Local, Served, Session};
use trainer::Trainer;

/// How often time passes for the state machines.
const TICK: Duration = Duration::from_millis(25);

/// Everything that can happen to a sidecar.
// Moved once, from a task to the core.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Input {
    Attach { request: AttachRequest, protocol: u32, answer: Answer<AttachReply> },
    Pulse { incarnation: u64, rank: u32 },
    PulseEnded { incarnation: u64 },
    BeginRound { request: Box<BeginRoundRequest>, answer: Answer<BeginRoundReply> },
    Operate { request: Box<OperateRequest>, answer: Answer<OperateReply> },
    Finish { incarnation: u64, rank: u32, answer: Answer<FinishReply> },
    SessionOpened { session: u64, term: u64, hello: Box<Hello>, sender: ToPeer },
    SessionMessage { session: u64, slot: u32, incarnation: u64, message: Box<PeerMessage> },
    SessionClosed { session: u64, slot: u32, incarnation: u64 },
    Opened { dial: u64, term: u64, sender: mpsc::Sender<PeerMessage> },
    Message { dial: u64, message: Box<CoordinatorMessage> },
    Closed { dial: u64, term: u64 },
    Located(EpochRecord),
    Ruled(Ruling),
    Moved(Key, (u64, u64), Result<Vec<u8>, Failure>),
    Fetched(u64, Result<(), String>),
}

/// What the core shares with the lanes' service and the region socket.
pub(crate) struct Shared {
    pub(crate) operations: Operations,
    pub(crate) offer: watch::Sender<Option<Offer>>,
    pub(crate) regions: Regions,
}

pub(crate) struct Core {
    config: Config,
    me: Member,
    started: Instant,
    last_tick: Instant,
    peer: Peer,
    coordinator: Option<Coordinator>,
    inbox: mpsc::Sender<Input>,
    lanes: Lanes,
    arbiter: Option<Arbiter>,
    shared: Shared,
    trainer: Option<Trainer>,
    /// Operations that the trainer waits for, by its own name of them, and attempts under way.
    calls: BTreeMap<Key, Call>,
    attempts: BTreeMap<Key, Attempt>,
    /// The session with the coordinator, and counts attempts to open one: what an earlier one still says is dropped.
    dials: u64,
    session: Session,
    /// Sessions that this sidecar serves as coordinator.
    served: BTreeMap<u32, Served>,
    /// What the two state machines of this sidecar say to each other.
    local: std::collections::VecDeque<Local>,
    last_beat: Option<Instant>,
    /// Counts fetches: what an earlier one still says is dropped.
    fetches: u64,
    fetching: Option<JoinHandle<()>>,
    payload_bytes: u64,
    /// Messages to and from the coordinator since the start, heartbeats apart, and what it says to itself.
    control_messages: u64,
}

impl Core {
    pub(crate) fn new(config: Config, me: Member, lanes: Lanes, inbox: mpsc::Sender<Input>, shared: Shared) -> Self {
        let arbiter = match lanes.connection(&config.arbiter, &config.island, ARBITER) {
            Ok(channel) => {
                let run = config.settings.run.clone();
                Some(Arbiter::new(channel, lanes.secret().clone(), run, me.clone(), inbox.clone()))
            }
            Err(error) => {
                tracing::error!(%error, "no arbiter");
                None
            }
        };
        let peer = Peer::new(config.settings.run.clone(), me.clone(), config.settings.liveness);
        Self {
            config,
            me,
            started: Instant::now(),
            last_tick: Instant::now(),
            peer,
            coordinator: None,
            inbox,
            lanes,
            arbiter,
            shared,
            trainer: None,
            calls: BTreeMap::new(),
            attempts: BTreeMap::new(),
            dials: 0,
            session: Session::None,
            served: BTreeMap::new(),
            local: std::collections::VecDeque::new(),
            last_beat: None,
            fetches: 0,
            fetching: None,
            payload_bytes: 0,
            control_messages: 0,
        }
    }

    /// Runs until the process is told to stop.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, mut stop: Signal) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(input) = inputs.recv() => self.take(input),
                _ = ticks.tick() => self.tick(),
                _ = stop.recv() => break,
            }
            self.talk_to_itself();
        }
        self.peer_event(peer::Event::Stopping);
        self.talk_to_itself();
        // Lets the farewell leave; the coordinator does not depend on it.
        tokio::task::yield_now().await;
    }

    fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Attach { request, protocol, answer } => self.attach(&request, protocol, answer),
            Input::Pulse { incarnation, rank } => {
                if let Some(trainer) = self.trainer.as_mut().filter(|trainer| trainer.incarnation == incarnation) {
                    trainer.pulse(rank);
                }
            }
            Input::PulseEnded { incarnation } => {
                if self.trainer.as_ref().is_some_and(|trainer| trainer.incarnation == incarnation) {
                    self.lose_trainer();
                    self.trainer = None;
                }
            }
            Input::BeginRound { request, answer } => self.begin_round(*request, answer),
            Input::Operate { request, answer } => self.operate(*request, answer),
            Input::Finish { incarnation, rank, answer } => self.finish(incarnation, rank, answer),
            Input::SessionOpened { session, term, hello, sender } => self.session_opened(session, term, *hello, sender),
            Input::SessionMessage { session, slot, incarnation, message } => {
                self.session_message(session, slot, incarnation, *message);
            }
            Input::SessionClosed { session, slot, incarnation } => {
                if self.served.get(&slot).is_some_and(|served| served.is(session)) {
                    self.served.remove(&slot);
                    self.coordinator_event(coordinator::Event::Disconnected { slot, incarnation });
                }
            }
            Input::Opened { .. } | Input::Message { .. } | Input::Closed { .. } => self.take_from_coordinator(input),
            Input::Located(record) => self.locate(record),
            Input::Ruled(ruling) => {
                if let Some(record) = ruling.record.clone() {
                    self.locate(record);
                }
                self.coordinator_event(coordinator::Event::Ruled(ruling));
            }
            Input::Moved(key, attempt, result) => self.peer_event(peer::Event::Moved(key, attempt, result)),
            Input::Fetched(fetch, result) => {
                if fetch != self.fetches {
                    return;
                }
                if result.is_ok() {
                    self.offer_state();
                }
                self.peer_event(peer::Event::Fetched(result));
            }
        }
    }

    fn tick(&mut self) {
        let liveness = Duration::from_millis(self.config.settings.liveness);
        let slept = self.last_tick.elapsed() > liveness / 2;
        self.last_tick = Instant::now();
        if self.last_beat.is_none_or(|beat| beat.elapsed() >= liveness / 8) {
            self.last_beat = Some(Instant::now());
            if let Some(arbiter) = &self.arbiter {
                arbiter.beat();
            }
            self.beat_peers();
        }
        if let Some(trainer) = &mut self.trainer {
            // A sidecar that was stopped itself has heard nobody.
            if slept {
                trainer.forgive();
            }
            if trainer.is_silent(liveness) {
                self.lose_trainer();
            }
        }
        self.peer_event(peer::Event::Tick);
        self.coordinator_event(coordinator::Event::Tick);
    }

    /// Learns the arbiter's newest record: takes the coordinator's role when it is this sidecar's, and gives it back.
    fn locate(&mut self, record: EpochRecord) {
        let newer = self.coordinator.as_ref().is_none_or(|coordinator| coordinator.term() < record.term);
        if newer {
            let mine = record.coordinator.as_ref() == Some(&self.me);
            if mine || self.coordinator.is_some() {
                self.step_down();
            }
            if mine {
                self.coordinator = Some(Coordinator::new(self.config.settings.clone(), record.clone(), self.now()));
                report::coordinator(&self.me.worker, record.term);
            }
        }
        self.peer_event(peer::Event::Located(record));
    }

    fn coordinator_event(&mut self, event: coordinator::Event) {
        let now = self.now();
        let Some(coordinator) = &mut self.coordinator else { return };
        for action in coordinator.tick(event, now) {
            match action {
                coordinator::Action::Send { slot, message } => self.send_to_peer(slot, *message),
                coordinator::Action::Propose(record) => {
                    if let Some(arbiter) = &self.arbiter {
                        arbiter.propose(record);
                    }
                }
                coordinator::Action::Close { slot } => self.close_served(slot),
                coordinator::Action::Report(notice) => report::notice(&self.me.worker, &notice),
                coordinator::Action::StepDown => {
                    self.step_down();
                    return;
                }
            }
        }
    }

    fn peer_event(&mut self, event: peer::Event) {
        for action in self.peer.tick(event, self.now()) {
            match action {
                peer::Action::Dial(coordinator, term) => self.dial(coordinator, term),
                peer::Action::Send(message) => self.send_to_coordinator(*message),
                peer::Action::Hang(_) => self.hang_up(),
                peer::Action::RequestTerm(observed) => {
                    if let Some(arbiter) = &self.arbiter {
                        arbiter.request_term(observed);
                    }
                }
                peer::Action::Move(begin) => self.start_moving(&begin),
                peer::Action::Halt(key) => self.halt(&key),
                peer::Action::StopFetching => self.stop_fetching(),
                peer::Action::Fetch(start) => self.fetch(*start),
                peer::Action::Begun(result) => self.begun(&result),
                peer::Action::Ended(key, outcome) => self.ended(&key, outcome),
            }
        }
    }

    /// Ends a fetch, if there is one; from here on the state is not written.
    fn stop_fetching(&mut self) {
        self.fetches += 1;
        if let Some(fetching) = self.fetching.take() {
            fetching.abort();
        }
    }

    fn fetch(&mut self, start: Start) {
        self.stop_fetching();
        // Whoever asked for it meanwhile must not get half of the old and half of the new.
        self.shared.offer.send_replace(None);
        if let Some(state) = self.trainer.as_ref().and_then(Trainer::state) {
            self.fetching =
                Some(operation::fetch(self.fetches, start, state, self.lanes.clone(), self.config.progress, self.inbox.clone()));
        }
    }

    /// Offers the trainer's state to joiners under its hash.
    fn offer(&self, hash: &[u8]) {
        if let (Some(state), Ok(hash)) = (self.trainer.as_ref().and_then(Trainer::state), hash.try_into()) {
            self.shared.offer.send_replace(Some(Offer { hash, bytes: state.shared() }));
        }
    }

    fn offer_state(&self) {
        if let Some(state) = self.trainer.as_ref().and_then(Trainer::state) {
            self.offer(blake3::hash(state.as_ref()).as_bytes());
        }
    }
}

/// Whether these bytes can be a hash.
fn is_hash(bytes: &[u8]) -> bool {
    bytes.len() == chain::HASH
}
