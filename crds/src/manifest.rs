//! The CRD manifests, generated from the API types.

use kube::CustomResourceExt;
use saphyr::{LoadableYamlNode, Yaml, YamlEmitter};

use crate::{
    CRDS, island::TrainingIsland, kept::TrainingCheckpoint, runtime::ClusterTrainingRuntime, runtime::TrainingRuntime,
    spec::TrainingRun,
};

/// The manifests as they belong into the files of [`CRDS`], in its order.
///
/// # Errors
/// When a value of a CRD cannot be written as JSON or YAML.
pub fn manifests() -> Result<[String; CRDS.len()], ManifestError> {
    Ok([
        manifest::<TrainingRun>()?,
        manifest::<ClusterTrainingRuntime>()?,
        manifest::<TrainingRuntime>()?,
        manifest::<TrainingIsland>()?,
        manifest::<TrainingCheckpoint>()?,
    ])
}

fn manifest<K: CustomResourceExt>() -> Result<String, ManifestError> {
    let json = serde_json::to_string(&K::crd())?;
    let mut manifest =
        String::from("# Generated from the API types by `cargo run -p atoll-crds --features kube --bin crds-manifest`.\n");
    let mut emitter = YamlEmitter::new(&mut manifest);
    for document in &Yaml::load_from_str(&json)? {
        emitter.dump(document)?;
    }
    manifest.push('\n');
    Ok(manifest)
}

/// Why a manifest could not be written.
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
