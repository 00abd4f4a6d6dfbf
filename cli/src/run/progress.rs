//! What is known of a run from its events: a pure fold, read by the live view and the report.

use std::collections::BTreeMap;

use atoll_sdk::events::Event;
use serde::Serialize;

/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
pub(crate) enum WorkerState {
    /// Its processes run; it has not taken part yet.
    #[default]
    Joining,
    /// It takes part.
    Training,
    /// It was evicted, or rejoins.
    Away,
    /// It did the last round.
    Finished,
    /// It cannot go on.
    Failed,
    /// It left, or was killed for good.
    Gone,
}

/// One worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Worker {
    pub(crate) state: WorkerState,
    pub(crate) samples: u64,
    pub(crate) compute_seconds: f64,
    pub(crate) sync_seconds: f64,
    pub(crate) weights_hash: Option<String>,
    pub(crate) restarts: u32,
    /// Its trainer has found its sidecar.
    attached: bool,
    payload: Counter,
    wire: Counter,
}

impl Worker {
    /// Bytes of the results of committed operations.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.payload.total()
    }

    /// Bytes that its sidecar sent.
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.wire.total()
    }
}

/// A counter that begins again with each process.
#[derive(Debug, Clone, Default)]
struct Counter {
    before: u64,
    newest: u64,
}

impl Counter {
    fn take(&mut self, value: u64) {
        self.newest = value;
    }

    /// The process that counted is another from now on.
    fn restart(&mut self) {
        self.before += std::mem::take(&mut self.newest);
    }

    fn total(&self) -> u64 {
        self.before + self.newest
    }
}

/// One point of the loss curve.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) round: u64,
    pub(crate) step: u64,
    pub(crate) train_loss: Option<f64>,
    pub(crate) held_out_loss: Option<f64>,
}

/// The whole run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    pub(crate) workers: BTreeMap<String, Worker>,
    /// The newest that was committed, by the word of the coordinator or of a worker that took its result.
    pub(crate) round: u64,
    /// The last of that round.
    pub(crate) step: u64,
    /// The last of the newest round that a worker computed, committed or not.
    computed: (u64, u64),
    pub(crate) epoch: u64,
    /// By step.
    pub(crate) curve: BTreeMap<u64, Point>,
    /// Positions of the permutation that were committed, since it went on from a checkpoint.
    pub(crate) samples: u64,
    /// The position after the last of them.
    pub(crate) samples_end: u64,
    pub(crate) aborts: BTreeMap<String, u64>,
}

impl Progress {
    /// A run of these workers that goes on after a round and its last step.
    pub(crate) fn resumed(workers: impl Iterator<Item = String>, (round, step): (u64, u64)) -> Self {
        Self { round, step, ..Self::new(workers) }
    }

    /// The run begins again after an earlier round: what came after it is forgotten.
    pub(crate) fn rewind(&mut self, (round, step): (u64, u64)) {
        (self.round, self.step, self.computed, self.samples) = (round, step, (0, 0), 0);
        self.curve.retain(|of, _| *of <= step);
        for worker in self.workers.values_mut() {
            if worker.state != WorkerState::Gone {
                worker.state = WorkerState::Joining;
            }
            worker.attached = false;
            worker.payload.restart();
            worker.wire.restart();
        }
    }

    /// A run of these workers.
    pub(crate) fn new(workers: impl Iterator<Item = String>) -> Self {
        Self { workers: workers.map(|name| (name, Worker::default())).collect(), ..Self::default() }
    }

    /// Takes one event.
    pub(crate) fn take(&mut self, event: &Event) {
        let number = |name: &str| event.more.get(name).and_then(serde_json::Value::as_u64);
        match event.event.as_str() {
            "Epoch" => self.take_epoch(event),
            "WorkerAdded" => _ = self.workers.entry(event.worker.clone()).or_default(),
            "Aborted" => {
                let reason = event.more.get("reason").and_then(serde_json::Value::as_str).unwrap_or("Unknown");
                *self.aborts.entry(reason.to_owned()).or_default() += 1;
            }
            "ComputeEnd" => self.take_compute(event),
            "Committed" => self.take_commit(event),
            "SyncEnd" => self.take_sync(event),
            "Evaluated" | "Saved" => {
                let step = event.step.unwrap_or(self.step);
                let loss = event.more.get("heldOutLoss").and_then(serde_json::Value::as_f64);
                self.point(event, step).held_out_loss = loss;
            }
            _ => {}
        }
        let Some(worker) = self.workers.get_mut(&event.worker) else { return };
        match event.event.as_str() {
            "ComputeEnd" => {
                worker.state = WorkerState::Training;
                worker.compute_seconds += event.seconds.unwrap_or(0.0);
            }
            "SyncEnd" => {
                worker.sync_seconds += event.seconds.unwrap_or(0.0);
                worker.samples += number("samples").unwrap_or(0);
                worker.payload.take(number("payloadBytes").unwrap_or(0));
                worker.wire.take(number("wireBytes").unwrap_or(0));
            }
            "WorkerGone" => worker.state = WorkerState::Gone,
            _ if worker.state == WorkerState::Gone => {}
            "Evicted" if worker.state != WorkerState::Finished => worker.state = WorkerState::Away,
            "ProcessRestarted" => {
                worker.restarts += 1;
                if event.more.get("process").and_then(serde_json::Value::as_str) == Some("sidecar") {
                    worker.payload.restart();
                    worker.wire.restart();
                }
            }
            "Attached" => worker.attached = true,
            "Detached" | "ProcessEnded" => worker.attached = false,
            "WorkerFailed" => worker.state = WorkerState::Failed,
            "Finished" => {
                worker.state = WorkerState::Finished;
                worker.weights_hash = event.more.get("weightsHash").and_then(serde_json::Value::as_str).map(str::to_owned);
            }
            _ => {}
        }
    }

    fn take_epoch(&mut self, event: &Event) {
        self.epoch = self.epoch.max(event.more.get("epoch").and_then(serde_json::Value::as_u64).unwrap_or(0));
    }

    fn take_compute(&mut self, event: &Event) {
        let (Some(round), Some(step)) = (event.round, event.step) else { return };
        self.computed = self.computed.max((round, step));
        // Processes tell of their part each by itself: a round may be known before its last step is.
        if round == self.round {
            self.step = step;
        }
    }

    fn take_commit(&mut self, event: &Event) {
        let Some(round) = event.round.filter(|round| *round > self.round) else { return };
        self.round = round;
        let ranges = event.more.get("committedSamples").and_then(serde_json::Value::as_array);
        let ends = |range: &serde_json::Value| range.get(1).and_then(serde_json::Value::as_u64);
        self.samples_end = ranges.into_iter().flatten().filter_map(ends).fold(self.samples_end, u64::max);
        self.samples += ranges.into_iter().flatten().map(length).sum::<u64>();
        if self.computed.0 == round {
            self.step = self.computed.1;
        }
    }

    fn take_sync(&mut self, event: &Event) {
        let Some(step) = event.step else { return };
        self.take_commit(event);
        self.take_compute(event);
        self.point(event, step).train_loss = event.more.get("loss").and_then(serde_json::Value::as_f64);
    }

    fn point(&mut self, event: &Event, step: u64) -> &mut Point {
        let round = event.round.unwrap_or(self.round);
        self.curve.entry(step).or_insert(Point { round, step, train_loss: None, held_out_loss: None })
    }

    /// The newest training loss.
    pub(crate) fn train_loss(&self) -> Option<f64> {
        self.curve.values().rev().find_map(|point| point.train_loss)
    }

    /// Workers whose trainer and sidecar have not found each other, or lost each other.
    pub(crate) fn missing(&self) -> Vec<&str> {
        let missing = |worker: &Worker| !worker.attached && worker.state != WorkerState::Gone;
        self.workers.iter().filter(|(_, worker)| missing(worker)).map(|(name, _)| name.as_str()).collect()
    }

    /// Workers that take part now.
    pub(crate) fn present(&self) -> usize {
        self.workers.values().filter(|worker| matches!(worker.state, WorkerState::Training | WorkerState::Finished)).count()
    }

    /// Workers that are not gone.
    pub(crate) fn expected(&self) -> usize {
        self.workers.values().filter(|worker| worker.state != WorkerState::Gone).count()
    }

    /// Mean over workers of the time that they spent outside their own computing within rounds, seconds.
    pub(crate) fn sync_seconds(&self) -> f64 {
        self.workers.values().map(|worker| worker.sync_seconds).sum::<f64>() / self.workers.len().max(1) as f64
    }
}

fn length(range: &serde_json::Value) -> u64 {
    let end = |index| range.get(index).and_then(serde_json::Value::as_u64).unwrap_or(0);
    end(1usize).saturating_sub(end(0usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(worker: &str, round: u64, wire: u64) -> Event {
        Event::now(worker, "SyncEnd")
            .round(round)
            .step(round * 20)
            .seconds(0.5)
            .with("loss", 3.0)
            .with("samples", 80)
            .with("committedSamples", serde_json::json!([[0, 80], [80, 160]]))
            .with("wireBytes", wire)
    }

    #[test]
    fn a_round_counts_once_whoever_tells_of_it() {
        let mut progress = Progress::new(["w0", "w1"].map(String::from).into_iter());
        progress.take(&sync("w0", 1, 10));
        progress.take(&sync("w1", 1, 10));
        assert_eq!((progress.round, progress.step, progress.samples), (1, 20, 160));
        assert_eq!(progress.curve.len(), 1);
        assert!((progress.sync_seconds() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_round_that_the_coordinator_committed_counts_before_a_worker_took_it() {
        let mut progress = Progress::new(std::iter::once("w0".to_owned()));
        let committed =
            |round: u64| Event::now("", "Committed").round(round).with("committedSamples", serde_json::json!([[0, 80]]));
        let computed = |round: u64| Event::now("w0", "ComputeEnd").round(round).step(round * 20);
        let seen = |progress: &Progress| (progress.round, progress.step, progress.samples);
        progress.take(&computed(1));
        assert_eq!(seen(&progress), (0, 0, 0));
        progress.take(&committed(1));
        assert_eq!(seen(&progress), (1, 20, 80));
        progress.take(&sync("w0", 1, 10));
        progress.take(&committed(2));
        assert_eq!(seen(&progress), (2, 20, 160));
        progress.take(&computed(2));
        assert_eq!(seen(&progress), (2, 40, 160));
        // The next round is computed before anybody's word of this one's end is heard.
        progress.take(&computed(4));
        progress.take(&sync("w0", 3, 10));
        assert_eq!(seen(&progress), (3, 60, 320));
    }

    #[test]
    fn bytes_of_a_restarted_sidecar_are_added_to_those_before() {
        let mut progress = Progress::new(std::iter::once("w0".to_owned()));
        for wire in [100, 250] {
            progress.take(&sync("w0", 1, wire));
        }
        progress.take(&Event::now("w0", "ProcessRestarted").with("process", "sidecar"));
        progress.take(&sync("w0", 1, 250));
        assert_eq!(progress.workers["w0"].wire_bytes(), 500);
    }
}
