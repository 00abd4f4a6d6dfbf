//! One line of the benchmark: a case, who did it, and what it took.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::case::{Case, Codec, Path};
use super::links::Kind;
use super::measure::Measured;
use super::theory;
use crate::units::Rate;

/// Who reduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Implementation {
    /// Ours: sidecars, votes, and a commit.
    Atoll,
    /// The plain reduction in shared memory.
    Reference,
    /// PyTorch's CPU backend.
    Gloo,
}

impl Implementation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Atoll => "atoll",
            Self::Reference => "reference",
            Self::Gloo => "gloo",
        }
    }

    /// How its ranks meet, where that is no choice.
    pub(crate) fn path(self) -> Option<Path> {
        match self {
            Self::Atoll => None,
            Self::Reference => Some(Path::Shm),
            Self::Gloo => Some(Path::Tcp),
        }
    }

    /// Copies of one peer's tensors that all its peers hold together, roughly.
    pub(crate) fn copies(self, peers: usize) -> u64 {
        let peers = peers as u64;
        match self {
            // Input and output of each, and the sidecars' buffers.
            Self::Atoll => 4 * peers,
            Self::Reference => 2 * peers + 1,
            Self::Gloo => 2 * peers,
        }
    }
}

/// The other implementation that can be measured instead of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Other {
    /// Gloo, through PyTorch
    Gloo,
}

/// What is printed of one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    pub(crate) case: String,
    pub(crate) implementation: Implementation,
    pub(crate) peers: usize,
    /// Of each peer's tensors, all together.
    pub(crate) bytes: u64,
    pub(crate) path: Path,
    pub(crate) codec: Codec,
    pub(crate) tensors: usize,
    pub(crate) concurrent: usize,
    pub(crate) tls: bool,
    /// How links are shaped.
    pub(crate) links: Kind,
    /// Of each peer's link.
    pub(crate) rates: Vec<Rate>,
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) iterations: usize,
    /// Median over iterations of the slowest rank's time, of all tensors together.
    pub(crate) p50_ms: f64,
    pub(crate) min_ms: f64,
    /// Bytes of one peer over the median time.
    pub(crate) algbw_bytes_per_second: f64,
    /// Of one peer: its rank and its sidecar.
    pub(crate) cpu_ms_per_operation: f64,
    /// Of the process that had most.
    pub(crate) peak_rss_bytes: u64,
    /// Null without sidecars.
    pub(crate) sidecar_pss_above_start_bytes: Option<u64>,
    /// Per operation; null without coordinator.
    pub(crate) control_messages_per_peer: Option<f64>,
    /// Null where links are not shaped.
    pub(crate) theory_ms: Option<f64>,
}

impl Line {
    pub(crate) fn new(case: &Case, implementation: Implementation, links: Kind, measured: &Measured) -> Self {
        let mut times = measured.times.clone();
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        Self {
            case: case.to_string(),
            implementation,
            peers: case.peers,
            bytes: case.bytes,
            path: case.path,
            codec: case.codec,
            tensors: case.tensors,
            concurrent: case.concurrent,
            tls: case.tls,
            links,
            rates: case.rates.clone(),
            rtt_ms: case.round_trip.map(|round_trip| milliseconds(round_trip.0)),
            iterations: times.len(),
            p50_ms: milliseconds(median),
            min_ms: milliseconds(times.first().copied().unwrap_or_default()),
            algbw_bytes_per_second: case.bytes as f64 / median.as_secs_f64(),
            cpu_ms_per_operation: milliseconds(measured.cpu),
            peak_rss_bytes: measured.peak_rss_bytes,
            sidecar_pss_above_start_bytes: measured.sidecar_pss_above_start_bytes,
            control_messages_per_peer: measured.control_messages_per_peer,
            theory_ms: theory::least(case).map(milliseconds),
        }
    }

    /// One JSON object.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The figures in words.
    pub(crate) fn text(&self) -> String {
        let theory = self.theory_ms.map_or(String::new(), |theory| format!(", least {theory:.1} ms"));
        let links = if self.links == Kind::None { String::new() } else { format!(", links by {}", self.links) };
        let pss = self
            .sidecar_pss_above_start_bytes
            .map_or(String::new(), |bytes| format!(", sidecar {} MiB above its start", bytes >> 20));
        format!(
            "{} {}: median {} ms, least of {} {} ms, {}/s, CPU {} ms per peer, peak {} MiB{pss}{theory}{links}",
            self.implementation.name(),
            self.case,
            short(self.p50_ms),
            self.iterations,
            short(self.min_ms),
            rate(self.algbw_bytes_per_second),
            short(self.cpu_ms_per_operation),
            self.peak_rss_bytes >> 20,
        )
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Three digits that count.
pub(crate) fn short(figure: f64) -> String {
    let decimals = if figure < 10.0 { 2 + usize::from(figure < 1.0) } else { usize::from(figure < 100.0) };
    format!("{figure:.decimals$}")
}

fn rate(bytes_per_second: f64) -> String {
    match bytes_per_second {
        small if small < 1e6 => format!("{:.0} kB", small / 1e3),
        middle if middle < 1e9 => format!("{:.0} MB", middle / 1e6),
        large => format!("{:.2} GB", large / 1e9),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bench::collective::case::tests::shaped;

    /// A line of four peers at 200 Mbit, 16 MiB, whose median is this.
    pub(crate) fn line(implementation: Implementation, p50: Duration) -> Line {
        let measured = Measured {
            times: vec![p50 * 2, p50, p50 / 2],
            cpu: Duration::from_millis(30),
            peak_rss_bytes: 40 << 20,
            sidecar_pss_above_start_bytes: Some(1 << 20),
            control_messages_per_peer: Some(6.0),
        };
        Line::new(&shaped("16MiB", "200mbit", None), implementation, Kind::Namespaces, &measured)
    }

    #[test]
    fn a_line_has_the_median_and_the_least_of_its_iterations() {
        let line = line(Implementation::Atoll, Duration::from_millis(1_070));
        assert_eq!((line.p50_ms, line.min_ms, line.iterations), (1_070.0, 535.0, 3));
        assert!((line.algbw_bytes_per_second - 16_777_216.0 / 1.07).abs() < 1.0);
        let json: serde_json::Value = serde_json::from_str(&line.json()).unwrap();
        assert_eq!(json["implementation"], "atoll");
        assert_eq!(json["links"], "namespaces");
        assert_eq!(json["rates"][3], "200mbit");
        assert!((json["theoryMs"].as_f64().unwrap() - 1_053.0).abs() < 1.0);
    }

    #[test]
    fn figures_are_written_with_three_digits() {
        assert_eq!([0.0123, 4.567, 66.44, 1070.2].map(short), ["0.012", "4.57", "66.4", "1070"]);
    }
}
