//! The trainer of a worker's pod, as a container's one process; and the container before it, which fetches what it reads.

use std::process::ExitCode;

use atoll_trainer::pod::{Task, process};
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The trainer of a worker's pod: what it needs is in its environment (`ATOLL_SHARED`, `ATOLL_SPEC`, ...)
#[derive(Debug, Parser)]
#[command(name = "atoll-trainer", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch what `ATOLL_FETCH` lists, for the trainer to read
    Fetch,
}

fn main() -> ExitCode {
    process(match Arguments::parse().command {
        None => Task::Train,
        Some(Command::Fetch) => Task::Fetch,
    })
}
