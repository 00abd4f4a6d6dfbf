//! The least time that a reduction can take over given links.
//!
//! Every peer sends and receives its shard's share and the others': with shards weighted by bandwidth all links end together,
//! and no schedule does better (`T* = max(S / b_min, 2 (N - 1) S / sum b)`, two latencies for the two halves).

use std::time::Duration;

use super::case::{Case, Codec};
use crate::units::FRAMING;

/// Bytes of `elements` f32 values as `codec` writes them, block scales included.
fn coded_bytes(codec: Codec, elements: u64) -> u64 {
    codec.written().encoded_len(elements as usize) as u64
}

/// Seconds to reduce `bytes` per peer over links of `rates` (bits per second each way, one per peer).
fn transfer(bytes: f64, rates: &[f64]) -> f64 {
    let bits = 8.0 * bytes;
    let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let others = rates.len().saturating_sub(1) as f64;
    (bits / slowest).max(2.0 * others * bits / rates.iter().sum::<f64>())
}

/// The least time of one operation of `case`; none where its links are not shaped.
pub(crate) fn least(case: &Case) -> Option<Duration> {
    if case.rates.is_empty() && case.round_trip.is_none() {
        return None;
    }
    let rates: Vec<f64> = case.rates.iter().map(|rate| rate.0 as f64).collect();
    let coded = case.tensors as u64 * coded_bytes(case.codec, case.elements_per_tensor());
    let seconds = if rates.is_empty() { 0.0 } else { FRAMING * transfer(coded as f64, &rates) };
    // Two latencies of one way each: shards out, results back.
    Some(Duration::from_secs_f64(seconds) + case.round_trip.map_or(Duration::ZERO, |round_trip| round_trip.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::collective::case::tests::shaped;

    fn near(found: f64, recorded: f64) {
        assert!((found - recorded).abs() < recorded * 0.005, "{found} is not {recorded}");
    }

    /// Rows of the recorded measurements, whose theory has no framing.
    #[test]
    fn the_formula_gives_the_recorded_rows() {
        let mebibyte = 1_048_576.0;
        near(transfer(16.0 * mebibyte, &[200e6; 4]), 1.007);
        near(transfer(16.0 * mebibyte, &[200e6; 2]), 0.671);
        near(transfer(mebibyte, &[200e6; 4]), 0.063);
        near(transfer(64.0 * mebibyte, &[1e9; 4]), 0.805);
        near(transfer(16.0 * mebibyte, &[200e6, 200e6, 200e6, 50e6]), 2.68);
    }

    #[test]
    fn framing_and_latency_come_on_top() {
        near(least(&shaped("16MiB", "200mbit", None)).unwrap().as_secs_f64(), 1.007 * 1.046);
        near(least(&shaped("16MiB", "200mbit", Some("100ms"))).unwrap().as_secs_f64(), 1.007 * 1.046 + 0.1);
        let unshaped = Case { rates: Vec::new(), ..shaped("16MiB", "200mbit", None) };
        assert_eq!(least(&unshaped), None);
    }

    #[test]
    fn a_codec_divides_the_bytes_and_its_scales_count() {
        assert_eq!(coded_bytes(Codec::F32, 1024), 4096);
        assert_eq!(coded_bytes(Codec::Bf16, 1024), 2048);
        // Lowest value and step of a block of 1,024, f32 each.
        assert_eq!(coded_bytes(Codec::U8, 2048), 2048 + 2 * 8);
        // The same, and two bytes for each group of 32.
        assert_eq!(coded_bytes(Codec::U4, 1024), 512 + 68);
    }
}
