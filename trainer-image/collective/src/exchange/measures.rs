//! What can be asked of an attempt by those who measure: when its parts were done, and what coding loses.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Exchange, arithmetic};
use crate::codec;
use crate::framing::Kind;

/// Most elements of a contribution of which the loss is measured.
const SAMPLE: usize = 16 * codec::BLOCK;

/// When the newest block of a member came: of its copies, and of its results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Of what it gives to this peer's shard.
    pub copies: Option<Instant>,
    /// Of its own shard, reduced.
    pub results: Option<Instant>,
}

/// What happened when in one attempt on one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instants {
    /// This peer's shard was reduced; none before, and where it has none.
    pub reduced: Option<Instant>,
    /// By slot of the other members.
    pub arrivals: BTreeMap<u32, Arrival>,
}

impl Instants {
    /// A block of the member of `slot` has come whole.
    pub(super) fn came(&mut self, slot: u32, kind: Kind) {
        let arrival = self.arrivals.entry(slot).or_default();
        let instant = if matches!(kind, Kind::Contribution | Kind::Partial) { &mut arrival.copies } else { &mut arrival.results };
        *instant = Some(Instant::now());
    }

    /// Who was waited for last, and for how long after all others had come: of those whose instants are given. None where
    /// fewer than two came.
    #[must_use]
    pub fn last(&self, of: impl Fn(&Arrival) -> Option<Instant>) -> Option<(u32, Duration)> {
        let mut came: Vec<(Instant, u32)> =
            self.arrivals.iter().filter_map(|(slot, arrival)| Some((of(arrival)?, *slot))).collect();
        came.sort_unstable();
        match came[..] {
            [.., (before, _), (last, slot)] => Some((slot, last - before)),
            _ => None,
        }
    }
}

impl Exchange {
    /// What happened when, so far.
    #[must_use]
    pub fn instants(&self) -> Instants {
        self.lock().instants.clone()
    }

    /// The relative error of coding the first 16,384 elements of this peer's contribution, with the residual that is added to
    /// them; none where contributions are not coded.
    #[must_use]
    pub fn coding_error(&self) -> Option<f64> {
        let codec = arithmetic::contribution_codec(&self.plan)?;
        let sample = |bytes: &[u8]| arithmetic::floats(&bytes[..bytes.len().min(SAMPLE * 4)]);
        let residual = self.residual.as_deref().map(sample);
        codec.relative_error(&sample(&self.input), residual.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_to_come_is_named_with_the_time_that_it_alone_took() {
        let begun = Instant::now();
        let at = |milliseconds| Some(begun + Duration::from_millis(milliseconds));
        let came = |copies, results| Arrival { copies, results };
        let arrivals = [(1, came(at(5), at(9))), (2, came(at(30), at(8))), (4, came(at(7), None))].into();
        let instants = Instants { reduced: None, arrivals };
        assert_eq!(instants.last(|arrival| arrival.copies), Some((2, Duration::from_millis(23))));
        assert_eq!(instants.last(|arrival| arrival.results), Some((1, Duration::from_millis(1))));
    }

    #[test]
    fn nobody_is_last_of_one() {
        let mut instants = Instants::default();
        instants.came(1, Kind::Contribution);
        assert_eq!(instants.last(|arrival| arrival.copies), None);
        assert_eq!(instants.last(|arrival| arrival.results), None);
    }
}
