//! Control sessions: to the coordinator, from the peers that this sidecar serves, and from itself to itself without a wire.

use atoll_collective::arbiter::{self, is_newer};
use atoll_collective::coordinator;
use atoll_collective::peer;
use atoll_collective::v1::{AbortReason, CoordinatorMessage, Hello, Member, PeerMessage, coordinator_message, peer_message};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Status;

use super::{Core, Input};
use crate::control::{self, ToPeer};

/// The session with the coordinator.
pub(super) enum Session {
    None,
    /// This sidecar has the role itself, in this term.
    Local(u64),
    Remote {
        dial: u64,
        task: JoinHandle<()>,
        sender: Option<mpsc::Sender<PeerMessage>>,
    },
}

/// A session that this sidecar serves as coordinator.
pub(super) enum Served {
    Local,
    Remote { session: u64, incarnation: u64, sender: ToPeer },
}

impl Served {
    pub(super) fn is(&self, number: u64) -> bool {
        matches!(self, Self::Remote { session, .. } if *session == number)
    }
}

/// What a sidecar that is the coordinator says to itself; and sessions with others that it ended while it carried out actions,
/// which its state machines hear of after those.
pub(super) enum Local {
    Opened(u64),
    Up(Box<PeerMessage>),
    Down(Box<CoordinatorMessage>),
    Closed(u64),
    /// It serves this session no more: slot and incarnation of the peer.
    EndedServed(u32, u64),
    /// It left the session that this attempt had opened, of this term.
    EndedDial(u64, u64),
}

impl Core {
    /// Delivers what the two state machines said to each other, until both are silent.
    pub(super) fn talk_to_itself(&mut self) {
        while let Some(message) = self.local.pop_front() {
            match message {
                Local::Opened(term) => self.peer_event(peer::Event::Opened(term)),
                Local::Up(message) => self.heard_from_itself(*message),
                Local::Down(message) if matches!(self.session, Session::Local(term) if term == message.term) => {
                    self.told(message);
                }
                Local::Closed(term) if matches!(self.session, Session::Local(open) if open == term) => {
                    self.session = Session::None;
                    self.peer_event(peer::Event::Closed(term));
                }
                Local::EndedServed(slot, incarnation) => {
                    self.coordinator_event(coordinator::Event::Disconnected { slot, incarnation });
                }
                Local::EndedDial(dial, term) if dial == self.dials => self.peer_event(peer::Event::Closed(term)),
                Local::Down(_) | Local::Closed(_) | Local::EndedDial(..) => {}
            }
        }
    }

    fn heard_from_itself(&mut self, message: PeerMessage) {
        let serves = self.coordinator.as_ref().is_some_and(|coordinator| coordinator.term() == message.term);
        let (slot, incarnation) = (self.me.slot, self.me.incarnation);
        match message.body {
            Some(peer_message::Body::Hello(hello)) if serves => {
                self.served.insert(slot, Served::Local);
                self.coordinator_event(coordinator::Event::Connected(Box::new(hello)));
            }
            Some(body) if serves && matches!(self.served.get(&slot), Some(Served::Local)) => {
                let (learned, body) = (message.learned, Box::new(body));
                self.coordinator_event(coordinator::Event::Message { slot, incarnation, learned, body });
            }
            _ => self.local.push_back(Local::Closed(message.term)),
        }
    }

    /// The coordinator's word. Where lanes may be at fault, what is tried next gets new ones.
    fn told(&mut self, message: Box<CoordinatorMessage>) {
        let distrusted = blames_lanes(&message);
        if matches!(message.body, Some(coordinator_message::Body::Evict(_))) {
            self.petition.let_go();
        }
        self.peer_event(peer::Event::Message(message));
        if distrusted {
            self.lanes.keep(&[]);
        }
    }

    pub(super) fn session_opened(&mut self, session: u64, term: u64, hello: Hello, sender: ToPeer) {
        let serving = self.coordinator.as_ref().filter(|coordinator| coordinator.term() == term);
        // Dropping the sender ends the session: the peer looks for the coordinator again.
        let Some(judged) = serving.map(|coordinator| coordinator.admits(&hello)) else { return };
        match (judged, &hello.member) {
            // Who it says that it is may be anything: the refusal names what is a name.
            (Err(refusal), _) => {
                tracing::warn!(refusal, "a session was refused");
                let _gone = sender.try_send(Err(Status::permission_denied(refusal)));
            }
            (Ok(()), Some(member)) => {
                let incarnation = member.incarnation;
                self.served.insert(member.slot, Served::Remote { session, incarnation, sender });
                self.coordinator_event(coordinator::Event::Connected(Box::new(hello)));
            }
            (Ok(()), None) => {}
        }
    }

    pub(super) fn session_message(&mut self, session: u64, slot: u32, incarnation: u64, message: PeerMessage) {
        let serves = self.coordinator.as_ref().is_some_and(|coordinator| coordinator.term() == message.term);
        let Some(body) = message.body.filter(|_| serves) else { return };
        if self.served.get(&slot).is_some_and(|served| served.is(session)) {
            let (learned, body) = (message.learned, Box::new(body));
            self.coordinator_event(coordinator::Event::Message { slot, incarnation, learned, body });
        }
    }

    pub(super) fn beat_peers(&mut self) {
        let Some(heartbeat) = self.coordinator.as_ref().map(coordinator::Coordinator::heartbeat) else { return };
        for slot in self.served.keys().copied().collect::<Vec<_>>() {
            self.send_to_peer(slot, heartbeat.clone());
        }
    }

    /// This sidecar coordinates another member that may take its role.
    pub(super) fn coordinates_others(&self) -> bool {
        let serves =
            |member: &Member| !member.contributor && matches!(self.served.get(&member.slot), Some(Served::Remote { .. }));
        self.petition.listeners().iter().any(serves)
    }

    /// A session is a sequence without gaps: where a message finds no room, the session ends with those before it.
    pub(super) fn send_to_peer(&mut self, slot: u32, message: CoordinatorMessage) {
        match self.served.get(&slot) {
            Some(Served::Local) => self.local.push_back(Local::Down(Box::new(message))),
            Some(Served::Remote { sender, incarnation, .. }) if sender.try_send(Ok(message)).is_err() => {
                self.local.push_back(Local::EndedServed(slot, *incarnation));
                self.served.remove(&slot);
            }
            Some(Served::Remote { .. }) | None => {}
        }
    }

    pub(super) fn close_served(&mut self, slot: u32) {
        if let (Some(Served::Local), Some(coordinator)) = (self.served.remove(&slot), &self.coordinator) {
            self.local.push_back(Local::Closed(coordinator.term()));
        }
    }

    /// Gives the coordinator's role back: every session ends.
    pub(super) fn step_down(&mut self) {
        for slot in self.served.keys().copied().collect::<Vec<_>>() {
            self.close_served(slot);
        }
        if self.coordinator.take().is_some() {
            self.observation.coordinates(None);
            self.shared.report.coordinates_no_more();
        }
    }

    /// News of the session with the coordinator; what earlier attempts still say is dropped.
    pub(super) fn take_from_coordinator(&mut self, input: Input) {
        let Session::Remote { dial: open, sender: waiting, .. } = &mut self.session else { return };
        match input {
            Input::Opened { dial, term, sender } if *open == dial => {
                *waiting = Some(sender);
                self.shared.operations.saw(term);
                self.peer_event(peer::Event::Opened(term));
            }
            Input::Message { dial, message } if *open == dial => {
                let heartbeat = matches!(message.body, Some(coordinator_message::Body::Heartbeat(_)));
                self.observation.metrics().control_messages.inc_by(u64::from(!heartbeat));
                self.learn_from(&message);
                self.told(message);
            }
            Input::Closed { dial, term, refused } if *open == dial => {
                self.session = Session::None;
                self.tell_refusal(refused);
                self.peer_event(peer::Event::Closed(term));
            }
            _ => {}
        }
    }

    /// It dials again all the time: who looks into the log is told once.
    fn tell_refusal(&mut self, refused: Option<String>) {
        if let Some(why) = refused.filter(|why| self.refused.as_ref() != Some(why)) {
            tracing::warn!(why, "the coordinator refuses this sidecar, which goes on asking");
            self.refused = Some(why);
        }
    }

    /// A coordinator tells only of records that were granted: who is to vote next must not wait for a heartbeat to know it.
    fn learn_from(&mut self, message: &CoordinatorMessage) {
        let told = match &message.body {
            Some(coordinator_message::Body::Start(start)) => start.record.as_ref(),
            Some(coordinator_message::Body::Begin(begin)) => begin.record.as_ref(),
            _ => None,
        };
        if let Some(record) = told.filter(|record| is_newer(record, self.petition.record())) {
            self.petition_event(arbiter::Event::Learned(record.clone()));
        }
    }

    /// As [`Core::send_to_peer`], in the other direction.
    pub(super) fn send_to_coordinator(&mut self, message: PeerMessage) {
        match &self.session {
            Session::Local(_) => self.local.push_back(Local::Up(Box::new(message))),
            Session::Remote { sender: Some(sender), dial, task } => {
                let heartbeat = matches!(message.body, Some(peer_message::Body::Heartbeat(_)));
                self.observation.metrics().control_messages.inc_by(u64::from(!heartbeat));
                let term = message.term;
                if sender.try_send(message).is_err() {
                    task.abort();
                    self.local.push_back(Local::EndedDial(*dial, term));
                    self.session = Session::None;
                }
            }
            Session::Remote { .. } | Session::None => {}
        }
    }

    pub(super) fn dial(&mut self, coordinator: Member, term: u64) {
        self.hang_up();
        if coordinator == self.me {
            self.session = Session::Local(term);
            self.shared.operations.saw(term);
            self.local.push_back(Local::Opened(term));
            return;
        }
        self.dials += 1;
        let task = tokio::spawn(control::dial(self.lanes.clone(), coordinator, term, self.dials, self.inbox.clone()));
        self.session = Session::Remote { dial: self.dials, task, sender: None };
    }

    pub(super) fn hang_up(&mut self) {
        match std::mem::replace(&mut self.session, Session::None) {
            Session::Remote { task, .. } => task.abort(),
            Session::Local(_) => {
                let (slot, incarnation) = (self.me.slot, self.me.incarnation);
                if matches!(self.served.get(&slot), Some(Served::Local)) {
                    self.served.remove(&slot);
                    self.coordinator_event(coordinator::Event::Disconnected { slot, incarnation });
                }
            }
            Session::None => {}
        }
    }
}

/// Whether an operation failed for want of data. A connection that is half-open shows it by nothing else, and would carry nothing
/// of the next attempt either.
fn blames_lanes(message: &CoordinatorMessage) -> bool {
    let reason = match &message.body {
        Some(coordinator_message::Body::Abort(abort)) => abort.reason(),
        Some(coordinator_message::Body::Evict(evict)) => evict.reason(),
        _ => return false,
    };
    matches!(reason, AbortReason::NoProgress | AbortReason::LaneFailed)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use atoll_collective::coordinator::{Coordinator, Settings};
    use atoll_collective::lane::{Bounds, Lanes, Meter, Operations};
    use atoll_collective::rules::Rules;
    use atoll_collective::secret::Secret;
    use atoll_collective::transport::Transport;
    use atoll_collective::v1::{Abort, EpochRecord, Evict, Heartbeat};
    use serde_json::to_value;
    use tokio::sync::watch;

    use super::super::Shared;
    use super::*;
    use crate::metrics::Metrics;
    use crate::regions::Regions;
    use crate::report::Reporter;

    /// Room in the queues below, which nobody drains meanwhile.
    const ROOM: usize = 3;

    fn member(slot: u32) -> Member {
        let (worker, address) = (format!("w{slot}"), "127.0.0.1:1".to_owned());
        Member { slot, worker, address, island: "here".into(), incarnation: 1, ..Member::default() }
    }

    /// The sidecar of slot 0, and what its tasks tell it.
    pub(in super::super) fn core() -> (Core, mpsc::Receiver<Input>) {
        let settings = Settings { quorum: 2, liveness: 60_000, round_timeout: 60_000, ..Settings::of("kjv", 2) };
        let config = crate::Config {
            worker: "w0".into(),
            slot: 0,
            contributor: false,
            incarnation: 1,
            listen: ([127, 0, 0, 1], 0).into(),
            announce: None,
            arbiter: "127.0.0.1:1".into(),
            socket: "nowhere".into(),
            temporary_folder: None,
            settings,
            progress: Duration::from_secs(1),
            bounds: Bounds::default(),
            token: "secret".into(),
            island: "here".into(),
            identity: None,
            metrics: None,
            record: None,
            keeping: None,
            source: None,
            relay: None,
        };
        let shared = Shared {
            metrics: Arc::new(Metrics::new("kjv", "w0").unwrap()),
            operations: Operations::default(),
            offer: watch::channel(None).0,
            regions: Regions::default(),
            report: Reporter::new("w0", Arc::new(|_| {})),
            keeper: None,
            rules: Rules::default(),
            grace: Duration::ZERO,
        };
        let lanes = Lanes::new("kjv", 0, Secret::new("secret"), Transport::new(None, Arc::new(Meter::default())));
        let (inbox, inputs) = mpsc::channel(64);
        (Core::new(config, member(0), lanes, inbox, shared), inputs)
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_any_more_is_lost_at_once_and_what_it_was_told_has_no_gap() {
        let (mut core, _inputs) = core();
        let record = EpochRecord { term: 3, epoch: 1, members: vec![member(0), member(1)], ..EpochRecord::default() };
        core.coordinator = Some(Coordinator::new(core.config.settings.clone(), record, 0));
        let hello = Hello { run: "kjv".into(), member: Some(member(1)), ..Hello::default() };
        let (sender, mut told) = mpsc::channel(ROOM);
        core.session_opened(5, 3, hello, sender);
        let known = |core: &Core| to_value(&core.coordinator).unwrap()["sessions"].get("1").is_some();
        let says = |number| CoordinatorMessage { term: 3, epoch: number, ..CoordinatorMessage::default() };
        for number in 0..=ROOM as u64 {
            assert!(known(&core) && core.served.contains_key(&1), "after {number} messages");
            core.send_to_peer(1, says(number));
            core.talk_to_itself();
        }
        assert!(!known(&core) && !core.served.contains_key(&1));
        core.send_to_peer(1, says(9));
        let mut heard = Vec::new();
        while let Some(message) = told.recv().await {
            heard.push(message.unwrap().epoch);
        }
        assert_eq!(heard, [0, 1, 2], "and then the end of the session");
    }

    #[tokio::test]
    async fn a_coordinator_that_takes_nothing_any_more_is_left_and_what_it_was_told_has_no_gap() {
        let (mut core, _inputs) = core();
        core.peer_event(peer::Event::Located(EpochRecord { term: 3, coordinator: Some(member(1)), ..EpochRecord::default() }));
        let (dial, term) = (core.dials, 3);
        let (sender, mut told) = mpsc::channel(ROOM);
        core.take_from_coordinator(Input::Opened { dial, term, sender });
        let open = |core: &Core| to_value(&core.peer).unwrap()["link"].get("Open").is_some();
        // The first is its introduction.
        for number in 1..=ROOM as u64 {
            assert!(open(&core) && matches!(core.session, Session::Remote { .. }), "after {number} messages");
            let body = Some(peer_message::Body::Heartbeat(Heartbeat {}));
            core.send_to_coordinator(PeerMessage { term, learned: number, body });
            core.talk_to_itself();
        }
        assert!(!open(&core));
        let mut heard = Vec::new();
        while let Some(message) = told.recv().await {
            heard.push(message.learned);
        }
        assert_eq!(heard, [0, 1, 2], "and then the end of the session");
    }

    #[test]
    fn lanes_are_opened_anew_after_an_operation_that_failed_for_want_of_data_and_after_no_other() {
        let says = |body| CoordinatorMessage { body: Some(body), ..CoordinatorMessage::default() };
        let abort =
            |reason: AbortReason| says(coordinator_message::Body::Abort(Abort { reason: reason.into(), ..Abort::default() }));
        let evict =
            |reason: AbortReason| says(coordinator_message::Body::Evict(Evict { reason: reason.into(), ..Evict::default() }));
        for message in [abort(AbortReason::NoProgress), abort(AbortReason::LaneFailed), evict(AbortReason::NoProgress)] {
            assert!(blames_lanes(&message));
        }
        for message in [abort(AbortReason::PeerLost), evict(AbortReason::TrainerLost), CoordinatorMessage::default()] {
            assert!(!blames_lanes(&message));
        }
    }
}
