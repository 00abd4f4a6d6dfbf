//! The text to learn from, and how it becomes tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rule::exactly_one;

/// The text to learn from, and how it becomes tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dataset {
    /// Where the text is.
    pub source: DatasetSource,
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// Share of the text, from its end, that is kept for evaluation and never trained on.
    #[serde(default = "held_out_fraction")]
    #[schemars(
        range(min = 0.0, max = 0.5),
        extend("exclusiveMinimum" = true, "exclusiveMaximum" = true)
    )]
    pub held_out_fraction: f64,
}

/// Where the text is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetSource {
    /// Either "builtin:kjv", or a path or file: URI of a .txt or .jsonl file or of a folder of them, relative to the run file.
    #[schemars(length(min = 1, max = 2048))]
    pub uri: String,
    /// Field that holds the text in each line of a .jsonl file.
    #[serde(default = "text_field")]
    #[schemars(length(min = 1, max = 256))]
    pub text_field: String,
}

/// How text becomes tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = exactly_one)]
pub enum Tokenizer {
    /// One token per character that occurs in the text.
    Characters {},
    /// A Hugging Face tokenizer.
    File {
        /// Path of a tokenizer.json, relative to the run file.
        #[schemars(length(min = 1, max = 2048))]
        uri: String,
    },
}

fn held_out_fraction() -> f64 {
    0.05
}

fn text_field() -> String {
    "text".into()
}
