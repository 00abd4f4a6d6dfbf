//! How the model is measured on text that it does not train on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the model is measured on text that it does not train on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Evaluation {
    /// Inner steps between two measurements; when unset, only the final model is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub every_steps: Option<u64>,
    /// Sequences of full context length that one measurement reads.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub windows: u32,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { every_steps: None, windows: 256 }
    }
}
