//! The examples are run files that load.

use std::path::{Path, PathBuf};

use atoll_crds::{load, spec::Method};

/// All YAML files below a folder, but scripts of chaos, which are no runs.
fn run_files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .expect("the folder of examples")
        .flat_map(|entry| {
            let path = entry.expect("an entry of the folder").path();
            match path.is_dir() {
                true if path.ends_with("chaos") => Vec::new(),
                true => run_files(&path),
                false => vec![path],
            }
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect()
}

#[test]
fn every_example_loads_and_every_field_of_it_is_used() {
    let examples = run_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"));
    assert!(examples.len() >= 3, "{examples:?}");
    for file in examples {
        let run = load(&file, &std::fs::read_to_string(&file).unwrap(), &[]).unwrap_or_else(|problems| panic!("{problems}"));
        if is_for_clusters(&file) {
            assert_eq!(run.spec.runtime_ref.map(|runtime| runtime.name).as_deref(), Some("candle-cpu"), "{}", file.display());
            assert_eq!(run.namespace.as_deref(), Some("research"), "{}", file.display());
        } else {
            assert_eq!(run.unused, [""; 0], "{}", file.display());
        }
    }
}

/// Whether fields that only a cluster reads belong in it.
fn is_for_clusters(file: &Path) -> bool {
    file.parent().is_some_and(|folder| folder.ends_with("kubernetes"))
}

#[test]
fn on_a_cluster_the_first_example_trains_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let [local, cluster] = ["kjv.yaml", "kubernetes/kjv.yaml"].map(|name| {
        let file = folder.join(name);
        load(&file, &std::fs::read_to_string(&file).unwrap(), &[]).unwrap().spec
    });
    assert_eq!(atoll_crds::spec::TrainingRunSpec { runtime_ref: None, ..cluster }, local);
}

#[test]
fn the_two_methods_side_by_side_differ_in_the_method_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/diloco-vs-ddp");
    let [diloco, ddp] = ["diloco.yaml", "ddp.yaml"].map(|name| {
        let file = folder.join(name);
        load(&file, &std::fs::read_to_string(&file).unwrap(), &[]).unwrap().spec
    });
    assert!(matches!(diloco.method, Method::DiLoCo(_)));
    assert_eq!(atoll_crds::spec::TrainingRunSpec { method: Method::DataParallel {}, ..diloco }, ddp);
}
