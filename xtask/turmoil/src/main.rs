//! Runs many schedules, or replays one.
//!
//! Each schedule has a process of its own: in which order tokio drops the tasks of a process that is killed depends on how many
//! tasks there were before, and the course of a schedule on that order.

use std::process::{Command, ExitCode};
use std::time::Instant;

use atoll_collective::rules::Rules;
use atoll_turmoil::{Ending, Figures, Schedule, run};
use clap::Parser;
use rayon::prelude::*;

/// Runs whole sidecars with real gRPC on a simulated network, under seeded schedules of faults
#[derive(Debug, Parser)]
#[command(name = "atoll-turmoil")]
struct Arguments {
    /// Schedules to run
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Replay this schedule alone
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Print what happens in the one that is replayed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Print the figures of the one that is replayed as JSON
    #[arg(long, requires = "seed", hide = true)]
    json: bool,
    /// Take this safety rule away
    #[arg(long, value_parser = known)]
    without: Option<String>,
}

fn known(name: &str) -> Result<String, String> {
    let rules = Rules::without(name).map(|_| name.to_owned());
    rules.ok_or_else(|| format!("there is no such rule; there are {}", Rules::NAMES.join(", ")))
}

fn one(seed: u64, arguments: &Arguments) -> Figures {
    let rules = arguments.without.as_deref().and_then(Rules::without).unwrap_or_default();
    let Ending { figures, lines } = run(seed, &Schedule::of(seed), rules);
    if arguments.trace {
        println!("{}", lines.join("\n"));
    }
    figures
}

/// The figures of a schedule that runs in a process of its own.
fn apart(seed: u64, arguments: &Arguments) -> Figures {
    let replay = || -> Result<Figures, Box<dyn std::error::Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--json", "--seed", &seed.to_string()]);
        command.args(arguments.without.iter().flat_map(|rule| ["--without", rule]));
        Ok(serde_json::from_slice(&command.output()?.stdout)?)
    };
    replay().unwrap_or_else(|error| Figures { wrong: Some((seed, format!("its process failed: {error}"))), ..Figures::default() })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let started = Instant::now();
    let (count, figures) = if let Some(seed) = arguments.seed {
        (1, one(seed, &arguments))
    } else {
        let all = (0..arguments.seeds).into_par_iter().map(|seed| apart(seed, &arguments));
        (arguments.seeds, all.reduce(Figures::default, Figures::and))
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&figures).unwrap_or_default());
    } else {
        if let Some((seed, wrong)) = &figures.wrong {
            println!("seed {seed}: {wrong}\n--seed {seed} --trace replays it");
        }
        println!("turmoil: {count} schedules, {figures}, {:.1} s", started.elapsed().as_secs_f64());
    }
    // Such ends are rare, or the schedules destroy more than they test.
    ExitCode::from(u8::from(figures.wrong.is_some() || figures.held as u64 * 20 > count))
}
