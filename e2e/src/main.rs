//! Tests of the operator on a cluster where its chart is installed: each case has a namespace of its own.

mod cases;
mod cluster;
mod lab;
mod run;
mod suite;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Runs end-to-end tests on a cluster where Atoll is installed.
#[derive(Debug, Parser)]
struct Arguments {
    /// Kubeconfig of the cluster
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// Namespace of the operator
    #[arg(long, default_value = "atoll-system")]
    system: String,
    /// Script of the laboratory that made the cluster; without it, cases that need power over nodes are skipped
    #[arg(long)]
    lab: Option<PathBuf>,
    /// Number of the cluster in the laboratory
    #[arg(long, default_value_t = 1)]
    number: u32,
    /// The `atoll` command, for runs on this machine
    #[arg(long)]
    atoll: Option<PathBuf>,
    /// Only the cases of the reduced pass
    #[arg(long)]
    quick: bool,
    /// Only cases whose names contain this; may be repeated
    #[arg(long = "case", value_name = "NAME")]
    names: Vec<String>,
    /// Lists the cases
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        suite::list();
        return ExitCode::SUCCESS;
    }
    match suite::perform(&arguments).await {
        Ok(tally) => {
            println!("{}", tally.line());
            if tally.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
