//! The shipped protocol under many schedules of faults, on virtual time.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{paths, process::run_lines, product, tally::Tally};

const LIMIT: Duration = Duration::from_hours(6);

/// Runs `seeds` schedules; the simulation itself prints what it found, and its figures.
pub(crate) fn perform(seeds: u64) -> Result<Tally> {
    product::build(&["atoll-simulation"])?;
    let mut command = Command::new(paths::release("atoll-simulation"));
    command.args(["--seeds", &seeds.to_string()]);
    let status = run_lines("simulate", &mut command, LIMIT, |_| true)?;
    Ok(if status.success() { Tally::PASSED } else { Tally { failed: 1, ..Tally::default() } })
}
