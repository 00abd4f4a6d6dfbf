//! The tasks as they are written on the command line, and in the table of suites.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    acceptance, audit, bench, chart, checkpoints, cluster, crd_compatibility, e2e, example, faults, field_table, frames, fuzz,
    image, load, python, simulate, suites, tally::Tally, tiers,
};

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

/// One task. Each ends with one line that holds its figures, and fails where one of them falls short.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Unit, property, golden and short process tests of the whole workspace
    Test,
    /// The test tier, then format, lint, drift, and a reduced pass of every suite
    Ci,
    /// The whole of one suite, as long as it takes
    Full {
        /// foundations, engine, checkpoints, e2e, federation, volunteers or methods
        #[arg(long)]
        suite: String,
        /// The cluster on which e2e is performed; without it, one of the lab
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// Print the table of suites, with their budgets and commands
    Suites,
    /// Check the lock file, sizes of files, words, links, and what depends on what
    Audit,
    /// Write the fields of a run into the user guide, and the API reference, from the CRDs
    Fields {
        /// Only say whether the pages have drifted
        #[arg(long)]
        check: bool,
    },
    /// Check that the CRDs take what those of an earlier commit took
    Crds {
        /// A commit, or a folder of manifests
        #[arg(long, default_value = "HEAD~1")]
        against: String,
    },
    /// Run examples/kjv.yaml and check its loss, hashes, time, and cost of synchronising
    Example {
        /// Two repeats instead of ten
        #[arg(long)]
        quick: bool,
    },
    /// Strike peers in every phase of their operations, have them come and go, kill and stop processes of runs; all must end well
    Faults {
        /// Three peers instead of three to five, and less of the rest
        #[arg(long)]
        quick: bool,
        /// Minutes in which peers come and go: hours, where somebody has them
        #[arg(long)]
        minutes: Option<u64>,
        /// Instants of longer runs per case
        #[arg(long)]
        instants: Option<usize>,
        /// Repeats an earlier pass
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Kill runs and have them go on: they must end with the weights of a run that nobody disturbed
    SameResult {
        /// Kills for each method and codec
        #[arg(long, default_value_t = 2)]
        points: usize,
        /// Repeats an earlier pass
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Lose three of the example's four workers for good, and have three others join: the run must be no worse for it
    Survivor {
        /// Fewer rounds
        #[arg(long)]
        quick: bool,
    },
    /// Have something fail at each step of a checkpoint; then the newest whole one must be there, and a run go on from it
    CrashMatrix {
        /// All places with all faults, and the table of the guide
        #[arg(long)]
        all: bool,
        /// Repeats an earlier pass
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Try the contract of checkpoint stores on an S3 server that others wrote
    SecondOpinion,
    /// Have a trainer in Python and one in Rust reduce together, and check that both get the right values
    Python,
    /// Check that what earlier releases sent is still understood
    Frames {
        /// Record what this build sends first, as that of a new release
        #[arg(long, value_name = "RELEASE")]
        record: Option<String>,
    },
    /// Real Kubernetes clusters on this machine, for tests
    #[command(subcommand)]
    Cluster(cluster::Task),
    /// Check the Helm chart against the CRDs, and the operator's verbs, ports and settings
    Chart(chart::Arguments),
    /// Make container images of the product's programs, as OCI layouts in target/images
    Image(image::Arguments),
    /// Test the operator on a real cluster: images, cluster, chart, cases
    E2e(e2e::Arguments),
    /// Look for bytes that break a decoder, with coverage-guided fuzzers
    Fuzz(fuzz::Arguments),
    /// Run the shipped protocol under seeded schedules of faults, on virtual time
    Simulate {
        /// Schedules to run
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// Schedules of whole sidecars with real gRPC on a simulated network, instead
        #[arg(long, value_name = "SEEDS", conflicts_with_all = ["seeds", "mutations"])]
        turmoil: Option<u64>,
        /// Take each safety rule away instead, and find a schedule that goes wrong without it
        #[arg(long, conflicts_with = "seeds")]
        mutations: bool,
        /// Visit every order of one round's events instead, with at most so many faults
        #[arg(long, value_name = "FAULTS", num_args = 0..=1, default_missing_value = "2")]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=2), conflicts_with_all = ["seeds", "turmoil", "mutations"])]
        model: Option<u32>,
    },
    /// Check the quality of training methods
    #[command(subcommand)]
    Acceptance(AcceptanceTask),
    /// Build and run what the product is measured against
    #[command(subcommand)]
    Reference(ReferenceTask),
    /// Measure speed
    #[command(subcommand)]
    Bench(BenchTask),
    /// Keep one core busy until killed or left alone
    #[command(hide = true)]
    Spin,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AcceptanceTask {
    /// DiLoCo against data parallel, a lone worker and federated averaging
    Diloco {
        /// One seed, and only what it needs
        #[arg(long, conflicts_with = "write")]
        quick: bool,
        /// Write the table into the user guide
        #[arg(long)]
        write: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReferenceTask {
    /// The training step written out by hand
    Trainer {
        /// Training steps to measure
        #[arg(long, default_value_t = bench::trainer::STEPS)]
        steps: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchTask {
    /// The trainer against the reference, alternately
    Trainer {
        /// 3 pairs instead of 5
        #[arg(long)]
        quick: bool,
    },
    /// The collective engine against a plain reduction, Gloo, and the links it runs over
    Collective {
        /// Fewer rows and repeats, and nothing that needs Gloo
        #[arg(long)]
        quick: bool,
    },
    /// What checkpoints cost a run, and how fast a state is written and restored
    Checkpoint {
        /// A smaller state, and no runs
        #[arg(long)]
        quick: bool,
    },
    /// How fast a worker that joins takes the state, and what the donors feel of it
    State,
}

impl Task {
    /// Does it, and counts what was checked.
    pub(crate) fn perform(&self) -> Result<Tally> {
        match self {
            Self::Test => Ok(tiers::test()),
            Self::Ci => Ok(tiers::ci()),
            Self::Full { suite, kubeconfig: Some(kubeconfig) } if suite == "e2e" => e2e::on(kubeconfig),
            Self::Full { suite, .. } => tiers::full(suite),
            Self::Suites => {
                println!("{}\n{}", suites::table(), suites::line());
                Ok(Tally::default())
            }
            Self::Audit => audit::perform(),
            Self::Fields { check } => field_table::perform(*check),
            Self::Crds { against } => crd_compatibility::perform(against),
            Self::Example { quick } => example::perform(*quick),
            Self::Faults { quick, minutes, instants, seed } => {
                faults::perform(faults::Pass { quick: *quick, minutes: *minutes, instants: *instants, seed: *seed })
            }
            Self::SameResult { points, seed } => checkpoints::same_result(*points, *seed),
            Self::Survivor { quick } => checkpoints::survivor(*quick),
            Self::CrashMatrix { all, seed } => checkpoints::crash_matrix(*all, *seed),
            Self::SecondOpinion => checkpoints::second_opinion(),
            Self::Python => python::perform(),
            Self::Frames { record } => frames::perform(record.as_deref()),
            Self::Cluster(task) => cluster::perform(task),
            Self::Chart(arguments) => chart::perform(arguments),
            Self::Image(arguments) => image::perform(arguments),
            Self::E2e(arguments) => e2e::perform(arguments),
            Self::Fuzz(arguments) => fuzz::perform(arguments),
            Self::Simulate { turmoil: Some(seeds), .. } => simulate::perform("atoll-turmoil", &["--seeds", &seeds.to_string()]),
            Self::Simulate { mutations: true, .. } => simulate::perform("atoll-simulation", &["--mutations"]),
            Self::Simulate { model: Some(faults), .. } => {
                simulate::perform("atoll-simulation", &["--model", &faults.to_string()])
            }
            Self::Simulate { seeds, .. } => simulate::perform("atoll-simulation", &["--seeds", &seeds.to_string()]),
            Self::Acceptance(AcceptanceTask::Diloco { quick, write }) => acceptance::diloco(*quick, *write),
            Self::Reference(ReferenceTask::Trainer { steps }) => bench::trainer::reference(*steps),
            Self::Bench(BenchTask::Trainer { quick }) => bench::trainer::perform(*quick),
            Self::Bench(BenchTask::Collective { quick }) => bench::collective::perform(*quick),
            Self::Bench(BenchTask::Checkpoint { quick }) => bench::checkpoint::perform(*quick),
            Self::Bench(BenchTask::State) => bench::state::perform(),
            Self::Spin => {
                load::spin();
                Ok(Tally::default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
