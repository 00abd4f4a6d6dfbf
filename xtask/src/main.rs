//! The project's own tasks: test tiers, drift checks, acceptance tables, fault suites.

mod acceptance;
mod api_reference;
mod audit;
mod bench;
mod budget;
mod chart;
mod checkpoints;
mod cluster;
mod command_line;
mod crd_compatibility;
mod e2e;
mod events;
mod example;
mod faults;
mod field_table;
mod figures;
mod frames;
mod fuzz;
mod image;
mod known;
mod load;
mod markers;
mod paths;
mod process;
mod product;
mod python;
mod random;
mod report;
mod simulate;
mod suites;
mod tally;
mod tiers;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match command_line::Arguments::parse().task.perform() {
        Ok(tally) if tally.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<suites::NoSuite>() { 2 } else { 1 })
        }
    }
}
