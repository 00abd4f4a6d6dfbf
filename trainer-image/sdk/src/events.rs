//! Events of a run: one JSON object per line, written by every process as things happen.

use std::io::Write;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in RFC 3339 with milliseconds, UTC.
    pub time: String,
    /// Name of the worker it is about; empty for the run itself.
    #[serde(default)]
    pub worker: String,
    /// What happened, in CamelCase.
    pub event: String,
    /// The round, where it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
    /// Inner steps done by then, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Whatever else belongs to this kind of event.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Event {
    /// An event that happens now.
    #[must_use]
    pub fn now(worker: &str, event: &str) -> Self {
        #[expect(clippy::disallowed_methods, reason = "people read it; nothing is decided by it")]
        let now = jiff::Timestamp::now();
        Self {
            time: format!("{now:.3}"),
            worker: worker.to_owned(),
            event: event.to_owned(),
            round: None,
            step: None,
            seconds: None,
            more: Map::new(),
        }
    }

    /// Adds the round.
    #[must_use]
    pub fn round(mut self, round: u64) -> Self {
        self.round = Some(round);
        self
    }

    /// Adds the step.
    #[must_use]
    pub fn step(mut self, step: u64) -> Self {
        self.step = Some(step);
        self
    }

    /// Adds a duration.
    #[must_use]
    pub fn seconds(mut self, seconds: f64) -> Self {
        self.seconds = Some(seconds);
        self
    }

    /// Adds a field of this kind of event.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Writes the line to standard output, where the supervisor reads it.
    ///
    /// A supervisor that is gone ends this process by other means, so a closed pipe is not an error here.
    pub fn emit(&self) {
        if let Ok(mut line) = serde_json::to_vec(self) {
            line.push(b'\n');
            let mut output = std::io::stdout().lock();
            let _gone = output.write_all(&line).and_then(|()| output.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_line() {
        let event = Event::now("w1", "SyncEnd").round(3).seconds(0.5).with("loss", 2.25);
        let line = serde_json::to_value(&event).unwrap();
        assert_eq!(line["event"], "SyncEnd");
        assert_eq!(line["loss"], 2.25);
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(serde_json::from_value::<Event>(line).unwrap(), event);
    }
}
