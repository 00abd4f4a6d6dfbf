//! A shard: one piece of one vector as a safetensors file, named by what is in it, so that what has not changed is never written twice.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::manifest::ElementType;

/// Name of the one tensor in a shard.
pub const TENSOR: &str = "values";
/// Most bytes of values in one shard: what an upload that broke off has to repeat.
pub const LARGEST: u64 = 64 << 20;
/// Digits of a BLAKE3.
const DIGITS: usize = 64;
/// Most copies of one shard: another is begun only where one is about to be removed.
const MOST_COPIES: u32 = 1 << 20;

/// A shard's file: the BLAKE3 of all its bytes, and which copy it is. There is a second copy only where the first was about to be
/// removed when it was needed again; see [`intent`](crate::intent).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ShardName {
    hash: [u8; 32],
    copy: u32,
}

impl ShardName {
    /// The first copy of a file of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::with_hash(*blake3::hash(bytes).as_bytes())
    }

    /// The first copy of a file with this BLAKE3.
    #[must_use]
    pub fn with_hash(hash: [u8; 32]) -> Self {
        Self { hash, copy: 0 }
    }

    /// BLAKE3 of all bytes of the file.
    #[must_use]
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The first copy of the same bytes.
    #[must_use]
    pub fn first_copy(self) -> Self {
        Self { copy: 0, ..self }
    }

    /// The next copy of the same bytes.
    #[must_use]
    pub fn next_copy(self) -> Self {
        Self { copy: self.copy + 1, ..self }
    }
}

impl fmt::Display for ShardName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = blake3::Hash::from(self.hash).to_hex();
        match self.copy {
            0 => write!(formatter, "{hash}"),
            copy => write!(formatter, "{hash}-{copy}"),
        }
    }
}

/// A text that is no shard's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not name a shard: 64 digits of a BLAKE3, and -N for another copy")]
pub struct ShardNameError(pub String);

impl FromStr for ShardName {
    type Err = ShardNameError;

    fn from_str(text: &str) -> Result<Self, ShardNameError> {
        let refused = || ShardNameError(text.chars().take(80).collect());
        let (digits, copy) = match text.split_once('-') {
            Some((digits, copy)) => (digits, copy.parse().ok().filter(|copy| (1..MOST_COPIES).contains(copy))),
            None => (text, Some(0)),
        };
        let lower = digits.len() == DIGITS && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let hash = blake3::Hash::from_hex(digits).ok().filter(|_| lower).ok_or_else(refused)?;
        let name = Self { hash: *hash.as_bytes(), copy: copy.ok_or_else(refused)? };
        // One name for one file: no leading zeros, no sign.
        if name.to_string() == text { Ok(name) } else { Err(refused()) }
    }
}

impl From<ShardName> for String {
    fn from(name: ShardName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for ShardName {
    type Error = ShardNameError;

    fn try_from(text: String) -> Result<Self, ShardNameError> {
        text.parse()
    }
}

/// The beginning of the file of a shard with so many elements; the values follow.
///
/// The same for the same values whatever vector they are of, so that equal pieces are one file. Its length is a multiple of eight, as
/// safetensors aligns what follows.
#[must_use]
pub fn header(element_type: ElementType, elements: u64) -> Vec<u8> {
    let code = match element_type {
        ElementType::U8 => "U8",
        ElementType::I32 => "I32",
        ElementType::U32 => "U32",
        ElementType::I64 => "I64",
        ElementType::U64 => "U64",
        ElementType::Bf16 => "BF16",
        ElementType::F16 => "F16",
        ElementType::F32 => "F32",
        ElementType::F64 => "F64",
    };
    let end = elements * element_type.size();
    let mut text = format!(r#"{{"{TENSOR}":{{"dtype":"{code}","shape":[{elements}],"data_offsets":[0,{end}]}}}}"#);
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text.as_bytes());
    header
}

/// Lengths, in elements, of the pieces that a vector of so many elements is kept in: all but the last are [`LARGEST`], so that a
/// vector that grows at its end keeps its first shards.
#[must_use]
pub fn pieces(element_type: ElementType, elements: u64) -> Vec<u64> {
    let most = LARGEST / element_type.size();
    let mut pieces = vec![most; (elements / most) as usize];
    pieces.extend((!elements.is_multiple_of(most)).then_some(elements % most));
    pieces
}

/// Which of `workers` uploads the piece of this number: each about as many, one after the other, beginning with another worker at
/// each round.
#[must_use]
pub fn uploader(piece: usize, round: u64, workers: usize) -> usize {
    let workers = workers.max(1);
    (piece + (round % workers as u64) as usize) % workers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    use super::*;

    const TYPES: [ElementType; 9] = [
        ElementType::U8,
        ElementType::I32,
        ElementType::U32,
        ElementType::I64,
        ElementType::U64,
        ElementType::Bf16,
        ElementType::F16,
        ElementType::F32,
        ElementType::F64,
    ];

    #[test]
    fn a_shard_is_a_safetensors_file_of_one_vector() {
        for element_type in TYPES {
            let values: Vec<u8> = (0..24 * element_type.size()).map(|byte| byte as u8).collect();
            let mut file = header(element_type, 24);
            assert!(file.len().is_multiple_of(8));
            file.extend(&values);
            let read = SafeTensors::deserialize(&file).unwrap();
            let tensor = read.tensor(TENSOR).unwrap();
            assert_eq!((tensor.shape(), tensor.data()), (&[24][..], &values[..]), "{element_type:?}");
        }
    }

    #[test]
    fn names_lead_back_to_their_hash_and_copy_and_nothing_else_is_a_name() {
        let first = ShardName::of(b"values");
        assert_eq!(first.hash(), blake3::hash(b"values").as_bytes());
        for name in [first, first.next_copy(), first.next_copy().next_copy()] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        let digits = first.to_string();
        let wrong =
            [format!("{digits}-0"), format!("{digits}-01"), format!("{digits}-+1"), format!("{digits}-"), digits.to_uppercase()];
        for text in wrong.iter().map(String::as_str).chain(["", "..", "../../x", &digits[1..]]) {
            assert!(text.parse::<ShardName>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn pieces_cover_a_vector_and_none_is_longer_than_the_largest(elements in 0u64..1 << 33, kind in 0usize..9) {
            let pieces = pieces(TYPES[kind], elements);
            prop_assert_eq!(pieces.iter().sum::<u64>(), elements);
            prop_assert!(pieces.iter().all(|piece| *piece > 0 && piece * TYPES[kind].size() <= LARGEST));
        }

        #[test]
        fn workers_upload_as_many_pieces_as_any_other(pieces in 0usize..200, round in any::<u64>(), workers in 1usize..9) {
            let mut counts = vec![0usize; workers];
            (0..pieces).for_each(|piece| counts[uploader(piece, round, workers)] += 1);
            let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
            prop_assert!(spread <= 1, "{counts:?}");
        }
    }
}
