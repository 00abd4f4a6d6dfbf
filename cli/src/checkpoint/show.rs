//! `atoll checkpoint show`: what one checkpoint holds.

use std::fmt::Display;

use atoll_checkpoint::Manifest;
use atoll_checkpoint::manifest::{PrivateState, Vector};
use clap::Args;
use serde::Serialize;

use super::location::Location;
use super::reading;
use super::shown::{self, count, short, size};
use super::which::Which;
use crate::{Ending, print};

/// Arguments of `atoll checkpoint show`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    location: Location,
    /// Which one: LINEAGE-TERM-EPOCH-ROUND as in 1-1-2-40, the newest of a round as in 40, or latest
    #[arg(value_name = "CHECKPOINT", default_value = "latest")]
    which: Which,
    /// Print JSON, and nothing else
    #[arg(long)]
    json: bool,
}

/// A checkpoint, for programs.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    address: String,
    newest: bool,
    written: Option<String>,
    /// Of all its shards, whoever else names them.
    bytes: u64,
    manifest: &'a Manifest,
}

pub(crate) async fn show(arguments: &Arguments) -> Result<(), Ending> {
    let folder = arguments.location.open()?;
    let manifest = arguments.which.read(&folder).await?;
    let known = reading::known(&folder).await?;
    let written = known.iter().find(|known| known.place == manifest.place).and_then(|known| known.written);
    let shown = Shown {
        address: folder.store().address().to_string(),
        newest: known.last().is_some_and(|known| known.place == manifest.place),
        written: written.and_then(shown::moment),
        bytes: manifest.bytes(),
        manifest: &manifest,
    };
    if arguments.json { shown::json(&shown) } else { print(&text(&shown)) }
}

fn text(shown: &Shown<'_>) -> String {
    let Manifest { replicated, private, files, .. } = shown.manifest;
    let mut parts = vec![facts(shown), vectors("vector", replicated)];
    parts.extend((!private.is_empty()).then(|| states(shown.manifest)));
    parts.extend((!files.is_empty()).then(|| vectors("file", files)));
    parts.join("\n") + "\n"
}

fn facts(shown: &Shown<'_>) -> String {
    let Manifest { version, written_by, run, place, from, step, tokens, loss, seed, record, .. } = shown.manifest;
    let newest = if shown.newest { ", the newest" } else { "" };
    let from = from.as_ref().map_or("-".to_owned(), |origin| format!("{} of {}", short(origin.place), origin.uri));
    let record = if record.is_empty() { "-".to_owned() } else { shown::beginning(record) };
    let (shards, bytes) = (count(shown.manifest.shards().len() as u64, "shard"), size(shown.bytes));
    let lines: [(&str, &dyn Display); 13] = [
        ("name", place),
        ("run", run),
        ("written", &shown.written.as_deref().unwrap_or("-")),
        ("written by", written_by),
        ("version", version),
        ("begun from", &from),
        ("step", step),
        ("tokens", tokens),
        ("loss", loss),
        ("seed", seed),
        ("record", &record),
        ("shards", &shards),
        ("size", &bytes),
    ];
    let lines = lines.iter().map(|(name, value)| format!("  {name:<12}{value}"));
    let first = format!("checkpoint {} of {}{newest}", short(*place), shown.address);
    std::iter::once(first).chain(lines).collect::<Vec<_>>().join("\n")
}

fn vectors(what: &str, vectors: &[Vector]) -> String {
    let mut table = shown::table([what, "element type", "elements", "pieces", "size"]);
    for vector in vectors {
        table.add_row([vec![vector.name.clone()], columns(vector).into()].concat());
    }
    table.to_string()
}

/// Element type, elements, pieces and size.
fn columns(vector: &Vector) -> [String; 4] {
    let bytes = vector.pieces.iter().map(|piece| piece.bytes).sum();
    [format!("{:?}", vector.element_type), vector.elements.to_string(), vector.pieces.len().to_string(), size(bytes)]
}

/// Workers' own states, and how many are of the checkpoint before.
fn states(manifest: &Manifest) -> String {
    let mut table = shown::table(["slot", "round", "steps", "vector", "element type", "elements", "pieces", "size"]);
    for PrivateState { slot, round, steps, vectors } in &manifest.private {
        let behind = if *round < manifest.place.round { ", one checkpoint behind" } else { "" };
        let of_slot = vec![slot.to_string(), format!("{round}{behind}"), steps.to_string()];
        if vectors.is_empty() {
            table.add_row(of_slot.clone());
        }
        for (index, vector) in vectors.iter().enumerate() {
            let first = if index == 0 { of_slot.clone() } else { vec![String::new(); 3] };
            table.add_row([first, vec![vector.name.clone()], columns(vector).into()].concat());
        }
    }
    table.to_string()
}
