//! The ledger of training samples: what is dealt to whom, and what was never delivered.
//!
//! Samples are positions of one seeded permutation. Committed positions are a prefix of it, less the holes that lost
//! workers left; holes are dealt again before anything new.

use crate::v1::{Ledger, SampleRange};

/// Most ranges that one member is dealt at once: all members are told which of them it delivers.
pub const MOST_RANGES: usize = 4_096;

/// Deals `wanted` positions that are neither committed nor in `held` (what present members hold), the lowest first.
///
/// Returns ascending disjoint ranges with `wanted` positions in all; fewer where those are of more than [`MOST_RANGES`] ranges.
#[must_use]
pub fn deal(ledger: &Ledger, held: &[SampleRange], wanted: u64) -> Vec<SampleRange> {
    let mut left = wanted;
    let mut dealt = Vec::new();
    for free in free(ledger, held).into_iter().take(MOST_RANGES) {
        if left == 0 {
            break;
        }
        let take = left.min(free.end - free.start);
        dealt.push(SampleRange { start: free.start, end: free.start + take });
        left -= take;
    }
    dealt
}

/// All positions that are neither committed nor in `held`, as ascending disjoint ranges.
pub(crate) fn free(ledger: &Ledger, held: &[SampleRange]) -> Vec<SampleRange> {
    without(&open(ledger, u64::MAX), held)
}

/// The ledger after `delivered` was committed.
#[must_use]
pub fn settle(ledger: &Ledger, delivered: &[SampleRange]) -> Ledger {
    let next = delivered.iter().map(|range| range.end).fold(ledger.next, u64::max);
    Ledger { next, holes: without(&open(ledger, next), delivered) }
}

/// Number of positions in `ranges`.
#[must_use]
pub fn count(ranges: &[SampleRange]) -> u64 {
    ranges.iter().map(|range| range.end.saturating_sub(range.start)).fold(0, u64::saturating_add)
}

/// Whether `ranges` can be what [`deal`] gave: few, none of them empty, ascending and disjoint.
#[must_use]
pub fn is_dealt(ranges: &[SampleRange]) -> bool {
    ranges.len() <= MOST_RANGES
        && ranges.iter().all(|range| range.start < range.end)
        && ranges.is_sorted_by(|one, next| one.end <= next.start)
}

/// Whether every position of `taken` is one of `dealt`, which is ascending and disjoint as [`deal`] gives it.
#[must_use]
pub fn covers(dealt: &[SampleRange], taken: &[SampleRange]) -> bool {
    // The first that does not end before it: others begin after its end, or end before it.
    let around = |range: &SampleRange| dealt.get(dealt.partition_point(|dealt| dealt.end < range.end));
    let within = |range: &SampleRange| around(range).is_some_and(|dealt| dealt.start <= range.start);
    taken.iter().all(|range| range.start <= range.end && within(range))
}

/// Positions below `end` that are not committed.
fn open(ledger: &Ledger, end: u64) -> Vec<SampleRange> {
    let mut open = ledger.holes.clone();
    if ledger.next < end {
        open.push(SampleRange { start: ledger.next, end });
    }
    open
}

/// `ranges` (ascending, disjoint) less every position of `taken`, neighbours joined.
fn without(ranges: &[SampleRange], taken: &[SampleRange]) -> Vec<SampleRange> {
    let mut taken: Vec<&SampleRange> = taken.iter().filter(|range| range.start < range.end).collect();
    taken.sort_by_key(|range| range.start);
    let mut rest: Vec<SampleRange> = Vec::new();
    let mut keep = |start: u64, end: u64| match rest.last_mut() {
        _ if start >= end => {}
        Some(last) if last.end == start => last.end = end,
        _ => rest.push(SampleRange { start, end }),
    };
    for range in ranges {
        let mut start = range.start;
        for taken in &taken {
            if taken.end > start && taken.start < range.end {
                keep(start, taken.start);
                start = start.max(taken.end);
            }
        }
        keep(start, range.end);
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> SampleRange {
        SampleRange { start, end }
    }

    #[test]
    fn members_hold_neighbouring_ranges() {
        let ledger = Ledger { next: 100, holes: vec![] };
        assert_eq!(deal(&ledger, &[], 8), [range(100, 108)]);
        assert_eq!(deal(&ledger, &[range(100, 108)], 8), [range(108, 116)]);
    }

    #[test]
    fn what_a_lost_worker_held_is_dealt_again_first() {
        let ledger = settle(&Ledger::default(), &[range(0, 8), range(16, 24)]);
        assert_eq!(ledger, Ledger { next: 24, holes: vec![range(8, 16)] });
        assert_eq!(deal(&ledger, &[], 12), [range(8, 16), range(24, 28)]);
        assert_eq!(settle(&ledger, &[range(8, 16), range(24, 28)]), Ledger { next: 28, holes: vec![] });
    }

    #[test]
    fn what_is_in_one_of_the_ranges_is_covered() {
        let dealt = [range(4, 8), range(8, 10), range(20, 30)];
        for within in [range(4, 8), range(5, 6), range(9, 10), range(20, 21), range(29, 30)] {
            assert!(covers(&dealt, &[within]), "{within:?}");
        }
        for outside in [range(3, 5), range(7, 9), range(10, 20), range(25, 31), range(0, u64::MAX), range(6, 5)] {
            assert!(!covers(&dealt, &[outside]), "{outside:?}");
        }
        assert!(!covers(&[], &[range(0, 1)]));
    }

    #[test]
    fn nobody_is_dealt_more_ranges_than_others_can_be_told() {
        let holes = (0..2 * MOST_RANGES as u64).map(|index| range(2 * index, 2 * index + 1)).collect();
        let dealt = deal(&Ledger { next: 1 << 20, holes }, &[], u64::MAX);
        assert_eq!((dealt.len(), is_dealt(&dealt)), (MOST_RANGES, true));
        let more = [&dealt[..], &[range(1 << 30, 1 << 31)]].concat();
        assert!(!is_dealt(&more));
    }

    proptest! {
        #[test]
        fn committed_positions_are_a_prefix_less_its_holes(rounds in prop::collection::vec(prop::collection::vec((1u64..9, any::<bool>()), 1..5), 1..30)) {
            let mut ledger = Ledger::default();
            let mut committed = BTreeSet::new();
            for members in rounds {
                let mut held: Vec<SampleRange> = Vec::new();
                let mut delivered = Vec::new();
                for (wanted, delivers) in members {
                    let dealt = deal(&ledger, &held, wanted);
                    prop_assert_eq!(count(&dealt), wanted);
                    prop_assert!(is_dealt(&dealt));
                    held.extend(dealt.iter().copied());
                    if delivers {
                        for position in dealt.iter().flat_map(|range| range.start..range.end) {
                            prop_assert!(committed.insert(position), "{} was committed twice", position);
                        }
                        delivered.extend(dealt);
                    }
                }
                ledger = settle(&ledger, &delivered);
                let holes: BTreeSet<u64> = ledger.holes.iter().flat_map(|range| range.start..range.end).collect();
                prop_assert!(committed.is_disjoint(&holes));
                prop_assert_eq!(committed.len() + holes.len(), ledger.next as usize);
            }
        }
    }
}
