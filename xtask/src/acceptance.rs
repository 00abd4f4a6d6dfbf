//! Quality of DiLoCo on the lab model: rows A1, A2 and A5 of the acceptance table in the user guide.
//!
//! A lone worker trains a model from scratch. From it every arm trains on, with a fresh schedule and other data: alone, data
//! parallel, DiLoCo with two round lengths, federated averaging. Losses are compared as ratios, traffic by byte counters.

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::Result;

use crate::{
    figures::{Figure, Figures},
    markers, paths,
    product::{self, Run},
    tally::Tally,
};

const LIMIT: Duration = Duration::from_mins(5);
const WARM_STEPS: u64 = 1500;
const STEPS: u64 = 600;
const SEEDS: [u64; 3] = [0, 1, 2];
/// Added to the seed after the warm-up, so that the arms do not see its samples in its order again.
const SEED_OF_ARMS: u64 = 100;
const GUIDE: &str = "docs/src/methods.md";
const COMMAND: &str = "cargo xtask acceptance diloco --write";

const LAB: &str = "{architecture: {llama: {layers: 2, hiddenSize: 64, heads: 4, intermediateSize: 192, contextLength: 64}}}";
const SINGLE: Arm = Arm { name: "single", method: "{dataParallel: {}}", workers: 1, quick: true };
const DDP: Arm = Arm { name: "ddp", method: "{dataParallel: {}}", workers: 4, quick: true };
const DILOCO_20: Arm =
    Arm { name: "diloco20", method: "{diLoCo: {innerSteps: 20, outerMomentum: 0.9}}", workers: 4, quick: true };
const DILOCO_50: Arm =
    Arm { name: "diloco50", method: "{diLoCo: {innerSteps: 50, outerMomentum: 0.9}}", workers: 4, quick: false };
const FEDAVG_20: Arm = Arm { name: "fedavg20", method: "{fedAvg: {innerSteps: 20}}", workers: 4, quick: false };
const ARMS: [Arm; 5] = [SINGLE, DDP, DILOCO_20, DILOCO_50, FEDAVG_20];

/// One way to train on from the warm model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Arm {
    name: &'static str,
    /// YAML of the field `method`.
    method: &'static str,
    workers: u32,
    /// Part of the quick pass.
    quick: bool,
}

/// What an arm gave, one value per seed.
#[derive(Debug, Clone, PartialEq)]
struct Measured {
    arm: Arm,
    /// Held-out loss, nats per character.
    losses: Vec<f64>,
    /// Bytes that a worker handed to the collective in all steps.
    payload: Vec<f64>,
}

/// Trains all arms and checks the rows; with `write` puts the table into the user guide.
pub(crate) fn diloco(quick: bool, write: bool) -> Result<Tally> {
    product::build(&["atoll"])?;
    let folder = tempfile::tempdir()?;
    let seeds = if quick { &SEEDS[..1] } else { &SEEDS[..] };
    let mut arms: Vec<Measured> =
        ARMS.iter().filter(|arm| arm.quick || !quick).map(|&arm| Measured { arm, losses: vec![], payload: vec![] }).collect();
    for &seed in seeds {
        train(seed, &mut arms, folder.path())?;
    }
    let figures = figures(&arms);
    let table = markdown(&arms);
    println!("{table}");
    if write {
        let guide = paths::root().join(GUIDE);
        let content = format!("{table}\n\n{}\n\nWritten by `{COMMAND}`.", verdicts(&figures));
        std::fs::write(&guide, markers::replace(&std::fs::read_to_string(&guide)?, "acceptance:diloco", &content)?)?;
    }
    Ok(figures.conclude("acceptance diloco"))
}

/// Trains the warm model of one seed, and every arm from it.
fn train(seed: u64, arms: &mut [Measured], folder: &Path) -> Result<()> {
    let run = |name: &str, text: String| {
        let name = format!("seed {seed} {name}");
        let file = folder.join(format!("{}.yaml", name.replace(' ', "-")));
        std::fs::write(&file, text)?;
        let run = Run::new(&name, &file, folder)?;
        anyhow::Ok((run.perform(LIMIT)?, run.output))
    };
    let (warm, output) = run("warm", run_file(SINGLE, seed, WARM_STEPS, LAB))?;
    println!("   seed {seed}: warm model, held-out loss {:.4}, {:.1} s", warm.report.held_out_loss, warm.wall_seconds);
    let model = format!("{{source: {{uri: '{}'}}}}", output.join("model").display());
    for measured in arms {
        let (finished, _) = run(measured.arm.name, run_file(measured.arm, seed + SEED_OF_ARMS, STEPS, &model))?;
        let report = finished.report;
        println!(
            "   seed {seed}: {}, held-out loss {:.4}, {:.1} s",
            measured.arm.name, report.held_out_loss, finished.wall_seconds
        );
        measured.losses.push(report.held_out_loss);
        measured.payload.push(report.payload_bytes_per_worker);
    }
    Ok(())
}

fn run_file(arm: Arm, seed: u64, steps: u64, model: &str) -> String {
    let Arm { name, method, workers, .. } = arm;
    format!(
        "apiVersion: atoll.dev/v1alpha1
kind: TrainingRun
metadata: {{name: {name}}}
spec:
  seed: {seed}
  model: {model}
  dataset: {{source: {{uri: \"builtin:kjv\"}}, tokenizer: {{characters: {{}}}}}}
  optimizer: {{adamW: {{learningRate: 3.0e-3, weightDecay: 0.1}}}}
  method: {method}
  workers: {{min: {workers}, target: {workers}, batchSize: 4}}
  rounds: {{quorum: {{min: {workers}}}}}
  stop: {{steps: {steps}}}
"
    )
}

/// The rows of the acceptance table for which there are arms.
fn figures(arms: &[Measured]) -> Figures {
    let of = |wanted: Arm| arms.iter().find(|measured| measured.arm == wanted);
    let loss = |wanted: Arm| of(wanted).map_or(f64::NAN, |measured| mean(&measured.losses));
    let payload = |wanted: Arm| of(wanted).map_or(f64::NAN, |measured| mean(&measured.payload));
    let mut figures = vec![
        Figure::at_most("A1 diloco20 / ddp loss", loss(DILOCO_20) / loss(DDP), 1.02),
        Figure::at_most("A1 diloco20 / single loss", loss(DILOCO_20) / loss(SINGLE), 0.95),
        Figure::at_least("A1 ddp / diloco20 payload", payload(DDP) / payload(DILOCO_20), 19.5),
    ];
    if of(FEDAVG_20).is_some() {
        figures.extend([
            Figure::at_least("A2 fedavg20 - diloco20 loss", loss(FEDAVG_20) - loss(DILOCO_20), 0.025),
            Figure::at_most("A5 diloco20 / diloco50 loss", loss(DILOCO_20) / loss(DILOCO_50), 1.0),
            Figure::at_most("A5 diloco50 / single loss", loss(DILOCO_50) / loss(SINGLE), 1.0),
        ]);
    }
    Figures(figures)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn markdown(arms: &[Measured]) -> String {
    let mut table = String::from(
        "| arm | workers | held-out loss per seed | mean | payload bytes per worker and step |\n|---|---|---|---|---|",
    );
    for Measured { arm, losses, payload } in arms {
        let each: Vec<String> = losses.iter().map(|loss| format!("{loss:.4}")).collect();
        let bytes = mean(payload) / STEPS as f64;
        let _ = write!(table, "\n| {} | {} | {} | {:.4} | {bytes:.0} |", arm.name, arm.workers, each.join(" / "), mean(losses));
    }
    table
}

fn verdicts(figures: &Figures) -> String {
    let rows = figures.rows().map(|[name, value, bound, verdict]| format!("| {name} | {value} | {bound} | {verdict} |"));
    let rows: Vec<String> = rows.collect();
    format!("| row | measured | must be | |\n|---|---|---|---|\n{}", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(arm: Arm, loss: f64, payload: f64) -> Measured {
        Measured { arm, losses: vec![loss - 0.01, loss, loss + 0.01], payload: vec![payload; 3] }
    }

    /// The measured means of the reference implementation.
    fn reference() -> Vec<Measured> {
        vec![
            measured(SINGLE, 1.640, 0.0),
            measured(DDP, 1.526, 276_019_200.0),
            measured(DILOCO_20, 1.544, 13_800_960.0),
            measured(DILOCO_50, 1.560, 5_520_384.0),
            measured(FEDAVG_20, 1.590, 13_800_960.0),
        ]
    }

    fn short_of(arm: usize, change: impl FnOnce(&mut Measured)) -> Vec<String> {
        let mut arms = reference();
        change(&mut arms[arm]);
        figures(&arms).short_of().into_iter().map(str::to_owned).collect()
    }

    fn losses(loss: f64) -> impl FnOnce(&mut Measured) {
        move |measured| measured.losses = vec![loss; 3]
    }

    #[test]
    fn the_reference_holds_every_row() {
        assert_eq!(short_of(0, |_| {}), [""; 0]);
        assert_eq!(figures(&reference()).0.len(), 6);
    }

    #[test]
    fn each_row_falls_short_of_its_threshold() {
        assert_eq!(short_of(1, losses(1.513)), ["A1 diloco20 / ddp loss"]);
        assert_eq!(short_of(0, losses(1.62)), ["A1 diloco20 / single loss"]);
        assert_eq!(short_of(2, |arm| arm.payload = vec![14_200_000.0; 3]), ["A1 ddp / diloco20 payload"]);
        assert_eq!(short_of(4, losses(1.568)), ["A2 fedavg20 - diloco20 loss"]);
        assert_eq!(short_of(3, losses(1.543)), ["A5 diloco20 / diloco50 loss"]);
        assert_eq!(short_of(3, losses(1.641)), ["A5 diloco50 / single loss"]);
    }

    #[test]
    fn the_quick_pass_judges_only_the_first_row() {
        let arms = reference();
        assert_eq!(figures(&arms[..3]).0.len(), 3);
        assert!(figures(&arms[..3]).short_of().is_empty());
        assert_eq!(figures(&[]).short_of().len(), 3);
    }

    #[test]
    fn the_guide_shows_losses_and_traffic_of_every_arm() {
        let table = markdown(&reference());
        assert!(table.contains("| ddp | 4 | 1.5160 / 1.5260 / 1.5360 | 1.5260 | 460032 |"), "{table}");
        assert!(verdicts(&figures(&reference())).contains("| A1 ddp / diloco20 payload | 20 | >= 19.500 | holds |"));
    }
}
