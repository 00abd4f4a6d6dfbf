//! Faults at named phases, in a program of their own: it links the engine, which the tasks do not.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{figures::Figure, paths, process::run_lines};

/// Longest time for everything but the churn.
const LIMIT: Duration = Duration::from_mins(20);
/// With what its closing line begins.
const CLOSING: &str = "faults at phases, ";

/// Runs it, shows what it prints, and gives what its last line says.
pub(super) fn perform(quick: bool, churn: Duration, seed: u64) -> Result<Figure> {
    let mut command = Command::new(paths::release("atoll-faults"));
    command.args(["--churn", &churn.as_secs().to_string(), "--seed", &seed.to_string()]);
    if quick {
        command.arg("--quick");
    }
    let mut said = String::new();
    let status = run_lines("faults at phases", &mut command, LIMIT + churn, |line| {
        if let Some(closing) = line.strip_prefix(CLOSING) {
            closing.clone_into(&mut said);
        }
        true
    })?;
    Ok(Figure::that("phases", said, "all hold", status.success()))
}
