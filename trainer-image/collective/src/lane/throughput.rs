//! What a peer's links carry: the bytes that others say have arrived, over the stretches of time in which most did.
//!
//! What was given to a connection lies in buffers first, so only arrivals count. A peer that has nothing to send seems slow,
//! so the fastest stretch of the last minute is taken, as BBR does (Cardwell et al. 2016).

use std::collections::VecDeque;

use crate::Millis;

/// Shortest time over which a rate is taken: buckets and buffers on the way let less pass for faster than the link is.
const STRETCH: Millis = 400;
/// How long a stretch counts, while newer ones come.
const MEMORY: Millis = 60_000;

/// Bytes that arrived, and the rate of the fastest stretch.
#[derive(Debug, Default)]
pub(super) struct Throughput {
    total: u64,
    /// Times with the bytes that had arrived by then: the last one that is a stretch old, and all after it.
    marks: VecDeque<(Millis, u64)>,
    /// Rates in bytes per second by the time of their end, falling: each is the fastest of those after it.
    fastest: VecDeque<(Millis, u64)>,
}

impl Throughput {
    /// So many more bytes have arrived, as is known `now`.
    pub(super) fn arrived(&mut self, bytes: u64, now: Millis) {
        // A receiver may say anything.
        self.total = self.total.saturating_add(bytes);
        self.marks.push_back((now, self.total));
        while self.marks.get(1).is_some_and(|(time, _)| now.saturating_sub(*time) >= STRETCH) {
            self.marks.pop_front();
        }
        let Some((time, before)) = self.marks.front() else { return };
        let stretch = now.saturating_sub(*time);
        // A longer one had a pause in it.
        if !(STRETCH..2 * STRETCH).contains(&stretch) {
            return;
        }
        let rate = (self.total - before).saturating_mul(1000) / stretch;
        while self.fastest.back().is_some_and(|(_, slower)| *slower <= rate) {
            self.fastest.pop_back();
        }
        self.fastest.push_back((now, rate));
        while self.fastest.front().is_some_and(|(time, _)| now.saturating_sub(*time) > MEMORY) {
            self.fastest.pop_front();
        }
    }

    /// Bytes per second of the fastest stretch; none before there was one.
    pub(super) fn rate(&self) -> Option<u64> {
        self.fastest.front().map(|(_, rate)| *rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many bytes in every 25 ms of a stretch of time.
    fn steady(throughput: &mut Throughput, time: std::ops::Range<Millis>, bytes: u64) {
        time.step_by(25).for_each(|now| throughput.arrived(bytes, now));
    }

    #[test]
    fn whatever_is_said_to_have_arrived_breaks_nothing() {
        let mut throughput = Throughput::default();
        steady(&mut throughput, 0..2_000, u64::MAX / 2);
        assert!(throughput.rate().is_some());
    }

    #[test]
    fn a_steady_stream_has_its_rate_and_little_has_none() {
        let mut throughput = Throughput::default();
        steady(&mut throughput, 0..400, 1000);
        assert_eq!(throughput.rate(), None);
        steady(&mut throughput, 400..1000, 1000);
        assert_eq!(throughput.rate(), Some(40_000));
    }

    #[test]
    fn a_pause_and_a_slower_end_do_not_make_a_link_slow() {
        let mut throughput = Throughput::default();
        steady(&mut throughput, 0..1000, 1000);
        steady(&mut throughput, 1000..2000, 10);
        steady(&mut throughput, 9000..9500, 10);
        assert_eq!(throughput.rate(), Some(40_000));
    }

    #[test]
    fn a_link_that_became_slow_is_known_to_be_after_a_minute() {
        let mut throughput = Throughput::default();
        steady(&mut throughput, 0..1000, 1000);
        steady(&mut throughput, 1000..61_500, 10);
        assert_eq!(throughput.rate(), Some(400));
    }
}
