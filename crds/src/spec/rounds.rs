//! Who must take part in a round, and how long the others wait.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rule::rule;

/// Who must take part in a round, and how long the others wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "self.joinWindowSeconds < self.roundTimeoutSeconds",
    "rounds.joinWindowSeconds must be less than rounds.roundTimeoutSeconds",
    ".joinWindowSeconds",
)]))]
pub struct Rounds {
    /// How many workers a round needs.
    pub quorum: Quorum,
    /// Seconds that a round waits for workers that are about to join.
    #[schemars(range(min = 1, max = 86_400))]
    pub join_window_seconds: u32,
    /// Seconds without a heartbeat after which a worker is lost; when unset, 10 in a cluster, and 2 in a local run, or more where it has more
    /// than four workers per processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub liveness_seconds: Option<u32>,
    /// Seconds in which a worker inside an operation must deliver a block.
    #[schemars(range(min = 1, max = 86_400))]
    pub progress_seconds: u32,
    /// Seconds after which a worker that is alive but late is a straggler.
    #[schemars(range(min = 1, max = 604_800))]
    pub round_timeout_seconds: u32,
    /// What happens to a straggler.
    pub straggler_policy: StragglerPolicy,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            quorum: Quorum::default(),
            join_window_seconds: 30,
            liveness_seconds: None,
            progress_seconds: 30,
            round_timeout_seconds: 600,
            straggler_policy: StragglerPolicy::default(),
        }
    }
}

/// How many workers a round needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Quorum {
    /// Workers without which a round after the first does not begin.
    #[schemars(range(min = 1, max = 64))]
    pub min: u32,
}

impl Default for Quorum {
    fn default() -> Self {
        Self { min: 1 }
    }
}

/// What happens to a worker that is alive but late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StragglerPolicy {
    /// The others wait for it.
    Wait,
    /// The round goes on without it.
    #[default]
    Drop,
}
