//! The faults of a schedule: processes that end or stand still, and connections that break.

use atoll_collective::chain;
use atoll_collective::peer::{self, Peer};
use atoll_collective::v1::ArbiterKind;

use super::ambush::Moment;
use super::network::{Block, End};
use super::training::first_state;
use super::{FAULTS_UNTIL, Happening, LIVENESS, Node, QUORUM, Session, Trainer, World, petition};
use crate::{Arbitration, Schedule};

impl World {
    pub(super) fn plan_faults(&mut self, schedule: &Schedule) {
        let workers = u64::from(schedule.workers);
        let faults = schedule.faults;
        for _ in 0..faults.crashes {
            let (when, slot) = (self.below(FAULTS_UNTIL), self.below(workers) as u32);
            self.at(when, Happening::Crash((!schedule.against_the_coordinator).then_some(slot)));
        }
        for _ in 0..faults.trainer_crashes {
            let (when, slot) = (self.below(FAULTS_UNTIL), self.below(workers) as u32);
            self.at(when, Happening::CrashTrainer(slot));
        }
        for _ in 0..faults.stops {
            let (when, slot) = (self.below(FAULTS_UNTIL), self.below(workers) as u32);
            self.at(when, Happening::Stop(slot));
        }
        for _ in 0..faults.cuts {
            let (when, one, other) = (self.below(FAULTS_UNTIL), self.below(workers) as u32, self.below(workers) as u32);
            self.at(when, Happening::Cut(one, other));
        }
        for _ in 0..faults.partitions {
            self.plan_partition(workers);
        }
        for _ in 0..faults.splits {
            self.plan_split(workers);
        }
        for _ in 0..faults.hub_crashes {
            let when = self.below(FAULTS_UNTIL);
            self.at(when, Happening::CrashHub);
        }
        match schedule.arbitration {
            Arbitration::Single => {}
            Arbitration::Peers => self.at(0, Happening::Want(ArbiterKind::Peers)),
            Arbitration::Changing => {
                for kind in [ArbiterKind::Peers, ArbiterKind::Single, ArbiterKind::Peers, ArbiterKind::Single] {
                    let when = self.below(2 * FAULTS_UNTIL);
                    self.at(when, Happening::Want(kind));
                }
            }
        }
        for _ in 0..faults.tears {
            let (when, slot) = (self.below(FAULTS_UNTIL), self.below(workers) as u32);
            self.at(when, Happening::Tear(slot));
        }
        for _ in 0..faults.lies {
            let (when, slot) = (self.below(FAULTS_UNTIL), self.below(workers) as u32);
            self.at(when, Happening::Lie(slot));
        }
        self.plan_slanders(faults.slanders);
        for _ in 0..faults.corruptions {
            let when = self.below(FAULTS_UNTIL);
            self.at(when, Happening::Corrupt);
        }
        for _ in 0..faults.ambushes {
            let (when, which) = (self.below(FAULTS_UNTIL), self.below(Moment::ALL.len() as u64) as usize);
            self.at(when, Happening::Ambush(Moment::ALL[which]));
        }
        for _ in 0..faults.slow {
            let (when, slot) = (self.below(FAULTS_UNTIL), self.below(workers) as u32);
            self.at(when, Happening::Slow(slot));
        }
        self.plan_leaves(faults.leaves, workers);
    }

    /// One worker is cut off from all others, or from the arbiter, or from both; one way or both ways.
    fn plan_partition(&mut self, workers: u64) {
        let (when, slot) = (self.below(FAULTS_UNTIL), self.below(workers) as u32);
        let until = when + self.below(3 * LIVENESS);
        let (from_others, from_arbiter, ways) = (self.below(3) > 0, self.below(3) > 0, self.below(3));
        let others = (0..workers as u32).filter(|other| *other != slot && from_others).map(End::Worker);
        for there in others.chain(from_arbiter.then_some(End::Arbiter)) {
            let here = End::Worker(slot);
            if ways != 1 {
                self.at(when, Happening::Block(Block { from: here, to: there, until }));
            }
            if ways != 2 {
                self.at(when, Happening::Block(Block { from: there, to: here, until }));
            }
        }
    }

    /// The workers fall into two halves that do not hear each other, each with enough for a quorum.
    fn plan_split(&mut self, workers: u64) {
        let mut slots: Vec<u32> = (0..workers as u32).collect();
        let half = QUORUM + self.below(workers - 2 * QUORUM + 1);
        let here: Vec<u32> = (0..half).map(|_| slots.swap_remove(self.below(slots.len() as u64) as usize)).collect();
        let (when, hub) = (self.below(FAULTS_UNTIL), self.below(3));
        let until = when + self.below(4 * LIVENESS);
        let side = |slots: &[u32], with_hub: bool| -> Vec<End> {
            slots.iter().copied().map(End::Worker).chain(with_hub.then_some(End::Arbiter)).collect()
        };
        let mut ways = Vec::new();
        let (one, other) = (side(&here, hub == 0), side(&slots, hub == 1));
        for (from, to) in one.iter().flat_map(|from| other.iter().map(move |to| (*from, *to))) {
            ways.extend([(from, to), (to, from)]);
        }
        if hub == 2 {
            ways.extend((0..workers as u32).map(End::Worker).flat_map(|end| [(end, End::Arbiter), (End::Arbiter, end)]));
        }
        for (from, to) in ways {
            self.at(when, Happening::Block(Block { from, to, until }));
        }
    }

    /// Ends a sidecar's process, unless it is the last member that knows the newest round: losing everybody loses the run.
    pub(super) fn crash(&mut self, slot: u32) {
        let newest = self.history.keys().last().copied().unwrap_or(0);
        let record = self.record();
        let survivors = record.members.iter().filter(|member| {
            let knows = chain::rounds(self.nodes[member.slot as usize].peer.committed()) == newest;
            member.slot != slot && self.is(member) && knows && !member.contributor
        });
        if survivors.count() == 0 || self.is_over() || !self.node(slot).alive || !self.may_lose(End::Worker(slot)) {
            return;
        }
        self.strike(slot);
        let me = self.node(slot).me.clone();
        for id in self
            .sessions
            .iter()
            .filter(|(_, session)| session.peer == me || session.coordinator == me)
            .map(|(id, _)| *id)
            .collect::<Vec<_>>()
        {
            self.close(id);
        }
        let node = self.node(slot);
        node.alive = false;
        node.coordinator = None;
        if self.below(2) == 0 {
            self.arbiter.ended(me.slot, me.incarnation);
        }
        self.soon(1_500, Happening::Restart(slot));
    }

    pub(super) fn restart(&mut self, slot: u32) {
        let rules = self.rules;
        let node = self.node(slot);
        if node.alive {
            return;
        }
        let incarnation = node.me.incarnation + 1;
        let me = self.process(slot, incarnation);
        let node = self.node(slot);
        node.peer = Peer::new("run".into(), me.clone(), LIVENESS).with_rules(rules);
        node.petition = petition(&me, rules);
        node.me = me;
        node.alive = true;
        node.session = None;
        node.moving.clear();
        node.outputs.clear();
        node.kept = None;
        node.trainer.waits.clear();
        node.trainer.start = None;
        let trainer = node.trainer.incarnation;
        self.soon(20, Happening::Tick(slot));
        self.soon(20, Happening::ArriveAgain { slot, trainer });
    }

    pub(super) fn crash_trainer(&mut self, slot: u32) {
        // Losing all that hold the newest state loses the run.
        let newest = self.history.keys().last().copied().unwrap_or(0);
        let gives = |node: &&Node| !node.trainer.mixture && !self.never_gives(node.me.slot);
        let holds = |node: &&Node| node.me.slot != slot && node.trainer.alive && node.trainer.rounds == newest && gives(node);
        if self.nodes.iter().filter(holds).count() == 0 || self.is_over() || self.node(slot).peer.is_prepared() {
            return;
        }
        self.strike(slot);
        let node = self.node(slot);
        node.trainer.waits.clear();
        if std::mem::take(&mut node.trainer.alive) {
            if node.alive {
                self.peer_event(slot, peer::Event::TrainerLost);
            }
            self.soon(1_500, Happening::RestartTrainer(slot));
        }
    }

    pub(super) fn restart_trainer(&mut self, slot: u32) {
        if self.node(slot).trainer.alive {
            return;
        }
        let incarnation = self.node(slot).trainer.incarnation + 1;
        let state = first_state(if self.schedule.unlike { u64::from(slot) << 32 | incarnation } else { 0 });
        self.node(slot).trainer = Trainer { incarnation, alive: true, state, ..Trainer::default() };
        self.note_state(slot);
        let trainer = incarnation;
        self.soon(20, Happening::ArriveAgain { slot, trainer });
    }

    /// Cuts every session between two peers.
    pub(super) fn cut(&mut self, one: u32, other: u32) {
        let between = |session: &Session| {
            let ends = [session.peer.slot, session.coordinator.slot];
            ends == [one, other] || ends == [other, one]
        };
        for id in self.sessions.iter().filter(|(_, session)| between(session)).map(|(id, _)| *id).collect::<Vec<_>>() {
            self.tear(id);
        }
    }
}
