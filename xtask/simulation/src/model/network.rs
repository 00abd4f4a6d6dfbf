//! Control sessions: each way keeps the order of sending, and a session may end, for either end in its own time.

use std::collections::VecDeque;

use atoll_collective::v1::{CoordinatorMessage, PeerMessage};

use super::shared::Shared;

/// One way of a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Way<T> {
    /// In the order of sending.
    pub(super) waiting: VecDeque<T>,
    pub(super) end: End,
}

/// The end of one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// Messages may be sent.
    Open,
    /// It was closed: the end comes behind what waits.
    Last,
    /// It has broken: what waits may be lost.
    Any,
}

/// What a session is to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Service {
    /// Its peer has not introduced itself yet.
    New,
    Open,
    Closed,
}

/// A session between a peer and the coordinator of a term on another worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Connection {
    pub(super) peer: u32,
    pub(super) coordinator: u32,
    pub(super) term: u64,
    pub(super) up: Way<Shared<PeerMessage>>,
    pub(super) down: Way<Shared<CoordinatorMessage>>,
    /// It is the peer's session.
    pub(super) used: bool,
    pub(super) service: Service,
}

impl<T> Way<T> {
    fn new() -> Self {
        Self { waiting: VecDeque::new(), end: End::Open }
    }

    /// Sends, unless the session has broken already.
    fn send(&mut self, message: T) {
        if self.end == End::Open {
            self.waiting.push_back(message);
        }
    }

    /// Nobody listens any more.
    fn drop_all(&mut self) {
        self.waiting.clear();
        self.end = End::Any;
    }

    /// Whether the end may be what comes next.
    pub(super) fn may_end(&self) -> bool {
        self.end == End::Any || self.end == End::Last && self.waiting.is_empty()
    }
}

impl Connection {
    pub(super) fn new(peer: u32, coordinator: u32, term: u64) -> Self {
        Self { peer, coordinator, term, up: Way::new(), down: Way::new(), used: true, service: Service::New }
    }

    pub(super) fn send_up(&mut self, message: Shared<PeerMessage>) {
        self.up.send(message);
    }

    pub(super) fn send_down(&mut self, message: Shared<CoordinatorMessage>) {
        self.down.send(message);
    }

    /// The peer's end closes; it does not wait until what it sent has left.
    pub(super) fn hang_up(&mut self) {
        self.used = false;
        self.down.drop_all();
        self.up.end = End::Any;
    }

    /// The coordinator's end closes.
    pub(super) fn close(&mut self) {
        self.service = Service::Closed;
        self.up.drop_all();
        if self.down.end == End::Open {
            self.down.end = End::Last;
        }
    }

    /// It breaks; each end notices in its time.
    pub(super) fn cut(&mut self) {
        self.up.end = End::Any;
        self.down.end = End::Any;
    }

    /// Neither end holds it any more.
    pub(super) fn is_over(&self) -> bool {
        !self.used && self.service == Service::Closed
    }

    /// Both ends hold it, and it is whole.
    pub(super) fn is_whole(&self) -> bool {
        self.used && self.service != Service::Closed && self.up.end == End::Open && self.down.end == End::Open
    }
}
