//! The shipped protocol under many schedules of faults, on virtual time.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{paths, process::run_lines, product, tally::Tally};

const LIMIT: Duration = Duration::from_hours(6);

/// Runs `seeds` schedules.
pub(crate) fn schedules(seeds: u64) -> Result<Tally> {
    simulate(&["--seeds", &seeds.to_string()])
}

/// Takes each safety rule away, and finds a schedule that goes wrong without it.
pub(crate) fn mutations() -> Result<Tally> {
    simulate(&["--mutations"])
}

/// The simulation itself prints what it found, and its figures.
fn simulate(arguments: &[&str]) -> Result<Tally> {
    product::build(&["atoll-simulation"])?;
    let mut command = Command::new(paths::release("atoll-simulation"));
    let status = run_lines("simulate", command.args(arguments), LIMIT, |_| true)?;
    Ok(if status.success() { Tally::PASSED } else { Tally { failed: 1, ..Tally::default() } })
}
