//! `atoll-faults`: see the library.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Strike real sidecars in named phases of their operations, and check by value what became of the others
#[derive(Debug, Parser)]
struct Arguments {
    /// Only the cases of three peers
    #[arg(long)]
    quick: bool,
    /// Seconds in which peers come and are killed
    #[arg(long, default_value_t = 120)]
    churn: u64,
    /// Decides what the cases leave open
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the cases whose names contain this
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> ExitCode {
    let Arguments { quick, churn, seed, only } = Arguments::parse();
    let options = atoll_faults::Options { quick, churn: Duration::from_secs(churn), seed, only };
    match atoll_faults::perform(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
