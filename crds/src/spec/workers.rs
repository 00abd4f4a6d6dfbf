//! How many workers train, and what each of them does in one step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::of_workers;
use crate::kubernetes::resources;

/// How many workers train, and what each of them does in one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = of_workers()))]
pub struct Workers {
    /// Workers that must have joined before the first round begins. May be changed.
    #[schemars(range(min = 1, max = 64))]
    pub min: u32,
    /// Workers that the run is given; kubectl scale changes it.
    #[schemars(range(min = 1, max = 64))]
    pub target: u32,
    /// Most workers that the run may be scaled to. May be changed.
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
    /// Requests and limits of each trainer, as in any pod, instead of those of the runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources")]
    pub resources: Option<serde_json::Value>,
}

fn ranks() -> u32 {
    1
}

fn batch_size() -> u32 {
    4
}
