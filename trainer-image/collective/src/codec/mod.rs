//! How values travel: exactly, or in fewer bits with the error kept for the next time.
//!
//! Vectors are coded in blocks of [`BLOCK`] elements that carry their own scales, so that a vector cut at blocks has the bytes
//! of the whole. Bytes and values are the same on every processor. What a lossy codec loses, its caller keeps as the residual
//! and adds to the next values (error feedback, Seide et al. 2014), so that no part of a sum is lost for good.

mod distortion;
mod indices;
mod pairs;
mod passes;
mod range;
mod signs;
mod sparse;
mod uint4;
mod uint8;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::indices::PairsError;
pub use self::pairs::{Pairs, SumError};
pub use self::signs::Signs;
pub use self::sparse::{Precision, Sparse};
use crate::{NotFinite, reduce};

/// Elements of one block, the last of a vector excepted.
pub const BLOCK: usize = 1024;

/// What a small value is added to in order to round it: the sum is an integer, ties went to even, and its lowest bits are the
/// value's as two's complement.
const ROUNDING: f32 = 12_582_912.0;

/// Form in which the values of an operation travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Codec {
    /// 4 bytes each, little-endian: exact.
    F32,
    /// 2 bytes each, little-endian: rounded to nearest even, relative error at most 1/256 in the normal range.
    Bf16,
    /// 1 byte each and 8 for a block: error at most half of 1/255 of the block's range.
    UInt8,
    /// Half a byte each, 1 for 16 elements and 4 for a block: error of a full block about 7 % of its norm.
    UInt4,
}

/// Why bytes do not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not the length that the number of elements has.
    #[error("{found} bytes where {expected} belong")]
    Length {
        /// The length that belongs there.
        expected: usize,
        /// The length that is there.
        found: usize,
    },
    /// A scale is NaN, infinite, negative, or too large for finite values.
    #[error("block {block} has a scale that gives no finite values")]
    Scale {
        /// Position of the block.
        block: usize,
    },
    /// A value is NaN or infinite.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
}

impl Codec {
    /// Bytes of `elements` values; usize's largest when that is too small.
    ///
    /// It adds up over parts that are cut at multiples of [`Codec::grain`].
    #[must_use]
    pub fn encoded_len(self, elements: usize) -> usize {
        match self {
            Self::F32 => elements.saturating_mul(4),
            Self::Bf16 => elements.saturating_mul(2),
            Self::UInt8 => elements.saturating_add(elements.div_ceil(BLOCK).saturating_mul(uint8::HEADER)),
            Self::UInt4 => elements.div_ceil(BLOCK) * uint4::HEADER + uint4::groups_len(elements) + uint4::codes_len(elements),
        }
    }

    /// Elements that cannot be cut apart without changing bytes.
    #[must_use]
    pub fn grain(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 => 1,
            Self::UInt8 | Self::UInt4 => BLOCK,
        }
    }

    /// Writes `values` into `out`.
    ///
    /// # Errors
    /// [`NotFinite`] names the first value that is NaN or infinite; `out` is then spoilt.
    ///
    /// # Panics
    /// When `out` has not [`Codec::encoded_len`] bytes.
    pub fn encode(self, values: &[f32], out: &mut [u8]) -> Result<(), NotFinite> {
        assert_eq!(out.len(), self.encoded_len(values.len()));
        if passes::encode(self, values, out) { Ok(()) } else { Err(NotFinite::first(values.iter().copied())) }
    }

    /// Writes `values + residual` into `out`. The residual of the next time is told by [`Codec::residual`], once it is known
    /// that this one counted.
    ///
    /// # Errors
    /// [`NotFinite`] names the first sum that is NaN or infinite; `out` is then spoilt.
    ///
    /// # Panics
    /// When `values` and `residual` differ in length, or `out` has not [`Codec::encoded_len`] bytes.
    pub fn encode_with_feedback(self, values: &[f32], residual: &[f32], out: &mut [u8]) -> Result<(), NotFinite> {
        assert_eq!(residual.len(), values.len());
        assert_eq!(out.len(), self.encoded_len(values.len()));
        if passes::encode_with_feedback(self, values, residual, out) {
            return Ok(());
        }
        Err(NotFinite::first(values.iter().zip(residual).map(|(value, residual)| value + residual)))
    }

    /// Turns the old residual into the new one: `values + residual - decoded`, where `encoded` is what
    /// [`Codec::encode_with_feedback`] made of the first two.
    ///
    /// # Errors
    /// [`CodecError`] as [`Codec::decode`]; `residual` is then as it was.
    ///
    /// # Panics
    /// When `values` and `residual` differ in length.
    pub fn residual(self, values: &[f32], encoded: &[u8], residual: &mut [f32]) -> Result<(), CodecError> {
        assert_eq!(residual.len(), values.len());
        self.check_len(encoded, values.len())?;
        passes::residual(self, values, encoded, residual).map_err(|block| self.fault(encoded, block))
    }

    /// Reads as many values as `values` has. All of them are finite.
    ///
    /// # Errors
    /// [`CodecError`] for another length, an unusable scale, or a value that is not finite; `values` is then spoilt.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) -> Result<(), CodecError> {
        self.check_len(bytes, values.len())?;
        passes::decode(self, bytes, values).map_err(|block| self.fault(bytes, block))
    }

    /// Adds `weight * value` to `sum` for each value. Weight 0 adds nothing, but its bytes are judged too.
    ///
    /// # Errors
    /// [`CodecError`] as [`Codec::decode`]; `sum` is then spoilt.
    pub fn accumulate(self, bytes: &[u8], weight: u32, sum: &mut [f32]) -> Result<(), CodecError> {
        self.check_len(bytes, sum.len())?;
        match self {
            Self::F32 => Ok(reduce::add(sum, bytes, weight)?),
            Self::Bf16 => Ok(reduce::add_bf16(sum, bytes, weight)?),
            Self::UInt8 | Self::UInt4 => passes::accumulate(self, bytes, weight, sum).map_err(|block| self.fault(bytes, block)),
        }
    }

    fn check_len(self, bytes: &[u8], elements: usize) -> Result<(), CodecError> {
        let (expected, found) = (self.encoded_len(elements), bytes.len());
        if expected == found { Ok(()) } else { Err(CodecError::Length { expected, found }) }
    }

    /// What is wrong with a block.
    #[cold]
    fn fault(self, bytes: &[u8], block: usize) -> CodecError {
        let start = block * BLOCK;
        let NotFinite { position } = match self {
            Self::F32 => NotFinite::first(reduce::floats(&bytes[start * 4..])),
            Self::Bf16 => NotFinite::first(reduce::halves(&bytes[start * 2..])),
            Self::UInt8 | Self::UInt4 => return CodecError::Scale { block },
        };
        NotFinite { position: start + position }.into()
    }
}
