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
use crate::supervision::interrupts::Interrupts;

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
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Ending::failed(&error.into()),
    };
    let ending = runtime.block_on(async {
        let mut interrupts = match Interrupts::new() {
            Ok(interrupts) => interrupts,
            Err(error) => return Ending::failed(&error),
        };
        tokio::select! {
            performed = perform(what) => performed.err().unwrap_or(Ending::Done),
            () = interrupts.next() => Ending::Interrupted,
        }
    });
    // A read that nobody waits for any more may take as long as the store likes.
    runtime.shutdown_background();
    ending
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
