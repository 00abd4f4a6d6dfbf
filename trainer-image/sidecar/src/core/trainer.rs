//! The trainer beside this sidecar: one process or several ranks, attached, heard, and started in rounds together.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use atoll_collective::Refusal;
use atoll_collective::peer;
use atoll_collective::state::HASHED_AT_ONCE;
use atoll_collective::state::manifest::{Hash, Manifest};
use atoll_collective::v1::{
    AbortReason, AttachReply, AttachRequest, BeginRoundReply, BeginRoundRequest, CommitRecord, FinishReply, Start, StateStrategy,
};
use tokio::time::Instant;
use tonic::Status;

use super::Core;
use super::keeping::Copying;
use crate::checkpoint::Source;
use crate::state::State;
use crate::trainer::{Answer, Pulse};

/// Most ranks of one trainer.
pub(crate) const MOST_RANKS: u32 = 64;

/// One process of the trainer.
#[derive(Default)]
struct Rank {
    /// Its last heartbeat; none before it is attached.
    pulse: Option<Instant>,
    /// The stream of its newest heartbeat, and the newest that does not count: it began before the rank was attached.
    stream: u64,
    before: u64,
    state: Option<State>,
    /// What checkpoints keep of it.
    kept: Option<Source>,
    /// Root of the state as it was hashed.
    root: Hash,
    waits: Option<Answer<BeginRoundReply>>,
    finished: bool,
}

/// What the ranks ask for, as the first of them asked.
pub(super) struct Asked {
    pub(super) round: u64,
    pub(super) samples_wanted: u64,
    pub(super) committed: Option<CommitRecord>,
    pub(super) strategy: StateStrategy,
    pub(super) last: bool,
}

pub(super) struct Trainer {
    pub(super) incarnation: u64,
    ranks: Vec<Rank>,
    lost: bool,
    asked: Option<Asked>,
    /// What becomes of its state where another is elected.
    pub(super) strategy: StateStrategy,
    /// Of rank 0's state, which is the worker's; none while that is repaired, and where it is not known.
    pub(super) manifest: Option<Manifest>,
    /// A repair of that state had not ended when the trainer began the round.
    mixture: bool,
}

impl Trainer {
    fn new(incarnation: u64, ranks: u32) -> Self {
        let ranks = (0..ranks).map(|_| Rank::default()).collect();
        let strategy = StateStrategy::Unspecified;
        Self { incarnation, ranks, lost: false, asked: None, strategy, manifest: None, mixture: false }
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

    pub(super) fn hear(&mut self, pulse: Pulse) {
        let Some(rank) = self.ranks.get_mut(pulse.rank as usize).filter(|rank| pulse.stream > rank.before) else { return };
        if pulse.incarnation == self.incarnation {
            rank.stream = rank.stream.max(pulse.stream);
            rank.pulse = Some(Instant::now());
        }
    }

    /// Whether the end of the stream with this last heartbeat is that of the trainer: a rank ends that has not finished, or all have.
    pub(super) fn ends_with(&self, last: Pulse) -> bool {
        let newest = |rank: &Rank| last.stream == rank.stream && last.stream > rank.before;
        let ends = |rank: &Rank| newest(rank) && self.must_be_heard(rank);
        self.incarnation == last.incarnation && self.ranks.get(last.rank as usize).is_some_and(ends)
    }

    /// Whether the trainer is lost with this rank: one that has finished is missed by nobody before all have.
    fn must_be_heard(&self, rank: &Rank) -> bool {
        !rank.finished || self.ranks.iter().all(|rank| rank.finished)
    }

    /// The same processes, of which one was attached once more: the others are heard on the streams that they have.
    fn goes_on_from(&mut self, before: &Self) {
        for (rank, before) in self.ranks.iter_mut().zip(&before.ranks) {
            (rank.stream, rank.before) = (before.stream, before.before);
        }
    }

    /// All ranks have done their last round.
    fn has_finished(&self) -> bool {
        self.ranks.iter().all(|rank| rank.finished)
    }

    /// A rank is there; its heartbeats come on another stream than those before.
    fn attach(&mut self, rank: usize) {
        self.ranks[rank].before = self.ranks[rank].stream;
        self.ranks[rank].pulse = Some(Instant::now());
    }

    pub(super) fn forgive(&mut self) {
        for pulse in self.ranks.iter_mut().filter_map(|rank| rank.pulse.as_mut()) {
            *pulse = Instant::now();
        }
    }

    pub(super) fn is_silent(&self, liveness: Duration) -> bool {
        let silent = |rank: &Rank| self.must_be_heard(rank) && rank.pulse.is_some_and(|pulse| pulse.elapsed() > liveness);
        !self.lost && self.ranks.iter().any(silent)
    }

    /// The state that it gives to others: rank 0's.
    pub(super) fn state(&self) -> Option<&State> {
        self.ranks.first().and_then(|rank| rank.state.as_ref())
    }

    /// What checkpoints keep of it: rank 0's.
    pub(super) fn kept(&self) -> Option<&Source> {
        self.ranks.first().and_then(|rank| rank.kept.as_ref())
    }

    /// The states of all ranks; none before each waits for the round with its own.
    fn states(&self) -> Option<Vec<State>> {
        self.ranks.iter().map(|rank| rank.state.clone().filter(|_| rank.waits.is_some())).collect()
    }

    /// Takes note of what the ranks' states are. What they asked for, and whether rank 0's state is a mixture.
    pub(super) fn hashed(&mut self, manifests: Vec<Manifest>) -> Option<(Asked, bool)> {
        let asked = self.asked.take()?;
        for (rank, manifest) in self.ranks.iter_mut().zip(&manifests) {
            rank.root = manifest.root();
        }
        self.strategy = asked.strategy;
        self.manifest = manifests.into_iter().next();
        // A region that does not say is taken for the worse.
        self.mixture = self.state()?.is_mixture().unwrap_or(true);
        Some((asked, self.mixture))
    }

    /// Answers every rank that waits for a round with an error.
    pub(super) fn refuse(&mut self, status: &Status) {
        self.asked = None;
        for answer in self.ranks.iter_mut().filter_map(|rank| rank.waits.take()) {
            let _gone = answer.send(Err(status.clone()));
        }
    }

    /// Takes the ranks that wait, to be given the round's state, which rank 0 holds by now.
    fn begin(&mut self, start: &Start) -> Option<Beginning> {
        let first = self.state().cloned()?;
        let renewed = start.synchronise || std::mem::take(&mut self.mixture);
        if renewed && let Err(error) = first.mark(true) {
            tracing::warn!(%error, "the state's regions cannot be marked as whole");
        }
        let waiting = self.ranks.iter_mut().enumerate().filter_map(|(index, rank)| {
            let answer = rank.waits.take()?;
            let other = rank.root[..] != start.state_root;
            let copy = rank.state.clone().filter(|_| index > 0 && other);
            Some(Waiting { answer, copy, reply: reply(start, other || renewed) })
        });
        Some(Beginning { waiting: waiting.collect(), first, kept: None })
    }
}

/// A rank that is told that the round has begun, once it holds the round's state.
struct Waiting {
    answer: Answer<BeginRoundReply>,
    /// Its state, where that has to become another.
    copy: Option<State>,
    reply: BeginRoundReply,
}

/// The ranks of a trainer whose round begins.
struct Beginning {
    first: State,
    waiting: Vec<Waiting>,
    kept: Option<Copying>,
}

impl Beginning {
    /// Bytes that have to be copied.
    fn work(&self) -> usize {
        let ranks: usize = self.waiting.iter().filter_map(|rank| rank.copy.as_ref()).map(State::len).sum();
        ranks + self.kept.as_ref().map_or(0, Copying::work)
    }

    fn carry_out(self) {
        if let Some(kept) = self.kept {
            kept.carry_out();
        }
        for Waiting { answer, copy, reply } in self.waiting {
            let copied = copy.is_none_or(|state| state.copy_from(&self.first));
            let unlike = || Status::failed_precondition("the state of this rank has other tensors than that of rank 0");
            let _gone = answer.send(if copied { Ok(reply) } else { Err(unlike()) });
        }
    }
}

impl Core {
    pub(super) fn attach(&mut self, request: &AttachRequest, protocol: u32, answer: Answer<AttachReply>) {
        let incarnation = request.incarnation;
        let ranks = request.ranks.max(1);
        if let Err(problem) = placed(request.rank, ranks) {
            let _gone = answer.send(Err(Status::invalid_argument(problem)));
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
            let mut trainer = Trainer::new(incarnation, ranks);
            if let Some(before) = self.trainer.take().filter(|before| before.incarnation == incarnation) {
                trainer.goes_on_from(&before);
            }
            self.trainer = Some(trainer);
        }
        if let Some(trainer) = &mut self.trainer {
            trainer.attach(rank);
            if trainer.ranks.iter().all(|rank| rank.pulse.is_some()) {
                self.shared.report.attached();
            }
        }
        self.share.has_trainer();
        let _gone = answer.send(Ok(AttachReply { protocol, slot: self.me.slot }));
    }

    /// The trainer is gone or silent: calls that it may still wait in are answered, so that it begins again.
    pub(super) fn lose_trainer(&mut self) {
        self.shared.report.detached();
        if let Some(trainer) = &mut self.trainer {
            trainer.lost = true;
            trainer.asked = None;
            for rank in &mut trainer.ranks {
                rank.waits = None;
            }
        }
        let given_up = std::mem::take(&mut self.calls);
        self.shared.offer.send_replace(None);
        self.stop_hashing();
        self.stop_fetching();
        // One that has finished may end before its share of the last checkpoint is written: its worker stays until then.
        if !self.trainer.as_ref().is_some_and(Trainer::has_finished) || !self.share.outlives_trainer() {
            self.peer_event(peer::Event::TrainerLost);
        }
        self.forget(given_up);
    }

    pub(super) fn begin_round(&mut self, request: BeginRoundRequest, answer: Answer<BeginRoundReply>) {
        let state = State::find(&self.shared.regions, request.incarnation, &request.state);
        let strategy = request.strategy();
        let attached = self.trainer.as_mut().filter(|trainer| trainer.incarnation == request.incarnation);
        let Some((trainer, rank)) =
            attached.filter(|trainer| trainer.ranks() > request.rank as usize).map(|trainer| (trainer, request.rank as usize))
        else {
            let _gone = answer.send(Err(Status::unavailable("the trainer is not attached")));
            return;
        };
        let kept = state
            .as_ref()
            .and_then(|state| Source::find(&self.shared.regions, request.incarnation, state, request.kept.as_ref()));
        let (Some(state), Some(kept)) = (state, kept) else {
            let _gone = answer.send(Err(Status::invalid_argument("a tensor of the state is not part of a region")));
            return;
        };
        trainer.lost = false;
        trainer.ranks[rank].finished = false;
        trainer.pulse(request.rank);
        if rank == 0 || trainer.asked.is_none() {
            let BeginRoundRequest { round, samples_wanted, committed, last, .. } = request;
            self.stage = Some(kept.stage(round));
            trainer.asked = Some(Asked { round, samples_wanted, committed, strategy, last });
        }
        trainer.ranks[rank].state = Some(state);
        trainer.ranks[rank].kept = Some(kept);
        trainer.ranks[rank].waits = Some(answer);
        if let Some(states) = trainer.states() {
            trainer.manifest = None;
            self.hash(states);
        }
    }

    pub(super) fn begun(&mut self, result: &Result<Box<Start>, Refusal>) {
        if let Ok(start) = result {
            let members = start.record.as_ref().map_or(&[][..], |record| &record.members);
            self.lanes.keep(members);
        }
        // While its state is hashed, a trainer waits for the answer to another arrival.
        if self.hashing {
            if let Some(upload) = result.as_ref().ok().and_then(|start| start.upload.clone()) {
                self.cannot_keep(&upload);
            }
            return;
        }
        let kept = result.as_ref().ok().and_then(|start| self.copying(start));
        let Some(trainer) = &mut self.trainer else { return };
        match result {
            Ok(start) => {
                let Some(mut beginning) = trainer.begin(start) else { return };
                beginning.kept = kept;
                if beginning.work() < HASHED_AT_ONCE {
                    return beginning.carry_out();
                }
                let copying = Arc::clone(&self.copying);
                tokio::task::spawn_blocking(move || {
                    let _alone = copying.lock().unwrap_or_else(PoisonError::into_inner);
                    beginning.carry_out();
                });
            }
            // Trying again would not help.
            Err(Refusal { reason: AbortReason::StateRefused, detail, .. }) => {
                trainer.refuse(&Status::failed_precondition(detail.clone()));
            }
            Err(refusal) => trainer.refuse(&Status::aborted(refusal.detail.clone())),
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

/// Whether one may be this rank of so many.
fn placed(rank: u32, ranks: u32) -> Result<(), String> {
    if ranks > MOST_RANKS {
        return Err(format!("ranks {ranks}: a worker has at most {MOST_RANKS}"));
    }
    if rank >= ranks {
        return Err(format!("rank {rank} of {ranks} ranks: they count from 0; give a rank below {ranks}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PULSE: Pulse = Pulse { incarnation: 1, rank: 0, stream: 1 };
    const OTHER: Pulse = Pulse { rank: 1, stream: 2, ..PULSE };

    /// Two ranks, attached and heard.
    fn two() -> Trainer {
        let mut trainer = Trainer::new(1, 2);
        for pulse in [PULSE, OTHER] {
            trainer.attach(pulse.rank as usize);
            trainer.hear(pulse);
        }
        trainer
    }

    #[test]
    fn a_rank_is_below_their_number_and_that_is_bounded() {
        assert_eq!((placed(0, 1), placed(1, 2), placed(63, 64)), (Ok(()), Ok(()), Ok(())));
        assert!(placed(3, 2).unwrap_err().contains("give a rank below 2"));
        assert!(placed(0, 65).unwrap_err().contains("at most 64"));
    }

    #[test]
    fn a_rank_that_has_finished_ends_alone() {
        let mut trainer = two();
        assert!(trainer.ends_with(PULSE) && trainer.ends_with(OTHER));
        assert!(trainer.is_silent(Duration::ZERO));
        trainer.ranks[1].finished = true;
        trainer.ranks[0].pulse = None;
        assert!(trainer.ends_with(PULSE) && !trainer.ends_with(OTHER) && !trainer.is_silent(Duration::ZERO));
        trainer.ranks[0].finished = true;
        assert!(trainer.ends_with(PULSE) && trainer.is_silent(Duration::ZERO), "who has nothing more to give may still save it");
    }

    #[test]
    fn heartbeats_that_were_replaced_are_nobodys_and_those_of_other_ranks_go_on() {
        let before = two();
        let mut trainer = Trainer::new(1, 2);
        trainer.goes_on_from(&before);
        trainer.attach(0);
        let attached = trainer.ranks[0].pulse;
        trainer.hear(PULSE);
        assert!(trainer.ranks[0].pulse == attached && !trainer.ends_with(PULSE), "it spoke before");
        trainer.hear(OTHER);
        assert!(trainer.ranks[1].pulse.is_some() && trainer.ends_with(OTHER));
        let again = Pulse { stream: 3, ..PULSE };
        trainer.hear(again);
        assert!(trainer.ends_with(again) && !trainer.ends_with(PULSE));
        assert!(!trainer.ends_with(Pulse { incarnation: 2, ..again }));
    }
}
