//! The shipped protocol under many schedules of faults, on virtual time: its state machines, or whole sidecars.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{paths, process::run_lines, product, tally::Tally};

const LIMIT: Duration = Duration::from_hours(6);

/// Runs `seeds` schedules of the state machines alone, or so many of whole sidecars with real gRPC on a simulated network; the
/// simulation itself prints what it found, and its figures.
pub(crate) fn perform(seeds: u64, turmoil: Option<u64>) -> Result<Tally> {
    let (program, seeds) = turmoil.map_or(("atoll-simulation", seeds), |seeds| ("atoll-turmoil", seeds));
    product::build(&[program])?;
    let mut command = Command::new(paths::release(program));
    command.args(["--seeds", &seeds.to_string()]);
    let status = run_lines("simulate", &mut command, LIMIT, |_| true)?;
    Ok(if status.success() { Tally::PASSED } else { Tally { failed: 1, ..Tally::default() } })
}
