//! Faults that wait for their moment: the few milliseconds in which a rule of the protocol is all that keeps a run right.

use atoll_collective::Millis;
use atoll_collective::chain;
use atoll_collective::operation::Key;
use atoll_collective::v1::{CoordinatorMessage, EpochRecord, Member, PeerMessage, coordinator_message, peer_message};

use super::network::{Block, End};
use super::values::hash_of;
use super::{Happening, LIVENESS, SessionId, World};

/// What a fault waits for, and what it does then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// A start is on its way: its trainer ends, and another is there before it comes.
    Start,
    /// An operation has begun: the coordinator is cut off while its members move data.
    Begin,
    /// An operation is committed: the coordinator ends when it has told some, not all.
    Commit,
    /// An epoch has members that do not know the history: all who know it stand still.
    Newcomers,
}

impl Moment {
    pub(super) const ALL: [Self; 4] = [Self::Start, Self::Begin, Self::Commit, Self::Newcomers];
}

impl World {
    /// Whether a fault has waited for this moment; it strikes once.
    fn strikes(&mut self, moment: Moment) -> bool {
        let found = self.ambushes.iter().position(|ambush| *ambush == moment);
        found.is_some_and(|place| {
            self.ambushes.swap_remove(place);
            true
        })
    }

    /// Whether a coordinator's message is sent at all.
    pub(super) fn passes_ambush(
        &mut self,
        coordinator: u32,
        to: u32,
        session: SessionId,
        message: &mut CoordinatorMessage,
    ) -> bool {
        match &mut message.body {
            Some(coordinator_message::Body::Start(_)) if self.strikes(Moment::Start) => {
                self.at(self.now, Happening::CrashTrainer(to));
                self.at(self.now, Happening::RestartTrainer(to));
                let sent = &mut self.sessions.get_mut(&session).unwrap().last[0];
                *sent = (*sent).max(self.now) + 40;
            }
            Some(coordinator_message::Body::Begin(_)) if self.strikes(Moment::Begin) => self.cut_off(coordinator),
            Some(coordinator_message::Body::Commit(commit)) => {
                if std::mem::take(&mut self.corrupt) {
                    commit.result_hash[0] ^= 1;
                }
                if self.strikes(Moment::Commit) {
                    self.dying = Some((coordinator, self.now));
                    self.at(self.now, Happening::Crash(Some(coordinator)));
                }
                if self.dying == Some((coordinator, self.now)) && self.below(2) == 0 {
                    self.close(session);
                    return false;
                }
            }
            _ => {}
        }
        true
    }

    /// From the next instant on a worker neither hears nor reaches anybody, except over lanes.
    fn cut_off(&mut self, slot: u32) {
        let until = self.now + LIVENESS + self.below(2 * LIVENESS);
        let here = End::Worker(slot);
        let others = (0..self.nodes.len() as u32).filter(|other| *other != slot).map(End::Worker);
        for there in others.chain([End::Arbiter]) {
            for (from, to) in [(here, there), (there, here)] {
                self.at(self.now + 1, Happening::Block(Block { from, to, until }));
            }
        }
    }

    /// A worker stands still. Where it does already, what waits for it comes no earlier: sessions keep the order of sending.
    pub(super) fn stop(&mut self, slot: u32, until: Millis) {
        let node = self.node(slot);
        node.stopped_until = node.stopped_until.max(until);
    }

    /// Whoever knows the history stands still, where a member of the new epoch does not.
    pub(super) fn ambush_newcomers(&mut self, record: &EpochRecord) {
        let rounds = |world: &Self, member: &Member| chain::rounds(world.nodes[member.slot as usize].peer.committed());
        let members = || record.members.iter().filter(|member| self.is(member));
        let (knowing, new): (Vec<_>, Vec<_>) = members().partition(|member| rounds(self, member) >= record.rounds);
        if record.rounds == 0 || new.is_empty() || knowing.is_empty() || !self.strikes(Moment::Newcomers) {
            return;
        }
        for member in knowing {
            let until = self.now + 3 * LIVENESS + self.below(LIVENESS);
            self.stop(member.slot, until);
        }
    }

    /// A worker claims samples that it was not dealt.
    pub(super) fn lie(&mut self, slot: u32, message: &mut PeerMessage) {
        let Some(peer_message::Body::Enter(enter)) = &mut message.body else { return };
        let ends_round = enter.operation.as_ref().is_some_and(|operation| operation.ends_round);
        let Some(given) = enter.contribution.as_mut().filter(|_| ends_round) else { return };
        if std::mem::take(&mut self.node(slot).lies) {
            for range in &mut given.samples {
                (range.start, range.end) = (range.start + 1, range.end + 1);
            }
        }
    }

    /// Whoever takes part holds the result when a coordinator commits by their votes, or has taken it from another coordinator.
    pub(super) fn check_votes(&mut self, term: u64, message: &CoordinatorMessage) {
        let Some(coordinator_message::Body::Commit(commit)) = &message.body else { return };
        let key: Key = commit.key.clone().unwrap_or_default().into();
        if commit.term != term || self.operations.contains_key(&key) || !self.voted.insert(key.clone()) {
            return;
        }
        let record = self.granted.get(&(commit.term + commit.epoch)).cloned().unwrap_or_default();
        let takes_part = |member: &&Member| commit.slots.contains(&member.slot) && self.is(member);
        let holds = |member: &Member| {
            self.nodes[member.slot as usize].outputs.get(&key).map(hash_of).as_ref() == Some(&commit.result_hash)
        };
        let without = record.members.iter().filter(takes_part).find(|member| !holds(member)).map(|member| member.slot);
        self.require(without.is_none(), || {
            format!("{key} was committed, and w{} does not hold its result", without.unwrap_or(0))
        });
    }
}
