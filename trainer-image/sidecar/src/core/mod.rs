//! The one task that owns the sidecar's two state machines: it feeds them events and carries out their actions.

mod arbitration;
mod calls;
mod keeping;
mod observation;
mod sessions;
mod state;
mod trainer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_collective::Millis;
use atoll_collective::arbiter::{self, Petition};
use atoll_collective::coordinator::{self, Coordinator};
use atoll_collective::lane::{Lanes, Operations};
use atoll_collective::operation::Key;
use atoll_collective::peer::{self, Failure, Peer};
use atoll_collective::rules::Rules;
use atoll_collective::state::manifest::{Manifest, ManifestError};
use atoll_collective::state::offer::Offer;
use atoll_collective::v1::{
    AttachReply, AttachRequest, BeatReply, BeatRequest, BeginRoundReply, BeginRoundRequest, CoordinatorMessage, EpochRecord,
    EpochRequest, FinishReply, ForceReply, ForceRequest, Hello, Hub, Member, OperateReply, OperateRequest, PeerMessage, Ruling,
    Standing, TermRequest, Uploaded,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Config;
use crate::arbiter::Arbiters;
use crate::checkpoint::Keeper;
use crate::control::ToPeer;
use crate::metrics::Metrics;
use crate::recording::Recorder;
use crate::regions::Regions;
use crate::report::{Reporter, Stage};
use crate::trainer::{Answer, Pulse};
use crate::turn::Ended;
use crate::votes::Vote;
pub(crate) use calls::Given;
use calls::{Attempt, Call};
use keeping::OwnShare;
use observation::Observation;
use sessions::{Local, Served, Session};
pub(crate) use trainer::MOST_RANKS;
use trainer::Trainer;

/// How often time passes for the state machines.
const TICK: Duration = Duration::from_millis(25);

/// Everything that can happen to a sidecar.
// Moved once, from a task to the core.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Input {
    Attach {
        request: AttachRequest,
        protocol: u32,
        answer: Answer<AttachReply>,
    },
    Pulse(Pulse),
    /// The last heartbeat of a stream that ended.
    PulseEnded(Pulse),
    BeginRound {
        request: Box<BeginRoundRequest>,
        answer: Answer<BeginRoundReply>,
    },
    Operate {
        request: Box<OperateRequest>,
        answer: Answer<OperateReply>,
    },
    Finish {
        incarnation: u64,
        rank: u32,
        answer: Answer<FinishReply>,
    },
    SessionOpened {
        session: u64,
        term: u64,
        hello: Box<Hello>,
        sender: ToPeer,
    },
    SessionMessage {
        session: u64,
        slot: u32,
        incarnation: u64,
        message: Box<PeerMessage>,
    },
    SessionClosed {
        session: u64,
        slot: u32,
        incarnation: u64,
    },
    Opened {
        dial: u64,
        term: u64,
        sender: mpsc::Sender<PeerMessage>,
    },
    Message {
        dial: u64,
        message: Box<CoordinatorMessage>,
    },
    Closed {
        dial: u64,
        term: u64,
        /// Why the coordinator will not have this sidecar, if it said so.
        refused: Option<String>,
    },
    /// A granted record that an arbiter told.
    Learned(EpochRecord),
    /// The hub answered as `Single`.
    Ruled(Ruling),
    /// A voter answered.
    Answered {
        question: u64,
        voter: Member,
        ruling: Ruling,
    },
    /// What the hub alone knows.
    Hub(Hub),
    /// Questions to this sidecar as a voter.
    Beat {
        request: BeatRequest,
        vote: Vote<BeatReply>,
    },
    Promise {
        request: TermRequest,
        vote: Vote<Ruling>,
    },
    Accept {
        request: EpochRequest,
        vote: Vote<Ruling>,
    },
    /// A human asks, or says that voters are lost for ever.
    Stand {
        answer: Answer<Standing>,
    },
    Force {
        request: ForceRequest,
        answer: Answer<ForceReply>,
    },
    Moved(Key, (u64, u64), Result<Vec<u8>, Failure>),
    Hashed(u64, Result<Vec<Manifest>, ManifestError>),
    Fetched(u64, Result<Manifest, String>),
    /// This worker's share of a checkpoint.
    Uploaded(Uploaded),
    /// The checkpoint of so many rounds, which this sidecar was to publish.
    Published(u64, Result<(), String>),
    /// A checkpoint of this or a later round is wanted.
    Keep(u64),
}

/// What the core shares with the lanes' service and the region socket.
pub(crate) struct Shared {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) operations: Operations,
    pub(crate) offer: watch::Sender<Option<Offer>>,
    pub(crate) regions: Regions,
    pub(crate) report: Reporter,
    /// None where nothing is kept.
    pub(crate) keeper: Option<Keeper>,
    /// All of them, but in a simulation.
    pub(crate) rules: Rules,
    /// How long a checkpoint that is being written is waited for once the sidecar is told to stop.
    pub(crate) grace: Duration,
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
    arbiters: Arbiters,
    petition: Petition,
    /// What the hub said last, and when.
    hub: Option<(Hub, Instant)>,
    shared: Shared,
    trainer: Option<Trainer>,
    /// Operations that the trainer waits for, by its own name of them, and attempts under way.
    calls: BTreeMap<Key, Call>,
    attempts: BTreeMap<Key, Attempt>,
    /// Turns of attempts that were ended, of which some may still write a piece.
    ending: Vec<Ended>,
    /// The session with the coordinator, and counts attempts to open one: what an earlier one still says is dropped.
    dials: u64,
    session: Session,
    /// The last refusal of a coordinator.
    refused: Option<String>,
    /// Sessions that this sidecar serves as coordinator.
    served: BTreeMap<u32, Served>,
    /// What the two state machines of this sidecar say to each other.
    local: std::collections::VecDeque<Local>,
    last_beat: Option<Instant>,
    /// Counts fetches, and states that were hashed: what an earlier one still says is dropped.
    fetches: u64,
    hashes: u64,
    /// The trainer's state is being hashed: the peer does not know yet that it begins a round.
    hashing: bool,
    fetching: Option<JoinHandle<()>>,
    /// Where its trainer stood when it asked for a round last, also of one that is gone.
    stage: Option<Stage>,
    /// What this worker writes of a checkpoint.
    share: OwnShare,
    /// Held by who copies rank 0's state to the other ranks: those are hashed when it is done.
    copying: Arc<Mutex<()>>,
    /// The newest granted record that it was told, for those who wait for its members.
    record: watch::Sender<EpochRecord>,
    observation: Observation,
}

impl Core {
    pub(crate) fn new(config: Config, me: Member, lanes: Lanes, inbox: mpsc::Sender<Input>, shared: Shared) -> Self {
        let (run, liveness) = (config.settings.run.clone(), config.settings.liveness);
        let arbiters = Arbiters::new(config.arbiter.clone(), lanes.clone(), run.clone(), me.clone(), inbox.clone());
        let petition = Petition::new(run.clone(), me.clone(), liveness, 2 * liveness).with_rules(shared.rules);
        let peer = Peer::new(run, me.clone(), liveness).with_rules(shared.rules).resuming(config.settings.resumed.clone());
        let recorder = recorder(&config, &peer, &shared.report);
        let (metrics, report) = (Arc::clone(&shared.metrics), shared.report.clone());
        let observation = Observation::new(metrics, report, lanes.clone(), me.clone(), recorder);
        Self {
            config,
            me,
            started: Instant::now(),
            last_tick: Instant::now(),
            peer,
            coordinator: None,
            inbox,
            lanes,
            arbiters,
            petition,
            hub: None,
            shared,
            trainer: None,
            calls: BTreeMap::new(),
            attempts: BTreeMap::new(),
            ending: Vec::new(),
            dials: 0,
            session: Session::None,
            refused: None,
            served: BTreeMap::new(),
            local: std::collections::VecDeque::new(),
            last_beat: None,
            fetches: 0,
            hashes: 0,
            hashing: false,
            fetching: None,
            stage: None,
            share: OwnShare::default(),
            copying: Arc::default(),
            record: watch::channel(EpochRecord::default()).0,
            observation,
        }
    }

    /// Runs until the process is told to stop.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // In this order: time passes however much there is to hear.
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = ticks.tick() => self.tick(),
                Some(input) = inputs.recv() => self.take(input),
            }
            self.talk_to_itself();
        }
        self.finish_checkpoint(&mut inputs, &mut ticks).await;
        self.petition.leave(self.now());
        self.peer_event(peer::Event::Stopping);
        self.talk_to_itself();
        self.hand_over(&mut inputs, &mut ticks).await;
        // Lets the farewell leave; the coordinator does not depend on it.
        tokio::task::yield_now().await;
    }

    /// Coordinates until somebody else does: the others hear that this sidecar leaves, and one of them asks for the next term.
    async fn hand_over(&mut self, inputs: &mut mpsc::Receiver<Input>, ticks: &mut tokio::time::Interval) {
        self.last_beat = None;
        while self.petition.is_needed(self.coordinates_others(), self.now()) {
            tokio::select! {
                biased;
                _ = ticks.tick() => self.tick(),
                Some(input) = inputs.recv() => self.take(input),
            }
            self.talk_to_itself();
        }
    }

    fn liveness(&self) -> Duration {
        Duration::from_millis(self.config.settings.liveness)
    }

    fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Attach { request, protocol, answer } => self.attach(&request, protocol, answer),
            Input::Pulse(pulse) => {
                if let Some(trainer) = &mut self.trainer {
                    trainer.hear(pulse);
                }
            }
            Input::PulseEnded(last) => {
                if self.trainer.as_ref().is_some_and(|trainer| trainer.ends_with(last)) {
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
            Input::Learned(_)
            | Input::Ruled(_)
            | Input::Answered { .. }
            | Input::Hub(_)
            | Input::Beat { .. }
            | Input::Promise { .. }
            | Input::Accept { .. }
            | Input::Stand { .. }
            | Input::Force { .. } => self.take_from_arbiter(input),
            Input::Moved(key, attempt, result) => self.peer_event(peer::Event::Moved(key, attempt, result)),
            Input::Hashed(number, manifests) => self.hashed(number, manifests),
            Input::Fetched(number, result) => self.fetched(number, result),
            Input::Uploaded(uploaded) => self.uploaded(uploaded),
            Input::Published(rounds, result) => self.coordinator_event(coordinator::Event::Published(rounds, result)),
            Input::Keep(round) => self.coordinator_event(coordinator::Event::Keep(round)),
        }
    }

    fn tick(&mut self) {
        let liveness = self.liveness();
        let slept = self.last_tick.elapsed() > liveness / 2;
        self.last_tick = Instant::now();
        self.beat();
        if let Some(trainer) = &mut self.trainer {
            // A sidecar that was stopped itself has heard nobody.
            if slept {
                trainer.forgive();
            }
            if trainer.is_silent(liveness) {
                self.lose_trainer();
            }
        }
        self.overdue_ranks();
        self.petition_event(arbiter::Event::Tick);
        self.peer_event(peer::Event::Tick);
        self.coordinator_event(coordinator::Event::Tick);
    }

    fn coordinator_event(&mut self, event: coordinator::Event) {
        let now = self.now();
        let Some(coordinator) = &mut self.coordinator else { return };
        let told = self.observation.told(&event);
        let entered = observation::entered(&event);
        let actions = coordinator.tick(event, now);
        if let Some((slot, key)) = entered {
            self.observation.coordinator_has_heard(coordinator, slot, key);
        }
        self.observation.coordinator_does(told.as_ref(), now, &actions);
        self.observation.turn_page(&self.peer, self.coordinator.as_ref());
        let mut proposals = Vec::new();
        for action in actions {
            match action {
                coordinator::Action::Send { slot, message } => self.send_to_peer(slot, *message),
                coordinator::Action::Propose(record) => proposals.push(record),
                coordinator::Action::Close { slot } => self.close_served(slot),
                coordinator::Action::Report(notice) => self.report(&notice),
                coordinator::Action::Publish(complete) => self.publish(*complete),
                coordinator::Action::StepDown => {
                    self.step_down();
                    return;
                }
            }
        }
        for record in proposals {
            self.petition_event(arbiter::Event::Propose(record));
        }
    }

    fn peer_event(&mut self, event: peer::Event) {
        let now = self.now();
        let told = self.observation.told(&event);
        self.observation.peer_hears(&event);
        let actions = self.peer.tick(event, now);
        self.observation.peer_does(told.as_ref(), now, &self.peer, &actions);
        self.observation.turn_page(&self.peer, self.coordinator.as_ref());
        let mut wished = None;
        for action in actions {
            match action {
                peer::Action::Dial(coordinator, term) => self.dial(coordinator, term),
                peer::Action::Send(message) => self.send_to_coordinator(*message),
                peer::Action::Hang(_) => self.hang_up(),
                peer::Action::RequestTerm(observed) => wished = Some(observed),
                peer::Action::Move(begin) => self.start_moving(&begin),
                peer::Action::Halt(key) => self.halt(&key),
                peer::Action::StopFetching => self.stop_fetching(),
                peer::Action::Fetch(start) => self.fetch(*start),
                peer::Action::Begun(result) => self.begun(&result),
                peer::Action::Ended(key, outcome) => self.ended(&key, outcome),
                peer::Action::Upload(upload) => self.divide(upload),
                peer::Action::CheckpointEnded(rounds) => self.checkpoint_ended(rounds),
            }
        }
        // Last: its answer may change what is done here.
        if let Some(observed) = wished {
            self.petition_event(arbiter::Event::RequestTerm(observed));
        }
    }
}

/// The recording that was asked for; without one the run goes on.
fn recorder(config: &Config, peer: &Peer, report: &Reporter) -> Option<Recorder> {
    let path = config.record.as_ref()?;
    let created = Recorder::create(path, &config.settings.run, &config.worker, config.incarnation, peer);
    created.inspect_err(|error| report.recording_ended(error)).ok()
}
