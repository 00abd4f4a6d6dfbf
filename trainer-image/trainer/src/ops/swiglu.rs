//! The gated activation of the feed-forward layer (Shazeer, arXiv 2002.05202).

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use super::Form;
use super::lanes::sigmoid;
use super::parallel::{for_each, rows_per_piece};
use super::slices::{values, with_values};

/// `silu(gate) * up`, where each row of `x` is the gate followed by the up projection: (rows, 2 * width) to (rows, width).
///
/// # Errors
/// A row of odd length, or a tensor that the form cannot read.
pub fn swiglu(form: Form, x: &Tensor) -> Result<Tensor> {
    match form {
        Form::Fused => x.contiguous()?.apply_op1(SwiGlu),
        Form::Composed => {
            let width = half(x.dim(D::Minus1)?)?;
            x.narrow(D::Minus1, 0, width)?.silu()? * x.narrow(D::Minus1, width, width)?
        }
    }
}

struct SwiGlu;

fn half(packed: usize) -> Result<usize> {
    if packed == 0 || !packed.is_multiple_of(2) {
        candle_core::bail!("swiglu: a row of {packed} has no two halves");
    }
    Ok(packed / 2)
}

fn forward(y: &mut [f32], x: &[f32]) {
    let (gates, ups) = x.split_at(y.len());
    for ((y, gate), up) in y.iter_mut().zip(gates).zip(ups) {
        *y = gate * sigmoid(*gate) * up;
    }
}

fn backward(dx: &mut [f32], x: &[f32], dy: &[f32]) {
    let (gates, ups) = x.split_at(dy.len());
    let (gate_gradients, up_gradients) = dx.split_at_mut(dy.len());
    let inputs = gates.iter().zip(ups).zip(dy);
    for ((dgate, dup), ((gate, up), dy)) in gate_gradients.iter_mut().zip(up_gradients).zip(inputs) {
        let sigmoid = sigmoid(*gate);
        let silu = gate * sigmoid;
        *dgate = dy * up * (sigmoid + silu * (1.0 - sigmoid));
        *dup = dy * silu;
    }
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, packed) = layout.shape().dims2()?;
        let width = half(packed)?;
        let x = values(x, layout)?;
        let mut y = vec![0.0; rows * width];
        let piece = rows_per_piece(packed);
        for_each(y.chunks_mut(piece * width).zip(x.chunks(piece * packed)), |(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(packed)) {
                forward(y, x);
            }
        });
        Ok((CpuStorage::F32(y), (rows, width).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (rows, packed) = x.dims2()?;
        let width = half(packed)?;
        let dy = dy.contiguous()?;
        let mut dx = vec![0.0; rows * packed];
        let piece = rows_per_piece(packed);
        with_values(x, |x| {
            with_values(&dy, |dy| {
                let pieces = dx.chunks_mut(piece * packed).zip(x.chunks(piece * packed)).zip(dy.chunks(piece * width));
                for_each(pieces, |((dx, x), dy)| {
                    let rows = dx.chunks_exact_mut(packed).zip(x.chunks_exact(packed)).zip(dy.chunks_exact(width));
                    for ((dx, x), dy) in rows {
                        backward(dx, x, dy);
                    }
                });
            })
        })??;
        Ok(Some(Tensor::from_vec(dx, (rows, packed), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::agreement::{forms_agree, gradients_match_differences, tensor};
    use super::*;

    #[test]
    fn both_forms_agree_and_gradients_match_finite_differences() {
        let inputs = [tensor(&[5, 38], 5)];
        let operation = |form: Form, inputs: &[Tensor]| swiglu(form, &inputs[0]);
        forms_agree(&inputs, operation);
        gradients_match_differences(&inputs, operation);
    }

    #[test]
    fn a_row_without_two_halves_is_refused() {
        for form in [Form::Fused, Form::Composed] {
            assert!(swiglu(form, &tensor(&[5, 7], 5)).is_err());
        }
    }
}
