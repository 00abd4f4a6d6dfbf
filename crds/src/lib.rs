//! Atoll's API types, their schemas, and the validation of TrainingRun files.
//!
//! Every rule is written once, beside the types in [`spec`]. The CRD manifest is generated from the types, the API server
//! applies it, and [`load`] applies the very same manifest to run files on this machine.

#![allow(clippy::doc_markdown, reason = "doc comments of the types become descriptions, which kubectl shows as plain text")]
#![cfg_attr(feature = "kube", allow(clippy::duplicated_attributes, reason = "each column of kubectl has the same keys"))]

mod cel_rule;
mod check;
mod checked_file;
mod compatibility;
mod document;
#[cfg(feature = "kube")]
pub mod island;
#[cfg(feature = "kube")]
pub mod kept;
mod kubernetes;
#[cfg(feature = "kube")]
mod manifest;
mod nearest;
mod overrides;
mod problem;
mod rule;
mod run_file;
#[cfg(feature = "kube")]
pub mod runtime;
mod schema;
pub mod spec;
#[cfg(feature = "kube")]
pub mod status;

#[cfg(feature = "kube")]
pub use crate::manifest::{ManifestError, manifests};
pub use crate::{
    checked_file::CheckedFile,
    compatibility::breaks,
    problem::{Place, Problem, Problems},
    run_file::{RunFile, load},
    schema::Schema,
};

/// A CRD manifest that is built in.
#[derive(Debug, Clone, Copy)]
pub struct Crd {
    /// Where it is, relative to this crate.
    pub file: &'static str,
    /// The YAML, as `kubectl apply` takes it.
    pub text: &'static str,
}

/// The manifests of all kinds.
pub const CRDS: [Crd; 5] = [
    Crd { file: TRAINING_RUN_CRD_FILE, text: TRAINING_RUN_CRD },
    Crd {
        file: "manifests/clustertrainingruntimes.atoll.dev.yaml",
        text: include_str!("../manifests/clustertrainingruntimes.atoll.dev.yaml"),
    },
    Crd { file: "manifests/trainingruntimes.atoll.dev.yaml", text: include_str!("../manifests/trainingruntimes.atoll.dev.yaml") },
    Crd { file: "manifests/trainingislands.atoll.dev.yaml", text: include_str!("../manifests/trainingislands.atoll.dev.yaml") },
    Crd {
        file: "manifests/trainingcheckpoints.atoll.dev.yaml",
        text: include_str!("../manifests/trainingcheckpoints.atoll.dev.yaml"),
    },
];

/// The manifest of the `TrainingRun` CRD, as `kubectl apply` takes it.
pub const TRAINING_RUN_CRD: &str = include_str!("../manifests/trainingruns.atoll.dev.yaml");

/// Where the manifest is, relative to this crate.
pub const TRAINING_RUN_CRD_FILE: &str = "manifests/trainingruns.atoll.dev.yaml";
