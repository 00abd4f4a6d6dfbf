//! A run that diverged, and what its policy wants done: other than skipping a round, which the worker does by itself.

use atoll_sdk::events::Event;
use serde_json::Value;

use super::Outcome;
use crate::run::report::State;

/// What a worker saw.
pub(super) struct Diverged {
    /// For a person.
    pub(super) why: String,
    /// All go back to a checkpoint; otherwise the run ends.
    goes_back: bool,
    /// The first position of the permutation that nobody has reached.
    pub(super) samples_end: u64,
}

impl Diverged {
    /// What an event tells, unless the worker skips the round.
    pub(super) fn of(event: &Event) -> Option<Self> {
        let field = |name: &str| event.more.get(name);
        let text = |name: &str| field(name).and_then(Value::as_str).unwrap_or_default();
        let policy = text("policy");
        let mean = field("mean")
            .and_then(Value::as_f64)
            .map_or_else(String::new, |mean| format!(", that of the rounds before {mean:.4}"));
        let round = event.round.unwrap_or(0);
        (policy != "SkipRound").then(|| Self {
            why: format!("{} diverged in round {round}: its loss is {}{mean}", event.worker, text("loss")),
            goes_back: policy == "Rollback",
            samples_end: field("samplesEnd").and_then(Value::as_u64).unwrap_or(0),
        })
    }

    /// How the training ends for now.
    pub(super) fn outcome(&self) -> Outcome {
        if self.goes_back {
            return Outcome::lost(&self.why);
        }
        Outcome { failure: Some(format!("{}; the run is suspended", self.why)), ..Outcome::of(State::Suspended, None) }
    }
}
