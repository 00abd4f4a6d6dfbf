//! Writing the shards of a checkpoint: what is there already is not written again, and what is needed is not removed meanwhile.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use crate::error::{Kind, StoreError};
use crate::folder::{AT_ONCE, CONDEMNED, Folder, INTENTS, shard_name};
use crate::intent::{Intent, usable_copy};
use crate::manifest::{ElementType, LONGEST, Piece, Vector};
use crate::shard::{self, ShardName};
use crate::store::Store;

/// Files that are hashed before any of them is written: a few hundred MiB.
const HASHED_TOGETHER: usize = 4;

/// The file of one shard, and its name.
#[derive(Debug, Clone)]
pub struct ShardFile {
    name: ShardName,
    header: Bytes,
    values: Bytes,
    elements: u64,
}

impl ShardFile {
    /// The file of these values; reads all of them, at the speed of BLAKE3.
    #[must_use]
    pub fn new(element_type: ElementType, values: Bytes) -> Self {
        let elements = values.len() as u64 / element_type.size();
        let header = Bytes::from(shard::header(element_type, elements));
        let hash = blake3::Hasher::new().update(&header).update(&values).finalize();
        Self { name: ShardName::with_hash(*hash.as_bytes()), header, values, elements }
    }

    /// Which piece of a vector it is, as its first copy.
    #[must_use]
    pub fn piece(&self) -> Piece {
        Piece { shard: self.name, bytes: self.bytes(), elements: self.elements }
    }

    fn bytes(&self) -> u64 {
        (self.header.len() + self.values.len()) as u64
    }
}

/// What one process writes of a checkpoint. Its intent stays until [`Writer::end`].
#[derive(Debug)]
pub struct Writer {
    folder: Folder,
    name: String,
}

impl Writer {
    /// A writer of this name, as in `kjv-1-w0`: one for each process, of letters, digits, `-` and `.`.
    #[must_use]
    pub fn new(folder: Folder, name: &str) -> Self {
        Self { folder, name: format!("{INTENTS}/{name}.json") }
    }

    /// Writes the files of these values that are not there yet, and says which pieces they are now, in their order. While some are
    /// written the next are hashed.
    ///
    /// # Errors
    /// [`StoreError`]: what is written by then is removed by the next collection.
    pub async fn write(&self, values: Vec<(ElementType, Bytes)>) -> Result<Vec<Piece>, StoreError> {
        let (mut intended, mut pieces) = (BTreeSet::new(), Vec::with_capacity(values.len()));
        let mut groups = values.chunks(HASHED_TOGETHER).map(<[_]>::to_vec);
        let mut hashing = groups.next().map(hash);
        while let Some(hashed) = hashing.take() {
            let hashed = hashed.await;
            hashing = groups.next().map(hash);
            let files = hashed.map_err(|error| self.folder.store().problem("hash", "", Kind::Other, error.to_string()))?;
            intended.extend(files.iter().map(|file| file.name));
            pieces.extend(self.write_files(files, &intended).await?);
        }
        Ok(pieces)
    }

    async fn write_files(&self, files: Vec<ShardFile>, intended: &BTreeSet<ShardName>) -> Result<Vec<Piece>, StoreError> {
        let store = self.folder.store();
        store.put(&self.name, &[encoded(&Intent::new(intended.iter().copied()))]).await?;
        let condemned = read_all::<BTreeSet<ShardName>>(&self.folder, CONDEMNED, None).await?;
        let condemned = condemned.into_iter().flatten().collect();
        let writes = files.into_iter().map(|file| write_one(store.clone(), usable_copy(file.name, &condemned), file));
        let writes: Vec<_> = writes.collect();
        futures::stream::iter(writes).buffered(AT_ONCE).try_collect().await
    }

    /// Takes the intent back: what was written is named by a manifest now, or it is nobody's.
    ///
    /// # Errors
    /// [`StoreError`]: the intent is forgotten after a day.
    pub async fn end(&self) -> Result<(), StoreError> {
        self.folder.store().remove(&self.name).await
    }
}

fn hash(values: Vec<(ElementType, Bytes)>) -> JoinHandle<Vec<ShardFile>> {
    let file = |(element_type, values)| ShardFile::new(element_type, values);
    tokio::task::spawn_blocking(move || values.into_iter().map(file).collect())
}

async fn write_one(store: Store, shard: ShardName, file: ShardFile) -> Result<Piece, StoreError> {
    let name = shard_name(&shard);
    // One of another length is a fault of the store, and is mended.
    if store.length(&name).await? != Some(file.bytes()) {
        store.put(&name, &[file.header.clone(), file.values.clone()]).await?;
    }
    Ok(Piece { shard, ..file.piece() })
}

pub(crate) fn encoded(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// Reads all objects in the folder `within` that are not older than `since`; what is gone meanwhile is left out.
pub(crate) async fn read_all<T: DeserializeOwned>(
    folder: &Folder,
    within: &str,
    since: Option<std::time::SystemTime>,
) -> Result<Vec<T>, StoreError> {
    let store = folder.store();
    let mut values = Vec::new();
    for listed in store.list(within, None).await? {
        if since.is_some_and(|since| listed.written < since) {
            continue;
        }
        let Some((bytes, _)) = store.get(&listed.name, LONGEST).await? else { continue };
        let value = serde_json::from_slice(&bytes);
        values.push(value.map_err(|error| store.problem("read", &listed.name, Kind::Damaged, error.to_string()))?);
    }
    Ok(values)
}

/// A vector of the state, cut into the files of its pieces.
#[derive(Debug, Clone)]
pub struct Cut {
    /// Its name in the state.
    pub name: String,
    /// How its elements are written.
    pub element_type: ElementType,
    /// All of its elements.
    pub values: Bytes,
}

impl Cut {
    /// The pieces' values, one behind the other, without copying them.
    #[must_use]
    pub fn pieces(&self) -> Vec<Bytes> {
        let size = self.element_type.size();
        let mut rest = self.values.clone();
        let lengths = shard::pieces(self.element_type, self.values.len() as u64 / size);
        lengths.into_iter().map(|elements| rest.split_to((elements * size) as usize)).collect()
    }

    /// The vector, once its pieces are written.
    #[must_use]
    pub fn vector(&self, pieces: Vec<Piece>) -> Vector {
        let elements = self.values.len() as u64 / self.element_type.size();
        Vector { name: self.name.clone(), element_type: self.element_type, elements, pieces }
    }
}
