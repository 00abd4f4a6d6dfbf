//! How many bytes one synchronisation costs, by formula. Benchmarks report counters of the transport and compare them with this.

/// Bytes of one f32 on the wire.
const BYTES_PER_ELEMENT: u64 = 4;

/// Bytes that one worker hands to the reduction at one synchronisation: one f32 for each of `parameters`.
///
/// A worker pays this once in every [`Method::inner_steps`](crate::Method::inner_steps) steps.
#[must_use]
pub fn payload_bytes(parameters: u64) -> u64 {
    parameters * BYTES_PER_ELEMENT
}

/// Bytes that one of `workers` workers sends at one synchronisation, as the mean over the workers; it receives as many.
///
/// In a direct reduce-scatter and all-gather a worker that owns the share s of the parameters sends all the rest to their
/// owners, `(1 - s)` of the payload, and then its own sum to `K - 1` others, `(K - 1) s`. The mean share is `1 / K`, so the mean
/// is `2 (K - 1) / K` payloads, as in a ring. One worker alone sends nothing.
#[must_use]
pub fn wire_bytes_per_worker(parameters: u64, workers: u32) -> f64 {
    let workers = f64::from(workers.max(1));
    2.0 * (workers - 1.0) / workers * payload_bytes(parameters) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn four_workers_send_one_and_a_half_payloads() {
        assert_eq!(payload_bytes(115_008), 460_032);
        assert!((wire_bytes_per_worker(115_008, 4) - 690_048.0).abs() < 1e-6);
    }

    #[test]
    fn a_lone_worker_sends_nothing() {
        assert!(wire_bytes_per_worker(115_008, 1).abs() < f64::EPSILON);
    }

    proptest! {
        #[test]
        fn the_mean_is_what_the_workers_send_however_the_shards_are_cut(cuts in prop::collection::vec(0u64..1_000_000, 1..16)) {
            let workers = cuts.len() as u64;
            let parameters = cuts.iter().sum::<u64>();
            let sent: u64 = cuts.iter().map(|shard| payload_bytes(parameters - shard) + payload_bytes(shard * (workers - 1))).sum();
            let mean = sent as f64 / workers as f64;
            prop_assert!((mean - wire_bytes_per_worker(parameters, workers as u32)).abs() <= 1e-9 * mean.max(1.0));
        }
    }
}
