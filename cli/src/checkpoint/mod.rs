//! `atoll checkpoint`: what lies in a folder of checkpoints, whether it is whole, and what to make of it.

pub(crate) mod bar;
mod diff;
mod export;
mod list;
mod location;
mod prune;
mod reading;
mod show;
mod shown;
mod verify;
mod which;

use atoll_checkpoint::StoreError;
use atoll_checkpoint::error::Kind;
use clap::Subcommand;

use crate::Ending;
use crate::supervision::interrupts::until_interrupted;

/// What can be done with checkpoints.
#[derive(Debug, Subcommand)]
pub(crate) enum Checkpoint {
    /// List all checkpoints of a folder, the newest last
    List(list::Arguments),
    /// Say what one checkpoint holds
    Show(show::Arguments),
    /// Read everything of one checkpoint, or of all, and say what is damaged
    Verify(verify::Arguments),
    /// Say what differs between two checkpoints
    Diff(diff::Arguments),
    /// Remove old checkpoints, and the shards that no other checkpoint names
    Prune(prune::Arguments),
    /// Write the model of a checkpoint as a Hugging Face folder
    Export(export::Arguments),
}

pub(crate) fn checkpoint(what: &Checkpoint) -> Ending {
    until_interrupted(perform(what))
}

async fn perform(what: &Checkpoint) -> Result<(), Ending> {
    match what {
        Checkpoint::List(arguments) => list::list(arguments).await,
        Checkpoint::Show(arguments) => show::show(arguments).await,
        Checkpoint::Verify(arguments) => verify::verify(arguments).await,
        Checkpoint::Diff(arguments) => diff::diff(arguments).await,
        Checkpoint::Prune(arguments) => prune::prune(arguments).await,
        Checkpoint::Export(arguments) => export::export(arguments).await,
    }
}

/// The end of a command whose store answered so: what its user gave does not fit, or the store fails.
fn ending(error: &StoreError) -> Ending {
    match error.kind {
        Kind::NoBucket | Kind::Denied | Kind::ReadOnly => Ending::bad_input(error),
        _ => Ending::Failed(error.to_string()),
    }
}
