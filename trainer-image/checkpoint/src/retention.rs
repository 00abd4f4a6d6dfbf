//! Which checkpoints stay: the newest ones, and each n-th for ever.

use std::collections::BTreeSet;

use crate::Place;

/// How many checkpoints are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many stay; at least one does.
    pub keep: usize,
    /// Checkpoints of rounds that are a multiple of this stay for ever.
    pub keep_every: Option<u64>,
}

impl Retention {
    /// Those of `places` that are kept no longer.
    #[must_use]
    pub fn expired(&self, places: &BTreeSet<Place>) -> BTreeSet<Place> {
        let kept_for_ever = |place: &&Place| self.keep_every.is_some_and(|every| every > 0 && place.round.is_multiple_of(every));
        places.iter().rev().skip(self.keep.max(1)).filter(|place| !kept_for_ever(place)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(rounds: &[u64]) -> BTreeSet<Place> {
        rounds.iter().map(|round| Place { lineage: 1, term: 1, epoch: 1, round: *round }).collect()
    }

    #[test]
    fn the_newest_stay_and_each_nth_for_ever() {
        let all = places(&[5, 10, 15, 20, 25, 30]);
        let retention = Retention { keep: 2, keep_every: Some(10) };
        assert_eq!(retention.expired(&all), places(&[5, 15]));
        assert_eq!(Retention { keep: 2, keep_every: None }.expired(&all), places(&[5, 10, 15, 20]));
    }

    #[test]
    fn one_always_stays() {
        let all = places(&[5, 10]);
        assert_eq!(Retention { keep: 0, keep_every: Some(0) }.expired(&all), places(&[5]));
        assert_eq!(Retention { keep: 9, keep_every: None }.expired(&all), places(&[]));
    }

    #[test]
    fn newer_is_by_term_before_round() {
        let old = Place { lineage: 1, term: 1, epoch: 1, round: 40 };
        let new = Place { lineage: 1, term: 2, epoch: 5, round: 38 };
        assert_eq!(Retention { keep: 1, keep_every: None }.expired(&[old, new].into()), [old].into());
    }
}
