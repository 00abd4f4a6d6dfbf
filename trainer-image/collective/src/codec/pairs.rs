//! Payloads of pairs in any of their forms: judged by everybody who gets one, and added up in slot order.
//!
//! A method gathers the payloads of all workers and adds them to a dense vector of its own. The sum is a function of the payloads
//! in slot order alone, so that all workers have the same bits.

use super::{PairsError, Signs, Sparse};
use crate::{NotFinite, reduce};

/// The form of a payload of (index, value) pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Values.
    Sparse(Sparse),
    /// Signs alone.
    Signs(Signs),
}

/// Why payloads have no sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SumError {
    /// One of them is none.
    #[error("payload {payload}: {source}")]
    Payload {
        /// Its position.
        payload: usize,
        /// What is wrong with it.
        source: PairsError,
    },
    /// The sum leaves the range of f32.
    #[error("the sum of the payloads: {0}")]
    Overflow(#[from] NotFinite),
}

impl Pairs {
    /// That a payload can have so many bytes.
    ///
    /// # Errors
    /// [`PairsError`] where no number of pairs, or only too many, have as many.
    pub fn check_length(self, bytes: usize) -> Result<(), PairsError> {
        match self {
            Self::Sparse(sparse) => sparse.count(bytes),
            Self::Signs(signs) => signs.count(bytes),
        }
        .map(|_| ())
    }

    /// Judges a payload without keeping anything of it: length, indices, values, and what is left over.
    ///
    /// # Errors
    /// [`PairsError`] says what is wrong with it.
    pub fn check(self, bytes: &[u8]) -> Result<(), PairsError> {
        match self {
            Self::Sparse(sparse) => sparse.pairs(bytes).map(|_| ()),
            Self::Signs(signs) => signs.pairs(bytes).map(|_| ()),
        }
    }

    /// Adds `weight * value` to the element of each pair.
    ///
    /// # Errors
    /// As [`Pairs::check`]; `sum` is then as it was.
    ///
    /// # Panics
    /// When `sum` is shorter than the vector that the payload is of.
    pub fn add(self, bytes: &[u8], weight: u32, sum: &mut [f32]) -> Result<(), PairsError> {
        match self {
            Self::Sparse(sparse) => add_pairs(sparse.pairs(bytes)?, weight, sum),
            Self::Signs(signs) => add_pairs(signs.pairs(bytes)?, weight, sum),
        }
        Ok(())
    }

    /// Makes `sum` the sum of `weight * value` over payloads with their weights, in the order in which they are given: that of
    /// slots, as they were gathered.
    ///
    /// # Errors
    /// [`SumError`] names the first payload that is none, or the first element whose sum is not finite; `sum` is then spoilt.
    ///
    /// # Panics
    /// As [`Pairs::add`].
    pub fn sum(self, payloads: &[(&[u8], u32)], sum: &mut [f32]) -> Result<(), SumError> {
        self.add_up(payloads, 1, sum)
    }

    /// As [`Pairs::sum`], divided by the weights together. Where all are 0, all count alike.
    ///
    /// # Errors
    /// As [`Pairs::sum`].
    ///
    /// # Panics
    /// As [`Pairs::add`].
    pub fn mean(self, payloads: &[(&[u8], u32)], mean: &mut [f32]) -> Result<(), SumError> {
        let total = payloads.iter().map(|(_, weight)| u64::from(*weight)).sum();
        if total > 0 {
            return self.add_up(payloads, total, mean);
        }
        let alike: Vec<_> = payloads.iter().map(|(bytes, _)| (*bytes, 1)).collect();
        self.add_up(&alike, alike.len().max(1) as u64, mean)
    }

    fn add_up(self, payloads: &[(&[u8], u32)], total: u64, sum: &mut [f32]) -> Result<(), SumError> {
        sum.fill(0.0);
        for (payload, (bytes, weight)) in payloads.iter().enumerate() {
            self.add(bytes, *weight, sum).map_err(|source| SumError::Payload { payload, source })?;
        }
        Ok(reduce::mean(sum, total)?)
    }
}

fn add_pairs(pairs: impl Iterator<Item = (u32, f32)>, weight: u32, sum: &mut [f32]) {
    for (index, value) in pairs {
        // Weight 0 adds nothing, not even a zero of another sign.
        if weight > 0 {
            sum[index as usize] += weight as f32 * value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Precision;

    fn sparse(indices: &[u32], values: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Sparse::new(6, Precision::F32).unwrap().encode(indices, values, &mut bytes).unwrap();
        bytes
    }

    fn form() -> Pairs {
        Pairs::Sparse(Sparse::new(6, Precision::F32).unwrap())
    }

    #[test]
    fn payloads_add_up_in_their_order() {
        let (large, lost, back) = (sparse(&[0, 5], &[1e8, 1.0]), sparse(&[0], &[1.0]), sparse(&[0], &[-1e8]));
        let sum = |payloads: &[(&[u8], u32)]| {
            let mut sum = vec![7.0; 6];
            form().sum(payloads, &mut sum).unwrap();
            sum
        };
        assert_eq!(sum(&[(&large[..], 1), (&lost[..], 1), (&back[..], 1)]), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(sum(&[(&large[..], 1), (&back[..], 1), (&lost[..], 1)]), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(sum(&[(&large[..], 0), (&lost[..], 3)]), [3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_mean_is_over_the_weights_together() {
        let (one, other) = (sparse(&[1, 2], &[4.0, 8.0]), sparse(&[2], &[-4.0]));
        let mean = |weights: [u32; 2]| {
            let mut mean = vec![7.0; 6];
            form().mean(&[(&one[..], weights[0]), (&other[..], weights[1])], &mut mean).unwrap();
            mean
        };
        assert_eq!(mean([1, 3]), [0.0, 1.0, -1.0, 0.0, 0.0, 0.0]);
        assert_eq!(mean([0, 0]), [0.0, 2.0, 2.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn what_has_no_sum_is_named() {
        let (good, large) = (sparse(&[1], &[1.0]), sparse(&[3], &[f32::MAX]));
        let refused = |payloads: &[(&[u8], u32)]| form().sum(payloads, &mut [0.0; 6]).unwrap_err();
        let source = PairsError::Length { bytes: 5 };
        assert_eq!(refused(&[(&good[..], 1), (&good[..5], 1)]), SumError::Payload { payload: 1, source });
        assert_eq!(refused(&[(&large[..], 1), (&large[..], 1)]), SumError::Overflow(NotFinite { position: 3 }));
    }

    #[test]
    fn signs_count_as_one_each() {
        let signs = Signs::new(6).unwrap();
        let mut bytes = Vec::new();
        signs.encode(&[0, 4], &[-0.5, 9.0], &mut bytes).unwrap();
        let mut sum = vec![0.0; 6];
        Pairs::Signs(signs).sum(&[(&bytes[..], 2), (&bytes[..], 1)], &mut sum).unwrap();
        assert_eq!(sum, [-3.0, 0.0, 0.0, 0.0, 3.0, 0.0]);
        assert_eq!(Pairs::Signs(signs).check_length(bytes.len() + 1), Err(PairsError::Length { bytes: 6 }));
    }
}
