//! The trainer beside this sidecar: one process or several ranks, attached, heard, and started in rounds together.

use std::time::{Duration, Instant};

use atoll_collective::Refusal;
use atoll_collective::peer;
use atoll_collective::v1::{
    Arrive, AttachReply, AttachRequest, BeginRoundReply, BeginRoundRequest, CommitRecord, FinishReply, Start,
};
use tonic::Status;

use super::{Core, is_hash};
use crate::regions::Part;
use crate::report;
use crate::trainer::Answer;

/// Most ranks of one trainer.
const MOST_RANKS: u32 = 64;

/// One process of the trainer.
#[derive(Default)]
struct Rank {
    /// Its last heartbeat; none before it is attached.
    pulse: Option<Instant>,
    state: Option<(Part, Vec<u8>)>,
    waits: Option<Answer<BeginRoundReply>>,
    finished: bool,
}

pub(super) struct Trainer {
    pub(super) incarnation: u64,
    ranks: Vec<Rank>,
    lost: bool,
    /// What the ranks ask for, as the first of them asked.
    asked: Option<(u64, u64, Option<CommitRecord>)>,
}

impl Trainer {
    fn new(incarnation: u64, ranks: u32) -> Self {
        let ranks = (0..ranks).map(|_| Rank::default()).collect();
        Self { incarnation, ranks, lost: false, asked: None }
    }

    /// Number of its processes.
    pub(super) fn ranks(&self) -> usize {
        self.ranks.len()
    }

    pub(super) fn pulse(&mut self, rank: u32) {
        if let Some(rank) = self.ranks.get_mut(rank as usize) {
            rank.pulse = Some(Instant::now());
        }
    }

    pub(super) fn forgive(&mut self) {
        for pulse in self.ranks.iter_mut().filter_map(|rank| rank.pulse.as_mut()) {
            *pulse = Instant::now();
        }
    }

    pub(super) fn is_silent(&self, liveness: Duration) -> bool {
        !self.lost && self.ranks.iter().any(|rank| rank.pulse.is_some_and(|pulse| pulse.elapsed() > liveness))
    }

    /// The state that it gives to others: rank 0's.
    pub(super) fn state(&self) -> Option<Part> {
        self.ranks.first().and_then(|rank| rank.state.as_ref()).map(|(state, _)| state.clone())
    }
}

impl Core {
    pub(super) fn attach(&mut self, request: &AttachRequest, protocol: u32, answer: Answer<AttachReply>) {
        let incarnation = request.incarnation;
        let ranks = request.ranks.max(1);
        if ranks > MOST_RANKS || request.rank >= ranks {
            let _gone = answer.send(Err(Status::invalid_argument(format!("rank {} of {ranks}: at most 64", request.rank))));
            return;
        }
        if self.trainer.as_ref().is_some_and(|trainer| trainer.incarnation > incarnation) {
            let _gone = answer.send(Err(Status::failed_precondition("a newer trainer is attached")));
            return;
        }
        let rank = request.rank as usize;
        let joins = self.trainer.as_ref().is_some_and(|trainer| {
            trainer.incarnation == incarnation && trainer.ranks() == ranks as usize && trainer.ranks[rank].pulse.is_none()
        });
        if !joins {
            if self.trainer.is_some() {
                self.lose_trainer();
            }
            self.shared.regions.keep(incarnation);
            self.trainer = Some(Trainer::new(incarnation, ranks));
        }
        if let Some(trainer) = &mut self.trainer {
            trainer.pulse(request.rank);
            if trainer.ranks.iter().all(|rank| rank.pulse.is_some()) {
                report::attached(&self.me.worker);
            }
        }
        let _gone = answer.send(Ok(AttachReply { protocol, slot: self.me.slot }));
    }

    /// The trainer is gone or silent: calls that it may still wait in are answered, so that it begins again.
    pub(super) fn lose_trainer(&mut self) {
        report::detached(&self.me.worker);
        if let Some(trainer) = &mut self.trainer {
            trainer.lost = true;
            trainer.asked = None;
            for rank in &mut trainer.ranks {
                rank.waits = None;
            }
        }
        self.calls.clear();
        self.shared.offer.send_replace(None);
        self.stop_fetching();
        self.peer_event(peer::Event::TrainerLost);
    }

    pub(super) fn begin_round(&mut self, request: BeginRoundRequest, answer: Answer<BeginRoundReply>) {
        let state = self.shared.regions.part(request.incarnation, request.state.as_ref());
        let attached = self.trainer.as_mut().filter(|trainer| trainer.incarnation == request.incarnation);
        let Some((trainer, rank)) =
            attached.filter(|trainer| trainer.ranks() > request.rank as usize).map(|trainer| (trainer, request.rank as usize))
        else {
            let _gone = answer.send(Err(Status::unavailable("the trainer is not attached")));
            return;
        };
        let (Some(state), true) = (state, is_hash(&request.state_hash)) else {
            let refused = Status::invalid_argument("the state is not part of a region, or its hash no BLAKE3 hash");
            let _gone = answer.send(Err(refused));
            return;
        };
        trainer.lost = false;
        trainer.pulse(request.rank);
        if rank == 0 || trainer.asked.is_none() {
            trainer.asked = Some((request.round, request.samples_wanted, request.committed));
        }
        trainer.ranks[rank].state = Some((state, request.state_hash));
        trainer.ranks[rank].waits = Some(answer);
        let all_wait = trainer.ranks.iter().all(|rank| rank.waits.is_some());
        let first = trainer.ranks[0].state.as_ref().map(|(_, hash)| hash.clone());
        if let (true, Some(state_hash), Some((round, samples_wanted, committed))) = (all_wait, first, trainer.asked.take()) {
            // What a trainer that begins a round still waited for, it has given up.
            self.calls.clear();
            self.offer(&state_hash);
            // The peer counts the attempts.
            let arrive = Arrive { round, state_hash, samples_wanted, attempt: 0 };
            self.peer_event(peer::Event::Arrived(arrive, committed));
        }
    }

    pub(super) fn begun(&mut self, result: &Result<Box<Start>, Refusal>) {
        if let Ok(start) = result {
            let members = start.record.as_ref().map_or(&[][..], |record| &record.members);
            self.lanes.keep(members);
        }
        let Some(trainer) = &mut self.trainer else { return };
        let first = trainer.state();
        for rank in &mut trainer.ranks {
            let Some(answer) = rank.waits.take() else { continue };
            let reply = match result {
                Ok(start) => {
                    let other = rank.state.as_ref().is_some_and(|(_, hash)| *hash != start.state_hash);
                    // Rank 0 holds the round's state by now.
                    if let (true, Some((state, _)), Some(first)) = (other, &rank.state, &first) {
                        state.copy_from(first);
                    }
                    Ok(reply(start, other))
                }
                Err(refusal) => Err(Status::aborted(refusal.detail.clone())),
            };
            let _gone = answer.send(reply);
        }
    }

    pub(super) fn finish(&mut self, incarnation: u64, rank: u32, answer: Answer<FinishReply>) {
        if let Some(trainer) = self.trainer.as_mut().filter(|trainer| trainer.incarnation == incarnation) {
            if let Some(rank) = trainer.ranks.get_mut(rank as usize) {
                rank.finished = true;
            }
            if trainer.ranks.iter().all(|rank| rank.finished) {
                self.peer_event(peer::Event::Finished);
            }
        }
        let _gone = answer.send(Ok(FinishReply {}));
    }
}

fn reply(start: &Start, synchronised: bool) -> BeginRoundReply {
    let record = start.record.clone().unwrap_or_default();
    BeginRoundReply {
        round: start.round,
        samples: start.samples.clone(),
        synchronised,
        late: record.epoch != start.started,
        epoch: record.epoch,
        members: record.members,
    }
}
