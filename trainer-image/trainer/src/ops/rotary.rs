//! Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split convention of Hugging Face Llama.

use candle_core::{D, Device, Result, Tensor};

/// Cosines and sines of the angle `position / theta^(2i / head)` for every position and pair `i` of a head.
///
/// Pair `i` of a head of `2 * half` values is (value `i`, value `i + half`).
#[derive(Debug, Clone)]
pub struct Rotary {
    /// Shape (positions, half).
    pub(super) cosines: Tensor,
    /// Shape (positions, half).
    pub(super) sines: Tensor,
}

impl Rotary {
    /// The table for heads of `head` values (even), positions `0..positions` and base `theta`. Angles are computed in f64.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(head: usize, positions: usize, theta: f64, device: &Device) -> Result<Self> {
        let half = head / 2;
        let angles = || {
            (0..positions).flat_map(move |position| {
                (0..half).map(move |pair| position as f64 * libm::pow(theta, -2.0 * pair as f64 / head as f64))
            })
        };
        let table = |function: fn(f64) -> f64| {
            Tensor::from_vec(angles().map(|angle| function(angle) as f32).collect(), (positions, half), device)
        };
        Ok(Self { cosines: table(libm::cos)?, sines: table(libm::sin)? })
    }

    /// Rotates `x` of shape (..., sequence, head) by candle operations.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (sequence, half) = (x.dim(D::Minus2)?, x.dim(D::Minus1)? / 2);
        let (cosines, sines) = (self.cosines.narrow(0, 0, sequence)?, self.sines.narrow(0, 0, sequence)?);
        let (first, second) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let turned_first = (first.broadcast_mul(&cosines)? - second.broadcast_mul(&sines)?)?;
        let turned_second = (first.broadcast_mul(&sines)? + second.broadcast_mul(&cosines)?)?;
        Tensor::cat(&[turned_first, turned_second], D::Minus1)
    }
}

/// Writes `source` turned by the angles of one position to `destination`.
pub(super) fn turn(destination: &mut [f32], source: &[f32], cosines: &[f32], sines: &[f32]) {
    let half = cosines.len();
    let (first, second) = source.split_at(half);
    let (to_first, to_second) = destination.split_at_mut(half);
    for i in 0..half {
        to_first[i] = first[i] * cosines[i] - second[i] * sines[i];
        to_second[i] = first[i] * sines[i] + second[i] * cosines[i];
    }
}

/// Writes `source` turned back by the angles of one position to `destination`: the gradient of [`turn`].
pub(super) fn turn_back(destination: &mut [f32], source: &[f32], cosines: &[f32], sines: &[f32]) {
    let half = cosines.len();
    let (first, second) = source.split_at(half);
    let (to_first, to_second) = destination.split_at_mut(half);
    for i in 0..half {
        to_first[i] = first[i] * cosines[i] + second[i] * sines[i];
        to_second[i] = second[i] * cosines[i] - first[i] * sines[i];
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn position_zero_is_not_turned_and_turning_back_undoes_a_turn() {
        let rotary = Rotary::new(8, 5, 10_000.0, &Device::Cpu).unwrap();
        let source = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        for position in 0..5 {
            let row = |table: &Tensor| table.get(position).unwrap().to_vec1::<f32>().unwrap();
            let (cosines, sines) = (row(&rotary.cosines), row(&rotary.sines));
            let (mut turned, mut back) = ([0.0; 8], [0.0; 8]);
            turn(&mut turned, &source, &cosines, &sines);
            turn_back(&mut back, &turned, &cosines, &sines);
            assert!(back.iter().zip(source).all(|(back, source)| (back - source).abs() < 1e-5));
            assert_eq!(turned == source, position == 0);
        }
    }

    #[test]
    fn pair_one_of_a_head_of_four_turns_one_hundredth_of_the_position() {
        let rotary = Rotary::new(4, 4, 10_000.0, &Device::Cpu).unwrap();
        let sine = rotary.sines.get(3).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(sine, [libm::sin(3.0) as f32, libm::sin(0.03) as f32]);
    }
}
