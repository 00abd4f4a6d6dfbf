//! The network of the simulation: sessions that keep the order of sending, and directions that are blocked for a while.

use atoll_collective::Millis;
use atoll_collective::coordinator;
use atoll_collective::peer;
use atoll_collective::v1::{CoordinatorMessage, Member, PeerMessage, coordinator_message, peer_message};

use super::{Happening, Letter, Session, SessionId, World};

/// Who is at the end of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Worker(u32),
    Arbiter,
}

/// Nothing passes from here to there for a while; what is sent on a session waits, as TCP's repeats would make it wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) from: End,
    pub(super) to: End,
    pub(super) until: Millis,
}

impl World {
    /// Until when nothing passes; now where the way is free.
    pub(super) fn blocked_until(&self, from: End, to: End) -> Millis {
        let on_the_way = |block: &&Block| block.from == from && block.to == to;
        self.blocks.iter().filter(on_the_way).map(|block| block.until).max().unwrap_or(0).max(self.now)
    }

    /// Brings a message (or the session's end) over a session, in the order of sending.
    pub(super) fn deliver(&mut self, session: SessionId, letter: Letter) {
        let up = matches!(letter, Letter::Up(_));
        let Some(found) = self.sessions.get(&session).filter(|session| session.open) else { return };
        let (peer, coordinator) = (found.peer.slot, found.coordinator.slot);
        let (from, to) = if up { (peer, coordinator) } else { (coordinator, peer) };
        let slowness = self.node(from).slowness.max(self.node(to).slowness);
        let free = self.blocked_until(End::Worker(from), End::Worker(to));
        let delay = 1 + self.below(30 * slowness);
        let Some(found) = self.sessions.get_mut(&session) else { return };
        let last = &mut found.last[usize::from(up)];
        *last = (*last).max(free + delay);
        let when = *last;
        let happening = match letter {
            Letter::Up(message) => Happening::ToCoordinator { session, message },
            Letter::Down(message) => Happening::ToPeer { session, message },
        };
        self.at(when, happening);
    }

    /// The session on which a coordinator serves a peer, while it is open.
    pub(super) fn session_of(&self, coordinator: u32, peer: u32, term: u64) -> Option<SessionId> {
        let served = *self.served.get(&(coordinator, peer))?;
        let session = self.sessions.get(&served)?;
        let serves = session.open && session.term == term && session.coordinator == self.nodes[coordinator as usize].me;
        serves.then_some(served)
    }

    pub(super) fn reach_coordinator(&mut self, id: SessionId, message: Option<PeerMessage>) {
        if message.is_some() && self.is_lost(id, true) {
            return;
        }
        let session = &self.sessions[&id];
        let (peer, coordinator, term) = (session.peer.clone(), session.coordinator.clone(), session.term);
        let serves =
            self.is(&coordinator) && self.node(coordinator.slot).coordinator.as_ref().is_some_and(|found| found.term() == term);
        if !serves {
            return self.close(id);
        }
        let hello = matches!(message, Some(PeerMessage { body: Some(peer_message::Body::Hello(_)), .. }));
        if hello {
            self.served.insert((coordinator.slot, peer.slot), id);
        } else if self.served.get(&(coordinator.slot, peer.slot)) != Some(&id) {
            return;
        }
        let learned = message.as_ref().map_or(0, |message| message.learned);
        let event = match message.and_then(|message| message.body) {
            None => coordinator::Event::Disconnected { slot: peer.slot, incarnation: peer.incarnation },
            Some(peer_message::Body::Hello(hello)) => coordinator::Event::Connected(Box::new(hello)),
            Some(body) => {
                coordinator::Event::Message { slot: peer.slot, incarnation: peer.incarnation, learned, body: Box::new(body) }
            }
        };
        self.coordinator_event(coordinator.slot, event);
    }

    pub(super) fn reach_peer(&mut self, id: SessionId, message: Option<CoordinatorMessage>) {
        if message.is_some() && self.is_lost(id, false) {
            return;
        }
        let session = &self.sessions[&id];
        let (peer, term) = (session.peer.clone(), session.term);
        // The sidecar drops what an earlier session of the same term still brings; another term's, the protocol itself refuses.
        let open = self.node(peer.slot).session;
        let late = self.late && message.is_some() && open.is_some_and(|open| self.sessions[&open].term != term);
        if !self.is(&peer) || open != Some(id) && !late {
            return;
        }
        match message {
            Some(message) => {
                if matches!(message.body, Some(coordinator_message::Body::Evict(_))) {
                    self.node(peer.slot).petition.let_go();
                }
                self.peer_event(peer.slot, peer::Event::Message(Box::new(message)));
            }
            None => self.peer_event(peer.slot, peer::Event::Closed(term)),
        }
    }

    /// A message was on its way when its session was cut.
    fn is_lost(&self, id: SessionId, up: bool) -> bool {
        self.now >= self.sessions[&id].lost_from[usize::from(up)]
    }

    /// Cuts a session: the last of what is on the way is lost.
    pub(super) fn tear(&mut self, id: SessionId) {
        let lost_from = [self.now + self.below(30), self.now + self.below(30)];
        if let Some(session) = self.sessions.get_mut(&id).filter(|session| session.open) {
            session.lost_from = lost_from;
        }
        self.close(id);
    }

    /// Ends a session: both sides learn of it, each in its time.
    pub(super) fn close(&mut self, id: SessionId) {
        if self.sessions[&id].open {
            self.deliver(id, Letter::Up(None));
            self.deliver(id, Letter::Down(None));
            self.sessions.get_mut(&id).unwrap().open = false;
        }
    }

    pub(super) fn dialled(&mut self, peer: &Member, dial: u64, coordinator: &Member, term: u64) {
        if !self.is(peer) || self.node(peer.slot).dials != dial {
            return;
        }
        let (here, there) = (End::Worker(peer.slot), End::Worker(coordinator.slot));
        let free = self.blocked_until(here, there).max(self.blocked_until(there, here));
        if free > self.now {
            let (slot, incarnation, coordinator) = (peer.slot, peer.incarnation, coordinator.clone());
            return self.at(free, Happening::Dialled { slot, incarnation, dial, coordinator, term });
        }
        let serves =
            self.is(coordinator) && self.node(coordinator.slot).coordinator.as_ref().is_some_and(|found| found.term() == term);
        if !serves {
            return self.peer_event(peer.slot, peer::Event::Closed(term));
        }
        self.sequence += 1;
        let id = self.sequence;
        let now = self.now;
        self.sessions.insert(
            id,
            Session {
                peer: peer.clone(),
                coordinator: coordinator.clone(),
                term,
                open: true,
                last: [now; 2],
                lost_from: [Millis::MAX; 2],
            },
        );
        self.node(peer.slot).session = Some(id);
        self.peer_event(peer.slot, peer::Event::Opened(term));
    }
}
