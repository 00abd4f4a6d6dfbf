//! Runs many schedules, or replays one.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use atoll_collective::rules::Rules;
use atoll_turmoil::{Ending, Schedule, run};
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
    /// Take this safety rule away
    #[arg(long, value_parser = rules)]
    without: Option<Rules>,
}

fn rules(name: &str) -> Result<Rules, String> {
    Rules::without(name).ok_or_else(|| format!("there is no such rule; there are {}", Rules::NAMES.join(", ")))
}

/// Figures of all schedules together.
#[derive(Debug, Default)]
struct Sum {
    rounds: usize,
    operations: usize,
    aborts: usize,
    in_doubt: usize,
    evictions: usize,
    terms: u64,
    took: Duration,
    /// Of all that happened: the same for the same seeds.
    course: u64,
    wrong: Option<(u64, String)>,
}

impl Sum {
    fn of(seed: u64, ending: Ending) -> Self {
        let Ending { wrong, rounds, operations, aborts, in_doubt, evictions, terms, took, lines } = ending;
        let course =
            blake3::hash(lines.join("\n").as_bytes()).as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let wrong = wrong.map(|wrong| (seed, wrong));
        Self { rounds, operations, aborts, in_doubt, evictions, terms, took, course, wrong }
    }

    fn and(self, other: Self) -> Self {
        let wrong = [self.wrong, other.wrong].into_iter().flatten().min_by_key(|(seed, _)| *seed);
        Self {
            rounds: self.rounds + other.rounds,
            operations: self.operations + other.operations,
            aborts: self.aborts + other.aborts,
            in_doubt: self.in_doubt + other.in_doubt,
            evictions: self.evictions + other.evictions,
            terms: self.terms + other.terms,
            took: self.took + other.took,
            course: self.course.wrapping_add(other.course),
            wrong,
        }
    }
}

fn one(seed: u64, arguments: &Arguments) -> Sum {
    let ending = run(seed, &Schedule::of(seed), arguments.without.unwrap_or_default());
    if arguments.trace {
        println!("{:?}\n{}", Schedule::of(seed), ending.lines.join("\n"));
    }
    Sum::of(seed, ending)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let started = Instant::now();
    let seeds = arguments.seed.map_or(0..arguments.seeds, |seed| seed..seed + 1);
    let count = seeds.end - seeds.start;
    let sum = seeds.into_par_iter().map(|seed| one(seed, &arguments)).reduce(Sum::default, Sum::and);
    if let Some((seed, wrong)) = &sum.wrong {
        println!("seed {seed}: {wrong}\n--seed {seed} --trace replays it");
    }
    println!(
        "turmoil: {count} schedules, {} rounds and {} operations committed, {} aborts, {} calls in doubt, {} evictions, {} terms, \
         {:.0} simulated s, course {:016x}, {}, {:.1} s",
        sum.rounds,
        sum.operations,
        sum.aborts,
        sum.in_doubt,
        sum.evictions,
        sum.terms,
        sum.took.as_secs_f64(),
        sum.course,
        if sum.wrong.is_some() { "a rule was broken" } else { "no rule was broken" },
        started.elapsed().as_secs_f64(),
    );
    ExitCode::from(u8::from(sum.wrong.is_some()))
}
