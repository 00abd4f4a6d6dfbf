//! The three tiers: each runs suites of the table, one after another, and says how they ended.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser as _;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};

use crate::{
    budget,
    command_line::Arguments,
    process::{cargo, run_lines},
    suites::{self, Need, Suite, Tier, written},
    tally::{Tally, TestOutput},
};

/// Set to 1 where a suite may be skipped because the machine lacks what it needs.
const ALLOW_SKIP: &str = "ATOLL_ALLOW_SKIP";
/// A command that takes this many budgets hangs, and is ended.
const HANGS_AFTER: u64 = 3;

/// How a suite ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    suite: &'static str,
    tally: Tally,
    seconds: u64,
    budget: u64,
    /// What the machine lacks; the suite was skipped for it.
    missing: Vec<String>,
}

impl Outcome {
    fn line(&self) -> String {
        format!("{}: {}, {} s", self.suite, self.tally, self.seconds)
    }
}

/// `cargo xtask test`.
pub(crate) fn test() -> Tally {
    let outcomes = all(suites::of(Tier::Test));
    let elsewhere: Vec<&str> = suites::of(Tier::Ci).map(|suite| suite.name).collect();
    println!("not in this tier: {} (cargo xtask ci)", elsewhere.join(", "));
    conclude("test", &outcomes, true)
}

/// `cargo xtask full --suite NAME`.
pub(crate) fn full(name: &str) -> Result<Tally> {
    let outcomes = all(std::iter::once(suites::full(name)?));
    Ok(conclude(name, &outcomes, allow_skip()))
}

/// `cargo xtask ci`. Its last line is the tally alone.
pub(crate) fn ci() -> Tally {
    let outcomes = all(suites::of(Tier::Test).chain(suites::of(Tier::Ci)));
    println!("{}", table(&outcomes));
    let tally = conclude("ci", &outcomes, allow_skip());
    println!("{tally}");
    tally
}

fn allow_skip() -> bool {
    std::env::var(ALLOW_SKIP).is_ok_and(|value| value == "1")
}

fn all(suites: impl Iterator<Item = &'static Suite>) -> Vec<Outcome> {
    suites.map(perform).collect()
}

/// Prints what is wrong and the closing line, and counts it as failed. The test tier has a budget only inside `ci`.
fn conclude(name: &str, outcomes: &[Outcome], allow_skip: bool) -> Tally {
    let faults = faults(outcomes, allow_skip, name != "test");
    for fault in &faults {
        println!("{fault}");
    }
    let mut tally: Tally = outcomes.iter().map(|outcome| outcome.tally).sum();
    tally.failed += faults.len();
    println!("{name}: {tally}, {} s", outcomes.iter().map(|outcome| outcome.seconds).sum::<u64>());
    tally
}

/// What is wrong beside failed tests: budgets that were exceeded, and suites that were skipped though they must not be.
fn faults(outcomes: &[Outcome], allow_skip: bool, budgets: bool) -> Vec<String> {
    let late = outcomes.iter().filter(|outcome| budgets && outcome.seconds > outcome.budget);
    let late = late.map(|outcome| format!("{}: took {} s, its budget is {} s", outcome.suite, outcome.seconds, outcome.budget));
    let skipped = outcomes.iter().filter(|outcome| !allow_skip && !outcome.missing.is_empty());
    let skipped = skipped.map(|outcome| {
        format!("{}: skipped for lack of {}; {ALLOW_SKIP}=1 allows that", outcome.suite, outcome.missing.join(", "))
    });
    late.chain(skipped).collect()
}

/// Runs one suite; a command that cannot be run counts as failed.
fn perform(suite: &'static Suite) -> Outcome {
    let budget = suite.budget.seconds(suite.name);
    println!("== {} (budget {budget} s)", suite.name);
    let missing: Vec<String> = suite.needs.iter().copied().filter_map(Need::missing).collect();
    let start = Instant::now();
    let tally = if missing.is_empty() {
        suite.commands.iter().map(|words| command(suite.name, words, Duration::from_secs(HANGS_AFTER * budget))).sum()
    } else {
        println!("{}: skipped, this machine lacks {}", suite.name, missing.join(", "));
        Tally::SKIPPED
    };
    let outcome = Outcome { suite: suite.name, tally, seconds: start.elapsed().as_secs(), budget, missing };
    if tally.failed == 0
        && outcome.missing.is_empty()
        && let Err(error) = budget::passed(suite.name)
    {
        eprintln!("{}: cannot remember that it passed: {error:#}", suite.name);
    }
    println!("== {}", outcome.line());
    outcome
}

fn command(suite: &str, words: &[&str], limit: Duration) -> Tally {
    println!("$ {}", written(words));
    let result = match words {
        ["xtask", ..] => Arguments::try_parse_from(words).map_err(Into::into).and_then(|arguments| arguments.task.perform()),
        ["cargo", "test", ..] => tests(suite, &words[1..], limit),
        ["cargo", arguments @ ..] => {
            let mut command = cargo();
            run_lines(suite, command.args(arguments), limit, |_| true).map(|status| Tally::of(status.success()))
        }
        _ => unreachable!("the table's commands begin with cargo or xtask"),
    };
    result.unwrap_or_else(|error| {
        println!("{suite}: {error:#}");
        Tally::FAILED
    })
}

/// Runs `cargo test` and counts; says which tests were skipped.
fn tests(suite: &str, arguments: &[&str], limit: Duration) -> Result<Tally> {
    let mut output = TestOutput::default();
    let status = run_lines(suite, cargo().args(arguments), limit, |line| output.take(line))?;
    for test in &output.skipped {
        println!("skipped: {test}");
    }
    let without_failure = !status.success() && output.tally.failed == 0;
    if without_failure || output.tally == Tally::default() {
        bail!("cargo test: {status}, after {}", output.tally);
    }
    Ok(output.tally)
}

fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["suite", "passed", "failed", "skipped", "seconds", "budget"]);
    for Outcome { suite, tally, seconds, budget, .. } in outcomes {
        let numbers = [tally.passed as u64, tally.failed as u64, tally.skipped as u64, *seconds, *budget];
        table.add_row(std::iter::once((*suite).to_owned()).chain(numbers.map(|number| number.to_string())));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(seconds: u64, missing: &[&str]) -> Outcome {
        let missing: Vec<String> = missing.iter().map(|need| (*need).to_owned()).collect();
        Outcome { suite: "lint", tally: Tally::PASSED, seconds, budget: 180, missing }
    }

    #[test]
    fn a_suite_that_exceeds_its_budget_fails_the_pass() {
        assert_eq!(faults(&[outcome(180, &[])], false, true), [""; 0]);
        assert_eq!(faults(&[outcome(181, &[])], false, true), ["lint: took 181 s, its budget is 180 s"]);
        assert_eq!(conclude("ci", &[outcome(181, &[])], false).failed, 1);
    }

    #[test]
    fn a_suite_that_was_skipped_fails_the_pass_unless_that_is_allowed() {
        let skipped = outcome(0, &["Linux"]);
        assert_eq!(faults(std::slice::from_ref(&skipped), true, true), [""; 0]);
        let fault = "lint: skipped for lack of Linux; ATOLL_ALLOW_SKIP=1 allows that";
        assert_eq!(faults(&[skipped], false, true), [fault]);
    }

    #[test]
    fn a_command_that_fails_or_is_not_there_counts_as_failed() {
        let limit = Duration::from_mins(1);
        assert_eq!(command("none", &["cargo", "no-such-command"], limit), Tally::FAILED);
        assert_eq!(command("none", &["cargo", "test", "--no-such-option"], limit), Tally::FAILED);
        assert_eq!(command("none", &["xtask", "full", "--suite", "federation"], limit), Tally::FAILED);
        assert_eq!(command("none", &["xtask", "suites"], limit), Tally::default());
    }
}
