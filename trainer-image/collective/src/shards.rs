//! Shards of one reduction: which peer reduces which part of the vector.
//!
//! In a direct all-reduce every peer owns one contiguous shard: it receives that shard from all others, adds the copies in
//! slot order, and sends the mean back.

use std::ops::Range;

/// Elements in one block; shards start at multiples of it, and receiving, adding and sending overlap by blocks (256 KiB).
pub const BLOCK: usize = 65_536;

/// Elements to which shards of small vectors are aligned (one cache line of f32).
const LINE: usize = 16;

/// Divides `elements` into one range per peer, in slot order, as equal as alignment allows.
///
/// The ranges cover `0..elements` without gap or overlap; each starts at a multiple of 16 elements or is empty. Empty without peers.
#[must_use]
pub fn divide(elements: usize, peers: usize) -> Vec<Range<usize>> {
    let lines = elements.div_ceil(LINE);
    let bound = |peer: usize| ((lines as u128 * peer as u128 / peers as u128) as usize * LINE).min(elements);
    (0..peers).map(|peer| bound(peer)..bound(peer + 1)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_peers_own_equal_shards() {
        assert_eq!(divide(64, 4), [0..16, 16..32, 32..48, 48..64]);
        assert_eq!(divide(10, 2), [0..0, 0..10]);
        assert!(divide(10, 0).is_empty());
    }

    proptest! {
        #[test]
        fn shards_cover_the_vector_once(elements in 0usize..1 << 40, peers in 1usize..64) {
            let shards = divide(elements, peers);
            let mut start = 0;
            for shard in &shards {
                prop_assert_eq!(shard.start, start);
                prop_assert!(shard.start % LINE == 0 || shard.is_empty());
                start = shard.end;
            }
            prop_assert_eq!(start, elements);
        }
    }
}
