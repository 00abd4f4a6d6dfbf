//! The optimizer that each worker runs between synchronisations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rule::exactly_one;

/// The optimizer that each worker runs between synchronisations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Optimizer {
    /// The update rule, with its own parameters.
    #[serde(flatten)]
    pub algorithm: Algorithm,
    /// Largest global L2 norm of the gradient; a longer one is scaled down to it.
    #[serde(default = "gradient_clip")]
    #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
    pub gradient_clip: f64,
    /// How the learning rate changes over the run.
    #[serde(default)]
    pub schedule: Schedule,
}

/// The update rule of an optimizer, with its own parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = exactly_one)]
pub enum Algorithm {
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
    /// Stochastic gradient descent without momentum.
    Sgd(Sgd),
}

/// Parameters of Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdamW {
    /// Largest learning rate, reached after the warm-up.
    #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
    pub learning_rate: f64,
    /// Decay of the mean of the gradient, per step.
    #[serde(default = "beta1")]
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
    pub beta1: f64,
    /// Decay of the mean of the squared gradient, per step.
    #[serde(default = "beta2")]
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
    pub beta2: f64,
    /// Added to the denominator of the update.
    #[serde(default = "epsilon")]
    #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
    pub epsilon: f64,
    /// Share of the weight that is subtracted per step, times the learning rate.
    #[serde(default = "weight_decay")]
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
}

/// Parameters of stochastic gradient descent without momentum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sgd {
    /// Largest learning rate, reached after the warm-up.
    #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
    pub learning_rate: f64,
}

/// How the learning rate changes: linear warm-up, then a cosine down to a fraction of the rate at the last step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Schedule {
    /// Inner steps in which the rate rises from zero.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub warmup_steps: u64,
    /// Rate at the last step, as a fraction of the largest.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub final_fraction: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { warmup_steps: 50, final_fraction: 0.1 }
    }
}

fn gradient_clip() -> f64 {
    1.0
}

fn beta1() -> f64 {
    0.9
}

fn beta2() -> f64 {
    0.95
}

fn epsilon() -> f64 {
    1e-8
}

fn weight_decay() -> f64 {
    0.1
}
