//! Indices of a sparse payload: strictly ascending, 2 bytes each where the dense length allows it, else 4.

use crate::NotFinite;

/// Why pairs cannot be sent, or what came is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PairsError {
    /// The dense vector is longer than 4-byte indices reach.
    #[error("a dense length of {dense} is more than indices reach")]
    Dense {
        /// Its length.
        dense: usize,
    },
    /// Not as many values as indices.
    #[error("{values} values for {indices} indices")]
    Unequal {
        /// Number of indices.
        indices: usize,
        /// Number of values.
        values: usize,
    },
    /// No number of pairs has this many bytes.
    #[error("{bytes} bytes are no whole number of pairs")]
    Length {
        /// The bytes that came.
        bytes: usize,
    },
    /// More pairs than the dense vector has elements.
    #[error("{pairs} pairs for {dense} elements")]
    TooMany {
        /// Number of pairs.
        pairs: usize,
        /// Length of the dense vector.
        dense: usize,
    },
    /// An index is not greater than the one before it.
    #[error("the index of pair {pair} is not greater than the one before")]
    Order {
        /// Position of the pair.
        pair: usize,
    },
    /// An index is not below the dense length.
    #[error("the index of pair {pair} is outside of the vector")]
    Outside {
        /// Position of the pair.
        pair: usize,
    },
    /// Bits after the last sign are not zero.
    #[error("bits after the last sign are not zero")]
    Padding,
    /// A value is NaN or infinite; the position is that of its pair.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
}

/// Dense length up to which an index has 2 bytes.
const SHORT: usize = 1 << 16;
/// Largest dense length.
const LONGEST: u64 = 1 << 32;

/// The dense vector that indices point into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dense {
    length: usize,
}

impl Dense {
    pub(super) fn new(length: usize) -> Result<Self, PairsError> {
        if length as u64 > LONGEST { Err(PairsError::Dense { dense: length }) } else { Ok(Self { length }) }
    }

    /// Bytes of one index.
    pub(super) fn width(self) -> usize {
        if self.length <= SHORT { 2 } else { 4 }
    }

    /// That so many pairs can be.
    pub(super) fn check_count(self, pairs: usize) -> Result<(), PairsError> {
        if pairs > self.length { Err(PairsError::TooMany { pairs, dense: self.length }) } else { Ok(()) }
    }

    /// That the indices ascend and are inside.
    pub(super) fn check(self, indices: impl Iterator<Item = u32>) -> Result<(), PairsError> {
        let mut before = None;
        for (pair, index) in indices.enumerate() {
            if before.is_some_and(|before| before >= index) {
                return Err(PairsError::Order { pair });
            }
            if index as usize >= self.length {
                return Err(PairsError::Outside { pair });
            }
            before = Some(index);
        }
        Ok(())
    }

    /// Appends indices that were checked.
    pub(super) fn write(self, indices: &[u32], out: &mut Vec<u8>) {
        if self.width() == 2 {
            out.extend(indices.iter().flat_map(|index| (*index as u16).to_le_bytes()));
        } else {
            out.extend(indices.iter().flat_map(|index| index.to_le_bytes()));
        }
    }

    /// The indices of a payload, as they are.
    pub(super) fn read(self, bytes: &[u8]) -> impl Iterator<Item = u32> {
        bytes.chunks_exact(self.width()).map(number)
    }
}

/// A little-endian number of at most 4 bytes.
pub(super) fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
