//! Sparse payloads: the few values that a method sends of a vector, with their indices.
//!
//! All indices, then all values, little-endian; nothing else, so that a payload has exactly `pairs * (index + value)` bytes and
//! its length tells the number of pairs. Methods that choose in chunks (`DeMo`) write one payload for each chunk.

use super::PairsError;
use super::indices::{Dense, number};
use crate::{NotFinite, bfloat16};

/// What a value takes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 4 bytes, exact.
    F32,
    /// 2 bytes, rounded to nearest even.
    Bf16,
}

/// Payloads of (index, value) pairs out of vectors of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sparse {
    dense: Dense,
    precision: Precision,
}

impl Sparse {
    /// Payloads for vectors of `dense` elements.
    ///
    /// # Errors
    /// [`PairsError::Dense`] when that is more than 2^32.
    pub fn new(dense: usize, precision: Precision) -> Result<Self, PairsError> {
        Ok(Self { dense: Dense::new(dense)?, precision })
    }

    /// Bytes of one pair.
    #[must_use]
    pub fn pair_len(self) -> usize {
        self.dense.width() + self.precision.width()
    }

    /// That a payload of so many bytes can be, and how many pairs it has.
    pub(super) fn count(self, bytes: usize) -> Result<usize, PairsError> {
        let pairs = bytes / self.pair_len();
        if pairs * self.pair_len() != bytes {
            return Err(PairsError::Length { bytes });
        }
        self.dense.check_count(pairs)?;
        Ok(pairs)
    }

    /// Appends the payload of pairs whose indices ascend strictly.
    ///
    /// # Errors
    /// [`PairsError`] for unequal numbers, indices out of order or outside, and values that are not finite; `out` is then as it was.
    pub fn encode(self, indices: &[u32], values: &[f32], out: &mut Vec<u8>) -> Result<(), PairsError> {
        check_values(indices, values)?;
        self.dense.check(indices.iter().copied())?;
        self.dense.write(indices, out);
        match self.precision {
            Precision::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Precision::Bf16 => out.extend(values.iter().flat_map(|value| bfloat16::narrow(*value).to_le_bytes())),
        }
        Ok(())
    }

    /// The pairs of a payload: indices, strictly ascending and below the dense length, and their values, all finite. All of it
    /// is judged before the first pair is given, and nothing is allocated.
    ///
    /// # Errors
    /// [`PairsError`] says what is wrong with it.
    pub fn pairs(self, bytes: &[u8]) -> Result<impl Iterator<Item = (u32, f32)>, PairsError> {
        let pairs = self.count(bytes.len())?;
        let (indices, values) = bytes.split_at(pairs * self.dense.width());
        let values = || values.chunks_exact(self.precision.width()).map(move |value| self.precision.value(number(value)));
        self.dense.check(self.dense.read(indices))?;
        match values().position(|value| !value.is_finite()) {
            Some(position) => Err(NotFinite { position }.into()),
            None => Ok(self.dense.read(indices).zip(values())),
        }
    }

    /// Reads a payload into indices and values.
    ///
    /// # Errors
    /// As [`Sparse::pairs`]. Nothing is allocated for more pairs than the vector has elements.
    pub fn decode(self, bytes: &[u8]) -> Result<(Vec<u32>, Vec<f32>), PairsError> {
        Ok(self.pairs(bytes)?.unzip())
    }
}

impl Precision {
    /// Bytes of a value.
    fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// The value of such bits.
    fn value(self, bits: u32) -> f32 {
        match self {
            Self::F32 => f32::from_bits(bits),
            Self::Bf16 => bfloat16::widen(bits as u16),
        }
    }
}

/// That there is one finite value for each index.
pub(super) fn check_values(indices: &[u32], values: &[f32]) -> Result<(), PairsError> {
    if indices.len() != values.len() {
        return Err(PairsError::Unequal { indices: indices.len(), values: values.len() });
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(position) => Err(NotFinite { position }.into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact(dense: usize) -> Sparse {
        Sparse::new(dense, Precision::F32).unwrap()
    }

    #[test]
    fn a_pair_has_the_bytes_of_its_index_and_value() {
        let lengths =
            |dense| [Precision::F32, Precision::Bf16].map(|precision| Sparse::new(dense, precision).unwrap().pair_len());
        assert_eq!(lengths(1 << 16), [6, 4]);
        assert_eq!(lengths((1 << 16) + 1), [8, 6]);
        assert_eq!(Sparse::new((1 << 32) + 1, Precision::F32), Err(PairsError::Dense { dense: (1 << 32) + 1 }));
    }

    #[test]
    fn a_payload_is_all_indices_then_all_values() {
        let mut out = vec![9];
        exact(4096).encode(&[1, 258], &[1.0, -2.0], &mut out).unwrap();
        assert_eq!(out, [9, 1, 0, 2, 1, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        let mut out = Vec::new();
        Sparse::new(1 << 20, Precision::Bf16).unwrap().encode(&[65_537], &[1.0], &mut out).unwrap();
        assert_eq!(out, [1, 0, 1, 0, 0x80, 0x3f]);
    }

    #[test]
    fn pairs_that_are_none_are_not_written() {
        let refused = |indices: &[u32], values: &[f32]| {
            let mut out = vec![9];
            let refused = exact(10).encode(indices, values, &mut out).unwrap_err();
            assert_eq!(out, [9]);
            refused
        };
        assert_eq!(refused(&[1, 2], &[1.0]), PairsError::Unequal { indices: 2, values: 1 });
        assert_eq!(refused(&[1, 4, 4], &[1.0; 3]), PairsError::Order { pair: 2 });
        assert_eq!(refused(&[1, 10], &[1.0; 2]), PairsError::Outside { pair: 1 });
        assert_eq!(refused(&[1, 2], &[1.0, f32::NAN]), NotFinite { position: 1 }.into());
    }

    #[test]
    fn hostile_payloads_are_refused() {
        let payload = |indices: &[u16], values: &[f32]| {
            let indices = indices.iter().flat_map(|index| index.to_le_bytes());
            indices.chain(values.iter().flat_map(|value| value.to_le_bytes())).collect::<Vec<u8>>()
        };
        let refused = |bytes: &[u8]| exact(10).decode(bytes).unwrap_err();
        assert_eq!(refused(&[0; 7]), PairsError::Length { bytes: 7 });
        assert_eq!(refused(&[0; 11 * 6]), PairsError::TooMany { pairs: 11, dense: 10 });
        assert_eq!(refused(&payload(&[3, 2], &[0.0; 2])), PairsError::Order { pair: 1 });
        assert_eq!(refused(&payload(&[10], &[0.0])), PairsError::Outside { pair: 0 });
        assert_eq!(refused(&payload(&[1], &[f32::INFINITY])), NotFinite { position: 0 }.into());
        assert_eq!(exact(0).decode(&[]), Ok((vec![], vec![])));
    }

    proptest! {
        #[test]
        fn pairs_arrive(pairs in prop::collection::btree_map(0u32..200_000, -1e3f32..1e3, 0..200), dense in 200_000usize..300_000) {
            let (indices, values): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            for precision in [Precision::F32, Precision::Bf16] {
                let sparse = Sparse::new(dense, precision).unwrap();
                let mut bytes = Vec::new();
                sparse.encode(&indices, &values, &mut bytes).unwrap();
                prop_assert_eq!(bytes.len(), indices.len() * sparse.pair_len());
                let (arrived_indices, arrived) = sparse.decode(&bytes).unwrap();
                prop_assert_eq!(&arrived_indices, &indices);
                let tolerance = if precision == Precision::F32 { 0.0 } else { 1.0 / 256.0 };
                prop_assert!(arrived.iter().zip(&values).all(|(arrived, value)| (arrived - value).abs() <= tolerance * value.abs()));
            }
        }

        #[test]
        fn any_bytes_give_ascending_indices_and_finite_values_or_an_error(bytes: Vec<u8>, dense in 0usize..100_000) {
            for precision in [Precision::F32, Precision::Bf16] {
                if let Ok((indices, values)) = Sparse::new(dense, precision).unwrap().decode(&bytes) {
                    prop_assert!(indices.is_sorted_by(|one, next| one < next));
                    prop_assert!(indices.iter().all(|index| (*index as usize) < dense));
                    prop_assert!(values.len() == indices.len() && values.iter().all(|value| value.is_finite()));
                }
            }
        }
    }
}
