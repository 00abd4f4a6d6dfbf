//! What checkpoints cost: a run that keeps one of every round beside one that keeps none, and a state beside a plain file.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::median;
use crate::{
    figures::{Figure, Figures},
    paths,
    process::output,
    product::{self, Finished, Run},
    tally::Tally,
};

const LIMIT: Duration = Duration::from_mins(5);
/// Pairs of runs; medians count.
const PAIRS: usize = 5;
/// More CPU time and more time of a run that keeps the state of every round.
const MOST_CPU_RATIO: f64 = 1.05;
const MOST_WALL_RATIO: f64 = 1.10;
/// Of what a plain file reaches.
const LEAST_OF_PLAIN: f64 = 0.70;
/// Beside the state itself.
const MOST_MEBIBYTES: f64 = 64.0;
/// What one worker's share of a gibibyte is measured on; and less, in the reduced pass.
const SIZES: [&str; 2] = ["1GiB", "256MiB"];

/// What `atoll bench checkpoint --json` prints.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    plain_write: f64,
    write: f64,
    plain_read: f64,
    restore: f64,
    memory_bytes: f64,
}

/// Measures both, and compares.
pub(crate) fn perform(quick: bool) -> Result<Tally> {
    product::build(&["atoll"])?;
    let folder = tempfile::tempdir()?;
    let (pairs, size) = if quick { (1, SIZES[1]) } else { (PAIRS, SIZES[0]) };
    let mut figures = Vec::new();
    if !quick {
        figures.extend(cost(&runs(folder.path(), pairs)?));
    }
    let mut command = Command::new(paths::release("atoll"));
    command.args(["bench", "checkpoint", "--json", "--size", size]).arg("--folder").arg(folder.path());
    command.args(["--repeats", if quick { "3" } else { "5" }]);
    let text = output("bench checkpoint", &mut command, LIMIT)?;
    let measured: Measured = serde_json::from_str(&text).with_context(|| format!("cannot understand {text}"))?;
    figures.extend(rates(&measured));
    Ok(Figures(figures).conclude("bench checkpoint"))
}

/// Runs of the example that keep nothing, and that keep the state of every round; alternately.
fn runs(folder: &Path, pairs: usize) -> Result<Vec<[Finished; 2]>> {
    let file = paths::root().join("examples/kjv.yaml");
    let pair = |pair: usize| {
        let kept = folder.join(format!("kept-{pair}"));
        let keeps = format!("checkpoint={{uri: \"{}\", everyRounds: 1}}", kept.display());
        let without = Run::new(&format!("without {pair}"), &file, folder)?.perform(LIMIT)?;
        Ok([without, Run::new(&format!("with {pair}"), &file, folder)?.set(&[&keeps]).perform(LIMIT)?])
    };
    (1..=pairs).map(pair).collect()
}

fn cost(runs: &[[Finished; 2]]) -> [Figure; 2] {
    let median = |of: fn(&Finished) -> f64| median(runs.iter().map(|[without, with]| of(with) / of(without)));
    [
        Figure::at_most("CPU time with a checkpoint of every round", median(|run| run.cpu_seconds), MOST_CPU_RATIO),
        Figure::at_most("time with a checkpoint of every round", median(|run| run.wall_seconds), MOST_WALL_RATIO),
    ]
}

fn rates(measured: &Measured) -> [Figure; 4] {
    let Measured { plain_write, write, plain_read, restore, memory_bytes } = measured;
    [
        Figure::at_least("written, of a plain file", write / plain_write, LEAST_OF_PLAIN),
        Figure::at_least("restored, of a plain read", restore / plain_read, LEAST_OF_PLAIN),
        Figure::at_least("MB/s written", (write / 1e6).round(), 1.0),
        Figure::at_most("MiB of memory beside the state", memory_bytes / 1_048_576.0, MOST_MEBIBYTES),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_store_or_much_memory_falls_short() {
        let fast = Measured { plain_write: 100.0, write: 70.0, plain_read: 100.0, restore: 90.0, memory_bytes: 1e6 };
        let short = |measured: &Measured| Figures(rates(measured).into()).short_of().len();
        assert_eq!(short(&fast), 1, "a rate of bytes per second is no rate");
        let real = Measured { plain_write: 100e6, write: 70e6, plain_read: 100e6, restore: 70e6, ..fast };
        assert_eq!(short(&real), 0);
        assert_eq!(short(&Measured { write: 69e6, ..real.clone() }), 1);
        assert_eq!(short(&Measured { restore: 69e6, memory_bytes: 65.0 * 1_048_576.0, ..real }), 2);
    }
}
