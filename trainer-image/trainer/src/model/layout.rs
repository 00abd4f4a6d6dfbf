//! Which parameters a model has, in which order: the order of its flat vectors and of its random numbers.

use super::Config;

/// One parameter: its name, shape and first values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parameter {
    /// Unique in the model; where nothing is packed, the name that Hugging Face uses.
    pub(crate) name: String,
    /// (outputs, inputs) of a matrix, or (width) of a norm.
    pub(crate) shape: Vec<usize>,
    /// Standard deviation of its first values, or none for ones.
    pub(crate) deviation: Option<f64>,
}

impl Parameter {
    /// Numbers in it.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Standard deviation of first weights.
const DEVIATION: f64 = 0.02;

/// Where each tensor lies in the flat parameters, as JSON: name, shape, and first element.
pub(crate) fn index_json(config: &Config) -> String {
    let mut start = 0;
    let entry = |parameter: Parameter| {
        let first = start;
        start += parameter.elements();
        serde_json::json!({ "name": parameter.name, "shape": parameter.shape, "start": first })
    };
    parameters(config).into_iter().map(entry).collect::<serde_json::Value>().to_string()
}

/// The parameters of a model with these sizes: embedding, then each layer from input to output, then the last norm.
pub(crate) fn parameters(config: &Config) -> Vec<Parameter> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    // Each layer adds two terms to the residual stream: GPT-2's rule keeps their sum's variance independent of the depth.
    let output_deviation = DEVIATION / (2.0 * config.layers as f64).sqrt();
    let norm = |name: String| Parameter { name, shape: vec![hidden], deviation: None };
    let matrix = |name: String, rows, columns, deviation| {
        let deviation = Some(deviation);
        Parameter { name, shape: vec![rows, columns], deviation }
    };
    let layer = |index: usize| {
        let name = |rest: &str| format!("model.layers.{index}.{rest}.weight");
        [
            norm(name("input_layernorm")),
            matrix(name("self_attn.qkv_proj"), 3 * hidden, hidden, DEVIATION),
            matrix(name("self_attn.o_proj"), hidden, hidden, output_deviation),
            norm(name("post_attention_layernorm")),
            matrix(name("mlp.gate_up_proj"), 2 * intermediate, hidden, DEVIATION),
            matrix(name("mlp.down_proj"), hidden, intermediate, output_deviation),
        ]
    };
    let embedding = matrix("model.embed_tokens.weight".into(), config.vocabulary_size, hidden, DEVIATION);
    std::iter::once(embedding)
        .chain((0..config.layers).flat_map(layer))
        .chain(std::iter::once(norm("model.norm.weight".into())))
        .collect()
}
