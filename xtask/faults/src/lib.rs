//! Faults at named phases of operations between real sidecars: the shipped program in processes of its own, a trainer beside
//! each over the sdk, and every link through a relay that reads what passes and strikes exactly there.
//!
//! TLS is off, so that the relay can read; it is what makes one changed bit reach the engine at all.

mod arbiter;
pub mod case;
mod churn;
mod cost;
mod course;
mod dialler;
mod ledger;
mod matrix;
mod network;
mod peers;
mod random;
mod sidecar;
mod strike;
pub mod wire;
mod worker;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::runtime::Handle;

use churn::Churned;
use cost::{Blow, Cost};
use strike::{LIVENESS, Outcome, milliseconds};

/// Numbers of cases that are no cell of the matrix: the last of an address's third byte.
const CHURN: usize = 255;
const COST: usize = 250;
/// What a killed peer may cost above one fresh operation, in milliseconds.
const MOST_ABOVE_FRESH: f64 = 100.0;
/// What a stopped peer or a lost coordinator may cost above the liveness, in milliseconds.
const MOST_ABOVE_LIVENESS: f64 = 1000.0;
/// What a coordinator that is told to stop may cost above a fresh operation, in milliseconds: less than any clock would.
const MOST_FOR_A_HANDOVER: f64 = 500.0;

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Only the cases of three peers.
    pub quick: bool,
    /// How long peers come and go.
    pub churn: Duration,
    /// Decides what cases leave open.
    pub seed: u64,
    /// The cases whose names contain it, and nothing else where it is not empty.
    pub only: String,
}

/// Performs all, prints a table and one line of figures; whether everything holds.
///
/// # Errors
/// When nothing can be started.
pub fn perform(options: &Options) -> Result<bool> {
    let own = std::env::current_exe().context("where is this program?")?;
    let program = own.parent().context("where is this program?")?.join("atoll");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no runtime")?;
    let here = (program.as_path(), runtime.handle());
    let since = Instant::now();
    let mut cases = case::matrix(3..=if options.quick { 3 } else { 5 });
    cases.retain(|case| case.to_string().contains(&options.only));
    let outcomes = matrix::perform(&cases, options.seed, here);
    let seconds = since.elapsed().as_secs();
    println!("{}\n{}", matrix::table(&outcomes), matrix::summary(&outcomes));
    let mut figures = vec![ended(&outcomes, seconds)];
    if options.only.is_empty() && !options.quick {
        figures.push(churned(
            &churn::perform(options.churn, CHURN, options.seed, program.as_path(), runtime.handle()),
            options.churn,
        ));
        figures.extend(costs(program.as_path(), runtime.handle()));
    }
    figures.push(left_over());
    let short = figures.iter().filter(|figure| !figure.1).count();
    let line: Vec<&str> = figures.iter().map(|figure| figure.0.as_str()).collect();
    let verdict = if short == 0 { "all hold".to_owned() } else { format!("{short} FALL SHORT") };
    println!("faults at phases, --seed {}: {}; {verdict}", options.seed, line.join("; "));
    Ok(short == 0)
}

/// A figure in words, and whether it holds.
type Figure = (String, bool);

fn ended(outcomes: &[Outcome], seconds: u64) -> Figure {
    let well = outcomes.iter().filter(|outcome| outcome.faults.is_empty()).count();
    let slowest = outcomes.iter().filter_map(|outcome| outcome.time).max().unwrap_or_default();
    let line = format!("{well} of {} cases ended well in {seconds} s, slowest {:.0} ms", outcomes.len(), milliseconds(slowest));
    (line, well == outcomes.len() && well > 0)
}

fn churned(churned: &Churned, length: Duration) -> Figure {
    let Churned { faults, started, killed, rounds, operations, slowest, standstill, doubts } = churned;
    for fault in faults {
        println!("churn: {fault}");
    }
    let line = format!(
        "churn of {} s: {started} started, {killed} killed, {rounds} rounds, {operations} operations, {doubts} in doubt, slowest \
         call {:.0} ms, longest without a round {:.0} ms, {} faults",
        length.as_secs(),
        milliseconds(*slowest),
        milliseconds(*standstill),
        faults.len()
    );
    (line, faults.is_empty() && *operations > 0)
}

fn costs(program: &Path, runtime: &Handle) -> Vec<Figure> {
    let blows = [(Blow::Kill, 9), (Blow::Stop, 3), (Blow::LoseCoordinator, 3), (Blow::EndCoordinator, 5)];
    let numbered = blows.into_iter().enumerate();
    numbered.map(|(index, (blow, times))| cost_of(blow, cost::measure(blow, times, COST + index, program, runtime))).collect()
}

fn cost_of(blow: Blow, cost: Result<Cost>) -> Figure {
    let name = match blow {
        Blow::Kill => "one of three killed",
        Blow::Stop => "one of three stopped",
        Blow::LoseCoordinator => "coordinator lost",
        Blow::EndCoordinator => "coordinator told to stop",
    };
    let Cost { fresh, struck, after } = match cost {
        Ok(cost) => cost,
        Err(error) => return (format!("{name}: {error:#}"), false),
    };
    let (above, most, of) = match blow {
        Blow::Kill => (milliseconds(struck) - milliseconds(fresh), MOST_ABOVE_FRESH, "a fresh operation"),
        Blow::EndCoordinator => (milliseconds(struck) - milliseconds(fresh), MOST_FOR_A_HANDOVER, "a fresh operation"),
        Blow::Stop | Blow::LoseCoordinator => {
            (milliseconds(after) - milliseconds(LIVENESS), MOST_ABOVE_LIVENESS, "livenessSeconds")
        }
    };
    let line = format!(
        "{name}, 64 MiB: fresh {:.0} ms, with it {:.0} ms, result {:.0} ms after it, {above:.0} ms above {of} (<= {most})",
        milliseconds(fresh),
        milliseconds(struck),
        milliseconds(after)
    );
    (line, above <= most)
}

/// Shared memory of trainers that are gone.
fn left_over() -> Figure {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let regions = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let left = regions.filter(|target| target.to_string_lossy().contains("memfd:")).count();
    (format!("{left} regions left"), left == 0)
}
