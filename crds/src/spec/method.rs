//! How the workers' models become one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rule::exactly_one;

/// How the workers' models become one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = exactly_one)]
pub enum Method {
    /// Gradients are averaged in every step.
    DataParallel {},
    /// Workers train alone for a number of steps; an outer optimizer applies the mean of their changes.
    DiLoCo(DiLoCo),
    /// Workers train alone for a number of steps; their weights are averaged by the samples they saw.
    FedAvg(FedAvg),
}

/// Parameters of DiLoCo (arXiv 2311.08105): an outer SGD with Nesterov momentum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiLoCo {
    /// Inner steps in one round.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub inner_steps: u32,
    /// Learning rate of the outer optimizer.
    #[serde(default = "outer_learning_rate")]
    #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
    pub outer_learning_rate: f64,
    /// Nesterov momentum of the outer optimizer.
    #[serde(default = "outer_momentum")]
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
    pub outer_momentum: f64,
}

/// Parameters of federated averaging (arXiv 1602.05629).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FedAvg {
    /// Inner steps in one round.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub inner_steps: u32,
}

fn outer_learning_rate() -> f64 {
    0.7
}

fn outer_momentum() -> f64 {
    0.9
}
