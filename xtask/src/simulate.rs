//! The shipped protocol under many schedules of faults, on virtual time: its state machines, or whole sidecars.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{paths, process::run_lines, product, tally::Tally};

const LIMIT: Duration = Duration::from_hours(6);

/// Runs one of the simulations, which itself prints what it found, and its figures.
pub(crate) fn perform(program: &str, arguments: &[&str]) -> Result<Tally> {
    product::build(&[program])?;
    let mut command = Command::new(paths::release(program));
    let status = run_lines("simulate", command.args(arguments), LIMIT, |_| true)?;
    Ok(if status.success() { Tally::PASSED } else { Tally { failed: 1, ..Tally::default() } })
}
