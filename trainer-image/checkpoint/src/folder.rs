//! The checkpoints in a folder: which there are, and what is in them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use crate::Place;
use crate::address::Address;
use crate::error::{Kind, StoreError};
use crate::manifest::{ElementType, LONGEST, Manifest, ManifestError, Piece, Vector};
use crate::shard::{self, ShardName};
use crate::store::{Store, Version};

/// Folder of the manifests.
pub const MANIFESTS: &str = "checkpoints";
/// Folder of the shards.
pub(crate) const SHARDS: &str = "shards";
/// Folder of what writers are about to name.
pub const INTENTS: &str = "intents";
/// Folder of what collectors are about to remove.
pub const CONDEMNED: &str = "condemned";
/// Folder of the numbers of lineages that somebody has taken.
pub(crate) const LINEAGES: &str = "lineages";
/// Name of the hint which checkpoint is the newest.
pub(crate) const LATEST: &str = "LATEST";
/// Longest hint that is read.
const LONGEST_HINT: u64 = 1 << 20;
/// What a manifest's name ends with.
const JSON: &str = ".json";

/// Name of a checkpoint's manifest.
#[must_use]
pub fn manifest_name(place: Place) -> String {
    format!("{MANIFESTS}/{place}.json")
}

/// Name of a shard's file.
#[must_use]
pub fn shard_name(shard: &ShardName) -> String {
    let name = shard.to_string();
    format!("{SHARDS}/{}/{name}.safetensors", &name[..2])
}

/// The shard in a file of this name.
pub(crate) fn shard_of(name: &str) -> Option<ShardName> {
    let (folder, file) = name.strip_prefix(SHARDS)?.strip_prefix('/')?.split_once('/')?;
    let shard: ShardName = file.strip_suffix(".safetensors")?.parse().ok()?;
    file.starts_with(folder).then_some(shard)
}

/// A checkpoint, as a list has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Which one it is.
    pub place: Place,
    /// When its manifest was written, by the store's clock.
    pub written: std::time::SystemTime,
}

/// A folder of checkpoints.
#[derive(Debug, Clone)]
pub struct Folder {
    store: Store,
}

/// A checkpoint that can be restored, and the newer ones that cannot.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The newest whose shards are all what they should be.
    pub manifest: Option<Manifest>,
    /// Newer ones, and what is wrong with each.
    pub skipped: Vec<(Place, StoreError)>,
}

impl Folder {
    /// The checkpoints in `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Where they are.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// All checkpoints, the oldest first. One request for a thousand of them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        self.after(None).await
    }

    /// Checkpoints that are newer than `place`, the oldest first.
    pub(crate) async fn after(&self, place: Option<Place>) -> Result<Vec<Entry>, StoreError> {
        self.listed(place.map(manifest_name).as_deref()).await
    }

    /// Checkpoints whose manifests' names come after this one.
    async fn listed(&self, after: Option<&str>) -> Result<Vec<Entry>, StoreError> {
        let listed = self.store.list(MANIFESTS, after).await?;
        let entry = |listed: crate::store::Listed| {
            let place = listed.name.strip_prefix(MANIFESTS)?.strip_prefix('/')?.strip_suffix(JSON)?.parse().ok()?;
            Some(Entry { place, written: listed.written })
        };
        Ok(listed.into_iter().filter_map(entry).collect())
    }

    /// The hint which checkpoint is the newest, and what it was when it was read.
    pub(crate) async fn hint(&self) -> Result<(Option<Place>, Option<Version>), StoreError> {
        let (text, version) = match self.store.get(LATEST, LONGEST_HINT).await {
            Ok(Some(found)) => found,
            // Whatever it is, it is no hint.
            Ok(None) => return Ok((None, None)),
            Err(problem) if problem.kind == Kind::Damaged => return Ok((None, None)),
            Err(problem) => return Err(problem),
        };
        let place = str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        Ok((place, Some(version)))
    }

    /// The newest checkpoint. Two requests: the hint, and the list from there; one more where the hint names one that is gone. Over
    /// HTTP the hint alone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest(&self) -> Result<Option<Place>, StoreError> {
        let (hint, _) = self.hint().await?;
        if matches!(self.store.address(), Address::Web(_)) {
            return Ok(hint);
        }
        let newest = |entries: &[Entry]| entries.last().map(|entry| entry.place);
        if let Some(hint) = hint
            && let Some(found) = newest(&self.listed(Some(manifest_name(hint).trim_end_matches(JSON))).await?)
        {
            return Ok(Some(found));
        }
        Ok(newest(&self.entries().await?))
    }

    /// Reads the manifest of a checkpoint.
    ///
    /// # Errors
    /// [`StoreError`]: it is not there, or it is no manifest of that place that this program reads.
    pub async fn manifest(&self, place: Place) -> Result<Manifest, StoreError> {
        self.manifest_and_hash(place).await.map(|(manifest, _)| manifest)
    }

    /// The same, and the BLAKE3 of its bytes.
    ///
    /// # Errors
    /// As [`Folder::manifest`].
    pub async fn manifest_and_hash(&self, place: Place) -> Result<(Manifest, blake3::Hash), StoreError> {
        let name = manifest_name(place);
        let problem = |kind, detail: String| self.store.problem("read", &name, kind, detail);
        let Some((bytes, _)) = self.store.get(&name, LONGEST).await? else {
            return Err(problem(Kind::Missing, "no checkpoint of this name".to_owned()));
        };
        let manifest = Manifest::parse(&bytes).map_err(|error| match error {
            ManifestError::Version { .. } => problem(Kind::Newer, error.to_string()),
            _ => problem(Kind::Damaged, error.to_string()),
        })?;
        if manifest.place != place {
            return Err(problem(Kind::Damaged, format!("it says that it is checkpoint {}", manifest.place)));
        }
        Ok((manifest, blake3::hash(&bytes)))
    }

    /// Reads the values of a piece, and checks them by the name of its shard.
    ///
    /// # Errors
    /// [`StoreError`]; [`Kind::Damaged`] where its bytes are others than were written.
    pub async fn values(&self, element_type: ElementType, piece: &Piece) -> Result<Bytes, StoreError> {
        let values = BytesMut::new();
        Ok(self.read(element_type, piece, values, |values, _, part| values.extend_from_slice(part)).await?.freeze())
    }

    /// Has the values of a piece put in their place, part by part: `put` is given each, and the number of its first byte among the
    /// values. They are checked when the call returns, and not before.
    ///
    /// # Errors
    /// As [`Folder::values`]: what was put in its place by then is nothing.
    pub async fn place(
        &self,
        element_type: ElementType,
        piece: &Piece,
        put: impl FnMut(u64, &[u8]) + Send + 'static,
    ) -> Result<(), StoreError> {
        self.read(element_type, piece, put, |put, at, part| put(at, part)).await.map(drop)
    }

    async fn read<S: Send + 'static>(
        &self,
        element_type: ElementType,
        piece: &Piece,
        sink: S,
        put: fn(&mut S, u64, &[u8]),
    ) -> Result<S, StoreError> {
        let name = shard_name(&piece.shard);
        let damaged = |detail: String| self.store.problem("read", &name, Kind::Damaged, detail);
        let header = shard::header(element_type, piece.elements);
        let file = Reading { hasher: blake3::Hasher::new(), header, begins_alike: true, read: 0, sink, put };
        let Some(file) = self.store.read(&name, piece.bytes, file, Reading::take).await? else {
            return Err(self.store.problem("read", &name, Kind::Missing, "a shard of the checkpoint"));
        };
        let hash = file.hasher.finalize();
        if hash.as_bytes() != piece.shard.hash() {
            return Err(damaged(format!("the hash of its bytes is {}", hash.to_hex())));
        }
        let values = piece.elements * element_type.size();
        if !file.begins_alike || file.read != file.header.len() as u64 + values {
            return Err(damaged(format!("it has no vector of {} elements of {element_type:?}", piece.elements)));
        }
        Ok(file.sink)
    }

    /// The newest checkpoint that can be restored: whose manifest and shards are all whole. Newer ones are skipped, and told.
    ///
    /// `progress` is told bytes that have been checked, and all there are, of one checkpoint.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be asked, and not where something in it is damaged.
    pub async fn newest_whole(&self, progress: impl Fn(u64, u64)) -> Result<Found, StoreError> {
        let mut skipped = Vec::new();
        let mut before = None;
        while let Some(place) = self.newest_before(before).await? {
            match self.manifest(place).await {
                Ok(manifest) => match self.check(&manifest, &progress).await.into_iter().next() {
                    None => return Ok(Found { manifest: Some(manifest), skipped }),
                    Some(problem) if problem.is_of_the_object() => skipped.push((place, problem)),
                    Some(problem) => return Err(problem),
                },
                Err(problem) if problem.is_of_the_object() => skipped.push((place, problem)),
                Err(problem) => return Err(problem),
            }
            before = Some(place);
        }
        Ok(Found { manifest: None, skipped })
    }

    async fn newest_before(&self, before: Option<Place>) -> Result<Option<Place>, StoreError> {
        let Some(before) = before else { return self.newest().await };
        let entries = self.entries().await?;
        Ok(entries.iter().rev().map(|entry| entry.place).find(|place| *place < before))
    }

    /// Reads all shards of a checkpoint, and returns what is wrong with them: each problem once.
    pub async fn check(&self, manifest: &Manifest, progress: impl Fn(u64, u64)) -> Vec<StoreError> {
        let problems = self.problems(&claims(manifest).collect(), progress).await;
        problems.into_iter().map(|(_, problem)| problem).collect()
    }

    /// Reads all shards of these checkpoints, those that several name once, and returns what is wrong with them.
    ///
    /// `progress` is told bytes that have been checked, and all there are.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be asked, and not where something in it is damaged.
    pub async fn check_all(&self, manifests: &[Manifest], progress: impl Fn(u64, u64)) -> Result<Vec<Damage>, StoreError> {
        let damage = |(claim, problem): (Claim<'_>, StoreError)| {
            let spoiled = manifests.iter().filter(|manifest| claims(manifest).any(|of_it| of_it == claim));
            let checkpoints = spoiled.map(|manifest| manifest.place).collect();
            if problem.is_of_the_object() { Ok(Damage { problem, checkpoints }) } else { Err(problem) }
        };
        let all = manifests.iter().flat_map(claims).collect();
        self.problems(&all, progress).await.into_iter().map(damage).collect()
    }

    /// What is wrong with these shards; nothing more is read once the store itself does not answer.
    async fn problems<'a>(&self, claims: &BTreeSet<Claim<'a>>, progress: impl Fn(u64, u64)) -> Vec<(Claim<'a>, StoreError)> {
        let total = claims.iter().fold(0u64, |sum, claim| sum.saturating_add(claim.bytes));
        let read = async |claim: Claim<'a>| {
            let Claim { shard, element_type, bytes, elements } = claim;
            (claim, self.place(element_type, &Piece { shard: *shard, bytes, elements }, |_, _| ()).await)
        };
        let mut reads = std::pin::pin!(futures::stream::iter(claims.iter().copied()).map(read).buffered(AT_ONCE));
        let (mut checked, mut problems) = (0, Vec::new());
        while let Some((claim, outcome)) = reads.next().await {
            checked += claim.bytes;
            progress(checked, total);
            let Err(problem) = outcome else { continue };
            let goes_on = problem.is_of_the_object();
            problems.push((claim, problem));
            if !goes_on {
                break;
            }
        }
        problems
    }

    /// Shards that lie there, whoever names them, and their bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn stored(&self) -> Result<BTreeMap<ShardName, u64>, StoreError> {
        let listed = self.store.list(SHARDS, None).await?;
        Ok(listed.iter().filter_map(|listed| Some((shard_of(&listed.name)?, listed.bytes))).collect())
    }
}

/// An object that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What is wrong with it.
    pub problem: StoreError,
    /// Which checkpoints cannot be restored for it.
    pub checkpoints: BTreeSet<Place>,
}

/// What a manifest says of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim<'a> {
    shard: &'a ShardName,
    element_type: ElementType,
    bytes: u64,
    elements: u64,
}

/// What this manifest says of shards.
fn claims(manifest: &Manifest) -> impl Iterator<Item = Claim<'_>> {
    manifest.vectors().flat_map(|Vector { element_type, pieces, .. }| {
        let element_type = *element_type;
        pieces.iter().map(move |Piece { shard, bytes, elements }| Claim {
            shard,
            element_type,
            bytes: *bytes,
            elements: *elements,
        })
    })
}

/// A shard's file, of which some has been read.
struct Reading<S> {
    hasher: blake3::Hasher,
    /// As it must be.
    header: Vec<u8>,
    begins_alike: bool,
    read: u64,
    sink: S,
    put: fn(&mut S, u64, &[u8]),
}

impl<S> Reading<S> {
    fn take(&mut self, part: &[u8]) {
        self.hasher.update(part);
        let known = self.header.get(self.read as usize..).unwrap_or_default();
        let (head, values) = part.split_at(known.len().min(part.len()));
        self.begins_alike &= known.starts_with(head);
        self.read += part.len() as u64;
        if !values.is_empty() {
            (self.put)(&mut self.sink, self.read - (self.header.len() + values.len()) as u64, values);
        }
    }
}

/// Shards that are read or written at once: each takes its bytes of memory.
pub(crate) const AT_ONCE: usize = 2;
