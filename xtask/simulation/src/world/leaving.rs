//! Workers whose sidecars are told to stop: they say goodbye, and a coordinator goes on until another has its role.

use atoll_collective::coordinator::Coordinator;
use atoll_collective::peer;

use super::{FAULTS_UNTIL, Happening, World};

impl World {
    /// Every other one strikes whoever has the coordinator's role then.
    pub(super) fn plan_leaves(&mut self, leaves: u32, workers: u64) {
        for number in 0..leaves {
            let (when, slot) = (self.below(FAULTS_UNTIL), self.below(workers) as u32);
            self.at(when, Happening::Leave((number % 2 == 1).then_some(slot)));
        }
    }

    /// A sidecar is told to stop; the coordinator's where no slot is named. It ends with a tick from now on.
    pub(super) fn leave(&mut self, slot: Option<u32>) {
        let coordinator = self.record().coordinator.as_ref().map(|member| member.slot);
        let Some(slot) = slot.or(coordinator) else { return };
        let (now, ended) = (self.now, self.is_over());
        let node = self.node(slot);
        if !node.alive || node.petition.is_leaving() || ended {
            return;
        }
        node.next_beat = 0;
        node.petition.leave(now);
        self.peer_event(slot, peer::Event::Stopping);
    }

    /// Ends a sidecar that was told to stop, once nobody else needs it as coordinator or voter, or it has waited long enough for that.
    pub(super) fn end_what_left(&mut self, slot: u32) {
        if !self.node(slot).petition.is_leaving() {
            return;
        }
        let term = self.node(slot).coordinator.as_ref().map(Coordinator::term);
        let others = self.node(slot).petition.listeners();
        let serves = term.is_some_and(|term| others.iter().any(|other| self.session_of(slot, other.slot, term).is_some()));
        let now = self.now;
        if !self.node(slot).petition.is_needed(serves, now) {
            self.crash(slot);
        }
    }
}
