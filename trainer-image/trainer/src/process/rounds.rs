//! The rounds of one worker, from the first it can take part in to the last of the run.

use std::time::{Duration, Instant};

use atoll_crds::spec::DivergencePolicy;
use atoll_methods::{Contribution as Gives, Method, pseudo_gradient};
use atoll_sdk::events::Event;
use atoll_sdk::{Coding, CommitRecord, Contribution, Outcome, Round, SampleRange, SdkError, Session};

use super::divergence::{Sighting, Watch};
use super::job::vectors;
use super::restore::{Private, restore};
use super::state::{State, Steps};
use super::steps::Gradients;
use super::{Job, Prepared, Resume, TrainerError, held_out_loss};
use crate::data::{Corpus, SampleOrder};
use crate::export;
use crate::model::{self, Llama};
use crate::optimizer::{AdamW, Schedule, Sgd, clip_to_norm};

/// A worker in training.
pub(super) struct Rounds<'a> {
    job: &'a Job,
    session: Session,
    model: Llama,
    corpus: Corpus,
    order: SampleOrder,
    method: Method,
    schedule: Schedule,
    adam: Option<AdamW>,
    gradients: Gradients,
    state: State,
    /// It takes part since its last interruption.
    joined: bool,
    /// Committed rounds in the state.
    committed: u64,
    /// Slot of the first who gave to the last of them, where it is known.
    first: Option<u32>,
    /// Steps that the private moments have seen.
    moments_seen: u64,
    /// They are not its own yet.
    new: bool,
    /// Looks for divergence, where the run has a policy for it.
    watch: Option<Watch>,
    /// Samples of this worker that were committed.
    samples: u64,
    deadline: Duration,
}

/// What a worker ends with.
pub(super) struct Finished {
    pub(super) steps: u64,
    pub(super) samples: u64,
    pub(super) weights_hash: String,
}

impl<'a> Rounds<'a> {
    pub(super) fn new(job: &'a Job, prepared: Prepared, mut session: Session) -> Result<Self, TrainerError> {
        let Prepared { model, corpus } = prepared;
        let method = job.method();
        let adam = job.adam();
        let parameters = model.config().parameters();
        let (config, tensors) = (export::config_json(model.config()), model::index_json(model.config()));
        let tokenizer = corpus.store().tokenizer_json();
        let files: [(&str, &[u8]); 3] =
            [("config.json", config.as_bytes()), ("tokenizer.json", tokenizer), ("tensors.json", tensors.as_bytes())];
        let mut state = State::new(&mut session, vectors(&job.spec), parameters, &files)?;
        model.flatten_into(state.replicated()?.0)?;
        let workers = &job.spec.workers;
        let mut rounds = Self {
            session,
            order: job.order(corpus.split().samples()),
            schedule: job.schedule(),
            gradients: Gradients::new(parameters, workers.ranks as usize, workers.batch_size as usize),
            // A straggler has its own clock; this one ends what no other clock does.
            deadline: 2 * Duration::from_secs(u64::from(job.spec.rounds.round_timeout_seconds)),
            model,
            corpus,
            method,
            adam,
            state,
            joined: false,
            committed: 0,
            first: None,
            moments_seen: 0,
            new: true,
            watch: job.spec.divergence.clone().map(Watch::new),
            samples: 0,
            job,
        };
        if let Some(resume) = &job.resume {
            rounds.resume(resume)?;
        }
        Ok(rounds)
    }

    /// Takes over what a checkpoint holds of this worker.
    fn resume(&mut self, resume: &Resume) -> Result<(), TrainerError> {
        let since = Instant::now();
        let private = restore(resume, &self.state, self.job.slot)?;
        self.committed = resume.committed.round;
        self.first = first_of(&resume.committed);
        self.session.resume(resume.committed.clone());
        self.model.load_from(self.state.start()?)?;
        let restored = self.event("Restored", self.committed, self.steps(), since.elapsed().as_secs_f64());
        restored.with("checkpoint", resume.manifest.place.to_string()).emit();
        match private {
            Private::Own { steps } => (self.moments_seen, self.new) = (steps, false),
            // Nobody else's moments are its own: it is not counted before it has trained with them, where others have their own.
            Private::Donor { slot, steps } => {
                let workers = self.job.spec.workers.target;
                self.new = resume.manifest.private.iter().any(|state| state.slot < workers);
                self.moments_seen = steps;
                let lost = self.event("PrivateStateLost", self.committed, self.steps(), 0.0);
                lost.with("slot", self.job.slot).with("donor", slot).emit();
            }
            Private::None => self.new = false,
        }
        Ok(())
    }

    pub(super) fn model(&self) -> &Llama {
        &self.model
    }

    pub(super) fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    pub(super) fn held_out_loss(&self) -> Result<f64, TrainerError> {
        held_out_loss(&self.model, &self.corpus)
    }

    /// It is the first who gave to the last round: one does what all could do alike.
    pub(super) fn is_first(&self) -> bool {
        self.first == Some(self.job.slot)
    }

    /// Inner steps in all committed rounds.
    fn steps(&self) -> u64 {
        let (round, step) = self.job.after;
        let since = self.committed.saturating_sub(round) * u64::from(self.method.inner_steps());
        (step + since).min(self.job.spec.stop.steps)
    }

    /// Inner steps of the next round; the last may be shorter.
    fn next_steps(&self) -> u64 {
        u64::from(self.method.inner_steps()).min(self.job.spec.stop.steps - self.steps())
    }

    /// Trains until the run's last step.
    pub(super) fn train(&mut self) -> Result<(), TrainerError> {
        while self.steps() < self.job.spec.stop.steps {
            match self.round() {
                Err(reason @ (TrainerError::Aborted { .. } | TrainerError::Session(SdkError::Again(_)))) => {
                    tracing::warn!(%reason, "the round begins again");
                    self.joined = false;
                    self.model.load_from(self.state.start()?)?;
                }
                result => result?,
            }
        }
        self.keep_last()
    }

    /// Has a checkpoint made of the last round, where the run keeps any.
    fn keep_last(&mut self) -> Result<(), TrainerError> {
        while self.job.spec.checkpoint.is_some() {
            match self.session.keep_last(self.committed + 1, &self.tensors()) {
                Ok(_) => break,
                Err(SdkError::Again(reason)) => tracing::warn!(reason, "the last round is kept once more"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The state as the session knows it.
    fn tensors(&self) -> atoll_sdk::State {
        let context = u64::from(self.corpus.split().context_length().get());
        // Moments that are not its own yet are nobody's to go on with.
        let steps = Steps { done: self.steps(), after: self.steps() + self.next_steps() };
        self.state.tensors((!self.new).then_some(self.moments_seen), steps, context)
    }

    pub(super) fn finish(&mut self) -> Finished {
        // The coordinator would notice anyway; nothing depends on it.
        if let Err(error) = self.session.finish() {
            tracing::debug!(%error, "the sidecar is gone");
        }
        Finished { steps: self.steps(), samples: self.samples, weights_hash: self.state.weights_hash() }
    }

    fn round(&mut self) -> Result<(), TrainerError> {
        let waiting = Instant::now();
        let wanted = self.next_steps() * self.gradients.positions() as u64;
        let round = self.session.begin_round(self.committed + 1, &self.tensors(), wanted)?;
        if round.synchronised {
            self.committed = round.round - 1;
            self.first = None;
            self.model.load_from(self.state.start()?)?;
        }
        let mut sync = waiting.elapsed();
        if !std::mem::replace(&mut self.joined, true) {
            // Waiting for the others to start is no part of a round.
            self.event("Joined", round.round, self.steps(), sync.as_secs_f64()).with("epoch", round.epoch).emit();
            sync = Duration::ZERO;
        }
        // A worker that was behind asked for a round of another length; what it does not need is dealt again.
        let needed = self.next_steps() * self.gradients.positions() as u64;
        let round = Round { samples: first(&round.samples, needed), ..round };
        let positions: Vec<u64> = round.samples.iter().flat_map(|range| range.start..range.end).collect();
        // A member of a run that ended meanwhile has nothing left to do.
        if self.next_steps() == 0 {
            return Ok(());
        }
        let weight = self.weight(&round);
        let computing = Instant::now();
        let loss = self.compute_watched(&round, &positions)?;
        let seconds = computing.elapsed().as_secs_f64();
        let tokens = positions.len() as u64 * u64::from(self.corpus.split().context_length().get());
        let before = self.steps();
        let steps = before + self.next_steps();
        self.event("ComputeEnd", round.round, steps, seconds).with("loss", loss).with("tokens", tokens).emit();
        let waiting = Instant::now();
        let (record, event) = self.synchronise(&round, weight, loss)?;
        sync += waiting.elapsed();
        event.seconds(sync.as_secs_f64()).emit();
        self.evaluate_if_due(&record, before)
    }

    fn event(&self, name: &str, round: u64, step: u64, seconds: f64) -> Event {
        Event::now(&self.job.worker, name).round(round).step(step).seconds(seconds)
    }

    /// A worker whose private moments are new trains for itself in its first round: it is not counted yet.
    fn weight(&self, round: &Round) -> u32 {
        let resumed = self.job.resume.is_some();
        let new = self.new && (round.synchronised || resumed) && self.state.has_moments();
        weight(new, &round.samples)
    }

    /// The same, doing what the run's policy says where training diverges.
    fn compute_watched(&mut self, round: &Round, positions: &[u64]) -> Result<f64, TrainerError> {
        let before = match &self.watch {
            Some(_) => (self.state.moments()?.0.to_vec(), self.state.moments()?.1.to_vec(), self.moments_seen),
            None => return self.compute(positions),
        };
        let (loss, failure) = match self.compute(positions) {
            Err(failure @ TrainerError::Diverged { loss, .. }) => (f64::from(loss), Some(failure)),
            Err(failure @ TrainerError::NotFinite { .. }) => (f64::NAN, Some(failure)),
            result => (result?, None),
        };
        if positions.is_empty() {
            return Ok(loss);
        }
        let Some(watch) = &mut self.watch else { return Ok(loss) };
        let policy = watch.spec().policy;
        let Some(Sighting { loss, mean }) = watch.take(loss) else { return Ok(loss) };
        let factor = watch.spec().spike_factor;
        let end = round.samples.iter().map(|range| range.end).max();
        let event = self.event("Diverged", round.round, self.steps() + self.next_steps(), 0.0).with("loss", loss.to_string());
        event.with("mean", mean).with("spikeFactor", factor).with("policy", format!("{policy:?}")).with("samplesEnd", end).emit();
        if policy != DivergencePolicy::SkipRound {
            return Err(failure.unwrap_or(TrainerError::Leapt {
                step: self.steps() + self.next_steps(),
                loss,
                mean: mean.unwrap_or(loss),
            }));
        }
        let (first, second) = self.state.moments()?;
        first.copy_from_slice(&before.0);
        second.copy_from_slice(&before.1);
        self.moments_seen = before.2;
        self.state.contribution()?.fill(0.0);
        self.model.load_from(self.state.start()?)?;
        Ok(if loss.is_finite() { loss } else { mean.unwrap_or(0.0) })
    }

    /// Trains on `positions` and leaves the contribution in its region, zeros where there are none; returns the mean loss.
    fn compute(&mut self, positions: &[u64]) -> Result<f64, TrainerError> {
        if positions.is_empty() {
            self.state.contribution()?.fill(0.0);
            return Ok(0.0);
        }
        let mut losses = 0.0;
        let steps = positions.chunks(self.gradients.positions()).count();
        for (index, positions) in positions.chunks(self.gradients.positions()).enumerate() {
            let step = self.steps() + index as u64 + 1;
            let loss = self.gradients.compute(&self.model, &self.corpus, &self.order, positions)?;
            if !loss.is_finite() {
                return Err(TrainerError::Diverged { step, loss });
            }
            losses += f64::from(loss);
            if self.method.contribution() == Gives::PseudoGradient {
                self.inner_step(step)?;
            }
        }
        match self.method.contribution() {
            Gives::Gradient => self.state.contribution()?.copy_from_slice(&self.gradients.mean),
            Gives::PseudoGradient => {
                // The gradient's vector is free now: it holds the parameters as they are.
                self.model.flatten_into(&mut self.gradients.mean)?;
                let start = self.state.start()?.to_vec();
                pseudo_gradient(&start, &self.gradients.mean, self.state.contribution()?)?;
            }
        }
        let finite = self.state.contribution()?.iter().all(|value| value.is_finite());
        if !finite {
            return Err(TrainerError::NotFinite { step: self.steps() + steps as u64 });
        }
        Ok(losses / steps as f64)
    }

    /// The worker's own step, on its own moments.
    fn inner_step(&mut self, step: u64) -> Result<(), TrainerError> {
        let rate = self.schedule.rate(step);
        self.moments_seen += 1;
        clip_to_norm(&mut self.gradients.mean, self.job.spec.optimizer.gradient_clip);
        let gradients = &self.gradients.mean;
        let (first, second) = self.state.moments()?;
        if let Some(adam) = &self.adam {
            let factors = adam.at(self.moments_seen, rate);
            self.model.update(|range, parameters| {
                factors.apply(parameters, &gradients[range.clone()], &mut first[range.clone()], &mut second[range]);
            })?;
        } else {
            let factors = Sgd { weight_decay: 0.0 }.at(rate);
            self.model.update(|range, parameters| factors.apply(parameters, &gradients[range]))?;
        }
        Ok(())
    }

    /// Delivers the contribution, waits for the mean, and takes the step that all workers take alike.
    fn synchronise(&mut self, round: &Round, weight: u32, loss: f64) -> Result<(CommitRecord, Event), TrainerError> {
        let (input, output, residual) = self.state.exchange_parts();
        let contribution = Contribution {
            round: round.round,
            input,
            output,
            weight,
            samples: round.samples.clone(),
            loss,
            deadline: self.deadline,
            coding: Coding { codec: self.job.codec(), group_size: self.job.spec.reduction.group_size, residual },
        };
        let (record, payload_bytes, wire_bytes) = loop {
            match self.session.all_reduce(&contribution)? {
                Outcome::Committed { record, payload_bytes, wire_bytes, .. } => {
                    break (record.unwrap_or_default(), payload_bytes, wire_bytes);
                }
                Outcome::Aborted { reason, detail, .. } => return Err(TrainerError::Aborted { reason, detail }),
                Outcome::InDoubt => tracing::warn!(round = round.round, "cut off before the outcome; waiting for it"),
            }
        };
        self.take_mean()?;
        self.committed = record.round;
        self.first = first_of(&record);
        self.new = false;
        let delivered = |range: &SampleRange| [range.start, range.end];
        let committed: Vec<[u64; 2]> = record
            .contributions
            .iter()
            .filter(|given| given.weight > 0)
            .flat_map(|given| given.samples.iter().map(delivered))
            .collect();
        let own: u64 = if weight > 0 { round.samples.iter().map(|range| range.end - range.start).sum() } else { 0 };
        self.samples += own;
        let weights: f64 = record.contributions.iter().map(|given| f64::from(given.weight)).sum();
        let mean_loss: f64 = record.contributions.iter().map(|given| given.loss * f64::from(given.weight)).sum::<f64>() / weights;
        let event = Event::now(&self.job.worker, "SyncEnd")
            .round(record.round)
            .step(self.steps())
            .with("loss", mean_loss)
            .with("epoch", record.epoch)
            .with("samples", own)
            .with("committedSamples", serde_json::json!(committed))
            .with("payloadBytes", payload_bytes)
            .with("wireBytes", wire_bytes);
        Ok((record, event))
    }

    fn take_mean(&mut self) -> Result<(), TrainerError> {
        let step = self.steps() + 1;
        let rate = self.schedule.rate(step);
        let mean = self.state.mean();
        if let Some(outer) = self.method.outer_step() {
            let (parameters, mut vectors) = self.state.replicated()?;
            let momentum = vectors.first_mut().map_or(&mut [][..], |momentum| &mut **momentum);
            outer.apply(parameters, momentum, mean.values()?)?;
        } else {
            self.gradients.mean.copy_from_slice(mean.values()?);
            clip_to_norm(&mut self.gradients.mean, self.job.spec.optimizer.gradient_clip);
            let (parameters, mut vectors) = self.state.replicated()?;
            match (&self.adam, vectors.as_mut_slice()) {
                (Some(adam), [first, second]) => adam.at(step, rate).apply(parameters, &self.gradients.mean, first, second),
                _ => Sgd { weight_decay: 0.0 }.at(rate).apply(parameters, &self.gradients.mean),
            }
        }
        self.model.load_from(self.state.start()?)?;
        Ok(())
    }

    /// Evaluates where the run asks for it before its last step. All workers hold the same weights, so one of them does it.
    fn evaluate_if_due(&self, record: &CommitRecord, before: u64) -> Result<(), TrainerError> {
        let now = self.steps();
        let due = self.job.spec.evaluation.every_steps.is_some_and(|every| now / every > before / every);
        if due && first_of(record) == Some(self.job.slot) && now < self.job.spec.stop.steps {
            let loss = self.held_out_loss()?;
            Event::now(&self.job.worker, "Evaluated").round(self.committed).step(now).with("heldOutLoss", loss).emit();
        }
        Ok(())
    }
}

/// What a contribution counts: nothing where it comes of no samples, or of moments that are `new`.
fn weight(new: bool, samples: &[SampleRange]) -> u32 {
    u32::from(!new && !samples.is_empty())
}

/// Slot of the first who gave to a round.
fn first_of(record: &CommitRecord) -> Option<u32> {
    record.contributions.first().map(|given| given.slot)
}

/// The first `count` positions of `ranges`.
fn first(ranges: &[SampleRange], count: u64) -> Vec<SampleRange> {
    let mut left = count;
    let taken = ranges.iter().map(|range| {
        let end = range.end.min(range.start.saturating_add(left));
        left -= end - range.start;
        SampleRange { start: range.start, end }
    });
    taken.filter(|range| range.start < range.end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_dealt_nothing_counts_for_nothing() {
        let dealt = [SampleRange { start: 0, end: 4 }];
        assert_eq!((weight(false, &dealt), weight(true, &dealt), weight(false, &[])), (1, 0, 0));
    }

    #[test]
    fn no_more_positions_are_taken_than_the_round_has_steps_for() {
        let dealt = [SampleRange { start: 0, end: 4 }, SampleRange { start: 10, end: 20 }];
        let taken = |count| first(&dealt, count).iter().map(|range| (range.start, range.end)).collect::<Vec<_>>();
        assert_eq!(taken(14), [(0, 4), (10, 20)]);
        assert_eq!(taken(6), [(0, 4), (10, 12)]);
        assert_eq!(taken(4), [(0, 4)]);
        assert_eq!(taken(100), [(0, 4), (10, 20)]);
    }
}
