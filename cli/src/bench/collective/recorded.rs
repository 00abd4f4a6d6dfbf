//! What others measured elsewhere: PCCL 1.0 and Gloo on one machine with 2 AVX-512 processors, while it had other work.
//!
//! Medians of 8 to 10 operations, two rounds of them where two figures stand; links were shaped by namespaces and a token
//! bucket where each peer sends, as here.

use super::case::{Case, Codec, Lane};

/// Milliseconds of one case, as they were noted; empty where nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Recorded {
    pub(crate) pccl: &'static str,
    pub(crate) gloo: &'static str,
}

/// Peers, bytes, codec, tensors, and rates in Mbit/s (one where all are equal).
type Key = (usize, u64, Codec, usize, &'static [u64]);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// How many cases were recorded.
#[cfg(test)]
pub(crate) const COUNT: usize = RECORDED.len();

const RECORDED: [(Key, &str, &str); 21] = [
    ((2, 4 * KIB, Codec::F32, 1, &[]), "48.1 / 47.9", "0.12 / 0.11"),
    ((4, 4 * KIB, Codec::F32, 1, &[]), "60 / 53", "0.41 / 0.39"),
    ((2, MIB, Codec::F32, 1, &[]), "50.0 / 46.7", "0.48 / 0.68"),
    ((4, MIB, Codec::F32, 1, &[]), "63.7 / 59.9", "1.6 / 2.7"),
    ((2, 64 * MIB, Codec::F32, 1, &[]), "85.7 / 86.3", "66.4 / 76.5"),
    ((3, 64 * MIB, Codec::F32, 1, &[]), "170 / 175", "104 / 107"),
    ((4, 64 * MIB, Codec::F32, 1, &[]), "252 / 221", "126 / 155"),
    ((2, 64 * MIB, Codec::F32, 4, &[]), "152 / 153", ""),
    ((3, 64 * MIB, Codec::F32, 4, &[]), "224 / 251", ""),
    ((4, 64 * MIB, Codec::F32, 4, &[]), "314 / 327", ""),
    ((2, 64 * MIB, Codec::U8, 1, &[]), "123 / 147", ""),
    ((4, 64 * MIB, Codec::U8, 1, &[]), "298 / 351", ""),
    ((2, 256 * MIB, Codec::F32, 1, &[]), "427 / 321", "233 / 320"),
    ((2, 256 * MIB, Codec::F32, 16, &[]), "376 / 392", ""),
    ((4, 16 * MIB, Codec::F32, 1, &[200]), "1103", "1067"),
    ((4, 16 * MIB, Codec::F32, 8, &[200]), "1200", ""),
    ((4, 16 * MIB, Codec::U8, 1, &[200]), "364", ""),
    ((2, 16 * MIB, Codec::F32, 1, &[200]), "754", "715"),
    ((4, MIB, Codec::F32, 1, &[200]), "81", "67"),
    ((4, 64 * MIB, Codec::F32, 1, &[1000]), "1012", "851"),
    ((4, 16 * MIB, Codec::F32, 1, &[200, 200, 200, 50]), "4390", "4310"),
];

/// What was recorded of a case; nothing of most.
pub(crate) fn of(case: &Case) -> Recorded {
    if case.round_trip.is_some() || case.loss.is_some() || case.lane != Lane::default() || case.tls {
        return Recorded::default();
    }
    let mut rates: Vec<u64> = case.rates.iter().map(|rate| rate.0 / 1_000_000).collect();
    if rates.iter().all(|rate| Some(rate) == rates.first()) {
        rates.truncate(1);
    }
    let found = RECORDED.iter().find(|((peers, bytes, codec, tensors, recorded), ..)| {
        (*peers, *bytes, *codec, *tensors, *recorded) == (case.peers, case.bytes, case.codec, case.tensors, rates.as_slice())
    });
    found.map(|(_, pccl, gloo)| Recorded { pccl, gloo }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::collective::case::tests::shaped;

    #[test]
    fn a_case_that_was_recorded_is_found_by_what_it_measures() {
        assert_eq!(of(&shaped("16MiB", "200mbit", None)), Recorded { pccl: "1103", gloo: "1067" });
        assert_eq!(of(&shaped("16MiB", "200mbit", Some("20ms"))), Recorded::default());
        assert_eq!(of(&shaped("16MiB", "100mbit", None)), Recorded::default());
    }
}
