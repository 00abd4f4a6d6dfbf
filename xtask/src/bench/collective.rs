//! The engine's speed: every row of its table, each against something measured in the same minutes or against its link.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::median;
use crate::{
    figures::{Figure, Figures},
    paths,
    process::output,
    product,
    tally::Tally,
};

/// Longest time for one case.
const LIMIT: Duration = Duration::from_mins(10);
const MEBIBYTE: f64 = 1_048_576.0;

/// One case, whom it is compared with, and what must hold.
struct Row {
    case: &'static str,
    /// Options that make the other's case of it; none where nothing else is measured.
    other: Option<&'static str>,
    bounds: &'static [Bound],
    /// Part of the reduced pass: those with room for a machine that is busy.
    quick: bool,
}

/// A figure of a case that is bounded.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    /// Time over the other's.
    OverOther(f64),
    /// Time over what the links allow.
    OverTheory(f64),
    Milliseconds(f64),
    /// Least part of the link that is used after the first second.
    LinkUsed(f64),
    /// Milliseconds of a rank and its sidecar.
    Cpu(f64),
    Messages(f64),
    /// MiB of the sidecar that has most, above its start.
    Memory(f64),
}

/// What 64 MiB may cost a sidecar, in MiB: 2.2 times the tensor, and 32.
const MEMORY: Bound = Bound::Memory(2.2 * 64.0 + 32.0);
const EMPTY: Option<&str> = Some("--bytes 0");
const GLOO: Option<&str> = Some("--peer gloo");
const REFERENCE: Option<&str> = Some("--reference");

const ROWS: [Row; 13] = [
    row("--path shm --bytes 64MiB --peers 2", REFERENCE, &[Bound::OverOther(1.25)], true),
    row("--path shm --bytes 64MiB --peers 4", REFERENCE, &[Bound::OverOther(1.25)], false),
    row("--path shm --bytes 4KiB --peers 2", EMPTY, &[Bound::OverOther(1.5)], true),
    row("--path shm --bytes 4KiB --peers 4", EMPTY, &[Bound::OverOther(1.5)], false),
    row("--path tcp --tls off --bytes 64MiB --peers 2", GLOO, &[Bound::OverOther(1.0), MEMORY], false),
    row("--path tcp --tls off --bytes 64MiB --peers 4", GLOO, &[Bound::OverOther(1.0), MEMORY], false),
    row("--path tcp --tls off --bytes 4KiB --peers 2", None, &[Bound::Milliseconds(0.6), Bound::Messages(3.0)], false),
    row("--path tcp --tls off --bytes 4KiB --peers 4", None, &[Bound::Milliseconds(1.0), Bound::Messages(3.0)], false),
    row("--tls on --bytes 16MiB --peers 4 --rates 200mbit", None, &[Bound::OverTheory(1.04), Bound::Cpu(70.0)], false),
    row("--tls off --bytes 16MiB --peers 4 --rates 200mbit", None, &[Bound::OverTheory(1.04), Bound::Cpu(40.0)], false),
    row("--tls on --codec u8 --bytes 16MiB --peers 4 --rates 200mbit", None, &[Bound::OverTheory(1.15)], false),
    row("--tls on --bytes 16MiB --peers 4 --rates 200mbit,200mbit,200mbit,50mbit", None, &[Bound::OverTheory(1.10)], true),
    row(
        "--tls on --codec u8 --bytes 16MiB --peers 4 --rates 200mbit,200mbit,200mbit,50mbit",
        None,
        &[Bound::OverTheory(1.25)],
        false,
    ),
];

/// The longest case, which has no repeats: 64 tensors of 16 MiB, 8 at once, over 100 ms.
const FAR: Row = row(
    "--bytes 1GiB --tensors 64 --concurrent 8 --rates 1gbit --rtt 100ms --peers 2 --iterations 2",
    None,
    &[Bound::LinkUsed(0.9)],
    false,
);

const fn row(case: &'static str, other: Option<&'static str>, bounds: &'static [Bound], quick: bool) -> Row {
    Row { case, other, bounds, quick }
}

/// What `atoll bench collective --json` prints of a case.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    p50_ms: f64,
    theory_ms: Option<f64>,
    rtt_ms: Option<f64>,
    cpu_ms_per_operation: f64,
    control_messages_per_peer: Option<f64>,
    sidecar_pss_above_start_bytes: Option<u64>,
}

/// Measures every row, or those of the reduced pass, and compares.
pub(crate) fn perform(quick: bool) -> Result<Tally> {
    product::build(&["atoll"])?;
    let repeats = if quick { 1 } else { 5 };
    let mut figures = Figures::default();
    for row in ROWS.iter().chain([&FAR]).filter(|row| row.quick || !quick) {
        println!("{}", row.case);
        let repeats = if row.other.is_some() { repeats.max(3) } else { repeats.min(3) };
        let repeats = if row.case == FAR.case { 1 } else { repeats };
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            ours.push(measure(row.case, None)?);
            if let Some(other) = row.other {
                others.push(measure(row.case, Some(other))?);
            }
        }
        figures.0.extend(row.bounds.iter().map(|bound| bound.judge(row.case, &ours, &others)));
    }
    Ok(figures.conclude("bench collective"))
}

/// One case, once; what the other does, where its options are given.
fn measure(case: &str, other: Option<&str>) -> Result<Line> {
    let mut words: Vec<&str> = case.split_whitespace().collect();
    if let Some(other) = other {
        let other: Vec<&str> = other.split_whitespace().collect();
        // The other's options replace those of the same name.
        if let Some(place) = words.iter().position(|word| *word == other[0]) {
            words.drain(place..place + 2);
        }
        words.extend(other);
    }
    let mut command = Command::new(paths::release("atoll"));
    command.args(["bench", "collective", "--json"]).args(&words);
    let text = output("bench collective", &mut command, LIMIT)?;
    let Some(line) = text.lines().last() else { bail!("{} printed nothing", words.join(" ")) };
    serde_json::from_str(line).with_context(|| format!("cannot understand {line}"))
}

impl Bound {
    fn judge(self, case: &str, ours: &[Line], others: &[Line]) -> Figure {
        let of = |value: fn(&Line) -> Option<f64>| median(ours.iter().map(|line| value(line).unwrap_or(f64::NAN)));
        let time = of(|line| Some(line.p50_ms));
        match self {
            Self::OverOther(most) => {
                let other = median(others.iter().map(|line| line.p50_ms));
                Figure::at_most(format!("{case}: {time:.2} ms over {other:.2}"), time / other, most)
            }
            Self::OverTheory(most) => {
                let theory = of(|line| line.theory_ms);
                Figure::at_most(format!("{case}: {time:.0} ms over {theory:.0}"), time / theory, most)
            }
            Self::Milliseconds(most) => Figure::at_most(format!("{case}: ms"), time, most),
            Self::LinkUsed(least) => {
                let wire = of(|line| line.theory_ms) - of(|line| line.rtt_ms);
                // As if the link had been full in the first second: then the rest has least left to do.
                Figure::at_least(format!("{case}: {time:.0} ms, link used"), (wire - 1000.0) / (time - 1000.0), least)
            }
            Self::Cpu(most) => Figure::at_most(format!("{case}: CPU ms"), of(|line| Some(line.cpu_ms_per_operation)), most),
            Self::Messages(most) => Figure::at_most(format!("{case}: messages"), of(|line| line.control_messages_per_peer), most),
            Self::Memory(most) => {
                let bytes = of(|line| line.sidecar_pss_above_start_bytes.map(|bytes| bytes as f64));
                Figure::at_most(format!("{case}: MiB"), bytes / MEBIBYTE, most)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(p50_ms: f64) -> Line {
        Line {
            p50_ms,
            theory_ms: Some(100.0),
            rtt_ms: None,
            cpu_ms_per_operation: 5.0,
            control_messages_per_peer: Some(3.0),
            sidecar_pss_above_start_bytes: Some(64 << 20),
        }
    }

    fn holds(bound: Bound, ours: &[Line], others: &[Line]) -> bool {
        Figures(vec![bound.judge("case", ours, others)]).short_of().is_empty()
    }

    #[test]
    fn the_middle_repeat_is_compared() {
        let ours = [line(9.0), line(100.0), line(10.0)];
        let others = [line(8.0), line(8.0), line(8.0)];
        assert!(holds(Bound::OverOther(1.25), &ours, &others));
        assert!(!holds(Bound::OverOther(1.2), &ours, &others));
        assert!(holds(Bound::OverTheory(0.1), &ours, &[]) && !holds(Bound::OverTheory(0.09), &ours, &[]));
    }

    #[test]
    fn what_was_not_measured_falls_short() {
        assert!(!holds(Bound::OverOther(1.0), &[line(1.0)], &[]));
        let bare = Line { theory_ms: None, control_messages_per_peer: None, sidecar_pss_above_start_bytes: None, ..line(1.0) };
        for bound in [Bound::OverTheory(9.0), Bound::Messages(9.0), MEMORY, Bound::LinkUsed(0.0)] {
            assert!(!holds(bound, std::slice::from_ref(&bare), &[]), "{bound:?}");
        }
    }

    #[test]
    fn a_link_is_judged_after_its_first_second() {
        let far = |p50_ms| Line { theory_ms: Some(9_100.0), rtt_ms: Some(100.0), ..line(p50_ms) };
        assert!(holds(Bound::LinkUsed(0.9), &[far(9_800.0)], &[]));
        assert!(!holds(Bound::LinkUsed(0.9), &[far(10_000.0)], &[]));
    }
}
