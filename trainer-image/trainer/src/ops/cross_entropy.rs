//! Cross-entropy of logits against the token that came next.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use super::Form;
use super::lanes::{exponentials, maximum, sum_of_exponentials};
use super::parallel::{for_each, rows_per_piece};
use super::slices::{values, with_values};

/// Mean over the rows of `log(sum(exp(logits))) - logits[target]`, in nats per token: a scalar.
///
/// `logits` has shape (rows, vocabulary), `targets` one token per row. The fused form adds the rows in order, in f64.
///
/// # Errors
/// No rows, another number of targets than rows, a target beyond the vocabulary, or a tensor that the form cannot read.
pub fn cross_entropy(form: Form, logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let (rows, vocabulary) = logits.dims2()?;
    if rows == 0 || rows != targets.len() {
        candle_core::bail!("cross-entropy: {rows} rows of logits, {} targets", targets.len());
    }
    if let Some(target) = targets.iter().find(|target| **target as usize >= vocabulary) {
        candle_core::bail!("cross-entropy: target {target} is not among {vocabulary} tokens");
    }
    match form {
        Form::Fused => logits.contiguous()?.apply_op1(CrossEntropy { targets: targets.to_vec() }),
        Form::Composed => {
            let largest = logits.max_keepdim(D::Minus1)?.detach();
            let log_sum = logits.broadcast_sub(&largest)?.exp()?.sum_keepdim(D::Minus1)?.log()?.add(&largest)?;
            let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
            (log_sum - logits.gather(&targets, 1)?)?.mean_all()
        }
    }
}

struct CrossEntropy {
    targets: Vec<u32>,
}

fn row_loss(logits: &[f32], target: u32) -> f32 {
    let largest = maximum(logits);
    sum_of_exponentials(logits, largest).ln() + largest - logits[target as usize]
}

/// `scale * (softmax(logits) - one_hot(target))`.
fn row_gradient(gradient: &mut [f32], logits: &[f32], target: u32, scale: f32) {
    gradient.copy_from_slice(logits);
    let factor = scale / exponentials(gradient, maximum(logits));
    for value in gradient.iter_mut() {
        *value *= factor;
    }
    gradient[target as usize] -= scale;
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, vocabulary) = layout.shape().dims2()?;
        let logits = values(logits, layout)?;
        let mut losses = vec![0.0; rows];
        let piece = rows_per_piece(vocabulary);
        let pieces = losses.chunks_mut(piece).zip(logits.chunks(piece * vocabulary)).zip(self.targets.chunks(piece));
        for_each(pieces, |((losses, logits), targets)| {
            for ((loss, logits), target) in losses.iter_mut().zip(logits.chunks_exact(vocabulary)).zip(targets) {
                *loss = row_loss(logits, *target);
            }
        });
        let mean = losses.iter().copied().map(f64::from).sum::<f64>() / rows as f64;
        Ok((CpuStorage::F32(vec![mean as f32]), ().into()))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, dloss: &Tensor) -> Result<Option<Tensor>> {
        let (rows, vocabulary) = logits.dims2()?;
        let scale = dloss.to_scalar::<f32>()? / rows as f32;
        let mut gradient = vec![0.0; rows * vocabulary];
        let piece = rows_per_piece(vocabulary);
        with_values(logits, |logits| {
            let pieces = gradient.chunks_mut(piece * vocabulary).zip(logits.chunks(piece * vocabulary));
            for_each(pieces.zip(self.targets.chunks(piece)), |((gradient, logits), targets)| {
                let rows = gradient.chunks_exact_mut(vocabulary).zip(logits.chunks_exact(vocabulary)).zip(targets);
                for ((gradient, logits), target) in rows {
                    row_gradient(gradient, logits, *target, scale);
                }
            });
        })?;
        Ok(Some(Tensor::from_vec(gradient, (rows, vocabulary), logits.device())?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::agreement::{forms_agree, gradients_match_differences, tensor};
    use super::*;

    #[test]
    fn both_forms_agree_and_gradients_match_finite_differences() {
        for vocabulary in [5, 16, 37] {
            let inputs = [tensor(&[4, vocabulary], 6)];
            let operation = |form: Form, inputs: &[Tensor]| cross_entropy(form, &inputs[0], &[0, 4, 2, 3]);
            forms_agree(&inputs, operation);
            gradients_match_differences(&inputs, operation);
        }
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
        for (vocabulary, expected) in [(2, 2.0_f32.ln()), (19, 19.0_f32.ln())] {
            let logits = Tensor::full(7.0_f32, (3, vocabulary), &Device::Cpu).unwrap();
            let loss = cross_entropy(Form::Fused, &logits, &[0, 1, 1]).unwrap().to_scalar::<f32>().unwrap();
            assert!((loss - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn a_logit_that_is_not_a_number_shows_in_the_loss() {
        let logits = Tensor::new(&[[0.0_f32, f32::NAN, 1.0]], &Device::Cpu).unwrap();
        assert!(cross_entropy(Form::Fused, &logits, &[0]).unwrap().to_scalar::<f32>().unwrap().is_nan());
    }

    #[test]
    fn targets_that_do_not_fit_are_refused() {
        for targets in [&[0, 1][..], &[0, 1, 5], &[]] {
            assert!(cross_entropy(Form::Fused, &tensor(&[3, 5], 6), targets).is_err());
        }
    }
}
