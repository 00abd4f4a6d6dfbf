//! Where and how often the state of a run is kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::of_checkpoint;

/// Where and how often the state of a run is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = of_checkpoint()))]
pub struct Checkpoint {
    /// Folder of the checkpoints: a path or file: URI relative to the run file, or scheme (s3, gs, az), bucket and prefix of a store.
    #[schemars(length(min = 1, max = 2048))]
    pub uri: String,
    /// Secret with the store's credentials, each under the name that it has in an environment; a local run reads its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Address of an S3 store that is not Amazon's, with its scheme (http, https) and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https?://[^@?#]+$"))]
    pub endpoint: Option<String>,
    /// Region of an S3 bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// Whether an S3 bucket is named in the path and not in the host's name; when unset, it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Committed rounds between two checkpoints; when neither this nor everySeconds is set, 10. May be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub every_rounds: Option<u64>,
    /// Seconds after a checkpoint at which the next one is due, whatever everyRounds says. May be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub every_seconds: Option<u32>,
    /// Newest checkpoints that stay. May be changed.
    #[serde(default = "keep")]
    #[schemars(range(min = 1, max = 100_000))]
    pub keep: u32,
    /// Checkpoints of rounds that are a multiple of this stay for ever. May be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub keep_every: Option<u64>,
    /// Most megabits per second that each worker uploads. May be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 1_000_000.0))]
    pub max_mbps: Option<f64>,
    /// Folder of another run's checkpoints: this run begins from the newest of them that is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub resume_from: Option<String>,
}

/// A Secret in the namespace of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

fn keep() -> u32 {
    3
}

/// Rounds between two checkpoints where nobody says.
const EVERY_ROUNDS: u64 = 10;

impl Checkpoint {
    /// Committed rounds between two checkpoints; none where time alone decides.
    #[must_use]
    pub fn rounds_between(&self) -> Option<u64> {
        self.every_rounds.or(self.every_seconds.is_none().then_some(EVERY_ROUNDS))
    }
}
