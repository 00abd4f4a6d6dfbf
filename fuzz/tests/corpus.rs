//! Every target over what it begins with and what was found for it: no fuzzer needed.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use atoll_fuzz::{LONGEST, TARGETS};

#[test]
fn every_target_takes_its_seeds_and_its_corpus() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        for seed in (target.seeds)() {
            assert!(seed.len() <= LONGEST, "{}: a seed of {} bytes", target.name, seed.len());
            target.check(&seed);
        }
        let folder = corpora.join(target.name);
        let inputs: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for input in inputs {
            println!("{}", input.display());
            target.check(&std::fs::read(&input).unwrap());
        }
    }
}

#[test]
fn every_corpus_belongs_to_a_target() {
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(TARGETS.iter().any(|target| *target.name == name), "{} belongs to no target", name.display());
    }
}
