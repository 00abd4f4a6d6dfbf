//! Work divided among threads, in pieces that do not depend on the number of threads.

use rayon::prelude::*;

/// Values that one piece of element-wise work should touch: enough to outweigh handing it to another thread.
const PIECE: usize = 16 * 1024;

/// Rows of `width` values in one piece. A function of the shape alone: partial sums per piece are the same for any number
/// of threads.
pub(super) fn rows_per_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Runs `work` on every piece, on the calling thread alone if the process has one thread or there is one piece.
///
/// Pieces run in any order and must not depend on each other.
pub(crate) fn for_each<T: Send>(pieces: impl ExactSizeIterator<Item = T>, work: impl Fn(T) + Send + Sync) {
    if pieces.len() < 2 || rayon::current_num_threads() == 1 {
        pieces.for_each(work);
    } else {
        pieces.collect::<Vec<_>>().into_par_iter().with_max_len(1).for_each(work);
    }
}
