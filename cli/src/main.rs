//! The `atoll` command: one binary for the person at the terminal and for every process of a run.

mod bench;
mod checkpoint;
mod cluster;
mod commands;
mod logging;
mod process;
mod recover;
mod relay;
mod replay;
mod run;
mod sidecars;
mod supervision;
mod units;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
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
    /// Start the sidecars of a run whose trainers you start yourself
    Sidecars(sidecars::Arguments),
    /// Have a run go on that lost the majority of its voters for ever
    Recover(recover::Arguments),
    /// Check a TrainingRun file and say what is wrong with it
    Validate(commands::Validate),
    /// Feed what a sidecar recorded to the protocol again, and say what happened and whether anything differs
    Replay(replay::Arguments),
    /// Have a run of a cluster make a checkpoint; list, show, verify, compare, remove and export those of a folder
    #[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
    Checkpoint {
        #[command(subcommand)]
        what: Option<checkpoint::Checkpoint>,
        #[command(flatten)]
        make: cluster::Checkpoint,
    },
    #[command(flatten)]
    Cluster(cluster::Cluster),
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
    /// A relay of a run; its configuration comes on standard input
    #[command(hide = true)]
    Relay,
    /// A rank of a benchmark; its configuration comes on standard input
    #[command(hide = true)]
    Rank,
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

    /// What it says to a person.
    fn message(&self) -> &str {
        match self {
            Self::Done => "",
            Self::Failed(message) | Self::BadInput(message) => message,
            Self::Interrupted => "interrupted",
        }
    }

    fn report(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Failed(message) => {
                say(&format!("error: {message}"));
                ExitCode::from(1)
            }
            Self::BadInput(message) => {
                say(&message);
                ExitCode::from(2)
            }
            Self::Interrupted => ExitCode::from(130),
        }
    }
}

fn main() -> ExitCode {
    let ending = match arguments().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Sidecars(arguments) => sidecars::sidecars(&arguments),
        Command::Recover(arguments) => recover::recover(&arguments),
        Command::Validate(arguments) => commands::validate(&arguments),
        Command::Replay(arguments) => replay::replay(&arguments),
        Command::Checkpoint { what: Some(what), .. } => checkpoint::checkpoint(&what),
        Command::Checkpoint { what: None, make } => cluster::checkpoint(&make),
        Command::Cluster(command) => cluster::cluster(&command),
        Command::Version => commands::version(),
        Command::Completions { shell } => commands::completions::<Arguments>(shell),
        Command::Bench { what } => bench::bench(&what),
        Command::Sidecar => process::sidecar(),
        Command::Trainer => process::trainer(),
        Command::Relay => relay::relay(),
        Command::Rank => bench::rank(),
    };
    ending.report()
}

/// What was typed; its usage calls the program as it was called.
fn arguments() -> Arguments {
    let mut command = Arguments::command();
    if std::env::args_os().next().is_some_and(|program| cluster::called_by_kubectl(Path::new(&program))) {
        command = command.bin_name("kubectl atoll");
    }
    Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

/// Longest run file that is read, in bytes; the check of its content says what is too long.
const LONGEST: u64 = (1 << 20) + 4;

/// Writes a line for a person; one whose terminal is gone has ended the run by other means, or wants it to go on.
fn say(line: &str) {
    let _gone = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes to standard output; a reader that has gone needs no more.
fn print(text: &str) -> Result<(), Ending> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Ending::Failed(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// The end of a command that has nothing more to do than to print.
fn printed(text: &str) -> Ending {
    print(text).err().unwrap_or(Ending::Done)
}

/// Reads a run file.
fn read_file(path: &PathBuf) -> Result<String, Ending> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST).read_to_end(&mut bytes))
        .map_err(|error| Ending::BadInput(format!("{}: cannot be read: {error}", path.display())))?;
    if bytes.len() as u64 == LONGEST {
        return Err(Ending::BadInput(format!("{}:1:1: longer than 1 MiB; a run file describes one run", path.display())));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
        Ending::BadInput(format!("{}:{line}:{column}: not UTF-8; run files are UTF-8 text", path.display()))
    })
}
