//! Shards of one reduction: which peer reduces which part of the vector.
//!
//! In a direct all-reduce every owner receives its contiguous shard from all others, adds the copies in slot order, and sends
//! the mean to all. Shards are weighted so that the links finish together. Contributors own nothing: they send everything and
//! receive everything, and reduce nothing.

use std::ops::Range;

use crate::codec::Codec;

/// Elements in one block; receiving, adding and sending overlap by blocks (256 KiB).
pub const BLOCK: usize = 65_536;

/// Elements at whose multiples shards begin, if the codec does not ask for more (one cache line of f32).
const LINE: usize = 16;

/// Bandwidth beyond which links count as equal: a terabyte a second. It keeps all products within 128 bits.
const FASTEST: u64 = 1 << 40;

/// Why a vector cannot be divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// All are contributors, or there is nobody.
    #[error("no peer to own a shard")]
    NoOwners,
    /// A bandwidth of zero.
    #[error("peer {peer} has no bandwidth")]
    Bandwidth {
        /// Position of the peer in slot order.
        peer: usize,
    },
}

/// Divides `elements` into one range per peer, in slot order, as equal as alignment allows.
///
/// The ranges cover `0..elements` without gap or overlap; each starts at a multiple of 16 elements or is empty. Empty without peers.
#[must_use]
pub fn divide(elements: usize, peers: usize) -> Vec<Range<usize>> {
    cut(elements, &vec![1; peers], LINE)
}

/// Divides `elements` among those peers that own shards, so that the slowest link is done as early as can be.
///
/// `bandwidth` is that of each peer's link in slot order, in bytes per second, the same both ways; none for a contributor.
/// The ranges are in slot order and cover `0..elements` without gap or overlap. Each starts at a multiple of 16 elements, or of
/// the codec's grain, so that no block of the codec has two owners and values do not depend on the division.
///
/// With N peers, of which M own shards, a peer that owns the fraction f of S bytes sends its copies of the rest, `S(1 - f)`, and
/// its own shard to all others, `S f (N - 1)`; it receives as much. That load, `S(1 + (N - 2) f)`, takes no longer than T on a
/// link of bandwidth b if `f <= (T b / S - 1) / (N - 2)`. The least T for which all these are not negative and make at least
/// one is `max(S / min b, (N + M - 2) S / sum b)`: either the slowest link is busy with what nobody can take from it, or all
/// end together. So a slow peer owns less than its part of the bandwidth, and may own nothing.
///
/// # Errors
/// [`ShardError::NoOwners`] if all are contributors, [`ShardError::Bandwidth`] names the first owner without bandwidth.
pub fn weighted(elements: usize, bandwidth: &[Option<u64>], codec: Codec) -> Result<Vec<Range<usize>>, ShardError> {
    if let Some(peer) = bandwidth.iter().position(|bandwidth| *bandwidth == Some(0)) {
        return Err(ShardError::Bandwidth { peer });
    }
    let weights = weights(bandwidth).ok_or(ShardError::NoOwners)?;
    Ok(cut(elements, &weights, LINE.max(codec.grain())))
}

/// Bandwidths of which those that nearly equal the fastest do so: what was measured is not exact, and shards that follow every
/// reading are never even.
#[must_use]
pub fn evened(bandwidth: Vec<Option<u64>>) -> Vec<Option<u64>> {
    let fastest = bandwidth.iter().flatten().copied().max().unwrap_or(0);
    let even = |peer: u64| if u128::from(peer) * 4 >= u128::from(fastest) * 3 { fastest } else { peer };
    bandwidth.into_iter().map(|peer| peer.map(even)).collect()
}

/// What the shards are in proportion to: `T b / S - 1` in whole numbers, so that every machine finds the same. None without owners.
fn weights(bandwidth: &[Option<u64>]) -> Option<Vec<u128>> {
    let owners = || bandwidth.iter().flatten().map(|bandwidth| u128::from((*bandwidth).min(FASTEST)));
    let (sum, slowest) = (owners().sum::<u128>(), owners().min()?);
    let peers = bandwidth.len();
    let pace = (peers + owners().count()).saturating_sub(2) as u128;
    let weight = |bandwidth: u64| {
        let bandwidth = u128::from(bandwidth.min(FASTEST));
        if peers <= 2 {
            // Between two peers every division loads the links alike.
            1
        } else if sum >= pace * slowest {
            bandwidth - slowest
        } else {
            pace * bandwidth - sum
        }
    };
    Some(bandwidth.iter().map(|peer| peer.map_or(0, weight)).collect())
}

/// Cuts in proportion to weights, of which one at least is not zero, at multiples of `grain`.
fn cut(elements: usize, weights: &[u128], grain: usize) -> Vec<Range<usize>> {
    let whole: u128 = weights.iter().sum();
    let grains = elements.div_ceil(grain) as u128;
    let mut part = 0;
    let mut start = 0;
    let mut next = |weight: &u128| {
        part += weight;
        let end = ((grains * part / whole) as usize).saturating_mul(grain).min(elements);
        std::mem::replace(&mut start, end)..end
    };
    weights.iter().map(&mut next).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEGA: u64 = 1_000_000;

    fn lengths(shards: &[Range<usize>]) -> Vec<usize> {
        shards.iter().map(Range::len).collect()
    }

    fn of(bandwidth: &[u64]) -> Vec<Option<u64>> {
        bandwidth.iter().copied().map(Some).collect()
    }

    #[test]
    fn equal_peers_own_equal_shards() {
        assert_eq!(divide(64, 4), [0..16, 16..32, 32..48, 48..64]);
        assert_eq!(divide(10, 2), [0..0, 0..10]);
        assert!(divide(10, 0).is_empty());
        for peers in 1..9 {
            assert_eq!(weighted(100_000, &of(&vec![7 * MEGA; peers]), Codec::F32), Ok(divide(100_000, peers)));
        }
    }

    #[test]
    fn a_peer_that_is_slower_than_its_own_copy_allows_owns_nothing() {
        // Three links of 200 and one of 50 Mbit/s: the slow one needs S / 50 for its copies alone, more than 6 S / 650.
        let shards = weighted(3 * 4096, &of(&[25 * MEGA, 25 * MEGA, 25 * MEGA, 6_250_000]), Codec::F32).unwrap();
        assert_eq!(lengths(&shards), [4096, 4096, 4096, 0]);
    }

    #[test]
    fn links_of_nearly_one_speed_end_together() {
        // Loads 1 + 2 f of 5 + 5 + 5 + 4 are 6/19 of each bandwidth: f = (6 b / 19 - 1) / 2 is 11/38 and 5/38.
        let shards = weighted(38 * 1024, &of(&[5, 5, 5, 4]), Codec::UInt8).unwrap();
        assert_eq!(lengths(&shards), [11 * 1024, 11 * 1024, 11 * 1024, 5 * 1024]);
    }

    #[test]
    fn between_two_peers_the_division_is_equal() {
        assert_eq!(lengths(&weighted(64, &of(&[1, 1000]), Codec::Bf16).unwrap()), [32, 32]);
        assert_eq!(lengths(&weighted(64, &[None, Some(1)], Codec::Bf16).unwrap()), [0, 64]);
    }

    #[test]
    fn three_quarters_of_the_fastest_is_as_fast() {
        assert_eq!(evened(vec![Some(75), None, Some(100), Some(74)]), [Some(100), None, Some(100), Some(74)]);
        assert!(evened(Vec::new()).is_empty());
    }

    #[test]
    fn contributors_own_nothing() {
        let shards = weighted(96, &[Some(9), None, Some(9), None, Some(9)], Codec::F32).unwrap();
        assert_eq!(lengths(&shards), [32, 0, 32, 0, 32]);
    }

    #[test]
    fn a_block_of_the_codec_has_one_owner_however_small_the_vector() {
        let shards = |elements, codec| lengths(&weighted(elements, &of(&[8, 8, 8, 8]), codec).unwrap());
        assert_eq!(shards(128, Codec::F32), [32, 32, 32, 32]);
        assert_eq!(shards(128, Codec::UInt8), [0, 0, 0, 128]);
        assert_eq!(shards(3000, Codec::UInt4), [0, 1024, 1024, 952]);
    }

    #[test]
    fn who_cannot_own_is_named() {
        assert_eq!(weighted(1, &[], Codec::F32), Err(ShardError::NoOwners));
        assert_eq!(weighted(1, &[None], Codec::F32), Err(ShardError::NoOwners));
        assert_eq!(weighted(1, &[Some(1), None, Some(0)], Codec::F32), Err(ShardError::Bandwidth { peer: 2 }));
    }

    /// The least time, in seconds, for a vector of `bytes`.
    fn optimum(bytes: f64, owners: &[f64], peers: usize) -> f64 {
        let slowest = owners.iter().copied().fold(f64::INFINITY, f64::min);
        let pace = (peers + owners.len()) as f64 - 2.0;
        (bytes / slowest).max(pace * bytes / owners.iter().sum::<f64>())
    }

    /// The time of the slowest owner's link when the owners have these fractions of the vector.
    fn slowest(bytes: f64, owners: &[f64], peers: usize, fractions: &[f64]) -> f64 {
        let time = |(bandwidth, fraction): (&f64, &f64)| bytes * (1.0 + (peers as f64 - 2.0) * fraction) / bandwidth;
        owners.iter().zip(fractions).map(time).fold(0.0, f64::max)
    }

    /// Links of which at least one owns, from 1 kB/s to 1 TB/s, near each other or far apart.
    fn links() -> impl Strategy<Value = Vec<Option<u64>>> {
        let link = |spread: u32| prop::option::weighted(0.8, (0..=spread, 1000u64..2000).prop_map(|(power, base)| base << power));
        prop_oneof![prop::collection::vec(link(0), 1..20), prop::collection::vec(link(29), 1..20)]
            .prop_filter("an owner", |links| links.iter().any(Option::is_some))
    }

    fn owners(links: &[Option<u64>]) -> Vec<f64> {
        links.iter().flatten().map(|bandwidth| *bandwidth as f64).collect()
    }

    proptest! {
        #[test]
        fn shards_cover_the_vector_once(elements in 0usize..1 << 40, links in links(), equal in 1usize..64) {
            for (codec, grain) in [(Codec::F32, LINE), (Codec::Bf16, LINE), (Codec::UInt8, 1024), (Codec::UInt4, 1024)] {
                for (shards, grain) in [(weighted(elements, &links, codec).unwrap(), grain), (divide(elements, equal), LINE)] {
                    let mut start = 0;
                    for shard in &shards {
                        prop_assert_eq!(shard.start, start);
                        prop_assert!(shard.start % grain == 0 || shard.is_empty());
                        start = shard.end;
                    }
                    prop_assert_eq!(start, elements);
                }
            }
        }

        #[test]
        fn the_slowest_link_is_within_one_block_of_the_optimum(blocks in 1usize..1 << 24, short in 0usize..1024, links in links()) {
            let codec = Codec::UInt8;
            let grain = codec.grain();
            let shards = weighted(blocks * grain - short, &links, codec).unwrap();
            // Of whole blocks, since they cannot be divided.
            let bytes = |elements: usize| codec.encoded_len(elements.next_multiple_of(grain)) as f64;
            let whole = bytes(blocks * grain);
            let best = optimum(whole, &owners(&links), links.len());
            for (link, shard) in links.iter().zip(&shards) {
                let Some(bandwidth) = link else {
                    prop_assert!(shard.is_empty());
                    continue;
                };
                let one_less = bytes(shard.len().saturating_sub(grain));
                let load = whole + (links.len() as f64 - 2.0) * one_less;
                prop_assert!(links.len() == 1 || load / *bandwidth as f64 <= best * (1.0 + 1e-9));
            }
        }

        #[test]
        fn no_division_is_faster_than_the_optimum(links in links(), parts in prop::collection::vec(0.0f64..1.0, 20)) {
            let owners = owners(&links);
            let parts: Vec<_> = parts.into_iter().take(owners.len()).map(|part| part + 1e-9).collect();
            let whole: f64 = parts.iter().sum();
            let fractions: Vec<_> = parts.iter().map(|part| part / whole).collect();
            // A lone peer has no link to be busy with.
            if links.len() > 1 {
                prop_assert!(slowest(1e9, &owners, links.len(), &fractions) >= optimum(1e9, &owners, links.len()) * (1.0 - 1e-9));
            }
        }
    }
}
