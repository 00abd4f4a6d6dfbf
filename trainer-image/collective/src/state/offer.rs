//! The donor's side: what a worker answers from the state that it offers.
//!
//! The trainer goes on and overwrites its state one day, perhaps while a slow peer still fetches it. A chunk is therefore
//! copied and hashed before it leaves: an honest donor gives the chunk of the manifest or ends the answer, and who sends another lies.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::manifest::{Manifest, ManifestError, hash};
use crate::v1::StateRequest;

/// Bytes of one message of an answer.
pub const PIECE: usize = 1 << 18;

/// Why a request has no answer, or no more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another state, or none, is offered.
    #[error("this worker does not hold that state")]
    Root,
    /// The state has no such chunks.
    #[error("the state has {chunks} chunks, not {count} from {first} on")]
    Range {
        /// First that was asked for.
        first: u64,
        /// How many were asked for.
        count: u64,
        /// How many there are.
        chunks: usize,
    },
    /// The worker's trainer went on, and the state is gone.
    #[error("chunk {0} is no longer that of the state")]
    Changed(usize),
}

/// A state that this worker can give to others. Clones share it.
#[derive(Debug, Clone)]
pub struct Offer {
    manifest: Arc<Manifest>,
    tensors: Arc<[Bytes]>,
    /// Large chunks are copied and hashed one at a time, however many ask: the worker's trainer goes on meanwhile, and those who
    /// wait hold no thread.
    turn: Arc<Mutex<()>>,
}

impl Offer {
    /// Offers the state of `manifest`, whose bytes are `tensors` in its order.
    ///
    /// # Errors
    /// [`ManifestError::Length`] where a tensor's length is not the manifest's.
    pub fn new(manifest: Manifest, tensors: Vec<Bytes>) -> Result<Self, ManifestError> {
        manifest.fits(tensors.iter().map(|bytes| bytes.len() as u64))?;
        Ok(Self { manifest: Arc::new(manifest), tensors: tensors.into(), turn: Arc::default() })
    }

    /// What it offers.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The answer to a request: pieces of at most [`PIECE`] bytes.
    ///
    /// # Errors
    /// [`Refused::Root`] and [`Refused::Range`].
    pub fn answer(&self, request: &StateRequest) -> Result<Answer, Refused> {
        if request.root != self.manifest.root() {
            return Err(Refused::Root);
        }
        let Some(asked) = request.chunks else {
            let table = self.manifest.to_message().encode_to_vec().into();
            return Ok(Answer { offer: self.clone(), chunks: 0..0, ready: table });
        };
        let chunks = self.manifest.chunks().len();
        let (first, count) = (asked.first, asked.count);
        match first.checked_add(count) {
            Some(end) if end <= chunks as u64 && count > 0 => {
                Ok(Answer { offer: self.clone(), chunks: first as usize..end as usize, ready: Bytes::new() })
            }
            _ => Err(Refused::Range { first, count, chunks }),
        }
    }

    /// A copy of a chunk, which is that of the manifest.
    fn chunk(&self, chunk: usize) -> Result<Bytes, Refused> {
        let place = self.manifest.place(chunk);
        let copy = Bytes::copy_from_slice(&self.tensors[place.entry][place.bytes]);
        if hash(&copy) == self.manifest.chunks()[chunk] { Ok(copy) } else { Err(Refused::Changed(chunk)) }
    }
}

/// The pieces of one answer, made as they are asked for; an error is the last.
#[derive(Debug)]
pub struct Answer {
    offer: Offer,
    /// Not yet copied.
    chunks: Range<usize>,
    /// Copied and not yet sent.
    ready: Bytes,
}

impl Answer {
    /// Bytes that have to be copied and hashed for the next piece.
    #[must_use]
    pub fn work(&self) -> usize {
        let next = self.chunks.clone().next().filter(|_| self.ready.is_empty());
        next.map_or(0, |chunk| self.offer.manifest.place(chunk).bytes.len())
    }

    /// Waits for its turn to copy and hash, which lasts until what is given here is dropped.
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.offer.turn).lock_owned().await
    }
}

impl Iterator for Answer {
    type Item = Result<Bytes, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() {
            match self.offer.chunk(self.chunks.next()?) {
                Ok(chunk) => self.ready = chunk,
                Err(refused) => {
                    self.chunks = 0..0;
                    return Some(Err(refused));
                }
            }
        }
        Some(Ok(self.ready.split_to(self.ready.len().min(PIECE))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{CHUNK, ElementType, Hash, Tensor};
    use super::super::wire::Limits;
    use super::*;
    use crate::v1::ChunkRange;

    fn state() -> Vec<Bytes> {
        let bytes = |length, step| (0..length).map(|index: usize| (index / step) as u8).collect();
        vec![bytes(CHUNK + 1000, 3), bytes(2 * CHUNK, 7)]
    }

    fn manifest(state: &[Bytes]) -> Manifest {
        let tensor = |key, bytes| Tensor { key, element_type: ElementType::U8, bytes };
        Manifest::of(&[tensor("a", &state[0]), tensor("b", &state[1])], 1).unwrap()
    }

    fn asks(root: Hash, chunks: Option<(u64, u64)>) -> StateRequest {
        StateRequest { root: root.to_vec(), chunks: chunks.map(|(first, count)| ChunkRange { first, count }) }
    }

    fn received(answer: Answer) -> Result<Vec<u8>, Refused> {
        let pieces = answer.collect::<Result<Vec<_>, _>>()?;
        assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= PIECE));
        Ok(pieces.concat())
    }

    #[test]
    fn chunks_of_several_tensors_come_as_one_answer() {
        let state = state();
        let offer = Offer::new(manifest(&state), state.clone()).unwrap();
        let answer = offer.answer(&asks(offer.manifest().root(), Some((1, 2)))).unwrap();
        assert_eq!(received(answer), Ok([&state[0][CHUNK..], &state[1][..CHUNK]].concat()));
    }

    #[test]
    fn the_table_is_the_manifest() {
        let state = state();
        let offer = Offer::new(manifest(&state), state).unwrap();
        let table = received(offer.answer(&asks(offer.manifest().root(), None)).unwrap()).unwrap();
        assert_eq!(Manifest::decode(&table, &Limits::of(offer.manifest())).as_ref(), Ok(offer.manifest()));
    }

    #[test]
    fn what_is_not_held_is_refused() {
        let state = state();
        let offer = Offer::new(manifest(&state), state.clone()).unwrap();
        let root = offer.manifest().root();
        for (first, count) in [(0, 5), (4, 1), (0, 0), (u64::MAX, 1), (1, u64::MAX)] {
            let refused = offer.answer(&asks(root, Some((first, count)))).map(|_| ());
            assert_eq!(refused, Err(Refused::Range { first, count, chunks: 4 }));
        }
        assert_eq!(offer.answer(&asks([7; 32], None)).map(|_| ()), Err(Refused::Root));
        assert_eq!(offer.answer(&StateRequest::default()).map(|_| ()), Err(Refused::Root));
        assert!(Offer::new(manifest(&state), vec![state[0].clone()]).is_err());
    }

    #[test]
    fn a_state_that_changed_ends_the_answer_before_a_wrong_byte_leaves() {
        let (state, mut changed) = (state(), state());
        let mut bytes = changed[1].to_vec();
        bytes[CHUNK + 5] ^= 1;
        changed[1] = bytes.into();
        let offer = Offer::new(manifest(&state), changed).unwrap();
        let pieces: Vec<_> = offer.answer(&asks(offer.manifest().root(), Some((2, 2)))).unwrap().collect();
        let (last, sent) = pieces.split_last().unwrap();
        assert_eq!(*last, Err(Refused::Changed(3)));
        assert_eq!(sent.iter().flat_map(|piece| piece.clone().unwrap()).collect::<Vec<_>>(), state[1][..CHUNK]);
    }
}
