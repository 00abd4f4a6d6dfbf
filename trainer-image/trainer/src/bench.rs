//! How fast the trainer is: whole training steps of one fixed model, as a run takes them.

use std::time::Instant;

use candle_core::Device;
use serde::Serialize;

use crate::model::{Config, Llama, ModelError};
use crate::optimizer::{AdamW, clip_to_norm};

/// The model that the project's speed figures are about: 5.87 million parameters.
const MODEL: Config = Config {
    layers: 6,
    hidden_size: 256,
    heads: 4,
    intermediate_size: 704,
    context_length: 256,
    vocabulary_size: 4096,
    rms_epsilon: Config::RMS_EPSILON,
    rope_theta: Config::ROPE_THETA,
};
const BATCH: usize = 8;
const OPTIMIZER: AdamW = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
const LEARNING_RATE: f64 = 3e-4;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchReport {
    /// Tokens of a batch divided by the median time of a step.
    pub tokens_per_second: f64,
    /// Median time of forward, backward, clipping and optimiser.
    pub median_step_seconds: f64,
    /// Threads that the steps ran on.
    pub threads: usize,
    /// Most memory that this process has had so far; nothing where the system does not tell.
    pub peak_rss_bytes: Option<u64>,
    /// Parameters of the model.
    pub parameters: usize,
}

/// Trains the model of the speed figures for `steps` steps, at least one, on `threads` threads of their own.
///
/// The batch is 8 sequences of 256 tokens, the same at each step.
///
/// # Errors
/// [`ModelError::Threads`] when the threads cannot be started, [`ModelError::Candle`].
pub fn trainer(threads: usize, steps: usize) -> Result<BenchReport, ModelError> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(|| measure(&MODEL, BATCH, steps))
}

fn measure(config: &Config, batch: usize, steps: usize) -> Result<BenchReport, ModelError> {
    let sequence = config.context_length;
    let model = Llama::new(config.clone(), &Device::Cpu, [0; 32])?;
    let tokens = tokens(batch * sequence + 1, config.vocabulary_size);
    let (inputs, targets) = (&tokens[..batch * sequence], &tokens[1..]);
    let parameters = config.parameters();
    let [mut gradients, mut first, mut second] = std::array::from_fn(|_| vec![0.0; parameters]);
    let mut seconds = Vec::new();
    for step in 1..=steps.max(1) {
        let start = Instant::now();
        let loss = model.loss(inputs, targets, batch, sequence)?;
        model.gradients_into(&loss.backward()?, &mut gradients)?;
        clip_to_norm(&mut gradients, 1.0);
        let factors = OPTIMIZER.at(step as u64, LEARNING_RATE);
        model.update(|range, values| {
            factors.apply(values, &gradients[range.clone()], &mut first[range.clone()], &mut second[range]);
        })?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median_step_seconds = seconds[seconds.len() / 2];
    Ok(BenchReport {
        tokens_per_second: (batch * sequence) as f64 / median_step_seconds,
        median_step_seconds,
        threads: rayon::current_num_threads(),
        peak_rss_bytes: peak_rss_bytes(),
        parameters,
    })
}

/// Tokens spread over the vocabulary by Fibonacci hashing.
fn tokens(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count as u64).map(|i| (i * 2_654_435_761 % vocabulary as u64) as u32).collect()
}

/// `VmHWM` of `/proc/self/status`.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_the_speed_figures_has_5_9_million_parameters() {
        assert_eq!(MODEL.parameters(), 5_868_800);
    }

    #[test]
    fn a_report_is_of_the_steps_and_threads_that_were_asked() {
        let small = Config { layers: 1, hidden_size: 8, heads: 2, intermediate_size: 8, context_length: 4, ..MODEL };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let report = pool.install(|| measure(&Config { vocabulary_size: 16, ..small }, 2, 3)).unwrap();
        assert_eq!((report.threads, report.parameters), (2, 16 * 8 + 4 * 64 + 3 * 64 + 3 * 8));
        assert!((report.tokens_per_second * report.median_step_seconds - 8.0).abs() < 1e-6);
        assert!(report.peak_rss_bytes.is_none_or(|bytes| bytes > 1 << 20));
    }
}
