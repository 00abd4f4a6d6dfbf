//! What every operation must show: its two forms agree, and its gradients are those of finite differences.

use candle_core::{Device, Result, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::Form;

/// Largest difference between the two forms, absolute.
const FORMS: f64 = 1e-5;
/// Step of a central difference. Its own error is about the square; rounding of f32 adds 1e-7 divided by it.
const STEP: f64 = 4e-3;
/// Largest difference between a gradient along a direction and its central difference, relative to the gradient's length.
const DIFFERENCES: f64 = 2e-4;

/// A tensor of values between -1 and 1, the same for the same seed.
pub(super) fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(noise(shape.iter().product(), seed), shape, &Device::Cpu).unwrap()
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| (f64::from(random.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0) as f32).collect()
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn inner(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

/// The output, and the gradient of its product with fixed noise with respect to each input.
fn run(form: Form, inputs: &[Tensor], operation: impl Fn(Form, &[Tensor]) -> Result<Tensor>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let variables: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let tracked: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let output = operation(form, &tracked).unwrap();
    let weights = tensor(output.dims(), 99);
    let gradients = (&output * weights).unwrap().sum_all().unwrap().backward().unwrap();
    let gradients = variables.iter().map(|variable| flat(gradients.get(variable).expect("every input has a gradient")));
    (flat(&output), gradients.collect())
}

/// Asserts that the two forms give the same output and the same gradients.
pub(super) fn forms_agree(inputs: &[Tensor], operation: impl Fn(Form, &[Tensor]) -> Result<Tensor>) {
    let (fused, fused_gradients) = run(Form::Fused, inputs, &operation);
    let (composed, composed_gradients) = run(Form::Composed, inputs, &operation);
    let pairs = std::iter::once((&fused, &composed)).chain(fused_gradients.iter().zip(&composed_gradients));
    for (which, (fused, composed)) in pairs.enumerate() {
        assert_eq!(fused.len(), composed.len());
        for (fused, composed) in fused.iter().zip(composed) {
            assert!((fused - composed).abs() < FORMS, "output or gradient {which}: {fused} against {composed}");
        }
    }
}

/// Asserts that each input's gradient, along ten random directions, is the slope that the output itself shows.
pub(super) fn gradients_match_differences(inputs: &[Tensor], operation: impl Fn(Form, &[Tensor]) -> Result<Tensor>) {
    for form in [Form::Fused, Form::Composed] {
        let (output, gradients) = run(form, inputs, &operation);
        let weights: Vec<f64> = noise(output.len(), 99).into_iter().map(f64::from).collect();
        for (which, gradient) in gradients.iter().enumerate() {
            let length = inner(gradient, gradient).sqrt();
            for direction_seed in 0..10 {
                let direction = tensor(inputs[which].dims(), 1000 + direction_seed);
                let size = inner(&flat(&direction), &flat(&direction)).sqrt();
                let direction = (direction / size).unwrap();
                let moved = |by: f64| {
                    let mut inputs = inputs.to_vec();
                    inputs[which] = (&inputs[which] + (&direction * by).unwrap()).unwrap();
                    inner(&weights, &flat(&operation(form, &inputs).unwrap()))
                };
                let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                let claimed = inner(gradient, &flat(&direction));
                assert!((slope - claimed).abs() < DIFFERENCES * length.max(1.0), "{form:?} input {which}: {slope}, {claimed}");
            }
        }
    }
}
