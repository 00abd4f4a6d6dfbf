//! What the person sees while a run goes: one living line on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use atoll_sdk::events::Event;
use indicatif::{ProgressBar, ProgressStyle};

use super::progress::Progress;
use crate::say;

/// Pause between two plain lines.
pub(crate) const PLAIN: Duration = Duration::from_secs(2);

/// The view of one run.
pub(crate) enum View {
    /// `--json`: nothing but the report.
    Silent,
    Plain {
        shown: Instant,
    },
    Live(ProgressBar),
}

impl View {
    pub(crate) fn new(silent: bool, steps: u64) -> Self {
        if silent {
            return Self::Silent;
        }
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if dumb || !std::io::stderr().is_terminal() {
            return Self::Plain { shown: Instant::now() };
        }
        let bar = ProgressBar::new(steps);
        if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] step {pos}/{len} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self::Live(bar)
    }

    /// Shows where the run stands.
    pub(crate) fn show(&mut self, progress: &Progress, line: &str) {
        match self {
            Self::Silent => {}
            Self::Plain { shown } => {
                if shown.elapsed() >= PLAIN {
                    *shown = Instant::now();
                    say(&format!("step {} {line}", progress.step));
                }
            }
            Self::Live(bar) => {
                bar.set_position(progress.step);
                bar.set_message(line.to_owned());
            }
        }
    }

    /// Shows an event that a person should know of.
    pub(crate) fn tell(&self, event: &Event) {
        let text = |name: &str| event.more.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        let line = match event.event.as_str() {
            "Evicted" => format!("{} is out: {} ({})", event.worker, text("reason"), text("detail")),
            "ProcessEnded" => format!("{}: its {} ended: {}", event.worker, text("process"), text("reason")),
            "CheckpointFailed" => {
                format!("the checkpoint of round {} was given up: {}", event.round.unwrap_or(0), text("reason"))
            }
            "CheckpointLate" => {
                let writing = event.more.get("writing").and_then(serde_json::Value::as_u64).unwrap_or(0);
                format!(
                    "the checkpoint of round {writing} is still being written: that of round {} is left out",
                    event.round.unwrap_or(0)
                )
            }
            "CheckpointsNotRemoved" => format!("older checkpoints stay: {}", text("reason")),
            "Diverged" => format!("{} diverges: its loss is {}; policy {}", event.worker, text("loss"), text("policy")),
            "StateLost" => format!("all begins again from the newest checkpoint: {}", text("reason")),
            "Resumed" => format!("goes on after round {}", event.round.unwrap_or(0)),
            "PrivateStateLost" => {
                format!("{} goes on with another worker's moments: the checkpoint has none of its own", event.worker)
            }
            "Joined" if event.round.is_some_and(|round| round > 1) => format!("{} takes part", event.worker),
            "Chaos" => text("what").to_owned(),
            "ChaosLeft" => "the run ended before all steps of --chaos were taken".to_owned(),
            "ProcessRestarted" => format!("{}: its {} is started again", event.worker, text("process")),
            "WorkerFailed" => format!("{} has failed: {}", event.worker, text("reason")),
            "RecordingEnded" => format!("{} is not recorded any more: {}", event.worker, text("reason")),
            "Holding" => "fewer workers than the quorum: the run waits".to_owned(),
            "StateMissing" => "nobody who gives its state holds the newest round: the run waits".to_owned(),
            "HistoryMissing" => "nobody who is here knows the newest round: the run waits".to_owned(),
            "NoMajority" => format!("{} reaches no majority of the voters: the run waits", event.worker),
            "TermForced" => format!("{} was told to go on without the voters that are lost", event.worker),
            _ => return,
        };
        match self {
            Self::Silent => {}
            Self::Plain { .. } => say(&line),
            Self::Live(bar) => bar.println(line),
        }
    }

    /// Takes the living line away.
    pub(crate) fn end(&self) {
        if let Self::Live(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// The rest of the living line: round, rate, loss, bytes, workers, time left.
pub(crate) fn line(progress: &Progress, steps: u64, elapsed: Duration, context_length: u64) -> String {
    if progress.step == 0 {
        return match progress.missing().as_slice() {
            [] => "training".to_owned(),
            missing => format!("waiting for {} of {} workers: {}", missing.len(), progress.expected(), missing.join(", ")),
        };
    }
    let seconds = elapsed.as_secs_f64();
    let rate = (progress.samples * context_length) as f64 / seconds.max(1e-3);
    let left = seconds * steps.saturating_sub(progress.step) as f64 / progress.step.max(1) as f64;
    let sent: u64 = progress.workers.values().map(super::progress::Worker::wire_bytes).sum();
    let loss = progress.train_loss().map_or("-".to_owned(), |loss| format!("{loss:.3}"));
    format!(
        "round {}, {rate:.0} tokens/s, loss {loss}, {:.1} MB sent in all, {}/{} workers, {left:.0} s left",
        progress.round,
        sent as f64 / 1e6,
        progress.present(),
        progress.expected(),
    )
}
