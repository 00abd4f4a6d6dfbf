//! `atoll checkpoint list`: all checkpoints of a folder. Manifests are read, and no shards.

use std::collections::BTreeMap;

use atoll_checkpoint::error::Kind;
use atoll_checkpoint::{Folder, Manifest, Place, StoreError};
use clap::Args;
use serde::Serialize;

use super::location::Location;
use super::reading::{self, Known};
use super::{shown, which};
use crate::{Ending, print};

/// Arguments of `atoll checkpoint list`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    location: Location,
    /// Print JSON, and nothing else
    #[arg(long)]
    json: bool,
}

/// What a list says of a checkpoint.
#[derive(Debug, Clone, Copy, Serialize)]
struct Facts {
    step: u64,
    loss: f64,
    tokens: u64,
    /// Of all its shards, whoever else names them.
    bytes: u64,
}

/// One checkpoint.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    checkpoint: Place,
    lineage: u64,
    term: u64,
    epoch: u64,
    round: u64,
    #[serde(flatten)]
    facts: Option<Facts>,
    written: Option<String>,
    newest: bool,
    /// Why its manifest cannot be read.
    problem: Option<String>,
    #[serde(skip)]
    kind: Option<Kind>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    address: String,
    checkpoints: Vec<Line>,
    /// Older ones may be there, too: a web server does not say which.
    newest_alone: bool,
}

pub(crate) async fn list(arguments: &Arguments) -> Result<(), Ending> {
    let folder = arguments.location.open()?;
    let list = read(&folder).await?;
    if arguments.json { shown::json(&list) } else { print(&text(&folder, &list)) }
}

async fn read(folder: &Folder) -> Result<List, Ending> {
    let known = reading::known(folder).await?;
    let facts =
        |manifest: Manifest| Facts { step: manifest.step, loss: manifest.loss, tokens: manifest.tokens, bytes: manifest.bytes() };
    let read = reading::manifests(folder, known.iter().map(|known| known.place), facts).await?;
    let newest = read.last().map(|(place, _)| *place);
    let times: BTreeMap<_, _> = known.iter().map(|known| (known.place, known.written)).collect();
    let written = |place: Place| times.get(&place).copied().flatten().and_then(shown::moment);
    let newest_alone = known.iter().any(|Known { written, .. }| written.is_none());
    let checkpoints = read.into_iter().map(|(place, read)| line(place, read, written(place), Some(place) == newest)).collect();
    Ok(List { address: folder.store().address().to_string(), checkpoints, newest_alone })
}

fn line(place: Place, read: Result<Facts, StoreError>, written: Option<String>, newest: bool) -> Line {
    let Place { lineage, term, epoch, round } = place;
    let problem = read.as_ref().err();
    let (kind, problem) = (problem.map(|problem| problem.kind), problem.map(ToString::to_string));
    Line { checkpoint: place, lineage, term, epoch, round, facts: read.ok(), written, newest, problem, kind }
}

fn text(folder: &Folder, list: &List) -> String {
    if list.checkpoints.is_empty() {
        return which::no_checkpoints(folder) + "\n";
    }
    let mut table = shown::table(["lineage", "term", "epoch", "round", "step", "loss", "tokens", "size", "written (UTC)", ""]);
    for line in &list.checkpoints {
        table.add_row(row(line));
    }
    let problem = |line: &Line| Some(format!("{}: {}", shown::short(line.checkpoint), line.problem.as_ref()?));
    let mut lines = vec![table.to_string()];
    lines.extend(list.checkpoints.iter().filter_map(problem));
    lines.extend(list.newest_alone.then(|| "this is the newest: over HTTP older ones are not listed".to_owned()));
    lines.join("\n") + "\n"
}

fn row(line: &Line) -> [String; 10] {
    let fact = |shown: fn(&Facts) -> String| line.facts.as_ref().map_or("-".to_owned(), shown);
    let state = match line.kind {
        None => "",
        Some(Kind::Newer) => "of a newer program",
        Some(Kind::Damaged) => "damaged",
        Some(_) => "unreadable",
    };
    let notes: Vec<_> = [if line.newest { "newest" } else { "" }, state].into_iter().filter(|note| !note.is_empty()).collect();
    [
        line.lineage.to_string(),
        line.term.to_string(),
        line.epoch.to_string(),
        line.round.to_string(),
        fact(|facts| facts.step.to_string()),
        fact(|facts| format!("{:.4}", facts.loss)),
        fact(|facts| facts.tokens.to_string()),
        fact(|facts| shown::size(facts.bytes)),
        line.written.as_deref().map_or("-".to_owned(), |written| written.replace('T', " ").replace('Z', "")),
        notes.join(", "),
    ]
}
