//! The length of a gradient, and a bound on it.

use super::PIECE;
use crate::ops::for_each;

const LANES: usize = 8;

/// Euclidean length of the whole gradient.
///
/// Squares are added in f64 over pieces of fixed size, and the pieces in order: the same number for any number of threads.
#[must_use]
pub fn global_norm(gradients: &[f32]) -> f64 {
    let mut squares = vec![0.0; gradients.len().div_ceil(PIECE)];
    for_each(squares.iter_mut().zip(gradients.chunks(PIECE)), |(sum, piece)| *sum = sum_of_squares(piece));
    squares.iter().sum::<f64>().sqrt()
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*value) * f64::from(*value);
    }
    lanes.iter().sum()
}

/// Shrinks a gradient longer than `limit` to that length, and returns the length it had.
///
/// A length that is not finite is returned and the gradient left as it is: no factor makes such a gradient usable.
pub fn clip_to_norm(gradients: &mut [f32], limit: f64) -> f64 {
    let norm = global_norm(gradients);
    if norm.is_finite() && norm > limit {
        let factor = (limit / norm) as f32;
        for_each(gradients.chunks_mut(PIECE), |piece| piece.iter_mut().for_each(|value| *value *= factor));
    }
    norm
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn a_long_gradient_is_shrunk_and_a_short_one_left() {
        let mut gradients = vec![0.0; PIECE + 3];
        (gradients[1], gradients[PIECE + 2]) = (3.0, -4.0);
        assert_eq!(clip_to_norm(&mut gradients, 10.0).to_bits(), 5.0_f64.to_bits());
        assert_eq!((gradients[1], gradients[PIECE + 2]), (3.0, -4.0));
        assert_eq!(clip_to_norm(&mut gradients, 1.0).to_bits(), 5.0_f64.to_bits());
        assert!((gradients[1] - 0.6).abs() < 1e-6 && (gradients[PIECE + 2] + 0.8).abs() < 1e-6);
    }

    #[test]
    fn the_length_does_not_depend_on_the_number_of_threads() {
        let gradients: Vec<f32> = (0..7 * PIECE + 11).map(|i| (i as f32 * 0.37).sin()).collect();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| global_norm(&gradients)).to_bits()
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_reported_and_not_spread() {
        let mut gradients = [1.0, f32::INFINITY, 2.0];
        assert!(clip_to_norm(&mut gradients, 1.0).is_infinite());
        assert_eq!(gradients, [1.0, f32::INFINITY, 2.0]);
        assert!(clip_to_norm(&mut [f32::NAN], 1.0).is_nan());
    }
}
