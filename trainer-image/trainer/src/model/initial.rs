//! First weights: normal random numbers that are the same on every machine.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::Parameter;

/// A stream of normal random numbers: `ChaCha20` and the transform of Box and Muller, in f64 by `libm`.
pub(super) struct Normal {
    random: ChaCha20Rng,
    /// The second number of the last pair.
    spare: Option<f64>,
}

impl Normal {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { random: ChaCha20Rng::from_seed(seed), spare: None }
    }

    /// The next numbers for one parameter; a norm is all ones and takes none.
    pub(super) fn fill(&mut self, parameter: &Parameter) -> Vec<f32> {
        let elements = parameter.elements();
        match parameter.deviation {
            Some(deviation) => (0..elements).map(|_| (deviation * self.next()) as f32).collect(),
            None => vec![1.0; elements],
        }
    }

    fn next(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform()));
        let angle = std::f64::consts::TAU * self.uniform();
        self.spare = Some(radius * libm::sin(angle));
        radius * libm::cos(angle)
    }

    /// 53 random bits, from 0 to just below 1.
    fn uniform(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_a_normal_distribution() {
        let mut normal = Normal::new([7; 32]);
        let numbers: Vec<f64> = (0..100_000).map(|_| normal.next()).collect();
        let mean = |power: i32| numbers.iter().map(|x| x.powi(power)).sum::<f64>() / numbers.len() as f64;
        assert!(mean(1).abs() < 0.01 && (mean(2) - 1.0).abs() < 0.02 && mean(3).abs() < 0.05 && (mean(4) - 3.0).abs() < 0.1);
    }

    #[test]
    fn the_first_numbers_of_a_seed_never_change() {
        let mut normal = Normal::new([0; 32]);
        let bits: Vec<u64> = (0..4).map(|_| normal.next().to_bits()).collect();
        // Key stream of the all-zero key from RFC 8439, transformed by hand; the last bits are those of `libm`.
        let expected =
            [4_604_441_829_170_068_060, 4_607_557_773_987_508_654, 4_590_515_690_457_100_411, 13_825_409_939_499_200_431];
        assert_eq!(bits, expected);
    }
}
