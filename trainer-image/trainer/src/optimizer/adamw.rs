//! AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).

use super::PIECE;
use crate::ops::for_each;

/// Constants of AdamW. Weight decay applies to every parameter, norms included, as in the measurements that the project's
/// thresholds come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Share of the first moment that a step keeps.
    pub beta1: f64,
    /// Share of the second moment that a step keeps.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of a parameter that a step at learning rate 1 would take away.
    pub weight_decay: f64,
}

/// The factors of one step, the same for all parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    beta1: f32,
    gradient_share: f32,
    beta2: f32,
    square_share: f32,
    keep: f32,
    rate: f32,
    root_correction: f32,
    epsilon: f32,
}

impl AdamW {
    /// The factors of step `step`, counted from 1, at `learning_rate`.
    #[must_use]
    pub fn at(&self, step: u64, learning_rate: f64) -> AdamWStep {
        let correction = |beta: f64| 1.0 - libm::pow(beta, step as f64);
        AdamWStep {
            beta1: self.beta1 as f32,
            gradient_share: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            square_share: (1.0 - self.beta2) as f32,
            keep: (1.0 - learning_rate * self.weight_decay) as f32,
            rate: (learning_rate / correction(self.beta1)) as f32,
            root_correction: (1.0 / libm::sqrt(correction(self.beta2))) as f32,
            epsilon: self.epsilon as f32,
        }
    }
}

impl AdamWStep {
    /// Changes `parameters` and both moments in place: element `i` by gradient `i`.
    ///
    /// The slices may be any part of the flat vectors, as long as all four are the same part. Moments start at zero.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn apply(&self, parameters: &mut [f32], gradients: &[f32], first: &mut [f32], second: &mut [f32]) {
        let length = parameters.len();
        assert!([gradients.len(), first.len(), second.len()].iter().all(|other| *other == length), "slices of one length");
        let pieces = parameters.chunks_mut(PIECE).zip(gradients.chunks(PIECE));
        let pieces = pieces.zip(first.chunks_mut(PIECE).zip(second.chunks_mut(PIECE)));
        for_each(pieces, |((parameters, gradients), (first, second))| {
            let moments = first.iter_mut().zip(second);
            for ((parameter, gradient), (first, second)) in parameters.iter_mut().zip(gradients).zip(moments) {
                *first = self.beta1 * *first + self.gradient_share * gradient;
                *second = self.beta2 * *second + self.square_share * (gradient * gradient);
                let root = second.sqrt() * self.root_correction + self.epsilon;
                *parameter = *parameter * self.keep - self.rate * *first / root;
            }
        });
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    const SETTINGS: AdamW = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };

    #[test]
    fn three_steps_give_the_numbers_of_the_paper_s_formula() {
        let (mut parameter, mut first, mut second) = ([1.0_f32], [0.0], [0.0]);
        let (mut exact, mut m, mut v) = (1.0_f64, 0.0, 0.0);
        for (step, gradient) in [(1, 0.5_f32), (2, -0.2), (3, 0.1)] {
            SETTINGS.at(step, 0.01).apply(&mut parameter, &[gradient], &mut first, &mut second);
            let gradient = f64::from(gradient);
            m = 0.9 * m + 0.1 * gradient;
            v = 0.95 * v + 0.05 * gradient * gradient;
            let (m_hat, v_hat) = (m / (1.0 - 0.9_f64.powi(step as i32)), v / (1.0 - 0.95_f64.powi(step as i32)));
            exact -= 0.01 * (m_hat / (v_hat.sqrt() + 1e-8) + 0.1 * exact);
            assert!((f64::from(parameter[0]) - exact).abs() < 1e-6);
        }
    }

    #[test]
    fn a_step_over_the_whole_is_the_steps_over_its_parts() {
        let count = 3 * PIECE + 5;
        let gradients: Vec<f32> = (0..count).map(|i| (i as f32).sin()).collect();
        let step = |parts: &[std::ops::Range<usize>]| {
            let (mut parameters, mut first, mut second) = (vec![0.3; count], vec![0.1; count], vec![0.2; count]);
            for part in parts {
                let part = part.clone();
                let (first, second) = (&mut first[part.clone()], &mut second[part.clone()]);
                SETTINGS.at(7, 1e-3).apply(&mut parameters[part.clone()], &gradients[part], first, second);
            }
            (parameters, first, second)
        };
        assert_eq!(step(std::slice::from_ref(&(0..count))), step(&[0..7, 7..PIECE + 1, PIECE + 1..count]));
    }

    #[test]
    fn without_gradients_only_the_decay_is_left() {
        let (mut parameter, mut moments) = ([2.0], [[0.0], [0.0]]);
        let [first, second] = &mut moments;
        SETTINGS.at(1, 0.5).apply(&mut parameter, &[0.0], first, second);
        assert_eq!(parameter, [2.0 * 0.95]);
    }
}
