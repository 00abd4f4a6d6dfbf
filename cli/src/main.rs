//! The `atoll` command: one binary for the person at the terminal and for every process of a run.

mod bench;
mod commands;
mod process;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Decentralized training: one model over many workers, from one file.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train as a TrainingRun file says, on this machine
    Run(run::Arguments),
    /// Check a TrainingRun file and say what is wrong with it
    Validate(commands::Validate),
    /// Print the version
    Version,
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Measure this machine
    Bench {
        #[command(subcommand)]
        what: bench::Bench,
    },
    /// A sidecar of a run; its configuration comes on standard input
    #[command(hide = true)]
    Sidecar,
    /// A trainer of a run; its configuration comes on standard input
    #[command(hide = true)]
    Trainer,
}

/// How a command ended, as an exit code: 0 done, 1 failed, 2 bad input, 130 interrupted.
#[derive(Debug)]
enum Ending {
    Done,
    Failed(String),
    BadInput(String),
    Interrupted,
}

impl Ending {
    fn bad_input(problem: &impl std::fmt::Display) -> Self {
        Self::BadInput(problem.to_string())
    }

    fn failed(error: &anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }

    fn report(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Failed(message) => {
                eprintln!("error: {message}");
                ExitCode::from(1)
            }
            Self::BadInput(message) => {
                eprintln!("{message}");
                ExitCode::from(2)
            }
            Self::Interrupted => ExitCode::from(130),
        }
    }
}

fn main() -> ExitCode {
    let ending = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Validate(arguments) => commands::validate(&arguments),
        Command::Version => commands::version(),
        Command::Completions { shell } => commands::completions::<Arguments>(shell),
        Command::Bench { what } => bench::bench(&what),
        Command::Sidecar => process::sidecar(),
        Command::Trainer => process::trainer(),
    };
    ending.report()
}

/// Reads a run file; more than it may hold is left to the check of its length.
fn read_file(path: &PathBuf) -> Result<String, Ending> {
    let bytes = std::fs::read(path).map_err(|error| Ending::BadInput(format!("{}: cannot be read: {error}", path.display())))?;
    String::from_utf8(bytes).map_err(|error| {
        let position = error.utf8_error().valid_up_to();
        Ending::BadInput(format!("{}: not UTF-8 at byte {position}; run files are UTF-8 text", path.display()))
    })
}
