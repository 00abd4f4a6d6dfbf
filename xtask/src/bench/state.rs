//! A worker that joins takes the state from several donors, and their training hardly notices.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::median;
use crate::{
    figures::{Figure, Figures},
    paths,
    process::output,
    product,
    tally::Tally,
};

const LIMIT: Duration = Duration::from_mins(2);
/// Passes; the median of each figure counts.
const PASSES: usize = 3;
/// Time from one donor over that from three.
const LEAST_SPEEDUP: f64 = 2.5;
/// An inner step of the donors while they give, over one afterwards.
const MOST_STEP_RATIO: f64 = 1.10;
/// Bytes of a chunk, the least that is repaired.
const CHUNK: f64 = 1_048_576.0;

/// What `atoll bench state --json` prints.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    one_donor_seconds: f64,
    three_donors_seconds: f64,
    donors_that_gave: f64,
    flipped_bit_bytes: f64,
    step_p50_ms_while_giving: f64,
    step_p50_ms_afterwards: f64,
}

/// Measures it on 256 MiB and links of 200 Mbit/s.
pub(crate) fn perform() -> Result<Tally> {
    product::build(&["atoll"])?;
    let pass = |_| {
        let mut command = Command::new(paths::release("atoll"));
        let text = output("bench state", command.args(["bench", "state", "--json"]), LIMIT)?;
        serde_json::from_str(&text).with_context(|| format!("cannot understand {text}"))
    };
    let passes = (0..PASSES).map(pass).collect::<Result<Vec<Measured>>>()?;
    Ok(figures(&passes).conclude("bench state"))
}

fn figures(passes: &[Measured]) -> Figures {
    let median = |of: fn(&Measured) -> f64| median(passes.iter().map(of));
    let speedup = median(|pass| pass.one_donor_seconds / pass.three_donors_seconds);
    let step = median(|pass| pass.step_p50_ms_while_giving / pass.step_p50_ms_afterwards);
    Figures(vec![
        Figure::at_least("three donors, as fast as one", speedup, LEAST_SPEEDUP),
        Figure::at_most("a donor's inner step while it gives, over one afterwards", step, MOST_STEP_RATIO),
        Figure::at_most("chunks moved for one flipped bit", median(|pass| pass.flipped_bit_bytes) / CHUNK, 1.0),
        Figure::at_least("donors that gave", median(|pass| pass.donors_that_gave), 3.0),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_falls_short_by_itself() {
        let good = Measured {
            one_donor_seconds: 11.0,
            three_donors_seconds: 4.0,
            donors_that_gave: 3.0,
            flipped_bit_bytes: CHUNK,
            step_p50_ms_while_giving: 10.5,
            step_p50_ms_afterwards: 10.0,
        };
        let short = |measured: Measured| figures(&[measured]).short_of().len();
        assert_eq!(short(good.clone()), 0);
        assert_eq!(short(Measured { three_donors_seconds: 4.5, ..good.clone() }), 1);
        assert_eq!(short(Measured { step_p50_ms_while_giving: 11.1, ..good.clone() }), 1);
        assert_eq!(short(Measured { flipped_bit_bytes: 2.0 * CHUNK, ..good.clone() }), 1);
        assert_eq!(short(Measured { donors_that_gave: 1.0, ..good }), 1);
    }
}
