//! What is written is read back to the bit, and what does not fit is refused by name.

use super::*;
use crate::model::{Parameter, parameters};

fn config() -> Config {
    Config {
        layers: 2,
        hidden_size: 8,
        heads: 2,
        intermediate_size: 12,
        context_length: 16,
        vocabulary_size: 11,
        rms_epsilon: 1e-6,
        rope_theta: 5e5,
    }
}

fn saved() -> (tempfile::TempDir, Llama) {
    let folder = tempfile::tempdir().unwrap();
    let model = Llama::new(config(), &Device::Cpu, [5; 32]).unwrap();
    save(&model, folder.path()).unwrap();
    (folder, model)
}

fn bits(model: &Llama) -> Vec<u32> {
    let mut flat = vec![0.0; model.config().parameters()];
    model.flatten_into(&mut flat).unwrap();
    flat.into_iter().map(f32::to_bits).collect()
}

/// Loads the folder after `edit` changed the header of its tensors, and returns the error's tensor and problem.
fn refused(edit: impl FnOnce(&mut serde_json::Value)) -> (String, String) {
    let (folder, _) = saved();
    let path = folder.path().join(TENSORS);
    let bytes = fs::read(&path).unwrap();
    let (size, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, values) = rest.split_at(u64::from_le_bytes(*size) as usize);
    let mut header = serde_json::from_slice(header).unwrap();
    edit(&mut header);
    let header = serde_json::to_vec(&header).unwrap();
    fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_slice(), values].concat()).unwrap();
    match load(folder.path(), &Device::Cpu) {
        Err(ExportError::Tensor { tensor, problem, .. }) => (tensor, problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_model_comes_back_bit_equal() {
    let (folder, model) = saved();
    let (read_config, read) = load(folder.path(), &Device::Cpu).unwrap();
    assert_eq!(read_config, config());
    assert_eq!(bits(&read), bits(&model));
}

#[test]
fn a_model_that_nobody_built_is_written_byte_for_byte_as_one_that_was() {
    let (folder, model) = saved();
    save_tokenizer(b"{}", folder.path()).unwrap();
    let unbuilt = Unbuilt::new(&fs::read(folder.path().join(CONFIG)).unwrap()).unwrap();
    let mut flat = vec![0.0; unbuilt.parameters()];
    model.flatten_into(&mut flat).unwrap();
    let other = tempfile::tempdir().unwrap();
    unbuilt.save(&flat, b"{}", other.path()).unwrap();
    let content = |folder: &Path| {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.map(|path| (path.file_name().unwrap().to_owned(), fs::read(&path).unwrap())).collect();
        files.sort();
        files
    };
    assert_eq!(content(other.path()), content(folder.path()));
    assert_eq!(content(folder.path()).len(), 4);
    let short = unbuilt.save(&flat[1..], b"{}", other.path());
    assert!(matches!(short, Err(ExportError::Model(ModelError::Length { .. }))));
    assert!(Unbuilt::new(b"{}").unwrap_err().contains("model_type"));
}

#[test]
fn tensors_have_the_names_shapes_and_rows_of_hugging_face() {
    let (folder, model) = saved();
    let bytes = fs::read(folder.path().join(TENSORS)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<_> = file.names().into_iter().filter(|name| !name.contains("layers.0")).collect();
    names.sort_unstable();
    let layer = |rest: &str| format!("model.layers.1.{rest}.weight");
    let expected = [
        "model.embed_tokens.weight",
        &layer("input_layernorm"),
        &layer("mlp.down_proj"),
        &layer("mlp.gate_proj"),
        &layer("mlp.up_proj"),
        &layer("post_attention_layernorm"),
        &layer("self_attn.k_proj"),
        &layer("self_attn.o_proj"),
        &layer("self_attn.q_proj"),
        &layer("self_attn.v_proj"),
        "model.norm.weight",
    ];
    assert_eq!(names, expected);
    let keys = file.tensor("model.layers.0.self_attn.k_proj.weight").unwrap();
    assert_eq!(keys.shape(), [8, 8]);
    let packed = model.parameters()[2].1.to_vec2::<f32>().unwrap();
    assert_eq!(keys.data(), packed[8..16].concat().iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    let up = file.tensor("model.layers.0.mlp.up_proj.weight").unwrap();
    assert_eq!((up.shape(), up.data().len()), (&[12, 8][..], 12 * 8 * 4));
    let about = safetensors::SafeTensors::read_metadata(&bytes).unwrap().1;
    assert_eq!(about.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn the_configuration_says_what_transformers_asks() {
    let (folder, _) = saved();
    let json: serde_json::Value = serde_json::from_slice(&fs::read(folder.path().join(CONFIG)).unwrap()).unwrap();
    for (field, expected) in [
        ("architectures", serde_json::json!(["LlamaForCausalLM"])),
        ("model_type", "llama".into()),
        ("tie_word_embeddings", true.into()),
        ("num_key_value_heads", 2.into()),
        ("head_dim", 4.into()),
        ("max_position_embeddings", 16.into()),
        ("rms_norm_eps", 1e-6.into()),
        ("rope_theta", 5e5.into()),
        ("torch_dtype", "float32".into()),
        ("eos_token_id", serde_json::Value::Null),
    ] {
        assert_eq!(json[field], expected, "{field}");
    }
}

#[test]
fn a_tensor_that_does_not_fit_is_named() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let (tensor, problem) = refused(|header| _ = header.as_object_mut().unwrap().remove(name));
    assert_eq!((tensor.as_str(), problem.as_str()), (name, "missing"));
    let (tensor, _) = refused(|header| header[name]["shape"] = serde_json::json!([8, 12]));
    assert_eq!(tensor, name);
    let (tensor, _) = refused(|header| header[name]["shape"] = serde_json::json!([u64::MAX, u64::MAX]));
    assert_eq!(tensor, name);
    let (tensor, _) = refused(|header| header[name]["dtype"] = "BF16".into());
    assert_eq!(tensor, name);
    for offsets in [[0, 1 << 62], [u64::MAX - 3, 380], [1 << 40, (1 << 40) + 384]] {
        let (tensor, _) = refused(|header| header[name]["data_offsets"] = serde_json::json!(offsets));
        assert_eq!(tensor, name);
    }
    let (tensor, _) = refused(|header| header["lm_head.weight"] = header["model.embed_tokens.weight"].clone());
    assert_eq!(tensor, "lm_head.weight");
    let (tensor, _) = refused(|header| header[name] = "nonsense".into());
    assert_eq!(tensor, name);
}

#[test]
fn a_file_that_is_cut_or_lies_about_its_header_is_refused() {
    let (folder, _) = saved();
    let path = folder.path().join(TENSORS);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(load(folder.path(), &Device::Cpu), Err(ExportError::Tensor { .. })));
    fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    assert!(matches!(load(folder.path(), &Device::Cpu), Err(ExportError::Header { .. })));
    fs::write(&path, [0; 3]).unwrap();
    assert!(matches!(load(folder.path(), &Device::Cpu), Err(ExportError::Io { .. })));
}

#[test]
fn another_kind_of_model_is_refused() {
    let (folder, _) = saved();
    let path = folder.path().join(CONFIG);
    let text = fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("\"llama\"", "\"gemma\""),
        ("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false"),
        ("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 1"),
        ("\"head_dim\": 4", "\"head_dim\": 8"),
        ("\"vocab_size\": 11", "\"vocab_size\": 18446744073709551615"),
        ("\"mlp_bias\": false", "\"mlp_bias\": true"),
        ("\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"yarn\"}"),
        ("{", "["),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        assert!(matches!(load(folder.path(), &Device::Cpu), Err(ExportError::Config { .. })), "{to}");
    }
}

#[test]
fn sizes_that_the_file_does_not_hold_are_refused_before_memory_is_taken() {
    let (folder, _) = saved();
    let path = folder.path().join(CONFIG);
    let text = fs::read_to_string(&path).unwrap().replace("\"vocab_size\": 11", "\"vocab_size\": 16777216");
    fs::write(&path, text).unwrap();
    let Err(ExportError::Tensor { tensor, .. }) = load(folder.path(), &Device::Cpu) else { panic!("accepted") };
    assert_eq!(tensor, "model.embed_tokens.weight");
}

#[test]
fn every_number_of_the_model_is_in_the_file_once() {
    let elements: usize = parameters(&config()).iter().map(Parameter::elements).sum();
    let (folder, _) = saved();
    let bytes = fs::read(folder.path().join(TENSORS)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.iter().map(|(_, tensor)| tensor.data().len()).sum::<usize>(), elements * 4);
}
