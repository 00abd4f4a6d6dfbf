//! `atoll checkpoint verify`: every byte of a checkpoint, or of all in a folder, read and compared with its name.

use std::collections::BTreeSet;
use std::time::Instant;

use atoll_checkpoint::error::Kind;
use atoll_checkpoint::folder::{CONDEMNED, Damage, INTENTS};
use atoll_checkpoint::shard::ShardName;
use atoll_checkpoint::{Folder, Manifest, Place, StoreError};
use clap::Args;
use serde::Serialize;

use super::bar::Bar;
use super::location::Location;
use super::shown::{self, count, short, size};
use super::which::Which;
use super::{ending, reading};
use crate::{Ending, print};

/// Most checkpoints that are named where one object spoils many.
const MOST_NAMED: usize = 8;

/// Arguments of `atoll checkpoint verify`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    location: Location,
    /// One checkpoint alone: LINEAGE-TERM-EPOCH-ROUND as in 1-1-2-40, the newest of a round as in 40, or latest
    #[arg(value_name = "CHECKPOINT")]
    which: Option<Which>,
    /// Print JSON, and nothing else
    #[arg(long)]
    json: bool,
}

/// An object that is not what it should be.
#[derive(Debug, Serialize)]
struct Damaged {
    object: String,
    problem: String,
    /// Which cannot be restored for it.
    checkpoints: BTreeSet<Place>,
}

/// What lies there beside checkpoints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Beside {
    /// Shards that no checkpoint names whose manifest could be read.
    unnamed_shards: u64,
    unnamed_bytes: u64,
    intents: u64,
    condemnations: u64,
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    address: String,
    checkpoints: u64,
    whole: u64,
    /// Distinct ones, and their bytes.
    shards: u64,
    bytes: u64,
    seconds: f64,
    damaged: Vec<Damaged>,
    /// Of a whole folder alone.
    beside: Option<Beside>,
}

pub(crate) async fn verify(arguments: &Arguments) -> Result<(), Ending> {
    let begun = Instant::now();
    let folder = arguments.location.open()?;
    let (manifests, unreadable) = match arguments.which {
        Some(which) => (vec![which.read(&folder).await?], Vec::new()),
        None => all(&folder).await?,
    };
    let bar = Bar::new("", arguments.json);
    let damages = folder.check_all(&manifests, |done, total| bar.show(done, total)).await.map_err(|error| ending(&error))?;
    drop(bar);
    let damaged = still(&folder, damages.into_iter().map(damaged).chain(unreadable)).await?;
    let named: BTreeSet<ShardName> = manifests.iter().flat_map(Manifest::shards).copied().collect();
    let whole = !reading::is_web(&folder) && arguments.which.is_none();
    let beside = if whole { Some(beside(&folder, &named).await.map_err(|error| ending(&error))?) } else { None };
    let spoiled: BTreeSet<Place> = damaged.iter().flat_map(|damaged| damaged.checkpoints.iter().copied()).collect();
    let read = manifests.iter().map(|manifest| manifest.place);
    let checkpoints: BTreeSet<Place> = read.chain(spoiled.iter().copied()).collect();
    tell(
        arguments.json,
        &Verified {
            address: folder.store().address().to_string(),
            checkpoints: checkpoints.len() as u64,
            whole: (checkpoints.len() - spoiled.len()) as u64,
            shards: named.len() as u64,
            bytes: folder.store().traffic().bytes_read(),
            seconds: begun.elapsed().as_secs_f64(),
            damaged,
            beside,
        },
    )
}

/// The manifests of a folder, and those that cannot be read.
async fn all(folder: &Folder) -> Result<(Vec<Manifest>, Vec<Damaged>), Ending> {
    let known = reading::known(folder).await?;
    let read = reading::manifests(folder, known.iter().map(|known| known.place), |manifest| manifest).await?;
    let (mut manifests, mut unreadable) = (Vec::new(), Vec::new());
    for (place, read) in read {
        match read {
            Ok(manifest) => manifests.push(manifest),
            Err(problem) => unreadable.push(damaged(Damage { problem, checkpoints: [place].into() })),
        }
    }
    Ok((manifests, unreadable))
}

fn damaged(Damage { problem, checkpoints }: Damage) -> Damaged {
    let why = match problem.kind {
        Kind::Missing => "it is not there".to_owned(),
        Kind::Damaged | Kind::Newer => problem.detail,
        _ => problem.to_string(),
    };
    Damaged { object: problem.object, problem: why, checkpoints }
}

/// Without what was removed with its last checkpoint while the others were read.
async fn still(folder: &Folder, damaged: impl Iterator<Item = Damaged>) -> Result<Vec<Damaged>, Ending> {
    let mut damaged: Vec<_> = damaged.collect();
    if !damaged.is_empty() && !reading::is_web(folder) {
        let there = reading::there(folder).await?;
        for damaged in &mut damaged {
            damaged.checkpoints.retain(|place| there.contains(place));
        }
        damaged.retain(|damaged| !damaged.checkpoints.is_empty());
    }
    Ok(damaged)
}

async fn beside(folder: &Folder, named: &BTreeSet<ShardName>) -> Result<Beside, StoreError> {
    let stored = folder.stored().await?;
    let unnamed = || stored.iter().filter(|(shard, _)| !named.contains(shard));
    Ok(Beside {
        unnamed_shards: unnamed().count() as u64,
        unnamed_bytes: unnamed().map(|(_, bytes)| bytes).sum(),
        intents: folder.store().list(INTENTS, None).await?.len() as u64,
        condemnations: folder.store().list(CONDEMNED, None).await?.len() as u64,
    })
}

/// Prints what was found; damage is the end of the command.
fn tell(json: bool, verified: &Verified) -> Result<(), Ending> {
    let summary = summary(verified);
    let damaged = !verified.damaged.is_empty();
    if json {
        shown::json(verified)?;
    } else {
        let lines = lines(verified).into_iter().chain((!damaged).then(|| summary.clone()));
        print(&lines.map(|line| line + "\n").collect::<String>())?;
    }
    if damaged { Err(Ending::Failed(summary)) } else { Ok(()) }
}

fn lines(verified: &Verified) -> Vec<String> {
    let damaged = verified.damaged.iter().map(|Damaged { object, problem, checkpoints }| {
        let named: Vec<_> = checkpoints.iter().rev().take(MOST_NAMED).map(|place| short(*place)).collect();
        let more = checkpoints.len().saturating_sub(MOST_NAMED);
        let more = if more > 0 { format!(" and {more} older ones") } else { String::new() };
        format!("{object}: {problem}\n  spoils {}{more}", named.join(", "))
    });
    let beside = verified.beside.iter().map(|Beside { unnamed_shards, unnamed_bytes, intents, condemnations }| {
        let (shards, bytes) = (count(*unnamed_shards, "shard"), size(*unnamed_bytes));
        let (intents, condemnations) = (count(*intents, "intent"), count(*condemnations, "condemnation"));
        format!("beside them: {shards} that no checkpoint names ({bytes}), {intents}, {condemnations}")
    });
    damaged.chain(beside).collect()
}

fn summary(verified: &Verified) -> String {
    let Verified { address, checkpoints, whole, shards, bytes, seconds, damaged, .. } = verified;
    let found = match (*checkpoints, damaged.len() as u64) {
        (0, _) => "no checkpoints".to_owned(),
        (1, 0) => "1 checkpoint is whole".to_owned(),
        (all, 0) => format!("{all} checkpoints are whole"),
        (all, wrong) => format!("{whole} of {} whole, {} damaged", count(all, "checkpoint"), count(wrong, "object")),
    };
    format!("{address}: {found}; {}, {} read in {seconds:.1} s", count(*shards, "shard"), size(*bytes))
}
