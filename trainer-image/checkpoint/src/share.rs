//! What each worker writes of a checkpoint, and how the shares become one.
//!
//! All workers hold the same replicated vectors, so each writes some of their pieces; its private vectors it writes alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::manifest::{ElementType, MOST_SHARDS, Piece, PrivateState, Vector};
use crate::shard;
use crate::write::Cut;

/// What one worker has written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// Of the vectors that all hold.
    pub replicated: Vec<Part>,
    /// Of the files.
    pub files: Vec<Part>,
    /// All of its own, where it has any.
    pub private: Option<PrivateState>,
    /// Inner steps of each worker in all committed rounds.
    pub steps: u64,
    /// Tokens of one sample.
    pub tokens_per_sample: u64,
}

/// Some pieces of a vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// The vector's name.
    pub name: String,
    /// How its elements are written.
    pub element_type: ElementType,
    /// All of its elements.
    pub elements: u64,
    /// By their position in the vector.
    pub pieces: BTreeMap<usize, Piece>,
}

/// Why shares are no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Nobody has written this.
    #[error("nobody has written piece {piece} of {vector}")]
    Incomplete {
        /// The vector.
        vector: String,
        /// Position in it.
        piece: usize,
    },
    /// Two workers hold other values, or other vectors.
    #[error("workers hold other values of {0}")]
    Unlike(String),
    /// No manifest has room for its pieces.
    #[error("{vector} has {elements} elements: too many")]
    TooLarge {
        /// The vector.
        vector: String,
        /// Its elements.
        elements: u64,
    },
    /// There is none.
    #[error("nobody has written anything")]
    Empty,
}

/// Which pieces of all vectors that all workers hold are one worker's to write: those of `turn` of `writers`.
#[must_use]
pub fn own(cuts: &[Cut], rounds: u64, turn: usize, writers: usize) -> Vec<(usize, usize)> {
    let all = cuts.iter().enumerate().flat_map(|(vector, cut)| (0..cut.pieces().len()).map(move |piece| (vector, piece)));
    let mine = |(index, _): &(usize, (usize, usize))| shard::uploader(*index, rounds, writers) == turn;
    all.enumerate().filter(mine).map(|(_, place)| place).collect()
}

/// What all workers have written together.
#[derive(Debug, Clone, PartialEq)]
pub struct Whole {
    /// In the order of the state.
    pub replicated: Vec<Vector>,
    /// By ascending slot.
    pub private: Vec<PrivateState>,
    /// In the order in which they are given.
    pub files: Vec<Vector>,
    /// Inner steps of each worker in all committed rounds.
    pub steps: u64,
    /// Tokens of one sample.
    pub tokens_per_sample: u64,
}

/// Puts the shares together.
///
/// # Errors
/// [`ShareError`]: what is missing, or does not fit.
pub fn assemble(shares: impl IntoIterator<Item = Share>) -> Result<Whole, ShareError> {
    let mut shares = shares.into_iter();
    let mut whole = shares.next().ok_or(ShareError::Empty)?;
    let mut private: Vec<_> = whole.private.take().into_iter().collect();
    for share in shares {
        join(&mut whole.replicated, share.replicated)?;
        join(&mut whole.files, share.files)?;
        private.extend(share.private);
        whole.steps = whole.steps.max(share.steps);
    }
    private.sort_by_key(|state| state.slot);
    let Share { replicated, files, steps, tokens_per_sample, .. } = whole;
    let vectors = |parts: Vec<Part>| parts.into_iter().map(complete).collect::<Result<_, _>>();
    Ok(Whole { replicated: vectors(replicated)?, private, files: vectors(files)?, steps, tokens_per_sample })
}

fn join(whole: &mut [Part], more: Vec<Part>) -> Result<(), ShareError> {
    let facts = |part: &Part| (part.name.clone(), part.element_type, part.elements);
    if let Some(unlike) = more.iter().enumerate().find(|(index, part)| whole.get(*index).map(facts) != Some(facts(part))) {
        return Err(ShareError::Unlike(unlike.1.name.clone()));
    }
    for (part, more) in whole.iter_mut().zip(more) {
        for (index, piece) in more.pieces {
            let written = part.pieces.insert(index, piece.clone());
            // Two copies of one shard are the same values.
            if written.is_some_and(|written| written.shard.first_copy() != piece.shard.first_copy()) {
                return Err(ShareError::Unlike(part.name.clone()));
            }
        }
    }
    Ok(())
}

fn complete(part: Part) -> Result<Vector, ShareError> {
    let Part { name, element_type, elements, mut pieces } = part;
    // No more are made room for than a manifest may name.
    let most = MOST_SHARDS as u64 * shard::LARGEST / element_type.size();
    if elements > most {
        return Err(ShareError::TooLarge { vector: name, elements });
    }
    let lengths = shard::pieces(element_type, elements);
    let piece = |(index, length): (usize, &u64)| {
        let found = pieces.remove(&index).filter(|piece| piece.elements == *length);
        found.ok_or_else(|| ShareError::Incomplete { vector: name.clone(), piece: index })
    };
    let pieces = lengths.iter().enumerate().map(piece).collect::<Result<_, _>>()?;
    Ok(Vector { name, element_type, elements, pieces })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::ShardFile;

    fn cut(name: &str, seed: u8) -> Cut {
        Cut { name: name.into(), element_type: ElementType::U8, values: vec![seed; 1_000].into() }
    }

    /// The share of `turn` of `writers`, as it is written.
    fn share(cuts: &[Cut], turn: usize, writers: usize) -> Share {
        let own = own(cuts, 3, turn, writers);
        let part = |(vector, cut): (usize, &Cut)| {
            let mine = own.iter().filter(|(of, _)| *of == vector);
            let pieces = mine.map(|(_, piece)| (*piece, ShardFile::new(cut.element_type, cut.pieces()[*piece].clone()).piece()));
            Part { name: cut.name.clone(), element_type: cut.element_type, elements: 1_000, pieces: pieces.collect() }
        };
        let slot = turn as u32;
        let private = PrivateState { slot, round: 3, steps: 60, vectors: Vec::new() };
        let replicated = cuts.iter().enumerate().map(part).collect();
        Share { replicated, files: Vec::new(), private: Some(private), steps: 60, tokens_per_sample: 64 }
    }

    fn cuts() -> Vec<Cut> {
        (0..5).map(|index| cut(&format!("v{index}"), index)).collect()
    }

    #[test]
    fn shares_of_all_are_the_whole_and_each_piece_is_written_once() {
        let shares: Vec<_> = (0..3).map(|turn| share(&cuts(), turn, 3)).collect();
        assert_eq!(shares.iter().flat_map(|share| &share.replicated).map(|part| part.pieces.len()).sum::<usize>(), 5);
        let whole = assemble(shares.into_iter().rev()).unwrap();
        assert_eq!(
            whole.replicated.iter().map(|vector| vector.name.as_str()).collect::<Vec<_>>(),
            ["v0", "v1", "v2", "v3", "v4"]
        );
        assert_eq!(whole.private.iter().map(|state| state.slot).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn what_is_missing_or_differs_is_named() {
        let without = |turn: usize| assemble((0..3).filter(|other| *other != turn).map(|turn| share(&cuts(), turn, 3)));
        assert!(matches!(without(1), Err(ShareError::Incomplete { piece: 0, .. })));
        let other = cuts().into_iter().map(|cut| Cut { values: vec![9; 1_000].into(), ..cut }).collect::<Vec<_>>();
        assert!(matches!(assemble([share(&cuts(), 0, 1), share(&other, 0, 1)]), Err(ShareError::Unlike(name)) if name == "v0"));
        assert_eq!(assemble([share(&cuts(), 0, 1), share(&cuts()[1..], 0, 1)]), Err(ShareError::Unlike("v1".into())));
        assert_eq!(assemble([]), Err(ShareError::Empty));
    }

    #[test]
    fn what_two_wrote_counts_once() {
        let twice = assemble([share(&cuts(), 0, 1), share(&cuts(), 0, 1)]).unwrap();
        assert_eq!(twice.replicated.len(), 5);
    }
}
