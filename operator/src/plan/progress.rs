//! How far the training is, and how fast it goes.

use std::time::Duration;

use atoll_crds::status::Progress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::{Memory, Planning};
use crate::conditions::{reasons, types};

/// Least time between two writes of progress alone.
pub(super) const BETWEEN_WRITES: Duration = Duration::from_secs(5);
/// Seconds over which the pace is measured.
const PACE_SECONDS: i64 = 120;
/// Most samples of it.
const MOST_SAMPLES: usize = 64;
/// A checkpoint is stale after so many times the rounds between two.
const STALE_AFTER: u64 = 2;

impl Planning<'_> {
    /// Takes what the coordinator told.
    pub(super) fn take_progress(&mut self) {
        let Some((told, _)) = self.observed.heard.progress.clone() else { return };
        let now = self.observed.now;
        self.plan.memory.holding = (!told.holding.is_empty()).then(|| told.holding.clone());
        let known = self.before.progress.as_ref().map_or((0, 0), |progress| (progress.round, progress.step));
        let moved = (told.round.cast_signed(), told.step.cast_signed()) != known;
        if moved {
            self.plan.memory.state_missing = None;
        }
        pace(&mut self.plan.memory, now, told.step, told.tokens);
        let due = self.plan.memory.progress_written.is_none_or(|last| seconds(now, last) >= BETWEEN_WRITES.as_secs_f64());
        let total = self.run.spec.stop.steps;
        if !moved {
            return;
        }
        if !due && told.step < total {
            self.look_again(BETWEEN_WRITES);
            return;
        }
        let (steps_per_second, tokens_per_second) = rates(&self.plan.memory);
        let left = total.saturating_sub(told.step);
        let coordinator = self.observed.heard.record.coordinator.as_ref().map(|member| member.worker.clone());
        self.plan.memory.progress_written = Some(now);
        self.plan.status.progress = Some(Progress {
            epoch: told.epoch.cast_signed(),
            coordinator: coordinator.unwrap_or_default(),
            round: told.round.cast_signed(),
            step: told.step.cast_signed(),
            tokens: told.tokens.cast_signed(),
            loss: rounded(told.loss, 1e6),
            loss_text: format!("{:.4}", told.loss),
            tokens_per_second: rounded(tokens_per_second, 10.0),
            percent: (told.step.min(total) * 100 / total.max(1)) as i32,
            remaining_seconds: (steps_per_second > 0.0).then(|| (left as f64 / steps_per_second).ceil() as i64),
            time: Some(Time(now)),
        });
    }

    /// Whether the newest checkpoint is as new as it is to be.
    pub(super) fn freshness(&mut self) {
        let Some(checkpoint) = &self.run.spec.checkpoint else { return };
        let (status, memory) = (&self.plan.status, &self.plan.memory);
        let round = status.progress.as_ref().map_or(0, |progress| progress.round.unsigned_abs());
        let kept = status.last_checkpoint.as_ref().map(|last| last.round.unsigned_abs());
        let between = checkpoint.rounds_between();
        let (fresh, reason, message) = match (&memory.checkpoint_failure, kept, between) {
            (Some(why), ..) => (false, reasons::CHECKPOINT_FAILED, why.clone()),
            (None, None, _) => (false, reasons::NONE_YET, "no checkpoint has been published yet".to_owned()),
            (None, Some(kept), Some(between)) if round.saturating_sub(kept) > STALE_AFTER * between => (
                false,
                reasons::STALE,
                format!("one is due every {between} rounds; the last is more than {} behind", STALE_AFTER * between),
            ),
            (None, Some(_), _) => (true, reasons::FRESH, String::new()),
        };
        self.conditions.set(types::CHECKPOINT_FRESH, fresh, reason, message);
    }
}

fn pace(memory: &mut Memory, now: Timestamp, step: u64, tokens: u64) {
    if memory.pace.back().is_some_and(|(_, last, _)| *last > step) {
        memory.pace.clear();
    }
    if memory.pace.back().is_none_or(|(_, last, _)| *last < step) {
        memory.pace.push_back((now, step, tokens));
    }
    let old = |(time, ..): &(Timestamp, u64, u64)| now.as_second() - time.as_second() > PACE_SECONDS;
    while memory.pace.len() > MOST_SAMPLES || (memory.pace.len() > 2 && memory.pace.front().is_some_and(old)) {
        memory.pace.pop_front();
    }
}

/// Steps and tokens per second; 0 while nothing is known.
fn rates(memory: &Memory) -> (f64, f64) {
    let (Some(first), Some(last)) = (memory.pace.front(), memory.pace.back()) else { return (0.0, 0.0) };
    let seconds = seconds(last.0, first.0);
    if seconds <= 0.0 {
        return (0.0, 0.0);
    }
    ((last.1 - first.1) as f64 / seconds, last.2.saturating_sub(first.2) as f64 / seconds)
}

fn seconds(later: Timestamp, earlier: Timestamp) -> f64 {
    (later.as_millisecond() - earlier.as_millisecond()) as f64 / 1e3
}

/// JSON has no other numbers, and more digits say nothing.
fn rounded(value: f64, factor: f64) -> f64 {
    if value.is_finite() { (value * factor).round() / factor } else { 0.0 }
}
