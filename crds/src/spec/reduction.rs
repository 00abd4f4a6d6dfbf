//! How the workers' vectors are added up, as numbers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the workers' vectors are added up, as numbers: the same on every path between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Reduction {
    /// How vectors and sums are coded where they cross a network.
    pub codec: Codec,
    /// Workers next to each other whose vectors are added before they are coded.
    #[schemars(range(min = 1, max = 64))]
    pub group_size: u32,
}

impl Default for Reduction {
    fn default() -> Self {
        Self { codec: Codec::default(), group_size: 1 }
    }
}

/// How vectors and sums are coded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Codec {
    /// As they are.
    #[default]
    Float32,
    /// With half of the bits.
    Bfloat16,
    /// 8 bits per value and a scale per block; what is lost is added in the next round.
    UInt8,
    /// 4 bits per value and a scale per block; what is lost is added in the next round.
    UInt4,
}
