//! Linear layer without bias: `y = x * w^T`.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::Form;
use super::matrix::{Matrix, Product, Threads, multiply};
use super::slices::{values, with_values};

/// `x` of shape (rows, inputs) times the transpose of `weight` of shape (outputs, inputs): (rows, outputs).
///
/// # Errors
/// Shapes that do not match, or a tensor that the form cannot read.
pub fn linear(form: Form, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    match form {
        Form::Fused => x.contiguous()?.apply_op2(&weight.contiguous()?, Linear),
        Form::Composed => x.matmul(&weight.t()?),
    }
}

struct Linear;

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_layout: &Layout, w: &CpuStorage, w_layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (outputs, expected) = w_layout.shape().dims2()?;
        if inputs != expected {
            candle_core::bail!("linear: {inputs} inputs, the weight has {expected}");
        }
        let mut y = vec![0.0; rows * outputs];
        let product = Product { values: &mut y, row_stride: outputs, accumulate: false };
        let x = Matrix::new(values(x, x_layout)?, rows, inputs);
        let w = Matrix::new(values(w, w_layout)?, outputs, inputs);
        multiply(product, x, w.transposed(), 1.0, Threads::All);
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, inputs) = x.dims2()?;
        let outputs = w.dim(0)?;
        let mut dx = vec![0.0; rows * inputs];
        let mut dw = vec![0.0; outputs * inputs];
        with_values(&dy.contiguous()?, |dy| {
            let dy = Matrix::new(dy, rows, outputs);
            with_values(w, |w| {
                let product = Product { values: &mut dx, row_stride: inputs, accumulate: false };
                multiply(product, dy, Matrix::new(w, outputs, inputs), 1.0, Threads::All);
            })?;
            with_values(x, |x| {
                let product = Product { values: &mut dw, row_stride: inputs, accumulate: false };
                multiply(product, dy.transposed(), Matrix::new(x, rows, inputs), 1.0, Threads::All);
            })
        })??;
        let dx = Tensor::from_vec(dx, (rows, inputs), x.device())?;
        let dw = Tensor::from_vec(dw, (outputs, inputs), w.device())?;
        Ok((Some(dx), Some(dw)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::agreement::{forms_agree, gradients_match_differences, tensor};
    use super::*;

    #[test]
    fn both_forms_agree_and_gradients_match_finite_differences() {
        let inputs = [tensor(&[5, 7], 1), tensor(&[11, 7], 2)];
        let operation = |form: Form, inputs: &[Tensor]| linear(form, &inputs[0], &inputs[1]);
        forms_agree(&inputs, operation);
        gradients_match_differences(&inputs, operation);
    }

    #[test]
    fn inputs_that_do_not_fit_the_weight_are_refused() {
        assert!(linear(Form::Fused, &tensor(&[5, 7], 1), &tensor(&[11, 8], 2)).is_err());
    }
}
