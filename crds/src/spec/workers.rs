//! How many workers train, and what each of them does in one step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rule::rule;

/// How many workers train, and what each of them does in one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("self.min <= self.target", "workers.min must be at most workers.target", ".min"),
    rule("!has(self.max) || self.target <= self.max", "workers.target must be at most workers.max", ".target"),
]))]
pub struct Workers {
    /// Workers that must have joined before the first round begins.
    #[schemars(range(min = 1, max = 64))]
    pub min: u32,
    /// Workers that the run is given.
    #[schemars(range(min = 1, max = 64))]
    pub target: u32,
    /// Most workers that the run may be scaled to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub max: Option<u32>,
    /// Trainer ranks in each worker, one per GPU.
    #[serde(default = "ranks")]
    #[schemars(range(min = 1, max = 16))]
    pub ranks: u32,
    /// Sequences per rank and inner step.
    #[serde(default = "batch_size")]
    #[schemars(range(min = 1, max = 65_536))]
    pub batch_size: u32,
}

fn ranks() -> u32 {
    1
}

fn batch_size() -> u32 {
    4
}
