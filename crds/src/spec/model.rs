//! What is trained, and what it learns to do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    SecretRef,
    rules::{DIGEST, of_address},
};
use crate::rule::{exactly_one, rule};

/// What is trained: a new model of a given shape, or one from a folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
#[schemars(transform = exactly_one)]
pub enum Model {
    /// A new model of this shape, with initial weights from the seed.
    Architecture(Architecture),
    /// A model to continue from.
    #[schemars(extend("x-kubernetes-validations" = of_address("model.source")))]
    Source {
        /// Folder with config.json and model.safetensors: a path or file: URI relative to the run file; in a cluster an address as in
        /// dataset.source.uri.
        #[schemars(length(min = 1, max = 2048))]
        uri: String,
        /// Secret in the namespace of the run with the store's credentials, each under the name that it has in an environment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret_ref: Option<SecretRef>,
        /// What model.safetensors must hash to: blake3: or sha256:, and 64 hexadecimal digits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = 71), regex(pattern = DIGEST))]
        digest: Option<String>,
    },
}

/// The family and the shape of a new model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = exactly_one)]
pub enum Architecture {
    /// Llama-shaped decoder: RMSNorm, rotary embedding, causal attention, SwiGLU, tied embeddings.
    Llama(Llama),
}

/// Shape of a Llama-shaped decoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "self.hiddenSize % (2 * self.heads) == 0",
    "hiddenSize must be a multiple of 2 * heads, because rotary embedding needs an even head size",
    ".hiddenSize",
)]))]
pub struct Llama {
    /// Decoder blocks.
    #[schemars(range(min = 1, max = 256))]
    pub layers: u32,
    /// Width of the residual stream, in elements.
    #[schemars(range(min = 2, max = 65_536))]
    pub hidden_size: u32,
    /// Attention heads per block.
    #[schemars(range(min = 1, max = 1024))]
    pub heads: u32,
    /// Width of the feed-forward layer, in elements.
    #[schemars(range(min = 1, max = 262_144))]
    pub intermediate_size: u32,
    /// Longest sequence, in tokens.
    #[schemars(range(min = 2, max = 1_048_576))]
    pub context_length: u32,
}

/// What the model learns to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = exactly_one)]
pub enum Objective {
    /// Predict each next token; the loss is cross-entropy in nats per token.
    CausalLanguageModel {},
}

impl Default for Objective {
    fn default() -> Self {
        Self::CausalLanguageModel {}
    }
}
