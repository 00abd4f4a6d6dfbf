//! One donor of a repair: how fast it is, how much it may owe at a time, and whether it still delivers.

use super::manifest::CHUNK;
use crate::Millis;

/// Bytes that a donor has to deliver within the repair's patience; DESIGN's block.
const BLOCK: u64 = 1 << 18;
/// Seconds of its own bandwidth that a donor may owe: more than any round trip, and what a repair waits for it at the end.
const HORIZON: f64 = 1.0;
/// Shortest time over which a bandwidth is measured.
const SAMPLE: Millis = 200;
/// Bandwidth of a donor of whom nothing is known, bytes per second; the first second replaces it.
const UNKNOWN: f64 = 8.0 * CHUNK as f64;

#[derive(Debug)]
pub(super) struct Source {
    /// Bytes per second: the estimate, then what was measured.
    rate: f64,
    /// Requests that are not answered wholly.
    pub(super) requests: usize,
    /// Bytes of chunks that were asked for and not accepted.
    pub(super) in_flight: u64,
    /// Bytes that were asked for and have not come.
    owed: u64,
    /// Bytes that have come since the measurement began.
    sampled: u64,
    sampled_since: Millis,
    /// Bytes that must come before patience ends, and since when.
    due: u64,
    due_since: Millis,
}

impl Source {
    pub(super) fn new(bandwidth: Option<u64>) -> Self {
        let rate = bandwidth.map_or(UNKNOWN, |bandwidth| bandwidth.max(1) as f64);
        Self { rate, requests: 0, in_flight: 0, owed: 0, sampled: 0, sampled_since: 0, due: 0, due_since: 0 }
    }

    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    pub(super) fn asked(&mut self, bytes: u64, now: Millis) {
        if self.owed == 0 {
            (self.sampled, self.sampled_since) = (0, now);
            (self.due, self.due_since) = (bytes.min(BLOCK), now);
        }
        self.requests += 1;
        self.in_flight += bytes;
        self.owed += bytes;
    }

    pub(super) fn delivered(&mut self, bytes: u64, now: Millis) {
        self.owed = self.owed.saturating_sub(bytes);
        self.due = self.due.saturating_sub(bytes);
        if self.due == 0 {
            (self.due, self.due_since) = (self.owed.min(BLOCK), now);
        }
        self.sampled += bytes;
        let elapsed = now.saturating_sub(self.sampled_since);
        if elapsed >= SAMPLE {
            let measured = self.sampled as f64 * 1000.0 / elapsed as f64;
            self.rate = f64::midpoint(self.rate, measured).max(1.0);
            (self.sampled, self.sampled_since) = (0, now);
        }
    }

    /// It owes bytes and delivers them too slowly, or not.
    pub(super) fn is_silent(&self, patience: Millis, now: Millis) -> bool {
        self.owed > 0 && now.saturating_sub(self.due_since) > patience
    }

    /// Nobody could have been heard until `now`.
    pub(super) fn forgive(&mut self, now: Millis) {
        self.due_since = now;
    }

    /// Bytes that it may owe when all donors together deliver `total` bytes per second and may owe `budget`.
    pub(super) fn window(&self, total: f64, budget: u64) -> u64 {
        let share = budget as f64 * (self.rate / total);
        ((self.rate * HORIZON).min(share) as u64).max(2 * CHUNK as u64)
    }

    /// Seconds after which it has delivered what it owes and `bytes` more.
    pub(super) fn seconds(&self, bytes: u64) -> f64 {
        (self.in_flight + bytes) as f64 / self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = CHUNK as u64;

    #[test]
    fn a_wrong_estimate_is_measured_away() {
        let mut source = Source::new(Some(100 * MIB));
        source.asked(16 * MIB, 0);
        for second in 1..=8 {
            source.delivered(2 * MIB, second * 1000);
        }
        assert!((source.rate() / (2 * MIB) as f64 - 1.0).abs() < 0.25, "{}", source.rate());
    }

    #[test]
    fn a_donor_owes_a_second_of_its_bandwidth_or_its_share_of_the_budget() {
        let source = Source::new(Some(10 * MIB));
        assert_eq!(source.window(20.0 * MIB as f64, 100 * MIB), 10 * MIB);
        assert_eq!(source.window(20.0 * MIB as f64, 12 * MIB), 6 * MIB);
        assert_eq!(source.window(20.0 * MIB as f64, MIB), 2 * MIB);
    }

    #[test]
    fn a_donor_that_trickles_is_silent() {
        let mut source = Source::new(None);
        source.asked(MIB, 0);
        for second in 1..=2 {
            source.delivered(BLOCK / 4, second * 1000);
        }
        assert!(!source.is_silent(2000, 2000));
        assert!(source.is_silent(2000, 2001));
        source.delivered(BLOCK / 2, 2001);
        assert!(!source.is_silent(2000, 4001));
    }

    #[test]
    fn a_donor_that_owes_little_has_to_deliver_that() {
        let mut source = Source::new(None);
        source.asked(10, 0);
        source.delivered(10, 1000);
        assert!(!source.is_silent(2000, 1_000_000));
        source.asked(10, 1_000_000);
        assert!(source.is_silent(2000, 1_002_001));
    }
}
