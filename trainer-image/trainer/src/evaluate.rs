//! Held-out loss: how well a model predicts text that it was not trained on.

use crate::model::{Llama, ModelError};

/// Mean cross-entropy over windows of tokens, in nats per token.
///
/// In a window each token but the first is predicted from those before it. All windows have one length, at least 2 and at
/// most one more than the context. They are run `batch` at a time, the last time perhaps fewer, and added in order in f64:
/// the same windows give the same number, however they are batched, but for the rounding of each batch's mean to f32.
///
/// # Errors
/// [`ModelError::NothingToEvaluate`], [`ModelError::Window`], and those of [`Llama::loss`].
pub fn mean_loss<W: AsRef<[u32]>>(model: &Llama, windows: impl IntoIterator<Item = W>, batch: usize) -> Result<f64, ModelError> {
    let mut windows = windows.into_iter().peekable();
    let expected = windows.peek().map_or(0, |window| window.as_ref().len());
    let (mut total, mut count) = (0.0, 0);
    while windows.peek().is_some() && batch > 0 {
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        let mut rows = 0;
        for window in windows.by_ref().take(batch) {
            let window = window.as_ref();
            if window.len() != expected || expected < 2 {
                return Err(ModelError::Window { window: count + rows, expected: expected.max(2), found: window.len() });
            }
            inputs.extend_from_slice(&window[..expected - 1]);
            targets.extend_from_slice(&window[1..]);
            rows += 1;
        }
        total += f64::from(model.loss_value(&inputs, &targets, rows, expected - 1)?) * rows as f64;
        count += rows;
    }
    if count == 0 {
        return Err(ModelError::NothingToEvaluate { batch });
    }
    Ok(total / count as f64)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::Config;

    fn model() -> Llama {
        let (rms_epsilon, rope_theta) = (Config::RMS_EPSILON, Config::ROPE_THETA);
        let (layers, hidden_size, heads, intermediate_size, context_length, vocabulary_size) = (1, 8, 2, 12, 6, 11);
        let config =
            Config { layers, hidden_size, heads, intermediate_size, context_length, vocabulary_size, rms_epsilon, rope_theta };
        Llama::new(config, &Device::Cpu, [1; 32]).unwrap()
    }

    fn windows() -> Vec<Vec<u32>> {
        (0..7).map(|window| (0..7).map(|token| (window * token * token + 3) % 11).collect()).collect()
    }

    #[test]
    fn the_mean_does_not_depend_on_the_batches() {
        let model = model();
        let alone: f64 = windows().iter().map(|w| f64::from(model.loss_value(&w[..6], &w[1..], 1, 6).unwrap())).sum();
        for batch in [1, 2, 3, 7, 100] {
            assert!((mean_loss(&model, windows(), batch).unwrap() - alone / 7.0).abs() < 1e-6);
        }
    }

    #[test]
    fn windows_that_cannot_be_evaluated_are_named() {
        let model = model();
        let none: [Vec<u32>; 0] = [];
        assert!(matches!(mean_loss(&model, none, 2), Err(ModelError::NothingToEvaluate { batch: 2 })));
        assert!(matches!(mean_loss(&model, windows(), 0), Err(ModelError::NothingToEvaluate { .. })));
        let ragged = [vec![1, 2, 3], vec![1, 2]];
        assert!(matches!(mean_loss(&model, ragged, 1), Err(ModelError::Window { window: 1, expected: 3, found: 2 })));
        assert!(matches!(mean_loss(&model, [vec![1]], 1), Err(ModelError::Window { window: 0, expected: 2, found: 1 })));
    }
}
