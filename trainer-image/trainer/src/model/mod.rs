//! The model: a decoder of the Llama family, on any device of candle.
//!
//! Pre-norm blocks of causal attention with rotary positions and of a SwiGLU layer, RMS norms, no biases, one matrix for
//! the embedding and the logits. Queries, keys and values are one matrix inside, and so are gate and up projection; the
//! export splits them.

mod config;
mod error;
mod flat;
mod initial;
mod layout;

pub use config::Config;
pub use error::ModelError;
pub(crate) use layout::{Parameter, index_json, parameters};

use candle_core::{Device, Tensor, Var};

use crate::ops::{self, Attention, Form, Rotary};

/// A decoder with its weights. Forward and backward passes may run on several threads at once, as long as none of them
/// changes the weights meanwhile.
#[derive(Debug)]
pub struct Llama {
    config: Config,
    device: Device,
    form: Form,
    parameters: Vec<(String, Var)>,
    /// Weights that a loss remembers, for its gradients.
    tracked: Weights,
    /// The same storage, without a memory.
    untracked: Weights,
    rotary: Rotary,
}

/// Tensors by their place in the network.
#[derive(Debug)]
struct Weights {
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    query_key_value: Tensor,
    attention_output: Tensor,
    feed_forward_norm: Tensor,
    gate_up: Tensor,
    down: Tensor,
}

impl Weights {
    /// The tensors in the order of [`parameters`].
    fn new(mut tensors: impl ExactSizeIterator<Item = Tensor>, layers: usize) -> Option<Self> {
        let embedding = tensors.next()?;
        let layers = (0..layers).map(|_| Layer::new(&mut tensors)).collect::<Option<_>>()?;
        Some(Self { embedding, layers, norm: tensors.next()? })
    }
}

impl Layer {
    fn new(tensors: &mut impl Iterator<Item = Tensor>) -> Option<Self> {
        Some(Self {
            attention_norm: tensors.next()?,
            query_key_value: tensors.next()?,
            attention_output: tensors.next()?,
            feed_forward_norm: tensors.next()?,
            gate_up: tensors.next()?,
            down: tensors.next()?,
        })
    }
}

impl Llama {
    /// A model with random weights: N(0, 0.02), output projections N(0, 0.02 / sqrt(2 * layers)), norms 1.
    ///
    /// The same seed gives the same bits on every machine and device.
    ///
    /// # Errors
    /// [`ModelError::Config`], or [`ModelError::Candle`] when the device has no room.
    pub fn new(config: Config, device: &Device, seed: [u8; 32]) -> Result<Self, ModelError> {
        config.check()?;
        let mut random = initial::Normal::new(seed);
        Self::with_values(config, device, |parameter| Ok(random.fill(parameter)))
    }

    /// A model whose weights `values` supplies, parameter by parameter in the order of [`parameters`].
    pub(crate) fn with_values<E: From<ModelError>>(
        config: Config,
        device: &Device,
        mut values: impl FnMut(&Parameter) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        config.check()?;
        let parameters = parameters(&config).into_iter().map(|parameter| {
            let tensor = Tensor::from_vec(values(&parameter)?, parameter.shape.as_slice(), device);
            let variable = tensor.and_then(|tensor| Var::from_tensor(&tensor)).map_err(ModelError::Candle)?;
            Ok((parameter.name, variable))
        });
        Ok(Self::assemble(config, device, parameters.collect::<Result<_, E>>()?, Form::for_device(device))?)
    }

    fn assemble(config: Config, device: &Device, parameters: Vec<(String, Var)>, form: Form) -> Result<Self, ModelError> {
        let tracked = parameters.iter().map(|(_, variable)| variable.as_tensor().clone());
        let untracked = parameters.iter().map(|(_, variable)| variable.as_tensor().detach());
        let incomplete = || ModelError::Length { expected: config.layers * 6 + 2, found: parameters.len() };
        Ok(Self {
            tracked: Weights::new(tracked, config.layers).ok_or_else(incomplete)?,
            untracked: Weights::new(untracked, config.layers).ok_or_else(incomplete)?,
            rotary: Rotary::new(config.head_size(), config.context_length, config.rope_theta, device)?,
            device: device.clone(),
            form,
            parameters,
            config,
        })
    }

    /// The model's sizes.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Names and variables, in the one order of every flat vector of this model: embedding, layers, last norm.
    #[must_use]
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    /// Mean cross-entropy of `targets`, in nats per token: a scalar that remembers how it came about, for `backward`.
    ///
    /// `inputs` and `targets` hold `batch` sequences of `sequence` tokens one after the other; a sequence may be shorter
    /// than the context.
    ///
    /// # Errors
    /// [`ModelError::Shape`], [`ModelError::Token`], or [`ModelError::Candle`].
    pub fn loss(&self, inputs: &[u32], targets: &[u32], batch: usize, sequence: usize) -> Result<Tensor, ModelError> {
        self.loss_of(&self.tracked, inputs, targets, (batch, sequence))
    }

    /// The number that [`Self::loss`] would give, without what a backward pass needs.
    ///
    /// # Errors
    /// Those of [`Self::loss`].
    pub fn loss_value(&self, inputs: &[u32], targets: &[u32], batch: usize, sequence: usize) -> Result<f32, ModelError> {
        Ok(self.loss_of(&self.untracked, inputs, targets, (batch, sequence))?.to_scalar()?)
    }

    /// Logits of the token after each input, shape (batch * sequence, vocabulary), without memory for a backward pass.
    ///
    /// # Errors
    /// Those of [`Self::loss`].
    pub fn logits(&self, inputs: &[u32], batch: usize, sequence: usize) -> Result<Tensor, ModelError> {
        self.forward(&self.untracked, inputs, (batch, sequence))
    }

    fn loss_of(
        &self,
        weights: &Weights,
        inputs: &[u32],
        targets: &[u32],
        division: (usize, usize),
    ) -> Result<Tensor, ModelError> {
        self.check(targets, division)?;
        let logits = self.forward(weights, inputs, division)?;
        Ok(ops::cross_entropy(self.form, &logits, targets)?)
    }

    fn check(&self, tokens: &[u32], (batch, sequence): (usize, usize)) -> Result<(), ModelError> {
        let fits = batch.checked_mul(sequence) == Some(tokens.len());
        if !fits || tokens.is_empty() || sequence > self.config.context_length {
            let context = self.config.context_length;
            return Err(ModelError::Shape { tokens: tokens.len(), batch, sequence, context });
        }
        let vocabulary = self.config.vocabulary_size;
        match tokens.iter().position(|token| *token as usize >= vocabulary) {
            Some(position) => Err(ModelError::Token { token: tokens[position], position, vocabulary }),
            None => Ok(()),
        }
    }

    fn forward(&self, weights: &Weights, inputs: &[u32], division: (usize, usize)) -> Result<Tensor, ModelError> {
        self.check(inputs, division)?;
        let (batch, sequence) = division;
        let attention = Attention { batch, sequence, heads: self.config.heads, rotary: self.rotary.clone() };
        let (form, epsilon) = (self.form, self.config.rms_epsilon);
        let mut x = weights.embedding.index_select(&Tensor::new(inputs, &self.device)?, 0)?;
        for layer in &weights.layers {
            let normal = ops::rms_norm(form, &x, &layer.attention_norm, epsilon)?;
            let packed = ops::linear(form, &normal, &layer.query_key_value)?;
            let mixed = ops::causal_attention(form, &packed, &attention)?;
            x = (x + ops::linear(form, &mixed, &layer.attention_output)?)?;
            let normal = ops::rms_norm(form, &x, &layer.feed_forward_norm, epsilon)?;
            let gated = ops::swiglu(form, &ops::linear(form, &normal, &layer.gate_up)?)?;
            x = (x + ops::linear(form, &gated, &layer.down)?)?;
        }
        let normal = ops::rms_norm(form, &x, &weights.norm, epsilon)?;
        Ok(ops::linear(form, &normal, &weights.embedding)?)
    }
}

#[cfg(test)]
mod tests;
