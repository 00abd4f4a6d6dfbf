//! Sign payloads: of each chosen value its index and one bit.
//!
//! All indices, then the signs, eight to the byte, least significant bit first, 1 for negative (as Psyche packs them). With
//! 2-byte indices a pair has 2.125 bytes.

use super::PairsError;
use super::indices::Dense;
use super::sparse::check_values;

/// Payloads of (index, sign) pairs out of vectors of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    dense: Dense,
}

impl Signs {
    /// Payloads for vectors of `dense` elements.
    ///
    /// # Errors
    /// [`PairsError::Dense`] when that is more than 2^32.
    pub fn new(dense: usize) -> Result<Self, PairsError> {
        Ok(Self { dense: Dense::new(dense)? })
    }

    /// Bytes of the payload of so many pairs.
    #[must_use]
    pub fn encoded_len(self, pairs: usize) -> usize {
        pairs * self.dense.width() + pairs.div_ceil(8)
    }

    /// Appends the payload of pairs whose indices ascend strictly. Zero of either sign counts as positive.
    ///
    /// # Errors
    /// [`PairsError`] for unequal numbers, indices out of order or outside, and values that are not finite; `out` is then as it was.
    pub fn encode(self, indices: &[u32], values: &[f32], out: &mut Vec<u8>) -> Result<(), PairsError> {
        check_values(indices, values)?;
        self.dense.check(indices.iter().copied())?;
        self.dense.write(indices, out);
        let byte = |values: &[f32]| values.iter().rev().fold(0, |byte, value| byte << 1 | u8::from(*value < 0.0));
        out.extend(values.chunks(8).map(byte));
        Ok(())
    }

    /// That a payload of so many bytes can be, and how many pairs it has.
    pub(super) fn count(self, bytes: usize) -> Result<usize, PairsError> {
        // Rounding signs up to whole bytes adds less than one pair, so that rounding down finds the number again.
        let bits_of_pair = 8 * self.dense.width() + 1;
        let pairs = (bytes as u128 * 8 / bits_of_pair as u128) as usize;
        if self.encoded_len(pairs) != bytes {
            return Err(PairsError::Length { bytes });
        }
        self.dense.check_count(pairs)?;
        Ok(pairs)
    }

    /// The pairs of a payload: indices, strictly ascending and below the dense length, and for each of them 1 or -1. All of it
    /// is judged before the first pair is given, and nothing is allocated.
    ///
    /// # Errors
    /// [`PairsError`] says what is wrong with it.
    pub fn pairs(self, bytes: &[u8]) -> Result<impl Iterator<Item = (u32, f32)>, PairsError> {
        let pairs = self.count(bytes.len())?;
        let (indices, signs) = bytes.split_at(pairs * self.dense.width());
        self.dense.check(self.dense.read(indices))?;
        let negative = move |pair: usize| signs[pair / 8] >> (pair % 8) & 1 == 1;
        if (pairs..signs.len() * 8).any(negative) {
            return Err(PairsError::Padding);
        }
        Ok(self.dense.read(indices).zip((0..pairs).map(move |pair| if negative(pair) { -1.0 } else { 1.0 })))
    }

    /// Reads a payload into indices and signs.
    ///
    /// # Errors
    /// As [`Signs::pairs`]. Nothing is allocated for more pairs than the vector has elements.
    pub fn decode(self, bytes: &[u8]) -> Result<(Vec<u32>, Vec<f32>), PairsError> {
        Ok(self.pairs(bytes)?.unzip())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::NotFinite;

    fn signs(dense: usize) -> Signs {
        Signs::new(dense).unwrap()
    }

    #[test]
    fn signs_are_packed_as_psyche_packs_them() {
        let values = [1.0, -2.0, 3.0, -4.0, -5.0, 6.0, 7.0, -8.0, -1.0];
        let mut out = Vec::new();
        signs(4096).encode(&[0, 1, 2, 3, 4, 5, 6, 7, 8], &values, &mut out).unwrap();
        assert_eq!(out[18..], [0x9a, 0x01]);
        let (indices, decoded) = signs(4096).decode(&out).unwrap();
        assert_eq!(indices, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(decoded, values.map(f32::signum));
    }

    #[test]
    fn zero_of_either_sign_is_positive() {
        let mut out = Vec::new();
        signs(10).encode(&[0, 1], &[0.0, -0.0], &mut out).unwrap();
        assert_eq!(signs(10).decode(&out).unwrap().1, [1.0, 1.0]);
    }

    #[test]
    fn thirty_two_of_a_chunk_take_two_and_an_eighth_bytes_each() {
        assert_eq!(signs(4096).encoded_len(32), 68);
        assert_eq!(signs(1 << 17).encoded_len(9), 38);
    }

    #[test]
    fn hostile_payloads_are_refused() {
        let refused = |bytes: &[u8]| signs(10).decode(bytes).unwrap_err();
        assert_eq!(refused(&[0, 0]), PairsError::Length { bytes: 2 });
        assert_eq!(refused(&vec![0; signs(10).encoded_len(11)]), PairsError::TooMany { pairs: 11, dense: 10 });
        assert_eq!(refused(&[2, 0, 1, 0, 0]), PairsError::Order { pair: 1 });
        assert_eq!(refused(&[10, 0, 0]), PairsError::Outside { pair: 0 });
        assert_eq!(refused(&[1, 0, 0b10]), PairsError::Padding);
        assert_eq!(signs(10).encode(&[1], &[f32::NAN], &mut Vec::new()), Err(NotFinite { position: 0 }.into()));
    }

    proptest! {
        #[test]
        fn signs_arrive(pairs in prop::collection::btree_map(0u32..100_000, any::<bool>(), 0..100), dense in 100_000usize..200_000) {
            let (indices, negative): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let values: Vec<f32> = negative.into_iter().map(|negative| if negative { -1.0 } else { 1.0 }).collect();
            let mut bytes = Vec::new();
            signs(dense).encode(&indices, &values, &mut bytes).unwrap();
            prop_assert_eq!(bytes.len(), signs(dense).encoded_len(indices.len()));
            prop_assert_eq!(signs(dense).decode(&bytes), Ok((indices, values)));
        }

        #[test]
        fn the_length_tells_the_number_of_pairs(pairs in 0usize..5000) {
            let bytes = vec![0; signs(1 << 16).encoded_len(pairs)];
            let found = match signs(1 << 16).decode(&bytes) {
                Ok((indices, _)) => indices.len(),
                // Zeros do not ascend, which is seen once they are counted.
                Err(error) => { prop_assert_eq!(error, PairsError::Order { pair: 1 }); pairs }
            };
            prop_assert_eq!(found, pairs);
        }
    }
}
