//! What is seen of the two state machines as they take events: metrics, spans of operations, and the recording.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use atoll_collective::coordinator::{self, Coordinator};
use atoll_collective::lane::Lanes;
use atoll_collective::operation::{self, Key};
use atoll_collective::peer::{self, Outcome, Peer};
use atoll_collective::v1::{Begin, CoordinatorMessage, EpochRecord, Member, coordinator_message, peer_message};
use atoll_collective::{Millis, Notice};
use tokio::time::Instant;
use tracing::Span;

use super::calls::asked;
use crate::metrics::{Ended, Metrics, Phase};
use crate::recording::{Machine, Recorder, Told};
use crate::report::Reporter;

/// An operation that the trainer waits for.
struct Waiting {
    entered: Instant,
    /// When its phase began.
    since: Instant,
    attempts: u64,
    span: Span,
}

/// Who has entered an operation, as the coordinator hears it.
struct Entering {
    last: (u32, Instant),
    /// Between the one before the last and the last; none where only one has come.
    alone: Option<Duration>,
}

pub(super) struct Observation {
    metrics: Arc<Metrics>,
    report: Reporter,
    lanes: Lanes,
    me: Member,
    recorder: Option<Recorder>,
    /// The newest membership that was heard of.
    record: EpochRecord,
    /// By the trainer's name of the operation.
    waiting: BTreeMap<Key, Waiting>,
    entering: BTreeMap<Key, Entering>,
}

impl Observation {
    pub(super) fn new(metrics: Arc<Metrics>, report: Reporter, lanes: Lanes, me: Member, recorder: Option<Recorder>) -> Self {
        let record = EpochRecord::default();
        Self { metrics, report, lanes, me, recorder, record, waiting: BTreeMap::new(), entering: BTreeMap::new() }
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The span of an operation that is moved.
    pub(super) fn span(&self, key: &Key) -> Span {
        self.waiting.get(&asked(key)).map_or_else(Span::none, |waiting| waiting.span.clone())
    }

    /// The event as it will be recorded; none where nothing is.
    pub(super) fn told(&mut self, event: &impl serde::Serialize) -> Option<Told> {
        self.recorder.as_ref()?;
        let told = Told::new(event);
        told.map_err(|error| self.stop_recording(&error)).ok()
    }

    /// The peer is about to take an event.
    pub(super) fn peer_hears(&mut self, event: &peer::Event) {
        let now = Instant::now();
        match event {
            peer::Event::Entered(enter, _) => {
                let key = asked(&operation::key(enter.operation.as_ref()));
                let waiting = || Waiting { entered: now, since: now, attempts: 0, span: Span::none() };
                self.waiting.entry(key).or_insert_with(waiting);
            }
            peer::Event::Moved(key, _, Ok(_)) => {
                if let Some(waiting) = self.waiting.get_mut(&asked(key)) {
                    waiting.since = now;
                }
            }
            peer::Event::Located(record) => self.membership(record),
            peer::Event::Message(message) => self.message(message),
            _ => {}
        }
    }

    fn message(&mut self, message: &CoordinatorMessage) {
        match &message.body {
            Some(coordinator_message::Body::Start(start)) => start.record.iter().for_each(|record| self.membership(record)),
            Some(coordinator_message::Body::Begin(begin)) => begin.record.iter().for_each(|record| self.membership(record)),
            Some(coordinator_message::Body::Abort(abort)) => self.metrics.aborted(abort.reason()),
            Some(coordinator_message::Body::Evict(evict)) => self.metrics.aborted(evict.reason()),
            _ => {}
        }
    }

    fn membership(&mut self, record: &EpochRecord) {
        if (record.term, record.epoch) > (self.record.term, self.record.epoch) {
            self.record = record.clone();
            self.metrics.membership(record, &self.me, &self.lanes);
        }
    }

    /// The peer has taken an event at `now`, and will do this.
    pub(super) fn peer_does(&mut self, told: Option<&Told>, now: Millis, peer: &Peer, actions: &[peer::Action]) {
        self.record(Machine::Peer, told, now, actions);
        for action in actions {
            match action {
                peer::Action::Move(begin) => self.begun(begin),
                peer::Action::Halt(key) => {
                    if let Some(waiting) = self.waiting.get_mut(&asked(key)) {
                        waiting.since = Instant::now();
                    }
                }
                peer::Action::Ended(key, outcome) => self.ended(key, outcome),
                _ => {}
            }
        }
        let round = peer.committed().map_or(0, |record| record.round) as i64;
        if round > self.metrics.round.get() {
            self.metrics.round.set(round);
        }
        self.metrics.in_flight.set(self.waiting.len() as i64);
    }

    fn begun(&mut self, begin: &Begin) {
        let key = operation::key(begin.operation.as_ref());
        let Some(waiting) = self.waiting.get_mut(&asked(&key)) else { return };
        let now = Instant::now();
        self.metrics.phase(Phase::Vote, now - waiting.since);
        self.metrics.retries.inc_by(u64::from(waiting.attempts > 0));
        waiting.attempts += 1;
        waiting.since = now;
        let (number, bytes) = (begin.number, bytes(begin));
        let (epoch, term) = begin.record.as_ref().map_or((0, 0), |record| (record.epoch, record.term));
        waiting.span = tracing::info_span!("operation", %key, epoch, term, number, bytes);
        waiting.span.in_scope(|| tracing::debug!(attempt = waiting.attempts, "moving"));
    }

    fn ended(&mut self, key: &Key, outcome: &Outcome) {
        let Some(waiting) = self.waiting.remove(&asked(key)) else { return };
        let ended = match outcome {
            Outcome::Committed(commit) => {
                self.metrics.phase(Phase::Commit, waiting.since.elapsed());
                self.metrics.rounds_committed.inc_by(u64::from(commit.record.is_some()));
                Ended::Committed
            }
            Outcome::Aborted(_) => Ended::Aborted,
            Outcome::InDoubt => Ended::InDoubt,
        };
        let took = waiting.entered.elapsed();
        self.metrics.operation(ended, took);
        waiting.span.in_scope(|| tracing::debug!(outcome = ended.name(), seconds = took.as_secs_f64(), "ended"));
    }

    /// This sidecar takes the coordinator's role, or gives it back.
    pub(super) fn coordinates(&mut self, coordinator: Option<&Coordinator>) {
        self.metrics.coordinator.set(i64::from(coordinator.is_some()));
        self.entering.clear();
        if let Some(recorder) = &mut self.recorder {
            let recorded = match coordinator {
                Some(state) => recorder.coordinates(state),
                None => recorder.coordinates_no_more(),
            };
            recorded.unwrap_or_else(|error| self.stop_recording(&error));
        }
    }

    /// The coordinator has heard of a peer that enters this operation. What it did not accept is not noted, and what nobody has
    /// entered any more is forgotten: a peer may name operations without end.
    pub(super) fn coordinator_has_heard(&mut self, coordinator: &Coordinator, slot: u32, key: Key) {
        if !coordinator.who_entered(&key).any(|entered| entered == slot) {
            return;
        }
        if !self.entering.contains_key(&key) {
            self.entering.retain(|known, _| coordinator.who_entered(known).next().is_some());
        }
        let now = Instant::now();
        self.entering
            .entry(key)
            .and_modify(|entering| {
                if entering.last.0 != slot {
                    entering.alone = Some(now - entering.last.1);
                    entering.last = (slot, now);
                }
            })
            .or_insert(Entering { last: (slot, now), alone: None });
    }

    /// The coordinator has taken an event at `now`, and will do this.
    pub(super) fn coordinator_does(&mut self, told: Option<&Told>, now: Millis, actions: &[coordinator::Action]) {
        self.record(Machine::Coordinator, told, now, actions);
        for action in actions {
            match action {
                coordinator::Action::Send { message, .. } => {
                    if let Some(coordinator_message::Body::Begin(begin)) = &message.body {
                        self.all_entered(begin);
                    }
                }
                coordinator::Action::Report(Notice::Evicted { reason, .. }) => self.metrics.evicted(*reason),
                // What was entered before is over, whether it was begun or not.
                coordinator::Action::Report(Notice::Committed(record)) => self.entering.retain(|key, _| key.round > record.round),
                _ => {}
            }
        }
    }

    /// Everybody has entered, the last of them a moment ago.
    fn all_entered(&mut self, begin: &Begin) {
        let Some(entering) = self.entering.remove(&operation::key(begin.operation.as_ref())) else { return };
        let members = begin.record.as_ref().map_or(&[][..], |record| &record.members);
        let last = members.iter().find(|member| member.slot == entering.last.0);
        if let (Some(last), Some(alone)) = (last, entering.alone) {
            self.metrics.straggler(last, Phase::Vote, alone);
        }
    }

    fn record<A: serde::Serialize>(&mut self, machine: Machine, told: Option<&Told>, now: Millis, actions: &[A]) {
        if let (Some(recorder), Some(told)) = (&mut self.recorder, told) {
            recorder.step(machine, now, told, actions).unwrap_or_else(|error| self.stop_recording(&error));
        }
    }

    /// Begins the next file of the recording, when this one is full.
    pub(super) fn turn_page(&mut self, peer: &Peer, coordinator: Option<&Coordinator>) {
        if let Some(recorder) = self.recorder.as_mut().filter(|recorder| recorder.is_full()) {
            recorder.begin_again(peer, coordinator).unwrap_or_else(|error| self.stop_recording(&error));
        }
    }

    /// A run does not end because it cannot be recorded any more.
    fn stop_recording(&mut self, error: &io::Error) {
        self.recorder = None;
        self.report.recording_ended(error);
    }
}

/// Who says with this event of the coordinator that it enters an operation, and which.
pub(super) fn entered(event: &coordinator::Event) -> Option<(u32, Key)> {
    let coordinator::Event::Message { slot, body, .. } = event else { return None };
    let peer_message::Body::Enter(enter) = &**body else { return None };
    Some((*slot, operation::key(enter.operation.as_ref())))
}

/// Bytes of an operation's result.
fn bytes(begin: &Begin) -> u64 {
    let Some(operation) = &begin.operation else { return 0 };
    let given: u64 = begin.contributions.iter().fold(0, |sum, given| sum.saturating_add(given.elements));
    let elements = if operation.elements == 0 { given } else { operation.elements };
    elements.saturating_mul(operation::size(operation.data_type()))
}

#[cfg(test)]
mod tests {
    use atoll_collective::chain;
    use atoll_collective::coordinator::Settings;
    use atoll_collective::lane::Meter;
    use atoll_collective::secret::Secret;
    use atoll_collective::transport::Transport;
    use atoll_collective::v1::{Abort, AbortReason, Arrive, Commit, CommitRecord, Enter, Hello, Operation, OperationKey, Start};

    use super::*;

    fn member(slot: u32) -> Member {
        Member { slot, worker: format!("w{slot}"), island: "here".into(), incarnation: 1, ..Member::default() }
    }

    fn record() -> EpochRecord {
        EpochRecord { term: 1, epoch: 4, members: vec![member(0), member(1)], ..EpochRecord::default() }
    }

    struct Seen {
        observation: Observation,
        peer: Peer,
    }

    impl Seen {
        fn new() -> Self {
            let lanes = Lanes::new("kjv", 0, Secret::new("secret"), Transport::new(None, Arc::new(Meter::default())));
            let metrics = Arc::new(Metrics::new("kjv", "w0").unwrap());
            let report = Reporter::new("w0", Arc::new(|_| {}));
            let observation = Observation::new(metrics, report, lanes, member(0), None);
            Self { observation, peer: Peer::new("kjv".into(), member(0), 2000) }
        }

        fn peer(&mut self, event: Option<&peer::Event>, actions: &[peer::Action]) {
            if let Some(event) = event {
                self.observation.peer_hears(event);
            }
            self.observation.peer_does(None, 0, &self.peer, actions);
        }

        /// The coordinator hears that a peer enters an operation.
        fn enters(&mut self, coordinator: &mut Coordinator, slot: u32, operation: Operation) {
            let enter = Enter { operation: Some(operation), ..Enter::default() };
            let body = Box::new(peer_message::Body::Enter(enter));
            let event = coordinator::Event::Message { slot, incarnation: 1, learned: 0, body };
            let (slot, key) = entered(&event).unwrap();
            coordinator.tick(event, 0);
            self.observation.coordinator_has_heard(coordinator, slot, key);
        }

        fn assert_says(&self, lines: &[&str]) {
            let text = self.observation.metrics.text(&self.observation.lanes).unwrap();
            for line in lines {
                assert!(text.lines().any(|written| written == *line), "{line} in {text}");
            }
        }
    }

    fn enter() -> Enter {
        Enter { operation: Some(operation::ends_round(3, 0, 100)), ..Enter::default() }
    }

    fn begin(number: u64) -> Begin {
        Begin { operation: Some(operation::ends_round(3, 4, 100)), number, record: Some(record()), ..Begin::default() }
    }

    fn told(body: coordinator_message::Body) -> peer::Event {
        peer::Event::Message(Box::new(CoordinatorMessage { body: Some(body), ..CoordinatorMessage::default() }))
    }

    #[test]
    fn an_operation_is_measured_from_its_call_to_its_answer_over_all_attempts() {
        let mut seen = Seen::new();
        let key = operation::key(begin(1).operation.as_ref());
        seen.peer(Some(&peer::Event::Entered(enter(), 1000)), &[]);
        seen.assert_says(&["atoll_operations_in_flight 1"]);
        seen.peer(None, &[peer::Action::Move(Box::new(begin(1)))]);
        let abort = Abort { reason: AbortReason::LaneFailed.into(), ..Abort::default() };
        seen.peer(Some(&told(coordinator_message::Body::Abort(abort))), &[peer::Action::Halt(key.clone())]);
        seen.peer(Some(&told(coordinator_message::Body::Begin(begin(2)))), &[peer::Action::Move(Box::new(begin(2)))]);
        seen.peer(Some(&peer::Event::Moved(key.clone(), (1, 2), Ok(vec![0; 32]))), &[]);
        let commit = Commit { record: Some(CommitRecord { round: 3, ..CommitRecord::default() }), ..Commit::default() };
        seen.peer(None, &[peer::Action::Ended(key, Outcome::Committed(Box::new(commit)))]);
        seen.assert_says(&[
            "atoll_phase_seconds_count{phase=\"vote\"} 2",
            "atoll_phase_seconds_count{phase=\"commit\"} 1",
            "atoll_operation_seconds_count{outcome=\"committed\"} 1",
            "atoll_operations_in_flight 0",
            "atoll_retries_total 1",
            "atoll_rounds_committed_total 1",
            "atoll_aborts_total{reason=\"LaneFailed\"} 1",
            "atoll_epoch 4",
            "atoll_term 1",
            "atoll_member 1",
        ]);
    }

    #[test]
    fn an_older_record_does_not_turn_the_membership_back() {
        let mut seen = Seen::new();
        seen.peer(Some(&peer::Event::Located(record())), &[]);
        let older = EpochRecord { epoch: 2, members: vec![member(0)], ..record() };
        seen.peer(Some(&peer::Event::Located(older)), &[]);
        seen.assert_says(&["atoll_epoch 4", "atoll_world_size 2"]);
    }

    /// A coordinator whose members are in the third round.
    fn coordinator() -> Coordinator {
        let mut coordinator = Coordinator::new(Settings::of("kjv", 2), record(), 0);
        for slot in [0, 1] {
            let (state_root, state_shape) = (vec![7; chain::HASH], vec![1; chain::HASH]);
            let arrive = Some(Arrive { round: 3, state_root, state_shape, attempt: 1, ..Arrive::default() });
            let start = Some(Start { round: 3, started: 4, attempt: 1, ..Start::default() });
            let hello = Hello { run: "kjv".into(), member: Some(member(slot)), arrive, start, ..Hello::default() };
            coordinator.tick(coordinator::Event::Connected(Box::new(hello)), 0);
        }
        coordinator
    }

    #[test]
    fn invented_operations_are_not_remembered_and_no_others_once_nobody_waits_for_them() {
        let (mut seen, mut coordinator) = (Seen::new(), coordinator());
        let named = |round, tag: &str| {
            let key = Some(OperationKey { round, started: 4, tag: tag.into(), ..OperationKey::default() });
            Operation { key, ends_round: false, ..operation::ends_round(round, 4, 100) }
        };
        for (round, tag) in [(u64::MAX, ""), (3, &*"long".repeat(100)), (0, "a")] {
            seen.enters(&mut coordinator, 0, named(round, tag));
        }
        assert!(seen.observation.entering.is_empty());
        seen.enters(&mut coordinator, 0, named(3, "a"));
        coordinator.tick(coordinator::Event::Disconnected { slot: 0, incarnation: 1 }, 0);
        seen.enters(&mut coordinator, 1, named(3, "b"));
        let known = || seen.observation.entering.keys().map(|key| &*key.tag);
        assert_eq!(known().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn the_coordinator_names_who_entered_last() {
        let (mut seen, mut coordinator) = (Seen::new(), coordinator());
        for slot in [0, 1] {
            seen.enters(&mut coordinator, slot, operation::ends_round(3, 4, 100));
        }
        let message = CoordinatorMessage { body: Some(coordinator_message::Body::Begin(begin(1))), ..Default::default() };
        let send = |slot| coordinator::Action::Send { slot, message: Box::new(message.clone()) };
        seen.observation.coordinator_does(None, 0, &[send(0), send(1)]);
        seen.assert_says(&["atoll_straggler_total{island=\"here\",peer=\"w1\",phase=\"vote\"} 1"]);
        assert!(seen.observation.entering.is_empty());
    }

    #[test]
    fn a_gather_has_as_many_bytes_as_all_give() {
        let mut gather = begin(1);
        assert_eq!(bytes(&gather), 400);
        gather.operation.as_mut().unwrap().elements = 0;
        gather.contributions =
            [3, 4].map(|elements| atoll_collective::v1::Contribution { elements, ..Default::default() }).to_vec();
        assert_eq!(bytes(&gather), 28);
    }
}
