//! A run that is killed and goes on ends with the same weights as one that nobody disturbed, to the last bit.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::runtime::Handle;

use super::{
    case::{Case, Fault, Place},
    course::{self, Ended},
    each, folder,
    ground::Ground,
    runtime,
    strike::{After, Moment, Shared, writes_a_checkpoint},
};
use crate::{
    events,
    figures::{Figure, Figures},
    product::{self, Run},
    random::{self, Random},
    tally::Tally,
};

/// Longest time for one run.
const LIMIT: Duration = Duration::from_mins(2);
/// Rounds of a run.
const ROUNDS: u64 = 40;
/// Rounds that may be the last before a run is killed.
const FIRST: u64 = 1;
const LAST: u64 = 34;
const METHODS: [(&str, &str, u64); 2] = [
    ("data parallel", "{dataParallel: {}}", 1),
    ("DiLoCo", "{diLoCo: {innerSteps: 3, outerLearningRate: 0.7, outerMomentum: 0.5}}", 3),
];
const CODECS: [&str; 2] = ["Float32", "UInt8"];

/// One way to train.
#[derive(Debug, Clone, Copy)]
struct Arm {
    method: &'static str,
    /// YAML of the field `method`.
    yaml: &'static str,
    steps: u64,
    codec: &'static str,
    seed: u64,
}

/// What became of a run that was killed.
#[derive(Debug)]
struct Point {
    /// A checkpoint was being written.
    writing: bool,
    /// What was wrong.
    faults: Vec<String>,
}

/// Kills runs at `points` rounds for each method and codec.
pub(crate) fn perform(points: usize, seed: Option<u64>) -> Result<Tally> {
    product::build(&["atoll"])?;
    let seed = random::seed_or_new(seed);
    println!("same-result: {} ways to train, {points} points each, --seed {seed}", METHODS.len() * CODECS.len());
    let runtime = runtime()?;
    let arms = METHODS.into_iter().flat_map(|(method, yaml, steps)| CODECS.map(|codec| (method, yaml, steps, codec)));
    let arms = arms.zip(0..).map(|((method, yaml, steps, codec), index)| Arm { method, yaml, steps, codec, seed: seed + index });
    let arms: Vec<_> = arms.collect();
    let results = each(&arms, |arm| kill_at_points(arm, points, runtime.handle()));
    let mut figures = Figures::default();
    let mut writing = 0;
    for (arm, result) in arms.iter().zip(results) {
        let result = result?;
        let same = result.iter().filter(|point| point.faults.is_empty()).count();
        writing += result.iter().filter(|point| point.writing).count();
        let name = format!("{} {}", arm.method, arm.codec);
        figures.0.push(Figure::that(name, format!("{same} of {points} the same"), "all", same == points));
    }
    figures.0.push(Figure::at_least("killed while a checkpoint was written", writing as f64, arms.len() as f64));
    Ok(figures.conclude(&format!("same-result, --seed {seed}")))
}

/// One run that nobody disturbs, and one for each point.
fn kill_at_points(arm: &Arm, points: usize, runtime: &Handle) -> Result<Vec<Point>> {
    let undisturbed = folder("same-")?;
    let ground = Ground::with_server(runtime, undisturbed.path())?;
    let finished = arm.run(&ground, "undisturbed")?.perform(LIMIT)?.report;
    let hash = finished.shared_hash().context("the workers of an undisturbed run end with different weights")?;
    let mut random = Random::new(arm.seed);
    let mut results = Vec::new();
    for point in 0..points {
        let round = FIRST + random.below(LAST - FIRST);
        let folder = folder("same-")?;
        // The first one strikes a shard on its way.
        let struck = arm.kill(round, point == 0, runtime, folder.path());
        let (mut point, from) = struck.and_then(|killed| killed.judge(hash)).unwrap_or_else(|error| Point::not_tried(&error));
        if !point.faults.is_empty() {
            point.faults.push(format!("its files are in {}", folder.keep().display()));
        }
        let ended = if point.faults.is_empty() { "the same".to_owned() } else { point.faults.join("; ") };
        let writing = if point.writing { ", while a checkpoint was written" } else { "" };
        println!("   {} {}: killed after round {round}{writing}, went on from {from}: {ended}", arm.method, arm.codec);
        results.push(point);
    }
    Ok(results)
}

/// A run that was killed, and the one that went on.
#[derive(Debug)]
struct Killed {
    struck: Ended,
    resumed: Ended,
}

impl Arm {
    fn run(&self, ground: &Ground, name: &str) -> Result<Run> {
        let run = ground.run(name, ROUNDS)?;
        Ok(run.set(&[
            &format!("method={}", self.yaml),
            &format!("reduction.codec={}", self.codec),
            &format!("stop.steps={}", ROUNDS * self.steps),
            "rounds.quorum.min=3",
        ]))
    }

    /// Kills everything once `round` is committed, or with the next shard that is half written after it; goes on.
    fn kill(&self, round: u64, in_a_shard: bool, runtime: &Handle, folder: &Path) -> Result<Killed> {
        let ground = Arc::new(Ground::with_server(runtime, folder)?);
        let run = self.run(&ground, "killed")?;
        let struck = if in_a_shard {
            let case = Case { place: Place::InShard, fault: Fault::KillSupervisor };
            let watch = Shared::new(Moment { case, after: After::Round(round), passing: 0, choice: 0 }, &run.output, &ground);
            watch.arm(&ground);
            course::follow(&run, &watch)?
        } else {
            course::kill(&run, After::Round(round))?
        };
        if let Some(server) = ground.server() {
            server.pass();
        }
        let run = self.run(&ground, "resumed")?.resuming();
        let mut process = run.start()?;
        let status = process.wait(LIMIT, || Ok(()))?;
        let resumed = course::ended(&run, status, events::read(&run.output)?)?;
        Ok(Killed { struck, resumed })
    }
}

impl Killed {
    /// What was wrong, and what the second run went on from.
    fn judge(self, hash: &str) -> Result<(Point, String)> {
        let Self { struck, resumed } = self;
        ensure!(struck.status.code().is_none(), "the run ended before it was killed: {}", struck.said);
        if !resumed.status.success() {
            bail!("the second run: {}: {}", resumed.status, resumed.said);
        }
        let report = resumed.report.context("the second run wrote no report")?;
        let mut faults = Vec::new();
        if report.shared_hash() != Some(hash) || report.hashes().len() != report.workers.len() {
            faults.push(format!("the weights are {:?}, and {hash} undisturbed", report.hashes()));
        }
        let left: Vec<_> = struck.left.iter().chain(&resumed.left).cloned().collect();
        if !left.is_empty() {
            faults.push(format!("left behind: {}", left.join(", ")));
        }
        let from = resumed.events.iter().find(|event| event.is("Resumed")).and_then(|event| event.round);
        let from = from.map_or_else(|| "the beginning".to_owned(), |round| format!("round {round}"));
        Ok((Point { writing: writes_a_checkpoint(&struck.events), faults }, from))
    }
}

impl Point {
    fn not_tried(error: &anyhow::Error) -> (Self, String) {
        (Self { writing: false, faults: vec![format!("{error:#}")] }, "nothing".to_owned())
    }
}
