//! What becomes of a run whose loss is no number any more, or leaps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of a run whose loss is no number any more, or leaps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Divergence {
    /// What is done.
    pub policy: DivergencePolicy,
    /// A worker's loss leaps when it is more than so many times the mean of its last rounds.
    #[serde(default = "spike_factor")]
    #[schemars(range(min = 1.01, max = 1000.0))]
    pub spike_factor: f64,
    /// Rounds of which that mean is taken.
    #[serde(default = "window_rounds")]
    #[schemars(range(min = 2, max = 10_000))]
    pub window_rounds: u32,
}

/// What is done about a loss that is no number, or leaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DivergencePolicy {
    /// The worker gives zeros for this round, and goes on as it was when the round began.
    SkipRound,
    /// All workers go on from the newest checkpoint, after the samples that they had reached.
    Rollback,
    /// The run ends, and can be resumed.
    Suspend,
}

fn spike_factor() -> f64 {
    2.0
}

fn window_rounds() -> u32 {
    10
}
