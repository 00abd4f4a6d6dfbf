//! `atoll checkpoint diff`: what differs between two checkpoints. Shards are read where values may differ, and no others.

use std::collections::{BTreeMap, BTreeSet};

use atoll_checkpoint::manifest::{ElementType, Manifest, Piece, Vector};
use atoll_checkpoint::shard::ShardName;
use atoll_checkpoint::{Folder, Place, StoreError};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::bar::Bar;
use super::ending;
use super::location::Location;
use super::shown::{self, short, size};
use super::which::Which;
use crate::{Ending, print};

/// Arguments of `atoll checkpoint diff`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    location: Location,
    /// One checkpoint: LINEAGE-TERM-EPOCH-ROUND as in 1-1-2-40, the newest of a round as in 40, or latest
    #[arg(value_name = "A")]
    one: Which,
    /// The other
    #[arg(value_name = "B")]
    other: Which,
    /// Print JSON, and nothing else
    #[arg(long)]
    json: bool,
}

/// A field that is not the same.
#[derive(Debug, PartialEq, Serialize)]
struct Field {
    name: String,
    one: Value,
    other: Value,
}

/// A vector of either.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Compared {
    /// Whose it is: of all workers, of a slot, or a file.
    of: String,
    name: String,
    /// Which checkpoint has it, where the other has not.
    only_in: Option<Place>,
    /// Of its shards that both checkpoints name.
    shared_bytes: u64,
    /// Of its shards that the other alone names.
    new_bytes: u64,
    /// Of f32 of one length alone.
    #[serde(flatten)]
    gap: Option<Gap>,
}

/// How far values are apart.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Gap {
    largest: f64,
    root_mean_square: f64,
}

#[derive(Debug, Serialize)]
struct Difference {
    address: String,
    one: Place,
    other: Place,
    fields: Vec<Field>,
    vectors: Vec<Compared>,
}

pub(crate) async fn diff(arguments: &Arguments) -> Result<(), Ending> {
    let folder = arguments.location.open()?;
    let (one, other) = (arguments.one.read(&folder).await?, arguments.other.read(&folder).await?);
    let bar = Bar::new("", arguments.json);
    let vectors = compare(&folder, &one, &other, &bar).await.map_err(|error| ending(&error))?;
    drop(bar);
    let fields = fields(&one, &other);
    let address = folder.store().address().to_string();
    let difference = Difference { address, one: one.place, other: other.place, fields, vectors };
    if arguments.json { shown::json(&difference) } else { print(&text(&difference)) }
}

/// Fields that are not the same, but for vectors.
fn fields(one: &Manifest, other: &Manifest) -> Vec<Field> {
    let (ones, others) = (plain(one), plain(other));
    let value =
        |fields: &[(String, Value)], name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone());
    let added = others.iter().filter(|(name, _)| value(&ones, name).is_none());
    let field = |(name, _): &(String, Value)| {
        let [one, other] = [&ones, &others].map(|fields| value(fields, name).unwrap_or(Value::Null));
        (one != other).then(|| Field { name: name.clone(), one, other })
    };
    ones.iter().chain(added).filter_map(field).collect()
}

/// All fields that are no vectors.
fn plain(manifest: &Manifest) -> Vec<(String, Value)> {
    let mut fields = Vec::new();
    if let Ok(Value::Object(object)) = serde_json::to_value(manifest) {
        fields.extend(object.into_iter().filter(|(name, _)| !["replicated", "private", "files"].contains(&name.as_str())));
    }
    for state in &manifest.private {
        fields.push((format!("slot {}: round", state.slot), state.round.into()));
        fields.push((format!("slot {}: steps", state.slot), state.steps.into()));
    }
    fields
}

/// Vectors by whose they are and their place among those.
fn vectors(manifest: &Manifest) -> Vec<((String, &str), &Vector)> {
    let replicated = manifest.replicated.iter().map(|vector| ("all workers".to_owned(), vector));
    let private = manifest.private.iter();
    let private = private.flat_map(|state| state.vectors.iter().map(|vector| (format!("slot {}", state.slot), vector)));
    let files = manifest.files.iter().map(|vector| ("file".to_owned(), vector));
    replicated.chain(private).chain(files).map(|(of, vector)| ((of, vector.name.as_str()), vector)).collect()
}

async fn compare(folder: &Folder, one: &Manifest, other: &Manifest, bar: &Bar) -> Result<Vec<Compared>, StoreError> {
    let ones: BTreeMap<_, _> = vectors(one).into_iter().collect();
    let others = vectors(other);
    let gone = vectors(one).into_iter().filter(|(key, _)| !others.iter().any(|(other, _)| other == key));
    let pairs: Vec<_> = others.iter().cloned().map(|(key, vector)| (ones.get(&key).copied(), key, vector)).collect();
    let total = pairs.iter().filter_map(|(old, _, new)| Some(pieces(comparable((*old)?, new)?))).flatten();
    let total = total.map(|(one, other)| one.bytes + other.bytes).sum();
    let both: BTreeSet<&ShardName> = one.shards().intersection(&other.shards()).copied().collect();
    let (mut compared, mut read) = (Vec::new(), 0);
    for (old, key, new) in &pairs {
        let mut progress = |bytes| {
            read += bytes;
            bar.show(read, total);
        };
        let gap = match old.and_then(|old| comparable(old, new)) {
            Some(pair) => Some(Box::pin(gap(folder, pair, &mut progress)).await?),
            None => None,
        };
        compared.push(row(key, new, old.is_none().then_some(other.place), &both, gap));
    }
    compared.extend(gone.map(|(key, vector)| Compared { new_bytes: 0, ..row(&key, vector, Some(one.place), &both, None) }));
    Ok(compared)
}

fn row(
    (of, name): &(String, &str),
    vector: &Vector,
    only_in: Option<Place>,
    both: &BTreeSet<&ShardName>,
    gap: Option<Gap>,
) -> Compared {
    let bytes = |shared: bool| {
        let pieces = vector.pieces.iter().filter(|piece| both.contains(&piece.shard) == shared);
        pieces.map(|piece| piece.bytes).sum()
    };
    Compared { of: of.clone(), name: (*name).to_owned(), only_in, shared_bytes: bytes(true), new_bytes: bytes(false), gap }
}

/// Two vectors whose values can be compared one by one: of f32, and cut alike.
fn comparable<'a>(one: &'a Vector, other: &'a Vector) -> Option<(&'a Vector, &'a Vector)> {
    let cuts = |vector: &Vector| vector.pieces.iter().map(|piece| piece.elements).collect::<Vec<_>>();
    let of_f32 = one.element_type == ElementType::F32 && other.element_type == ElementType::F32;
    (of_f32 && cuts(one) == cuts(other)).then_some((one, other))
}

/// Their pieces that differ.
fn pieces<'a>((one, other): (&'a Vector, &'a Vector)) -> impl Iterator<Item = (&'a Piece, &'a Piece)> {
    one.pieces.iter().zip(&other.pieces).filter(|(one, other)| one.shard.hash() != other.shard.hash())
}

async fn gap(folder: &Folder, pair: (&Vector, &Vector), mut progress: impl FnMut(u64)) -> Result<Gap, StoreError> {
    let (mut largest, mut squares) = (0.0f64, 0.0f64);
    for (one, other) in pieces(pair) {
        let read = |piece| folder.values(ElementType::F32, piece);
        let (ones, others) = tokio::try_join!(read(one), read(other))?;
        let numbers = |bytes: &[u8; 4]| f64::from(f32::from_le_bytes(*bytes));
        for (one, other) in ones.as_chunks().0.iter().zip(others.as_chunks().0) {
            let gap = (numbers(one) - numbers(other)).abs();
            // What is not a number is told, too.
            largest = if gap > largest || gap.is_nan() { gap } else { largest };
            squares += gap * gap;
        }
        progress(one.bytes + other.bytes);
    }
    Ok(Gap { largest, root_mean_square: (squares / pair.0.elements.max(1) as f64).sqrt() })
}

fn text(difference: &Difference) -> String {
    let Difference { address, one, other, fields, vectors } = difference;
    let (one, other) = (short(*one), short(*other));
    let shown = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.parse().map_or_else(|_| shown::beginning(text), short),
        value => value.to_string(),
    };
    let mut parts = vec![format!("{address}: from {one} to {other}")];
    if !fields.is_empty() {
        let mut table = shown::table(["field", &one, &other]);
        for field in fields {
            table.add_row([field.name.clone(), shown(&field.one), shown(&field.other)]);
        }
        parts.push(table.to_string());
    }
    let mut table = shown::table(["vector", "of", "shared", "new", "largest difference", "root mean square"]);
    for Compared { of, name, only_in, shared_bytes, new_bytes, gap } in vectors {
        let far = match (only_in, gap) {
            (Some(place), _) => [format!("only in {}", short(*place)), "-".to_owned()],
            (None, Some(Gap { largest, root_mean_square })) => [largest, root_mean_square].map(|number| format!("{number:.3e}")),
            (None, None) => ["-".to_owned(), "-".to_owned()],
        };
        let [largest, root_mean_square] = far;
        table.add_row([name.clone(), of.clone(), size(*shared_bytes), size(*new_bytes), largest, root_mean_square]);
    }
    parts.push(table.to_string());
    parts.join("\n") + "\n"
}
