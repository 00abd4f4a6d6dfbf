//! `atoll status` and its kin, also as `kubectl atoll`: runs of a Kubernetes cluster, seen and steered through the kubeconfig alone.

mod change;
mod connection;
mod events;
mod failures;
mod kept;
mod logs;
mod losses;
mod plugin;
mod report;
mod screen;
mod status;
mod text;
mod top;
mod usage;
mod view;
mod waiting;
mod workers;

use std::io::{ErrorKind, Write};
use std::path::Path;

use clap::Subcommand;

pub(crate) use self::kept::Arguments as Checkpoint;
use crate::Ending;
use crate::supervision::interrupts::until_interrupted;

/// What can be done with runs of a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show the runs of a cluster, or one run on one screen
    Status(status::Arguments),
    /// Print what the workers of a run say
    Logs(logs::Arguments),
    /// Print what happened to a run, its Job and its pods
    Events(events::Arguments),
    /// Show what each worker of a run uses
    Top(top::Arguments),
    /// Have a run give its workers back, after a checkpoint where it keeps any
    Suspend(change::Arguments),
    /// Have a suspended run go on
    Resume(change::Arguments),
    /// Print all that is known of a run in one document
    Report(report::Arguments),
    /// Put this program where kubectl finds it as `kubectl atoll`
    InstallPlugin(plugin::Arguments),
}

/// Name under which kubectl finds this program.
const PLUGIN: &str = "kubectl-atoll";

/// How the program is called in its own usage, where it is not by the name of its file.
pub(crate) fn called_by_kubectl(program: &Path) -> bool {
    program.file_stem().is_some_and(|name| name == PLUGIN)
}

pub(crate) fn cluster(command: &Cluster) -> Ending {
    until_interrupted(perform(command))
}

/// `atoll checkpoint RUN`.
pub(crate) fn checkpoint(arguments: &Checkpoint) -> Ending {
    until_interrupted(kept::keep(arguments))
}

async fn perform(command: &Cluster) -> Result<(), Ending> {
    match command {
        Cluster::Status(arguments) => status::status(arguments).await,
        Cluster::Logs(arguments) => logs::logs(arguments).await,
        Cluster::Events(arguments) => events::events(arguments).await,
        Cluster::Top(arguments) => top::top(arguments).await,
        Cluster::Suspend(arguments) => change::change(arguments, true).await,
        Cluster::Resume(arguments) => change::change(arguments, false).await,
        Cluster::Report(arguments) => report::report(arguments).await,
        Cluster::InstallPlugin(arguments) => plugin::install(arguments),
    }
}

/// Writes to standard output at once; whoever has read enough ends the command.
fn show(text: &str) -> Result<(), Ending> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Ending::Done),
        Err(error) => Err(Ending::Failed(format!("standard output cannot be written: {error}"))),
    }
}

/// A value as JSON, for programs.
fn show_json(value: &impl serde::Serialize) -> Result<(), Ending> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Ending::failed(&error.into()))?;
    show(&(text + "\n"))
}

/// The present, for ages and times that people read.
fn now() -> jiff::Timestamp {
    #[expect(clippy::disallowed_methods, reason = "ages are of times that a cluster's clock gave; nothing is decided by them")]
    jiff::Timestamp::now()
}
