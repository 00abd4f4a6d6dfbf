//! The manifests are what the API types say, and a cluster takes them.
#![cfg(feature = "kube")]

use std::path::Path;

use atoll_crds::{CRDS, load, manifests, spec::TrainingRun};

/// Most bytes of a manifest: plain apply keeps a copy in an annotation, and all annotations have 256 KiB.
const LARGEST: usize = 60_000;

#[test]
fn no_manifest_has_drifted_from_the_types() {
    for (crd, manifest) in CRDS.iter().zip(manifests().unwrap()) {
        assert!(manifest == crd.text, "{} has drifted: run crds-manifest", crd.file);
    }
}

#[test]
fn plain_apply_can_store_every_manifest() {
    for crd in CRDS {
        assert!(crd.text.len() < LARGEST, "{} has {} bytes", crd.file, crd.text.len());
        assert!(crd.text.contains("\n    app.kubernetes.io/part-of: atoll\n"), "{} is not labelled", crd.file);
    }
}

#[test]
fn an_example_is_an_object_that_the_cluster_gives_back_unchanged() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/kjv.yaml");
    let run = load(&file, &std::fs::read_to_string(&file).unwrap(), &[]).unwrap();
    let object = TrainingRun::new(&run.name, run.spec);
    let stored = serde_json::to_string(&object).unwrap();
    assert_eq!(serde_json::from_str::<TrainingRun>(&stored).unwrap().spec, object.spec);
}
