//! The receiver's side of one answer: pieces of any size become chunks, and a chunk counts when its hash does.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::manifest::{Manifest, hash};
use crate::Millis;

/// What a donor did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It was lost, or ended its answer with an error.
    #[error("its answer failed: {0}")]
    Failed(String),
    /// It delivered less than a block, or none of the rest, for this many milliseconds.
    #[error("silent for {0} ms")]
    Silent(Millis),
    /// It sent a chunk that is not the state's.
    #[error("its chunk {0} has another hash")]
    WrongHash(usize),
    /// It sent more than it was asked for.
    #[error("it sent more than it was asked for")]
    TooLong,
    /// It sent less than it was asked for.
    #[error("its answer ended early")]
    TooShort,
    /// It sent a table that is not the state's.
    #[error("its table is not that of the state")]
    WrongTable,
}

/// What is left of one answer.
#[derive(Debug)]
pub(super) struct Assembly {
    left: Range<usize>,
    /// The beginning of the next chunk.
    begun: BytesMut,
}

impl Assembly {
    /// Will get these chunks, in order.
    pub(super) fn new(chunks: Range<usize>) -> Self {
        Self { left: chunks, begun: BytesMut::new() }
    }

    /// Chunks that have not come, or not wholly.
    pub(super) fn left(&self) -> &Range<usize> {
        &self.left
    }

    /// Takes bytes from the front of `data` and returns the next chunk once it is whole and verified; none when `data` is used up.
    pub(super) fn take(&mut self, manifest: &Manifest, data: &mut Bytes) -> Result<Option<(usize, Bytes)>, Fault> {
        if data.is_empty() {
            return Ok(None);
        }
        if self.left.is_empty() {
            return Err(Fault::TooLong);
        }
        let chunk = self.left.start;
        let length = manifest.place(chunk).bytes.len();
        let piece = data.split_to((length - self.begun.len()).min(data.len()));
        let whole = if piece.len() == length {
            piece
        } else {
            self.begun.reserve(length - self.begun.len());
            self.begun.extend_from_slice(&piece);
            if self.begun.len() < length {
                return Ok(None);
            }
            self.begun.split().freeze()
        };
        if hash(&whole) != manifest.chunks()[chunk] {
            return Err(Fault::WrongHash(chunk));
        }
        self.left.start += 1;
        Ok(Some((chunk, whole)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::manifest::{CHUNK, ElementType, Tensor};
    use super::*;

    fn state() -> (Manifest, Bytes, Bytes) {
        let bytes = |length: usize| (0..length).map(|index| (index % 241) as u8).collect::<Bytes>();
        let (a, b) = (bytes(100), bytes(CHUNK + 50));
        let tensor = |key, bytes| Tensor { key, element_type: ElementType::U8, bytes };
        (Manifest::of(&[tensor("a", &a), tensor("b", &b)], 1).unwrap(), a, b)
    }

    fn take_all(manifest: &Manifest, chunks: Range<usize>, pieces: &[Bytes]) -> Result<Vec<(usize, Bytes)>, Fault> {
        let mut assembly = Assembly::new(chunks);
        let mut taken = Vec::new();
        for piece in pieces {
            let mut data = piece.clone();
            while !data.is_empty() {
                taken.extend(assembly.take(manifest, &mut data)?);
            }
        }
        Ok(taken)
    }

    #[test]
    fn a_wrong_bit_is_found_in_the_chunk_where_it_is() {
        let (manifest, a, b) = state();
        let mut wrong = b.to_vec();
        wrong[CHUNK + 49] ^= 4;
        assert_eq!(take_all(&manifest, 0..3, &[a, wrong.into()]), Err(Fault::WrongHash(2)));
    }

    #[test]
    fn more_than_was_asked_for_is_refused() {
        let (manifest, a, b) = state();
        assert_eq!(take_all(&manifest, 0..1, &[a, b]), Err(Fault::TooLong));
    }

    proptest! {
        #[test]
        fn chunks_are_the_same_however_the_answer_is_cut(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
            let (manifest, a, b) = state();
            let mut rest = Bytes::from([a.clone(), b.clone()].concat());
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(rest.len())).collect();
            ends.sort_unstable();
            let mut start = 0;
            let mut pieces: Vec<_> = ends.into_iter().map(|end| rest.split_to(end - std::mem::replace(&mut start, end))).collect();
            pieces.push(rest);
            let chunks = vec![(0, a), (1, b.slice(..CHUNK)), (2, b.slice(CHUNK..))];
            prop_assert_eq!(take_all(&manifest, 0..3, &pieces), Ok(chunks));
        }
    }
}
