use std::fs;
use std::path::Path;

use atoll_checkpoint::Manifest;
use atoll_checkpoint::manifest::ElementType;
use atoll_checkpoint::write::Cut;
use atoll_trainer::export::{save, save_tokenizer};
use atoll_trainer::model::{Config, Llama};
use candle_core::Device;

use super::laboratory::{Laboratory, file, objects, on_every_store, place};

const TOKENIZER: &[u8] = br#"{"version": "1.0"}"#;

/// A model, the folder that a run writes of it, and its flat vector.
fn model(folder: &Path) -> Cut {
    let config = Config {
        layers: 2,
        hidden_size: 8,
        heads: 2,
        intermediate_size: 12,
        context_length: 16,
        vocabulary_size: 11,
        rms_epsilon: Config::RMS_EPSILON,
        rope_theta: Config::ROPE_THETA,
    };
    let model = Llama::new(config, &Device::Cpu, [5; 32]).unwrap();
    save(&model, folder).unwrap();
    save_tokenizer(TOKENIZER, folder).unwrap();
    let mut flat = vec![0.0; model.config().parameters()];
    model.flatten_into(&mut flat).unwrap();
    let values: Vec<u8> = flat.iter().flat_map(|value| value.to_le_bytes()).collect();
    Cut { name: "parameters".into(), element_type: ElementType::F32, values: values.into() }
}

/// A checkpoint of that model, and the folder that a run writes of it.
fn published(laboratory: &Laboratory) -> (Manifest, std::path::PathBuf) {
    let expected = laboratory.path().join("expected");
    let parameters = model(&expected);
    let manifest = laboratory.published_with(place(7), &[parameters], |manifest, write| {
        let config = fs::read(expected.join("config.json")).unwrap();
        manifest.files = vec![write(&file("config.json", &config)), write(&file("tokenizer.json", TOKENIZER))];
    });
    (manifest, expected)
}

fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> =
        files.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect();
    files.sort();
    files
}

/// Names beside the objects of a local store.
fn beside(laboratory: &Laboratory) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(laboratory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_folder_is_byte_for_byte_what_a_run_writes() {
    on_every_store(|laboratory| {
        let (_, expected) = published(&laboratory);
        fs::create_dir(laboratory.path().join("empty")).unwrap();
        for out in ["model", "a/b/model", "empty"] {
            let said = laboratory.done("export", &["7", "--out", out]).out;
            assert!(said.ends_with("parameters of checkpoint 1-1-2-7\n") && said.contains(out), "{said}");
            assert_eq!(content(&laboratory.path().join(out)), content(&expected));
        }
        assert!(beside(&laboratory).iter().all(|name| !name.contains("partial")));
    });
}

#[test]
fn a_folder_that_is_not_empty_is_left_alone() {
    let laboratory = Laboratory::local();
    published(&laboratory);
    fs::create_dir(laboratory.path().join("model")).unwrap();
    fs::write(laboratory.path().join("model/mine"), "mine").unwrap();
    for (out, expected) in [("model", "not empty"), ("model/mine", "not a folder"), ("model/mine/x", "not a folder")] {
        let said = laboratory.run("export", &["--out", out]);
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.error.starts_with("--out ") && said.error.contains(expected), "{said:?}");
    }
    assert_eq!(content(&laboratory.path().join("model")).len(), 1);
}

#[test]
fn what_cannot_be_exported_leaves_nothing() {
    let laboratory = Laboratory::local();
    let (manifest, _) = published(&laboratory);
    let before = beside(&laboratory);
    let refused = |expected: &str| {
        let said = laboratory.run("export", &["--out", "a/model"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.error.contains(expected), "{expected}: {said:?}");
        assert_eq!(beside(&laboratory), before);
    };
    laboratory.damage(&objects(&manifest)[1], |mut bytes| {
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    });
    refused("the hash of its bytes is");
    let short = Cut { values: vec![0; 40].into(), ..model(&laboratory.path().join("expected")) };
    laboratory.published_with(place(8), std::slice::from_ref(&short), |changed, _| changed.files.clone_from(&manifest.files));
    refused("checkpoint 1-1-2-8 cannot be exported: it holds 10 parameters of F32, and its config.json is of ");
    laboratory.published_with(place(9), &[], |changed, _| changed.files.clone_from(&manifest.files));
    refused("it holds no parameters");
    laboratory.published_with(place(10), &[short], |changed, write| {
        changed.files = vec![write(&file("config.json", b"{}")), write(&file("tokenizer.json", TOKENIZER))];
    });
    refused("its config.json: missing field `model_type`");
    laboratory.published(place(11), &[]);
    refused("it holds no config.json");
}
