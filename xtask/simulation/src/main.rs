//! Runs many schedules, or replays one.

use std::process::ExitCode;
use std::time::Instant;

use atoll_collective::rules::Rules;
use atoll_simulation::model::{Visited, visit};
use atoll_simulation::mutations::{Failure, Kind, missed};
use atoll_simulation::{Ending, Schedule, arbiters, run};
use clap::Parser;
use rayon::prelude::*;

/// Runs the shipped protocol under seeded schedules of faults
#[derive(Debug, Parser)]
#[command(name = "atoll-simulation")]
struct Arguments {
    /// Schedules to run
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// Replay this schedule alone
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Print every event and every action of the one that is replayed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Take this safety rule away
    #[arg(long, value_parser = rules)]
    without: Option<Rules>,
    /// The arbiters alone instead of whole runs
    #[arg(long, requires = "seed")]
    arbiters: bool,
    /// Take each safety rule away, and find a schedule that goes wrong without it
    #[arg(long, conflicts_with_all = ["seeds", "seed", "without"])]
    mutations: bool,
    /// Visit every order of one round's events instead, with at most so many faults
    #[arg(long, value_name = "FAULTS", num_args = 0..=1, default_missing_value = "2")]
    #[arg(conflicts_with_all = ["seeds", "seed", "mutations"])]
    model: Option<u32>,
}

fn rules(name: &str) -> Result<Rules, String> {
    Rules::without(name).ok_or_else(|| format!("there is no such rule; there are {}", Rules::NAMES.join(", ")))
}

/// Figures of all schedules together.
#[derive(Debug, Default)]
struct Sum {
    finished: usize,
    rounds: usize,
    evictions: usize,
    terms: u64,
    by_peers: usize,
    lost: usize,
    held: usize,
    wrong: Option<(u64, String)>,
}

impl Sum {
    fn of(seed: u64, ending: Ending) -> Self {
        Self {
            finished: ending.finished,
            rounds: ending.rounds,
            evictions: ending.evictions,
            terms: ending.terms,
            by_peers: ending.by_peers,
            lost: usize::from(ending.lost),
            held: usize::from(ending.held && !ending.lost),
            wrong: ending.wrong.map(|wrong| (seed, wrong)),
        }
    }

    fn and(self, other: Self) -> Self {
        let wrong = match (self.wrong, other.wrong) {
            (Some(one), Some(two)) => Some(if one.0 < two.0 { one } else { two }),
            (one, two) => one.or(two),
        };
        Self {
            finished: self.finished + other.finished,
            rounds: self.rounds + other.rounds,
            evictions: self.evictions + other.evictions,
            terms: self.terms + other.terms,
            by_peers: self.by_peers + other.by_peers,
            lost: self.lost + other.lost,
            held: self.held + other.held,
            wrong,
        }
    }
}

/// Finds for each rule a schedule that goes wrong without it.
fn mutations() -> ExitCode {
    let started = Instant::now();
    let mut unneeded = Vec::new();
    for rule in Rules::NAMES {
        let Some(Failure { kind, seed, wrong }) = missed(rule) else {
            println!("without {rule}: nothing goes wrong");
            unneeded.push(*rule);
            continue;
        };
        let arbiters = if kind == Kind::Arbiters { "--arbiters " } else { "" };
        let wrong: String = wrong.lines().next().unwrap_or_default().chars().take(120).collect();
        println!("--without {rule} {arbiters}--seed {seed}: {wrong}");
    }
    let (rules, seconds) = (Rules::NAMES.len(), started.elapsed().as_secs_f64());
    let found = rules - unneeded.len();
    println!(
        "mutations: {rules} rules, {found} with a schedule that goes wrong without them, {} without, {seconds:.1} s",
        unneeded.len()
    );
    ExitCode::from(u8::from(!unneeded.is_empty()))
}

/// Replays the arbiters alone.
fn replay_arbiters(seed: u64, rules: Rules) -> ExitCode {
    let ending = arbiters::run(seed, rules);
    match &ending {
        Ok(records) => println!("arbiters: seed {seed}, {records} records granted, no rule was broken"),
        Err(wrong) => println!("seed {seed}: {wrong}\narbiters: seed {seed}, a rule was broken"),
    }
    ExitCode::from(u8::from(ending.is_err()))
}

/// Visits every order of one round's events.
fn model(rules: Rules, faults: u32) -> ExitCode {
    let started = Instant::now();
    let Visited { states, depth, broken, never } = visit(rules, faults);
    for (promise, steps) in &broken {
        println!("not so: {promise}\n  {}", steps.join("\n  "));
    }
    for event in &never {
        println!("never: {event}");
    }
    let verdict = if broken.is_empty() { "no property broken" } else { "a property is broken" };
    println!(
        "model: {states} states, depth {depth}, 3 peers, 2 coordinators, {faults} faults, {verdict}, {} events never seen, {:.1} s",
        never.len(),
        started.elapsed().as_secs_f64(),
    );
    ExitCode::from(u8::from(!broken.is_empty() || !never.is_empty()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let rules = arguments.without.unwrap_or_default();
    if arguments.mutations {
        return mutations();
    }
    if let Some(seed) = arguments.seed.filter(|_| arguments.arbiters) {
        return replay_arbiters(seed, rules);
    }
    if let Some(faults) = arguments.model {
        return model(rules, faults);
    }
    let started = Instant::now();
    let seeds = arguments.seed.map_or(0..arguments.seeds, |seed| seed..seed + 1);
    let count = seeds.end - seeds.start;
    let sum = seeds
        .into_par_iter()
        .map(|seed| Sum::of(seed, run(seed, &Schedule { traced: arguments.trace, ..Schedule::of(seed) }, rules)))
        .reduce(Sum::default, Sum::and);
    if let Some((seed, wrong)) = &sum.wrong {
        println!("seed {seed}: {wrong}\n--seed {seed} replays it");
    }
    println!(
        "simulation: {count} schedules, {} rounds committed, {} workers finished, {} evictions, {} terms, {} records granted by \
         peers, {} runs lost with all \
         who knew them, {} runs held without a majority, {}, {:.1} s",
        sum.rounds,
        sum.finished,
        sum.evictions,
        sum.terms,
        sum.by_peers,
        sum.lost,
        sum.held,
        if sum.wrong.is_some() { "a rule was broken" } else { "no rule was broken" },
        started.elapsed().as_secs_f64(),
    );
    // Such ends are rare, or the schedules destroy more than they test.
    ExitCode::from(u8::from(sum.wrong.is_some() || (sum.lost + sum.held) as u64 * 50 > count))
}
