//! `config.json` of Hugging Face transformers, as far as this decoder is concerned.

use serde::{Deserialize, Serialize};

use crate::model::Config;

/// The fields of transformers' `LlamaConfig`. Read leniently: transformers leaves out what equals its defaults.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HuggingFace {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: String,
    #[serde(default = "silu")]
    hidden_act: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    vocab_size: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_scaling: Option<serde_json::Value>,
    /// Where transformers 5 writes base and kind of the rotary angles.
    #[serde(default, skip_serializing)]
    rope_parameters: Option<RopeParameters>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    attention_dropout: f64,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    initializer_range: Option<f64>,
    torch_dtype: Option<String>,
    bos_token_id: Option<serde_json::Value>,
    eos_token_id: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

fn silu() -> String {
    "silu".into()
}

impl HuggingFace {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            architectures: vec!["LlamaForCausalLM".into()],
            model_type: "llama".into(),
            hidden_act: silu(),
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_hidden_layers: config.layers,
            num_attention_heads: config.heads,
            num_key_value_heads: Some(config.heads),
            head_dim: Some(config.head_size()),
            max_position_embeddings: config.context_length,
            vocab_size: config.vocabulary_size,
            rms_norm_eps: config.rms_epsilon,
            rope_theta: Some(config.rope_theta),
            rope_scaling: None,
            rope_parameters: None,
            attention_bias: false,
            attention_dropout: 0.0,
            mlp_bias: false,
            tie_word_embeddings: true,
            initializer_range: Some(0.02),
            torch_dtype: Some("float32".into()),
            // Numbers of Llama's own tokenizer would stand here by default; this model's tokenizer has no such tokens.
            bos_token_id: None,
            eos_token_id: None,
        }
    }

    /// The file's text.
    pub(super) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain fields always serialise");
        text.push('\n');
        text
    }

    /// The sizes that a file's text describes, or why this decoder is no such model.
    pub(super) fn parse(text: &str) -> Result<Config, String> {
        let file: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        file.check()?;
        let theta = file.rope_theta.or(file.rope_parameters.as_ref().and_then(|parameters| parameters.rope_theta));
        let config = Config {
            layers: file.num_hidden_layers,
            hidden_size: file.hidden_size,
            heads: file.num_attention_heads,
            intermediate_size: file.intermediate_size,
            context_length: file.max_position_embeddings,
            vocabulary_size: file.vocab_size,
            rms_epsilon: file.rms_norm_eps,
            rope_theta: theta.unwrap_or(Config::ROPE_THETA),
        };
        config.check().map_err(|error| error.to_string())?;
        if file.head_dim.is_some_and(|size| size != config.head_size()) {
            return Err(format!("head_dim is not hidden_size / num_attention_heads = {}", config.head_size()));
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let parameters = self.rope_parameters.as_ref();
        let plain_rope = parameters.and_then(|parameters| parameters.rope_type.as_deref()).is_none_or(|kind| kind == "default");
        let grouped = self.num_key_value_heads.is_some_and(|heads| heads != self.num_attention_heads);
        let rules = [
            (self.model_type != "llama", "model_type is not llama"),
            (self.hidden_act != "silu", "hidden_act is not silu"),
            (!self.tie_word_embeddings, "tie_word_embeddings is not true"),
            (self.attention_bias || self.mlp_bias, "a layer has a bias"),
            (grouped, "num_key_value_heads is not num_attention_heads"),
            (!plain_rope || self.rope_scaling.is_some(), "the rotary angles are scaled"),
        ];
        rules.iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, problem)| Err((*problem).to_owned()))
    }
}
