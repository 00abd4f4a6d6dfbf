//! The suite: latency, bandwidth, several tensors at once, and links that are narrow, unequal, or long.
//!
//! Whoever can do a case does it in turn, several times where the case is short, so that what the machine does meanwhile
//! hits all of them; of each the repeat with the middle time is kept.

use anyhow::Result;

use super::case::{Case, CaseError, Codec, Lane, Path, Wanted};
use super::figures::{Implementation, Line};
use super::links::{self, Kind};
use super::{Plan, measure, measured, refusal, too_large};
use crate::say;
use crate::supervision::interrupts::Interrupts;
use crate::units::{Bytes, Loss, Rate, RoundTrip};

/// Least operations of a case.
const LEAST: usize = 5;
/// Operations of a case that takes many seconds for each, because packets are lost.
const LEAST_LOSSY: usize = 3;
/// Times that a case without shaped links is measured.
const REPEATS: usize = 3;

/// A part of the suite, one table each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Latency,
    Bandwidth,
    Concurrent,
    Rates,
    Skewed,
    Secured,
    Delay,
    Loss,
}

impl Section {
    pub(crate) const ALL: [Self; 8] =
        [Self::Latency, Self::Bandwidth, Self::Concurrent, Self::Rates, Self::Skewed, Self::Secured, Self::Delay, Self::Loss];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Latency => "Small tensors on one machine",
            Self::Bandwidth => "Large tensors on one machine",
            Self::Concurrent => "Several tensors at once on one machine",
            Self::Rates => "Links of one rate",
            Self::Skewed => "Links of unequal rates",
            Self::Secured => "With TLS",
            Self::Delay => "Long links, and how much may be on the way",
            Self::Loss => "Links that lose packets, over one connection and several",
        }
    }
}

/// A case, and who is compared on it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Comparison {
    pub(crate) section: Section,
    pub(crate) case: Case,
    pub(crate) implementations: Vec<Implementation>,
}

/// What was measured of a case, at most one line of each implementation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Compared {
    pub(crate) section: Section,
    pub(crate) case: Case,
    pub(crate) lines: Vec<Line>,
}

/// What a table of the suite varies.
struct Row<'a> {
    peers: usize,
    bytes: u64,
    path: Path,
    codec: Codec,
    tensors: usize,
    /// In Mbit/s.
    rates: &'a [u64],
    /// In milliseconds; 0 where links are not delayed.
    round_trip: u64,
    /// Packets lost of a million.
    loss: Option<u64>,
    lane: Lane,
    tls: bool,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const PLAIN: Row<'static> = Row {
    peers: 4,
    bytes: 16 * MIB,
    path: Path::Tcp,
    codec: Codec::F32,
    tensors: 1,
    rates: &[],
    round_trip: 0,
    loss: None,
    lane: Lane { channels: None, window: None },
    tls: false,
};

impl Row<'_> {
    fn compared(self, section: Section) -> Result<Comparison, CaseError> {
        let round_trip = (self.round_trip > 0).then(|| RoundTrip(std::time::Duration::from_millis(self.round_trip)));
        let case = Case::new(Wanted {
            peers: self.peers,
            bytes: Bytes(self.bytes),
            path: self.path,
            codec: self.codec,
            tensors: Some(self.tensors),
            concurrent: Some(self.tensors),
            rates: self.rates.iter().map(|rate| Rate(rate * 1_000_000)).collect(),
            round_trip,
            loss: self.loss.map(Loss),
            lane: self.lane,
            tls: self.tls,
        })?;
        let other = match (self.path, self.codec) {
            (Path::Shm, Codec::F32) => Some(Implementation::Reference),
            // It has no TLS, no lanes to set, and cannot be led through a proxy.
            (Path::Tcp, Codec::F32) if !self.tls && self.lane == Lane::default() => Some(Implementation::Gloo),
            _ => None,
        };
        let implementations = [Implementation::Atoll].into_iter().chain(other).collect();
        Ok(Comparison { section, case, implementations })
    }
}

/// All cases, by section.
///
/// # Errors
/// [`CaseError`] of a row that makes no case.
pub(crate) fn comparisons() -> Result<Vec<Comparison>, CaseError> {
    let both = [Path::Shm, Path::Tcp];
    let mut rows = Vec::new();
    for (path, peers) in both.into_iter().flat_map(|path| [2, 3, 4].map(|peers| (path, peers))) {
        let sized = |bytes| Row { peers, bytes, path, ..PLAIN };
        rows.extend([4 * KIB, 64 * KIB, MIB].map(|bytes| (Section::Latency, sized(bytes))));
        rows.extend([4 * MIB, 64 * MIB, 256 * MIB].map(|bytes| (Section::Bandwidth, sized(bytes))));
        rows.extend([4, 16].map(|tensors| (Section::Concurrent, Row { tensors, ..sized(64 * MIB) })));
    }
    rows.extend([2, 4].map(|peers| (Section::Bandwidth, Row { peers, bytes: 64 * MIB, codec: Codec::U8, ..PLAIN })));
    rows.push((Section::Concurrent, Row { peers: 2, bytes: 256 * MIB, tensors: 16, ..PLAIN }));
    rows.extend([4 * KIB, 64 * MIB].map(|bytes| (Section::Secured, Row { bytes, tls: true, ..PLAIN })));
    rows.extend([Codec::F32, Codec::U8].map(|codec| (Section::Secured, Row { rates: &[200], codec, tls: true, ..PLAIN })));
    let shaped = [
        Row { rates: &[50], ..PLAIN },
        Row { rates: &[200], ..PLAIN },
        Row { rates: &[200], codec: Codec::U8, ..PLAIN },
        Row { rates: &[200], tensors: 8, ..PLAIN },
        Row { rates: &[200], bytes: MIB, ..PLAIN },
        Row { rates: &[200], peers: 2, ..PLAIN },
        Row { rates: &[1000], bytes: 64 * MIB, ..PLAIN },
    ];
    rows.extend(shaped.map(|row| (Section::Rates, row)));
    let skewed = &[200, 200, 200, 50];
    rows.extend([Codec::F32, Codec::U8].map(|codec| (Section::Skewed, Row { rates: skewed, codec, ..PLAIN })));
    rows.extend([20, 100].map(|round_trip| (Section::Delay, Row { rates: &[200], round_trip, ..PLAIN })));
    for (round_trip, window) in [(20, MIB), (100, MIB), (100, 4 * MIB)] {
        let lane = Lane { channels: None, window: Some(Bytes(window)) };
        rows.push((Section::Delay, Row { rates: &[200], round_trip, lane, ..PLAIN }));
    }
    for (round_trip, loss) in [20, 100].into_iter().flat_map(|round_trip| [0, 1_000, 10_000].map(|loss| (round_trip, loss))) {
        // A lane divides blocks of 256 KiB among its connections.
        let lossy = || Row { peers: 2, bytes: 4 * MIB, rates: &[200], round_trip, loss: Some(loss), ..PLAIN };
        rows.push((Section::Loss, lossy()));
        rows.extend([1, 8].map(|channels| {
            let lane = Lane { channels: Some(channels), window: None };
            (Section::Loss, Row { lane, ..lossy() })
        }));
    }
    rows.into_iter().map(|(section, row)| row.compared(section)).collect()
}

/// Leaves out who cannot do a case, and says once why; Gloo from all where something of it is `missing`.
pub(crate) fn able(comparisons: Vec<Comparison>, isolated: bool, missing: Option<&str>) -> Vec<Comparison> {
    let mut said = Vec::new();
    let mut able = |comparison: &Comparison, implementation: Implementation| {
        let kind = links::kind(&comparison.case, isolated);
        let missing = || missing.filter(|_| implementation == Implementation::Gloo).map(str::to_owned);
        let impossible = || links::impossible(kind, isolated);
        let too_large = || too_large(&comparison.case, implementation);
        let Some(reason) =
            refusal(&comparison.case, implementation, kind).or_else(impossible).or_else(missing).or_else(too_large)
        else {
            return true;
        };
        if !said.contains(&reason) {
            say(&format!("not measured: {}: {reason}", implementation.name()));
            said.push(reason);
        }
        false
    };
    let keep = |mut comparison: Comparison| {
        let all = std::mem::take(&mut comparison.implementations);
        comparison.implementations = all.into_iter().filter(|implementation| able(&comparison, *implementation)).collect();
        comparison
    };
    comparisons.into_iter().map(keep).collect()
}

/// Measures all, and gives each line to `hear` when it is kept; none when the user ended it.
///
/// # Errors
/// The first case that fails.
pub(crate) async fn perform(
    comparisons: Vec<Comparison>,
    isolated: bool,
    interrupts: &mut Interrupts,
    mut hear: impl FnMut(&Line),
) -> Result<Option<Vec<Compared>>> {
    let mut compared = Vec::new();
    for Comparison { section, case, implementations } in comparisons {
        let links = links::kind(&case, isolated);
        let repeats = if links == Kind::None { REPEATS } else { 1 };
        let iterations = iterations(&case, repeats);
        let mut repeated: Vec<Vec<Line>> = implementations.iter().map(|_| Vec::new()).collect();
        for _ in 0..repeats {
            for (implementation, lines) in implementations.iter().zip(&mut repeated) {
                let plan = Plan { case: case.clone(), implementation: *implementation, links, iterations };
                match measured(&plan, interrupts).await? {
                    Some(line) => lines.push(line),
                    None => return Ok(None),
                }
            }
        }
        let lines: Vec<Line> = repeated.into_iter().filter_map(middle).collect();
        lines.iter().for_each(&mut hear);
        compared.push(Compared { section, case, lines });
    }
    Ok(Some(compared))
}

/// Operations to time in each repeat.
fn iterations(case: &Case, repeats: usize) -> usize {
    let loses = case.loss.is_some_and(|loss| loss != Loss::NONE);
    if loses { LEAST_LOSSY } else { measure::iterations(case).div_ceil(repeats).max(LEAST) }
}

/// The line with the middle median time.
fn middle(mut lines: Vec<Line>) -> Option<Line> {
    lines.sort_by(|a, b| a.p50_ms.total_cmp(&b.p50_ms));
    let middle = lines.len() / 2;
    lines.into_iter().nth(middle)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::collective::figures::tests::line;
    use crate::bench::collective::recorded;

    #[test]
    fn the_suite_has_every_section_and_no_case_twice() {
        let comparisons = comparisons().unwrap();
        for section in Section::ALL {
            assert!(comparisons.iter().any(|comparison| comparison.section == section), "{section:?}");
        }
        let mut names: Vec<String> = comparisons.iter().map(|comparison| comparison.case.to_string()).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn all_that_was_recorded_elsewhere_is_measured() {
        let beside = |comparison: &Comparison| recorded::of(&comparison.case) != recorded::Recorded::default();
        assert_eq!(
            comparisons().unwrap().iter().filter(|comparison| comparison.case.path == Path::Tcp && beside(comparison)).count(),
            recorded::COUNT
        );
    }

    #[test]
    fn codes_are_compared_with_nobody_and_delays_with_nobody_that_knows_no_proxy() {
        let comparisons = able(comparisons().unwrap(), true, None);
        let gloo = |comparison: &Comparison| comparison.implementations.contains(&Implementation::Gloo);
        assert!(comparisons.iter().all(|comparison| !gloo(comparison) || comparison.case.codec == Codec::F32));
        assert!(comparisons.iter().all(|comparison| !gloo(comparison) || comparison.section != Section::Delay));
        assert!(comparisons.iter().any(gloo));
        let without = able(super::comparisons().unwrap(), true, Some("not installed"));
        assert!(!without.iter().any(gloo));
    }

    #[test]
    fn of_repeats_the_middle_one_is_kept() {
        let lines = [30, 10, 20].map(|seconds| line(Implementation::Atoll, Duration::from_secs(seconds)));
        assert_eq!(middle(lines.to_vec()), Some(lines[2].clone()));
        assert_eq!(middle(Vec::new()), None);
    }
}
