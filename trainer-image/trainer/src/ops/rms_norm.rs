//! Root-mean-square normalisation of rows (Zhang and Sennrich, arXiv 1910.07467).

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};

use super::Form;
use super::lanes::{dot, sum_of_squares};
use super::parallel::{for_each, rows_per_piece};
use super::slices::{values, with_values};

/// `y = x / sqrt(mean(x^2) + epsilon) * weight` for every row of `x`, of shape (rows, width); `weight` has shape (width).
///
/// # Errors
/// Shapes that do not match, or a tensor that the form cannot read.
pub fn rms_norm(form: Form, x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    match form {
        Form::Fused => x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { epsilon: epsilon as f32 }),
        Form::Composed => {
            let root = (x.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?;
            x.broadcast_div(&root)?.broadcast_mul(weight)
        }
    }
}

struct RmsNorm {
    epsilon: f32,
}

impl RmsNorm {
    fn inverse_root(&self, row: &[f32]) -> f32 {
        (sum_of_squares(row) / row.len() as f32 + self.epsilon).sqrt().recip()
    }

    fn forward(&self, y: &mut [f32], x: &[f32], weight: &[f32]) {
        let inverse = self.inverse_root(x);
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = x * inverse * weight;
        }
    }

    /// Gradient of one row, and its part of the weight's gradient added to `dw`.
    fn backward(&self, dx: &mut [f32], dw: &mut [f32], (x, weight, dy): (&[f32], &[f32], &[f32])) {
        let inverse = self.inverse_root(x);
        for ((dx, dy), weight) in dx.iter_mut().zip(dy).zip(weight) {
            *dx = dy * weight;
        }
        let along = dot(dx, x) * inverse * inverse * inverse / x.len() as f32;
        for (((dx, x), dy), dw) in dx.iter_mut().zip(x).zip(dy).zip(dw) {
            *dx = *dx * inverse - x * along;
            *dw += dy * x * inverse;
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_layout: &Layout, w: &CpuStorage, w_layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = x_layout.shape().dims2()?;
        let (x, w) = (values(x, x_layout)?, values(w, w_layout)?);
        if w.len() != width || width == 0 {
            candle_core::bail!("rms-norm: rows of {width}, the weight has {}", w.len());
        }
        let mut y = vec![0.0; rows * width];
        let piece = rows_per_piece(width) * width;
        for_each(y.chunks_mut(piece).zip(x.chunks(piece)), |(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                self.forward(y, x, w);
            }
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, width) = x.dims2()?;
        let piece = rows_per_piece(width) * width;
        let mut dx = vec![0.0; rows * width];
        let mut partial = vec![0.0; dx.len().div_ceil(piece) * width];
        let dy = dy.contiguous()?;
        with_values(x, |x| {
            with_values(w, |w| {
                with_values(&dy, |dy| {
                    let pieces = dx.chunks_mut(piece).zip(partial.chunks_mut(width)).zip(x.chunks(piece)).zip(dy.chunks(piece));
                    for_each(pieces, |(((dx, dw), x), dy)| {
                        let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width));
                        for ((dx, x), dy) in rows {
                            self.backward(dx, dw, (x, w, dy));
                        }
                    });
                })
            })
        })???;
        let mut dw = vec![0.0; width];
        for partial in partial.chunks_exact(width) {
            for (dw, partial) in dw.iter_mut().zip(partial) {
                *dw += partial;
            }
        }
        let dx = Tensor::from_vec(dx, (rows, width), x.device())?;
        Ok((Some(dx), Some(Tensor::from_vec(dw, width, w.device())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::agreement::{forms_agree, gradients_match_differences, tensor};
    use super::*;

    #[test]
    fn both_forms_agree_and_gradients_match_finite_differences() {
        let inputs = [tensor(&[6, 19], 3), tensor(&[19], 4)];
        let operation = |form: Form, inputs: &[Tensor]| rms_norm(form, &inputs[0], &inputs[1], 1e-5);
        forms_agree(&inputs, operation);
        gradients_match_differences(&inputs, operation);
    }

    #[test]
    fn a_weight_of_another_width_is_refused() {
        assert!(rms_norm(Form::Fused, &tensor(&[6, 19], 3), &tensor(&[18], 4), 1e-5).is_err());
    }
}
