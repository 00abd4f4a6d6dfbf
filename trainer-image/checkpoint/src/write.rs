//! Writing the shards of a checkpoint: what is there already is not written again, and what is needed is not removed meanwhile.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinError;

use crate::error::{Kind, StoreError};
use crate::folder::{AT_ONCE, CONDEMNED, Folder, INTENTS, shard_name};
use crate::intent::{Intent, usable_copy};
use crate::manifest::{ElementType, LONGEST, Piece, Vector};
use crate::shard::{self, ShardName};
use crate::threads;

/// Files that are hashed before any of them is written: a few hundred MiB.
const HASHED_TOGETHER: usize = 4;

/// The file of one shard, and its name.
#[derive(Debug, Clone)]
pub struct ShardFile {
    name: ShardName,
    element_type: ElementType,
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
        Self { name: ShardName::with_hash(*hash.as_bytes()), element_type, header, values, elements }
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
    /// A write that nobody waits for any more may still be under way, and there is one intent.
    alone: AsyncMutex<()>,
    /// Shards that this process has written, or has read and found whole.
    known: Arc<Mutex<BTreeSet<ShardName>>>,
}

impl Writer {
    /// A writer of this name, as in `kjv-1-w0`: one for each process, of letters, digits, `-` and `.`.
    #[must_use]
    pub fn new(folder: Folder, name: &str) -> Self {
        Self { folder, name: format!("{INTENTS}/{name}.json"), alone: AsyncMutex::default(), known: Arc::default() }
    }

    /// Writes the files of these values that are not there yet, and says which pieces they are now, in their order. While some are
    /// written the next are hashed.
    ///
    /// # Errors
    /// [`StoreError`]: what is written by then is removed by the next collection.
    pub async fn write(&self, values: Vec<(ElementType, Bytes)>) -> Result<Vec<Piece>, StoreError> {
        let _alone = self.alone.lock().await;
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
        let one =
            |file: ShardFile| write_one(self.folder.clone(), usable_copy(file.name, &condemned), file, Arc::clone(&self.known));
        let writes = files.into_iter().map(one);
        let writes: Vec<_> = writes.collect();
        futures::stream::iter(writes).buffered(AT_ONCE).try_collect().await
    }

    /// Takes the intent back: what was written is named by a manifest now, or it is nobody's.
    ///
    /// # Errors
    /// [`StoreError`]: the intent is forgotten after a day.
    pub async fn end(&self) -> Result<(), StoreError> {
        let _alone = self.alone.lock().await;
        self.folder.store().remove(&self.name).await
    }
}

fn hash(values: Vec<(ElementType, Bytes)>) -> impl Future<Output = Result<Vec<ShardFile>, JoinError>> + Unpin {
    let file = |(element_type, values)| ShardFile::new(element_type, values);
    threads::aside(move || values.into_iter().map(file).collect())
}

/// Writes a file unless it is there. One that somebody else wrote is read once: a damaged one would spoil every checkpoint from here on,
/// and is written again.
async fn write_one(
    folder: Folder,
    shard: ShardName,
    file: ShardFile,
    known: Arc<Mutex<BTreeSet<ShardName>>>,
) -> Result<Piece, StoreError> {
    let (store, name) = (folder.store(), shard_name(&shard));
    let piece = Piece { shard, ..file.piece() };
    let is_known = known.lock().unwrap_or_else(PoisonError::into_inner).contains(&shard);
    let mut whole = store.length(&name).await? == Some(piece.bytes);
    if whole && !is_known {
        whole = match folder.place(file.element_type, &piece, |_, _| ()).await {
            Ok(()) => true,
            Err(error) if error.is_of_the_object() => false,
            Err(error) => return Err(error),
        };
    }
    if !whole {
        store.put(&name, &[file.header, file.values]).await?;
    }
    known.lock().unwrap_or_else(PoisonError::into_inner).insert(shard);
    Ok(piece)
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
        let unreadable = |error: serde_json::Error| {
            let detail = format!("{error}: it is forgotten after a day; remove it where nobody writes to this folder");
            store.problem("read", &listed.name, Kind::Damaged, detail)
        };
        values.push(value.map_err(unreadable)?);
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
