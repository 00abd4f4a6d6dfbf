//! Rules between the fields of a run, and which fields stay as they were given.
//!
//! What may change: `suspend`, `runPolicy`, `failurePolicy`, the numbers of workers, and of `checkpoint` what says how often and how
//! many. All else decides what the result is, or where it lies, and would make another run of it.

use serde_json::{Value, json};

use crate::rule::{fixed, fixed_option, rule};

/// A hash of a file's bytes.
pub(super) const DIGEST: &str = "^(blake3|sha256):[0-9a-f]{64}$";

/// Fields of the spec that every run has.
const FIXED: [&str; 5] = ["model", "dataset", "optimizer", "method", "stop"];

/// Fields of the spec that have a default or may be absent; `objective` has one value only.
const FIXED_OPTIONS: [&str; 8] =
    ["runtimeRef", "managedBy", "seed", "reduction", "placement", "rounds", "divergence", "evaluation"];

/// Rules of the spec as a whole.
pub(super) fn of_spec() -> Value {
    let mut rules = vec![
        rule(
            "self.rounds.quorum.min <= self.workers.target",
            "rounds.quorum.min must be at most workers.target",
            ".rounds.quorum.min",
        ),
        rule(
            "!has(self.divergence) || self.divergence.policy != 'Rollback' || has(self.checkpoint)",
            "divergence.policy Rollback needs checkpoint, to go back to",
            ".divergence.policy",
        ),
        rule(
            "has(self.checkpoint) == has(oldSelf.checkpoint)",
            "checkpoint cannot be added or taken away; make a new run for it",
            ".checkpoint",
        ),
    ];
    rules.extend(FIXED.iter().map(|field| fixed("", field)));
    rules.extend(FIXED_OPTIONS.iter().map(|field| fixed_option("", field)));
    Value::Array(rules)
}

/// Rules of `workers`.
pub(super) fn of_workers() -> Value {
    json!([
        rule("self.min <= self.target", "workers.min must be at most workers.target", ".min"),
        rule("!has(self.max) || self.target <= self.max", "workers.target must be at most workers.max", ".target"),
        fixed_option("workers.", "ranks"),
        fixed_option("workers.", "batchSize"),
        fixed_option("workers.", "resources"),
    ])
}

/// Rules of `checkpoint`.
pub(super) fn of_checkpoint() -> Value {
    let mut rules = vec![fixed("checkpoint.", "uri")];
    rules.extend(["secretRef", "endpoint", "region", "pathStyle", "resumeFrom"].map(|field| fixed_option("checkpoint.", field)));
    Value::Array(rules)
}

/// Rules of the address of data, a model or a tokenizer; `field` is the path to it in the spec.
pub(super) fn of_address(field: &str) -> Value {
    json!([
        rule(
            "!self.uri.contains('://') || self.uri.matches('^((file|s3|gs|az|https|http)://.|\
             pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/|$)|configmap://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+$)')",
            &format!(
                "{field}.uri must be a path, or an address such as file:///PATH, s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY, \
                 https://HOST/PATH, http://HOST/PATH, pvc://CLAIM/PATH or configmap://NAME/KEY"
            ),
            ".uri",
        ),
        rule(
            "!self.uri.matches('^[^:/]*://[^/]*@')",
            &format!("{field}.uri must name no user or password; put them into a Secret and name it in secretRef"),
            ".uri",
        ),
    ])
}
