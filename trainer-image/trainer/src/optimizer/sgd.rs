//! Plain stochastic gradient descent.

use super::PIECE;
use crate::ops::for_each;

/// Constants of gradient descent. Weight decay applies to every parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Share of a parameter that a step at learning rate 1 would take away.
    pub weight_decay: f64,
}

/// The factors of one step, the same for all parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    keep: f32,
    rate: f32,
}

impl Sgd {
    /// The factors of a step at `learning_rate`.
    #[must_use]
    pub fn at(&self, learning_rate: f64) -> SgdStep {
        SgdStep { keep: (1.0 - learning_rate * self.weight_decay) as f32, rate: learning_rate as f32 }
    }
}

impl SgdStep {
    /// Changes `parameters` in place: element `i` by gradient `i`.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn apply(&self, parameters: &mut [f32], gradients: &[f32]) {
        assert_eq!(parameters.len(), gradients.len(), "slices of one length");
        for_each(parameters.chunks_mut(PIECE).zip(gradients.chunks(PIECE)), |(parameters, gradients)| {
            for (parameter, gradient) in parameters.iter_mut().zip(gradients) {
                *parameter = *parameter * self.keep - self.rate * gradient;
            }
        });
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn a_step_goes_against_the_gradient_and_shrinks_by_the_decay() {
        let mut parameters = [1.0, -2.0];
        Sgd { weight_decay: 0.0 }.at(0.5).apply(&mut parameters, &[1.0, -1.0]);
        assert_eq!(parameters, [0.5, -1.5]);
        Sgd { weight_decay: 0.5 }.at(0.5).apply(&mut parameters, &[0.0, 0.0]);
        assert_eq!(parameters, [0.375, -1.125]);
    }
}
