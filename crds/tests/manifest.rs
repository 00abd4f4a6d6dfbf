//! The manifest is what the API types say, and a cluster takes it.
#![cfg(feature = "kube")]

use std::path::Path;

use atoll_crds::{TRAINING_RUN_CRD, load, spec::TrainingRun, training_run_manifest};

#[test]
fn the_manifest_has_not_drifted_from_the_types() {
    assert_eq!(training_run_manifest().unwrap(), TRAINING_RUN_CRD);
}

#[test]
fn plain_apply_can_store_the_manifest() {
    assert!(TRAINING_RUN_CRD.len() < 256 * 1024, "{} bytes", TRAINING_RUN_CRD.len());
}

#[test]
fn an_example_is_an_object_that_the_cluster_gives_back_unchanged() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/kjv.yaml");
    let run = load(&file, &std::fs::read_to_string(&file).unwrap(), &[]).unwrap();
    let object = TrainingRun::new(&run.name, run.spec);
    let stored = serde_json::to_string(&object).unwrap();
    assert_eq!(serde_json::from_str::<TrainingRun>(&stored).unwrap().spec, object.spec);
}
