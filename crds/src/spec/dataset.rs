//! The text to learn from, and how it becomes tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    SecretRef,
    rules::{DIGEST, of_address},
};
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
#[schemars(extend("x-kubernetes-validations" = of_address("dataset.source")))]
pub struct DatasetSource {
    /// Either "builtin:kjv", or a path or file: URI of a .txt or .jsonl file or of a folder of them, relative to the run file; only
    /// in a cluster s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY, https://HOST/PATH, http://HOST/PATH, pvc://CLAIM/PATH or
    /// configmap://NAME/KEY.
    #[schemars(length(min = 1, max = 2048))]
    pub uri: String,
    /// Secret in the namespace of the run with the store's credentials, each under the name that it has in an environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// What the file must hash to: blake3: or sha256:, and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = DIGEST))]
    pub digest: Option<String>,
    /// Field that holds the text in each line of a .jsonl file.
    #[serde(default = "text_field")]
    #[schemars(length(min = 1, max = 256))]
    pub text_field: String,
}

/// How text becomes tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
#[schemars(transform = exactly_one)]
pub enum Tokenizer {
    /// One token per character that occurs in the text.
    Characters {},
    /// A Hugging Face tokenizer.
    #[schemars(extend("x-kubernetes-validations" = of_address("dataset.tokenizer.file")))]
    File {
        /// A tokenizer.json: a path or file: URI relative to the run file; in a cluster an address as in dataset.source.uri.
        #[schemars(length(min = 1, max = 2048))]
        uri: String,
        /// Secret in the namespace of the run with the store's credentials, each under the name that it has in an environment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret_ref: Option<SecretRef>,
        /// What the file must hash to: blake3: or sha256:, and 64 hexadecimal digits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = 71), regex(pattern = DIGEST))]
        digest: Option<String>,
    },
}

fn held_out_fraction() -> f64 {
    0.05
}

fn text_field() -> String {
    "text".into()
}
