//! `atoll bench`: figures of this machine, each beside a reference measured in the same minutes.

mod checkpoint;
mod collective;
mod trainer;

use clap::Subcommand;

use crate::Ending;

pub(crate) use collective::rank::rank;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Train the 5.87 M-parameter model on random tokens: tokens per second, and memory
    Trainer(trainer::Arguments),
    /// Reduce a tensor over peers in processes of their own: time, bandwidth, CPU time and memory
    Collective(collective::Arguments),
    /// Repair a worker's state from one donor and from three, over shaped links: time, bytes, and the donors' operations
    State(collective::state::Arguments),
    /// Write a state to a folder and restore it, beside a plain file: rates, and memory
    Checkpoint(checkpoint::Arguments),
}

pub(crate) fn bench(what: &Bench) -> Ending {
    match what {
        Bench::Trainer(arguments) => trainer::bench(arguments),
        Bench::Collective(arguments) => collective::bench(arguments),
        Bench::Checkpoint(arguments) => checkpoint::bench(arguments),
        Bench::State(arguments) => collective::state::bench(arguments),
    }
}
