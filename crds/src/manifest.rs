//! The CRD manifest, generated from the API types.

use kube::CustomResourceExt;
use saphyr::{LoadableYamlNode, Yaml, YamlEmitter};

use crate::spec::TrainingRun;

/// The YAML of the `TrainingRun` CRD, as it belongs into [`TRAINING_RUN_CRD_FILE`](crate::TRAINING_RUN_CRD_FILE).
///
/// # Errors
/// When a value of the CRD cannot be written as JSON or YAML.
pub fn training_run_manifest() -> Result<String, ManifestError> {
    let json = serde_json::to_string(&TrainingRun::crd())?;
    let mut manifest =
        String::from("# Generated from the API types by `cargo run -p atoll-crds --features kube --bin crds-manifest`.\n");
    let mut emitter = YamlEmitter::new(&mut manifest);
    for document in &Yaml::load_from_str(&json)? {
        emitter.dump(document)?;
    }
    manifest.push('\n');
    Ok(manifest)
}

/// Why the manifest could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The CRD has a value that JSON cannot hold.
    #[error("the CRD cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// The JSON text was not taken as YAML.
    #[error("the CRD's JSON cannot be read as YAML")]
    Load(#[from] saphyr::ScanError),
    /// The YAML text could not be written.
    #[error("the CRD cannot be written as YAML")]
    Emit(#[from] saphyr::EmitError),
}
