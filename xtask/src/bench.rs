//! The trainer's speed beside that of the reference, measured alternately in the same minutes.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    figures::{Figure, Figures},
    paths,
    process::{cargo, output},
    product,
    tally::Tally,
};

/// Training steps that both measure.
pub(crate) const STEPS: u32 = 20;
const PAIRS: usize = 5;
const LIMIT: Duration = Duration::from_mins(5);
const LEAST_RATIO: f64 = 0.95;
const MOST_MEBIBYTES: f64 = 800.0;
const MEBIBYTE: f64 = 1_048_576.0;
const PARAMETERS: u64 = 5_868_800;

/// What `atoll bench trainer --json` prints.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Product {
    tokens_per_second: f64,
    threads: usize,
    peak_rss_bytes: f64,
    parameters: u64,
}

/// What the reference prints.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    reference_tokens_per_second: f64,
    threads: usize,
}

/// Builds and runs the reference, and prints what it measures.
pub(crate) fn reference(steps: u32) -> Result<Tally> {
    let mut command = cargo();
    command.args(["run", "--release", "--quiet", "--package", "reference-trainer", "--"]).arg(steps.to_string());
    print!("{}", output("reference trainer", &mut command, 4 * LIMIT)?);
    Ok(Tally::PASSED)
}

/// Runs product and reference in turn, and compares the medians.
pub(crate) fn trainer(quick: bool) -> Result<Tally> {
    product::build(&["atoll", "reference-trainer"])?;
    let mut pairs = Vec::new();
    let steps = STEPS.to_string();
    for pair in 1..=if quick { 3 } else { PAIRS } {
        let mut command = Command::new(paths::release("atoll"));
        let product: Product =
            measure(&format!("trainer {pair}"), command.args(["bench", "trainer", "--json", "--steps", &steps]))?;
        let reference: Reference =
            measure(&format!("reference {pair}"), Command::new(paths::release("reference-trainer")).arg(&steps))?;
        println!("pair {pair}: {:.0} and {:.0} tokens/s", product.tokens_per_second, reference.reference_tokens_per_second);
        pairs.push((product, reference));
    }
    Ok(figures(&pairs).conclude("bench trainer"))
}

fn measure<T: DeserializeOwned>(name: &str, command: &mut Command) -> Result<T> {
    let text = output(name, command, LIMIT)?;
    serde_json::from_str(&text).with_context(|| format!("{name}: cannot understand {text}"))
}

fn figures(pairs: &[(Product, Reference)]) -> Figures {
    let rate = median(pairs.iter().map(|(product, _)| product.tokens_per_second));
    let reference = median(pairs.iter().map(|(_, reference)| reference.reference_tokens_per_second));
    let memory = pairs.iter().map(|(product, _)| product.peak_rss_bytes / MEBIBYTE).fold(f64::NAN, f64::max);
    let alike = pairs.iter().all(|(product, reference)| product.threads == reference.threads && product.parameters == PARAMETERS);
    let threads = pairs.first().map_or(0, |(product, _)| product.threads);
    Figures(vec![
        Figure::at_least("tokens/s over the reference's", rate / reference, LEAST_RATIO),
        Figure::at_least("tokens/s", rate.round(), 1.0),
        Figure::at_least("reference tokens/s", reference.round(), 1.0),
        Figure::at_most("peak MiB", memory, MOST_MEBIBYTES),
        Figure::that("model and threads", format!("{threads} threads"), format!("{PARAMETERS} parameters, threads equal"), alike),
    ])
}

/// The middle value, the upper of two; not a number where there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(rate: f64, reference: f64) -> (Product, Reference) {
        (
            Product { tokens_per_second: rate, threads: 2, peak_rss_bytes: 600.0 * MEBIBYTE, parameters: PARAMETERS },
            Reference { reference_tokens_per_second: reference, threads: 2 },
        )
    }

    #[test]
    fn medians_are_compared_so_that_one_slow_minute_does_not_count() {
        let pairs = [pair(3600.0, 3500.0), pair(900.0, 3600.0), pair(3700.0, 3400.0)];
        assert!(figures(&pairs).short_of().is_empty());
    }

    #[test]
    fn a_slower_or_larger_or_other_trainer_falls_short() {
        assert_eq!(figures(&[pair(94.0, 100.0)]).short_of(), ["tokens/s over the reference's"]);
        let mut large = pair(100.0, 100.0);
        large.0.peak_rss_bytes = 801.0 * MEBIBYTE;
        assert_eq!(figures(&[pair(100.0, 100.0), large]).short_of(), ["peak MiB"]);
        let mut other = pair(100.0, 100.0);
        other.0.threads = 4;
        assert_eq!(figures(&[other]).short_of(), ["model and threads"]);
    }

    #[test]
    fn nothing_measured_is_not_good() {
        assert_eq!(figures(&[]).short_of().len(), 4);
    }
}
