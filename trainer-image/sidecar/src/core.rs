//! The one task that owns the sidecar's two state machines: it feeds them events and carries out their actions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_collective::coordinator::{self, Coordinator};
use atoll_collective::exchange::{Exchange, Plan};
use atoll_collective::lane::{Lanes, Offer};
use atoll_collective::peer::{self, Failure, Outcome, Peer, Refusal};
use atoll_collective::v1::{
    AbortReason, Aborted, AllReduceReply, AllReduceRequest, Arrive, AttachReply, Begin, BeginRoundReply, BeginRoundRequest,
    Committed, Contribution, CoordinatorMessage, Enter, EpochRecord, FinishReply, Heartbeat, Hello, InDoubt, Member, PeerMessage,
    Ruling, Start, all_reduce_reply, coordinator_message, peer_message,
};
use atoll_collective::{Millis, chain};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::arbiter::Arbiter;
use crate::control::{self, ToPeer};
use crate::regions::{Part, Regions};
use crate::trainer::Answer;
use crate::{Config, operation, report};

/// How often time passes for the state machines.
const TICK: Duration = Duration::from_millis(25);

/// Everything that can happen to a sidecar.
pub(crate) enum Input {
    Attach { incarnation: u64, protocol: u32, answer: Answer<AttachReply> },
    Pulse(u64),
    PulseEnded(u64),
    BeginRound { request: Box<BeginRoundRequest>, answer: Answer<BeginRoundReply> },
    AllReduce { request: Box<AllReduceRequest>, answer: Answer<AllReduceReply> },
    Finish { incarnation: u64, answer: Answer<FinishReply> },
    SessionOpened { session: u64, term: u64, hello: Box<Hello>, sender: ToPeer },
    SessionMessage { session: u64, slot: u32, incarnation: u64, term: u64, body: Box<peer_message::Body> },
    SessionClosed { session: u64, slot: u32, incarnation: u64 },
    Opened { dial: u64, term: u64, sender: mpsc::Sender<PeerMessage> },
    Message { dial: u64, message: Box<CoordinatorMessage> },
    Closed { dial: u64, term: u64 },
    Located(EpochRecord),
    Ruled(Ruling),
    Moved(u64, Result<Vec<u8>, Failure>),
    Fetched(u64, Result<(), String>),
}

/// What the core shares with the lanes' service and the region socket.
pub(crate) struct Shared {
    pub(crate) operation: watch::Sender<Option<Arc<Exchange>>>,
    pub(crate) offer: watch::Sender<Option<Offer>>,
    pub(crate) regions: Regions,
}

/// The trainer beside this sidecar.
struct Trainer {
    incarnation: u64,
    pulse: Instant,
    lost: bool,
    state: Option<Part>,
    parts: Option<(Part, Part)>,
    round: Option<Answer<BeginRoundReply>>,
    mean: Option<Answer<AllReduceReply>>,
}

/// A session that this sidecar serves as coordinator.
struct Served {
    session: u64,
    sender: ToPeer,
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
    /// The session with the coordinator: which attempt it was, and where to send.
    dials: u64,
    session: Option<(u64, JoinHandle<()>, Option<mpsc::Sender<PeerMessage>>)>,
    served: BTreeMap<u32, Served>,
    last_beat: Option<Instant>,
    moving: Option<JoinHandle<()>>,
    /// Counts fetches: what an earlier one still says is dropped.
    fetches: u64,
    fetching: Option<JoinHandle<()>>,
    payload_bytes: u64,
    /// Messages to and from the coordinator since the start, heartbeats apart.
    control_messages: u64,
}

impl Core {
    pub(crate) fn new(config: Config, me: Member, lanes: Lanes, inbox: mpsc::Sender<Input>, shared: Shared) -> Self {
        let arbiter = match lanes.connection(&config.arbiter) {
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
            dials: 0,
            session: None,
            served: BTreeMap::new(),
            last_beat: None,
            moving: None,
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
        }
        self.peer_event(peer::Event::Stopping);
        // Lets the farewell leave; the coordinator does not depend on it.
        tokio::task::yield_now().await;
    }

    fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Attach { incarnation, protocol, answer } => self.attach(incarnation, protocol, answer),
            Input::Pulse(incarnation) => {
                if let Some(trainer) = self.trainer.as_mut().filter(|trainer| trainer.incarnation == incarnation) {
                    trainer.pulse = Instant::now();
                }
            }
            Input::PulseEnded(incarnation) => {
                if self.trainer.as_ref().is_some_and(|trainer| trainer.incarnation == incarnation) {
                    self.lose_trainer();
                    self.trainer = None;
                }
            }
            Input::BeginRound { request, answer } => self.begin_round(*request, answer),
            Input::AllReduce { request, answer } => self.all_reduce(*request, answer),
            Input::Finish { incarnation, answer } => {
                if self.trainer.as_ref().is_some_and(|trainer| trainer.incarnation == incarnation) {
                    self.peer_event(peer::Event::Finished);
                }
                let _gone = answer.send(Ok(FinishReply {}));
            }
            Input::SessionOpened { session, term, hello, sender } => self.session_opened(session, term, *hello, sender),
            Input::SessionMessage { session, slot, incarnation, term, body } => {
                let serves = self.coordinator.as_ref().is_some_and(|coordinator| coordinator.term() == term);
                if serves && self.served.get(&slot).is_some_and(|served| served.session == session) {
                    self.coordinator_event(coordinator::Event::Message { slot, incarnation, body });
                }
            }
            Input::SessionClosed { session, slot, incarnation } => {
                if self.served.get(&slot).is_some_and(|served| served.session == session) {
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
            Input::Moved(epoch, result) => self.peer_event(peer::Event::Moved(epoch, result)),
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

    /// News of the session with the coordinator; what earlier attempts still say is dropped.
    fn take_from_coordinator(&mut self, input: Input) {
        match input {
            Input::Opened { dial, term, sender } => {
                if let Some((open, _, waiting)) = &mut self.session
                    && *open == dial
                {
                    *waiting = Some(sender);
                    self.peer_event(peer::Event::Opened(term));
                }
            }
            Input::Message { dial, message } if self.session.as_ref().is_some_and(|(open, ..)| *open == dial) => {
                self.control_messages += u64::from(!matches!(message.body, Some(coordinator_message::Body::Heartbeat(_))));
                self.peer_event(peer::Event::Message(message));
            }
            Input::Closed { dial, term } if self.session.as_ref().is_some_and(|(open, ..)| *open == dial) => {
                self.session = None;
                self.peer_event(peer::Event::Closed(term));
            }
            _ => {}
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
                trainer.pulse = Instant::now();
            }
            if !trainer.lost && trainer.pulse.elapsed() > liveness {
                self.lose_trainer();
            }
        }
        self.peer_event(peer::Event::Tick);
        self.coordinator_event(coordinator::Event::Tick);
    }

    fn beat_peers(&self) {
        if let Some(coordinator) = &self.coordinator {
            for slot in self.served.keys() {
                self.send_to_peer(*slot, coordinator.epoch(), coordinator_message::Body::Heartbeat(Heartbeat {}));
            }
        }
    }

    fn attach(&mut self, incarnation: u64, protocol: u32, answer: Answer<AttachReply>) {
        if self.trainer.as_ref().is_some_and(|trainer| trainer.incarnation > incarnation) {
            let _gone = answer.send(Err(Status::failed_precondition("a newer trainer is attached")));
            return;
        }
        if self.trainer.is_some() {
            self.lose_trainer();
        }
        self.shared.regions.keep(incarnation);
        report::attached(&self.me.worker);
        let pulse = Instant::now();
        self.trainer = Some(Trainer { incarnation, pulse, lost: false, state: None, parts: None, round: None, mean: None });
        let _gone = answer.send(Ok(AttachReply { protocol }));
    }

    /// The trainer is gone or silent: calls that it may still wait in are answered, so that it begins again.
    fn lose_trainer(&mut self) {
        report::detached(&self.me.worker);
        if let Some(trainer) = &mut self.trainer {
            trainer.lost = true;
            trainer.round = None;
            trainer.mean = None;
        }
        self.shared.offer.send_replace(None);
        self.stop_fetching();
        self.peer_event(peer::Event::TrainerLost);
    }

    fn begin_round(&mut self, request: BeginRoundRequest, answer: Answer<BeginRoundReply>) {
        let state = self.shared.regions.part(request.incarnation, request.state.as_ref());
        let Some(trainer) = self.trainer.as_mut().filter(|trainer| trainer.incarnation == request.incarnation) else {
            let _gone = answer.send(Err(Status::unavailable("the trainer is not attached")));
            return;
        };
        let (Some(state), chain::HASH) = (state, request.state_hash.len()) else {
            let _gone =
                answer.send(Err(Status::invalid_argument("the state is not part of a region, or its hash no BLAKE3 hash")));
            return;
        };
        trainer.state = Some(state);
        trainer.round = Some(answer);
        trainer.lost = false;
        trainer.pulse = Instant::now();
        // The peer counts the attempts.
        let arrive =
            Arrive { round: request.round, state_hash: request.state_hash, samples_wanted: request.samples_wanted, attempt: 0 };
        self.offer(&arrive.state_hash.clone());
        self.peer_event(peer::Event::Arrived(arrive, request.committed));
    }

    /// Offers the trainer's state to joiners under its hash.
    fn offer(&self, hash: &[u8]) {
        let state = self.trainer.as_ref().and_then(|trainer| trainer.state.as_ref());
        if let (Some(state), Ok(hash)) = (state, hash.try_into()) {
            self.shared.offer.send_replace(Some(Offer { hash, bytes: state.shared() }));
        }
    }

    fn offer_state(&self) {
        if let Some(state) = self.trainer.as_ref().and_then(|trainer| trainer.state.as_ref()) {
            self.offer(blake3::hash(state.as_ref()).as_bytes());
        }
    }

    fn all_reduce(&mut self, request: AllReduceRequest, answer: Answer<AllReduceReply>) {
        let input = self.shared.regions.part(request.incarnation, request.input.as_ref());
        let output = self.shared.regions.part(request.incarnation, request.output.as_ref());
        let Some(trainer) = self.trainer.as_mut().filter(|trainer| trainer.incarnation == request.incarnation) else {
            let _gone = answer.send(Err(Status::unavailable("the trainer is not attached")));
            return;
        };
        let (Some(input), Some(output)) = (input, output) else {
            let _gone = answer.send(Err(Status::invalid_argument("input or output is not part of a region")));
            return;
        };
        if input.len() != output.len() {
            let _gone = answer.send(Err(Status::invalid_argument("input and output differ in length")));
            return;
        }
        let elements = input.len() as u64 / 4;
        trainer.parts = Some((input, output));
        trainer.mean = Some(answer);
        let contribution =
            Contribution { slot: self.me.slot, weight: request.weight, samples: request.samples, loss: request.loss };
        let enter = Enter { round: request.round, elements, contribution: Some(contribution) };
        let deadline = self.now().saturating_add(request.deadline_milliseconds);
        self.peer_event(peer::Event::Entered(enter, deadline));
    }

    fn session_opened(&mut self, session: u64, term: u64, hello: Hello, sender: ToPeer) {
        let serves = self.coordinator.as_ref().is_some_and(|coordinator| coordinator.term() == term);
        // Dropping the sender ends the session: the peer looks for the coordinator again.
        if let (true, Some(member)) = (serves, &hello.member) {
            self.served.insert(member.slot, Served { session, sender });
            self.coordinator_event(coordinator::Event::Connected(Box::new(hello)));
        }
    }

    /// Learns the arbiter's newest record: takes the coordinator's role when it is this sidecar's, and gives it back.
    fn locate(&mut self, record: EpochRecord) {
        let newer = self.coordinator.as_ref().is_none_or(|coordinator| coordinator.term() < record.term);
        if newer {
            let mine = record.coordinator.as_ref() == Some(&self.me);
            if mine || self.coordinator.is_some() {
                self.served.clear();
                self.coordinator = None;
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
                coordinator::Action::Send { slot, epoch, body } => self.send_to_peer(slot, epoch, *body),
                coordinator::Action::Propose(record) => {
                    if let Some(arbiter) = &self.arbiter {
                        arbiter.propose(record);
                    }
                }
                coordinator::Action::Close { slot } => {
                    self.served.remove(&slot);
                }
                coordinator::Action::Report(notice) => report::notice(&self.me.worker, &notice),
                coordinator::Action::StepDown => {
                    self.coordinator = None;
                    self.served.clear();
                    return;
                }
            }
        }
    }

    /// A session whose peer takes nothing any more is as good as lost; its silence is noticed by the clock.
    fn send_to_peer(&self, slot: u32, epoch: u64, body: coordinator_message::Body) {
        if let (Some(coordinator), Some(served)) = (&self.coordinator, self.served.get(&slot)) {
            let message = CoordinatorMessage { term: coordinator.term(), epoch, body: Some(body) };
            let _full_or_closed = served.sender.try_send(Ok(message));
        }
    }

    fn peer_event(&mut self, event: peer::Event) {
        for action in self.peer.tick(event, self.now()) {
            match action {
                peer::Action::Dial(coordinator, term) => self.dial(coordinator, term),
                peer::Action::Send(term, body) => {
                    if let Some((_, _, Some(sender))) = &self.session {
                        self.control_messages += u64::from(!matches!(*body, peer_message::Body::Heartbeat(_)));
                        let _full_or_closed = sender.try_send(PeerMessage { term, body: Some(*body) });
                    }
                }
                peer::Action::Hang(_) => {
                    if let Some((_, session, _)) = self.session.take() {
                        session.abort();
                    }
                }
                peer::Action::RequestTerm(observed) => {
                    if let Some(arbiter) = &self.arbiter {
                        arbiter.request_term(observed);
                    }
                }
                peer::Action::Move(begin) => self.start_moving(&begin),
                peer::Action::Halt => self.halt(),
                peer::Action::Fetch(start) => self.fetch(*start),
                peer::Action::Begun(result) => self.begun(result),
                peer::Action::Reduced(outcome) => self.reduced(outcome),
            }
        }
    }

    fn dial(&mut self, coordinator: Member, term: u64) {
        if let Some((_, session, _)) = self.session.take() {
            session.abort();
        }
        self.dials += 1;
        let dialling = tokio::spawn(control::dial(self.lanes.clone(), coordinator, term, self.dials, self.inbox.clone()));
        self.session = Some((self.dials, dialling, None));
    }

    fn start_moving(&mut self, begin: &Begin) {
        self.halt();
        let parts = self.trainer.as_ref().and_then(|trainer| trainer.parts.clone());
        let exchange = parts
            .zip(Plan::new(begin, self.me.slot))
            .and_then(|((input, output), plan)| Exchange::new(plan, input.shared(), Arc::new(output)));
        let Some(exchange) = exchange else {
            let epoch = begin.record.as_ref().map_or(0, |record| record.epoch);
            let detail = "the contribution does not fit the operation".to_owned();
            let failure = Failure { reason: AbortReason::Mismatch, culprit: self.me.slot, detail };
            return self.peer_event(peer::Event::Moved(epoch, Err(failure)));
        };
        self.shared.operation.send_replace(Some(Arc::clone(&exchange)));
        self.moving = Some(operation::exchange(exchange, self.lanes.clone(), self.config.progress, self.inbox.clone()));
    }

    /// Ends the data movement, if there is one; from here on the output is not written.
    fn halt(&mut self) {
        if let Some(exchange) = self.shared.operation.borrow().as_ref() {
            exchange.close();
        }
        if let Some(moving) = self.moving.take() {
            moving.abort();
        }
        self.stop_fetching();
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
        if let Some(state) = self.trainer.as_ref().and_then(|trainer| trainer.state.clone()) {
            self.fetching =
                Some(operation::fetch(self.fetches, start, state, self.lanes.clone(), self.config.progress, self.inbox.clone()));
        }
    }

    fn begun(&mut self, result: Result<Box<Start>, Refusal>) {
        let Some(answer) = self.trainer.as_mut().and_then(|trainer| trainer.round.take()) else { return };
        let reply = result
            .map(|start| {
                let record = start.record.unwrap_or_default();
                BeginRoundReply {
                    round: start.round,
                    samples: start.samples,
                    synchronised: start.synchronise,
                    epoch: record.epoch,
                    members: record.members.len() as u32,
                }
            })
            .map_err(|refusal| Status::aborted(refusal.detail));
        let _gone = answer.send(reply);
    }

    fn reduced(&mut self, outcome: Outcome) {
        let Some(trainer) = &mut self.trainer else { return };
        let Some(answer) = trainer.mean.take() else { return };
        let outcome = match outcome {
            Outcome::Committed(record) => {
                self.payload_bytes += record.elements * 4;
                if let Some(ended) = self.shared.operation.send_replace(None) {
                    ended.close();
                }
                all_reduce_reply::Outcome::Committed(Committed {
                    record: Some(*record),
                    payload_bytes: self.payload_bytes,
                    wire_bytes: self.lanes.meter().sent(),
                    control_messages: self.control_messages,
                })
            }
            Outcome::Aborted(Refusal { reason, detail }) => {
                all_reduce_reply::Outcome::Aborted(Aborted { reason: reason.into(), detail })
            }
            Outcome::InDoubt => all_reduce_reply::Outcome::InDoubt(InDoubt {}),
        };
        let _gone = answer.send(Ok(AllReduceReply { outcome: Some(outcome) }));
    }
}
