//! The trainer's speed beside that of the reference, measured alternately in the same minutes.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{
    figures::{Figure, Figures},
    paths,
    process::{cargo, output},
    product,
    tally::Tally,
};

/// Training steps that each repeat times.
pub(crate) const STEPS: u32 = 20;
const REPEATS: usize = 5;
const LIMIT: Duration = Duration::from_mins(10);
const LEAST_RATIO: f64 = 0.95;
const MOST_MEBIBYTES: f64 = 800.0;
const MEBIBYTE: f64 = 1_048_576.0;
const PARAMETERS: u64 = 5_868_800;

/// What `atoll bench trainer --json` prints: medians of product and reference, run in turn.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    tokens_per_second: f64,
    reference_tokens_per_second: Option<f64>,
    threads: usize,
    peak_rss_bytes: f64,
    parameters: u64,
}

/// Builds and runs the reference, and prints what it measures.
pub(crate) fn reference(steps: u32) -> Result<Tally> {
    let mut command = cargo();
    command.args(["run", "--release", "--quiet", "--package", "reference-trainer", "--"]).arg(steps.to_string());
    print!("{}", output("reference trainer", &mut command, 4 * LIMIT)?);
    Ok(Tally::PASSED)
}

/// Has the product measure itself and the reference in turn, and compares.
pub(crate) fn perform(quick: bool) -> Result<Tally> {
    product::build(&["atoll", "reference-trainer"])?;
    let repeats = if quick { 3 } else { REPEATS }.to_string();
    let mut command = Command::new(paths::release("atoll"));
    command.args(["bench", "trainer", "--json", "--steps", &STEPS.to_string(), "--repeats", &repeats]);
    let text = output("bench trainer", &mut command, LIMIT)?;
    let measured: Measured = serde_json::from_str(&text).with_context(|| format!("cannot understand {text}"))?;
    Ok(figures(&measured).conclude("bench trainer"))
}

fn figures(measured: &Measured) -> Figures {
    let reference = measured.reference_tokens_per_second.unwrap_or(f64::NAN);
    let memory = measured.peak_rss_bytes / MEBIBYTE;
    let found = measured.parameters;
    Figures(vec![
        Figure::at_least("tokens/s over the reference's", measured.tokens_per_second / reference, LEAST_RATIO),
        Figure::at_least("tokens/s", measured.tokens_per_second.round(), 1.0),
        Figure::at_least("reference tokens/s", reference.round(), 1.0),
        Figure::at_least("threads", measured.threads as f64, 1.0),
        Figure::at_most("peak MiB", memory, MOST_MEBIBYTES),
        Figure::that("parameters", found.to_string(), PARAMETERS.to_string(), found == PARAMETERS),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rate: f64, reference: Option<f64>) -> Measured {
        let peak_rss_bytes = 600.0 * MEBIBYTE;
        Measured {
            tokens_per_second: rate,
            reference_tokens_per_second: reference,
            threads: 2,
            peak_rss_bytes,
            parameters: PARAMETERS,
        }
    }

    #[test]
    fn as_fast_as_the_reference_is_enough() {
        assert!(figures(&measured(95.0, Some(100.0))).short_of().is_empty());
    }

    #[test]
    fn a_slower_or_larger_or_other_trainer_falls_short() {
        assert_eq!(figures(&measured(94.0, Some(100.0))).short_of(), ["tokens/s over the reference's"]);
        let large = Measured { peak_rss_bytes: 801.0 * MEBIBYTE, ..measured(100.0, Some(100.0)) };
        assert_eq!(figures(&large).short_of(), ["peak MiB"]);
        let other = Measured { parameters: 1, ..measured(100.0, Some(100.0)) };
        assert_eq!(figures(&other).short_of(), ["parameters"]);
    }

    #[test]
    fn without_a_reference_nothing_is_proven() {
        assert_eq!(figures(&measured(100.0, None)).short_of(), ["tokens/s over the reference's", "reference tokens/s"]);
    }
}
