//! `atoll checkpoint prune`: old checkpoints, and what no other checkpoint needs, are removed.

use std::collections::BTreeMap;

use atoll_checkpoint::folder::{Folder, MANIFESTS, manifest_name};
use atoll_checkpoint::retention::Retention;
use atoll_checkpoint::sweep::{Sweeper, Swept};
use atoll_checkpoint::{Place, StoreError};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;

use super::location::Location;
use super::shown::{self, count, short, size};
use super::{ending, reading};
use crate::supervision::token;
use crate::{Ending, print};

/// Digits that tell this process from another that removes at the same time.
const DIGITS: usize = 16;

/// Arguments of `atoll checkpoint prune`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    location: Location,
    /// Keep so many of the newest
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    keep: usize,
    /// Keep those of rounds that are a multiple of this, too
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    keep_every: Option<u64>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, and nothing else
    #[arg(long)]
    json: bool,
}

/// What was removed, or would be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pruned {
    address: String,
    dry_run: bool,
    /// The oldest first.
    removed: Vec<Place>,
    kept: u64,
    shards: u64,
    /// Of shards and manifests.
    bytes: u64,
}

pub(crate) async fn prune(arguments: &Arguments) -> Result<(), Ending> {
    let folder = arguments.location.open()?;
    if reading::is_web(&folder) {
        return Err(Ending::BadInput("over HTTP checkpoints are read only; give an address that can be written to".into()));
    }
    let retention = Retention { keep: arguments.keep, keep_every: arguments.keep_every };
    let token = token().map_err(|error| Ending::failed(&error))?;
    let pruned = sweep(&folder, &retention, arguments.dry_run, &format!("prune-{}", &token[..DIGITS])).await;
    let pruned = pruned.map_err(|error| ending(&error))?;
    if arguments.json { shown::json(&pruned) } else { print(&text(&pruned)) }
}

async fn sweep(folder: &Folder, retention: &Retention, dry_run: bool, name: &str) -> Result<Pruned, StoreError> {
    let manifests = folder.store().list(MANIFESTS, None).await?;
    let manifests: BTreeMap<_, _> = manifests.into_iter().map(|listed| (listed.name, listed.bytes)).collect();
    let shards = folder.stored().await?;
    let mut sweeper = Sweeper::new(folder.clone(), name);
    let swept = if dry_run { sweeper.would_sweep(retention).await? } else { sweeper.sweep(retention).await? };
    let Swept { checkpoints, shards: removed } = swept;
    let of_shards: u64 = removed.iter().filter_map(|shard| shards.get(shard)).sum();
    let of_manifests: u64 = checkpoints.iter().filter_map(|place| manifests.get(&manifest_name(*place))).sum();
    let there = folder.entries().await?;
    Ok(Pruned {
        address: folder.store().address().to_string(),
        dry_run,
        kept: there.iter().filter(|entry| !checkpoints.contains(&entry.place)).count() as u64,
        removed: checkpoints.into_iter().collect(),
        shards: removed.len() as u64,
        bytes: of_shards + of_manifests,
    })
}

fn text(pruned: &Pruned) -> String {
    let Pruned { address, dry_run, removed, kept, shards, bytes } = pruned;
    let (each, all) = if *dry_run { ("would remove", "would be removed") } else { ("removed", "removed") };
    let mut lines: Vec<_> = removed.iter().map(|place| format!("{each} {}", short(*place))).collect();
    let (checkpoints, shards) = (count(removed.len() as u64, "checkpoint"), count(*shards, "shard"));
    let (bytes, kept) = (size(*bytes), count(*kept, "checkpoint"));
    lines.push(format!("{address}: {checkpoints} and {shards} {all}, {bytes}; {kept} kept"));
    lines.join("\n") + "\n"
}
