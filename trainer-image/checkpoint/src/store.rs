//! A folder of objects, wherever it is: of this machine, or under a prefix of a bucket.
//!
//! Requests that fail are tried again with growing, jittered pauses, each has a deadline, uploads of large objects go in parts, and no
//! more memory is taken than the caller allows. What is written is on the disk when a call returns.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::Either;
use futures::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{
    Error, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::access::Access;
use crate::address::Address;
use crate::error::{Kind, StoreError};
use crate::library::{self, PAUSES, Unopened};
use crate::threads;

/// Objects that are larger go in parts of so many bytes: what a broken connection has to repeat.
const PART: usize = 8 << 20;
/// Bytes of a file that are read at once.
const BLOCK: usize = 1 << 20;
/// Parts of one object that are under way at once.
const PARTS_AT_ONCE: usize = 2;

/// So many bytes are little: they are left to one thread, and memory for them may stay.
pub const LITTLE: u64 = 16 << 20;

/// How the library says that the body of an answer did not come whole.
const BROKE_OFF: &str = "response body";

/// An object, as a list has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the folder.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub written: SystemTime,
}

/// What was asked of a store so far.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

impl Traffic {
    /// Requests, a large upload counted once.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes of objects that were read.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes of objects that were written.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// What an object was when it was read: what a compare-and-swap compares with.
#[derive(Debug, Clone)]
pub struct Version(UpdateVersion);

/// A folder of objects.
#[derive(Clone)]
pub struct Store {
    address: Address,
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    secrets: Arc<[String]>,
    /// Bytes per second, and when the next may be sent.
    pace: Option<(f64, Arc<Mutex<Instant>>)>,
    traffic: Arc<Traffic>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Store({})", self.address)
    }
}

impl Store {
    /// The folder at `address`. Nothing is asked of it yet, and nothing made.
    ///
    /// # Errors
    /// Where `access` does not fit together, as a key without its secret; [`Kind::Endpoint`] where its endpoint is none.
    pub fn open(address: &Address, access: &Access) -> Result<Self, StoreError> {
        let secrets: Arc<[String]> = access.secrets().into();
        let inner = library::open(address, access).map_err(|error| match error {
            Unopened::Endpoint(detail) => {
                StoreError { action: "open", object: address.to_string(), kind: Kind::Endpoint, detail }
            }
            Unopened::Library(error) => StoreError::new("open", address.to_string(), &error, &secrets),
        })?;
        let prefix = match address {
            Address::Folder(path) => Path::from_absolute_path(path)
                .map_err(|source| StoreError::new("open", address.to_string(), &Error::InvalidPath { source }, &secrets))?,
            Address::S3(bucket) | Address::Google(bucket) | Address::Azure(bucket) => Path::from(bucket.prefix.as_str()),
            Address::Web(_) => Path::default(),
        };
        let pace = access.most_mbps.map(|mbps| (mbps * 1e6 / 8.0, Arc::new(Mutex::new(Instant::now()))));
        Ok(Self { address: address.clone(), inner, prefix, secrets, pace, traffic: Arc::default() })
    }

    /// The same over another store of objects: one that loses what was not on the disk, for tests.
    #[must_use]
    pub fn over(self, inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, ..self }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What was asked of it so far, by this value and its clones.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Does `work`, which asks this store for about so many bytes in many requests. Where they are [`LITTLE`], a folder of this machine
    /// is asked by one thread; it goes on to the end even where nobody waits any more.
    pub fn together<W: Future<Output = ()> + Send + 'static>(
        &self,
        bytes: u64,
        work: W,
    ) -> impl Future<Output = ()> + Send + use<W> {
        // To keep a pace takes a clock.
        if matches!(self.address, Address::Folder(_)) && self.pace.is_none() && bytes <= LITTLE {
            return Either::Left(threads::on_one(work));
        }
        Either::Right(work)
    }

    /// Reads an object whole, and what it was then; none where there is no such object.
    ///
    /// # Errors
    /// [`StoreError`]; [`Kind::Damaged`] where it has more than `most` bytes: no memory is taken for it then.
    pub async fn get(&self, name: &str, most: u64) -> Result<Option<(Bytes, Version)>, StoreError> {
        self.count();
        let found = match self.inner.get(&self.path(name)).await {
            Ok(found) => found,
            Err(Error::NotFound { source, .. }) if !says_no_bucket(&source.to_string()) => return Ok(None),
            Err(error) => return Err(self.failed("read", name, &error)),
        };
        if found.meta.size > most {
            let detail = format!("it has {} bytes, and {most} at most are read", found.meta.size);
            return Err(self.problem("read", name, Kind::Damaged, detail));
        }
        let version = Version(UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() });
        let bytes = found.bytes().await.map_err(|error| self.failed("read", name, &error))?;
        self.traffic.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(Some((bytes, version)))
    }

    /// Reads an object of exactly this length, part by part: `take` is given each, in order, on a thread where it may take its time.
    /// The sink is given back; none where there is no such object.
    ///
    /// # Errors
    /// [`StoreError`]; [`Kind::Damaged`] where it has another length. Parts may have been taken by then.
    pub(crate) async fn read<S: Send + 'static>(
        &self,
        name: &str,
        length: u64,
        sink: S,
        take: fn(&mut S, &[u8]),
    ) -> Result<Option<S>, StoreError> {
        self.stream(name, Some(length), sink, |_, _| (), take).await
    }

    /// The same of an object of whatever length, unless `expected` says which; `begin` is told it before the first part.
    ///
    /// # Errors
    /// [`StoreError`]; [`Kind::Damaged`] where it has another length. Parts may have been taken by then.
    pub async fn stream<S: Send + 'static>(
        &self,
        name: &str,
        expected: Option<u64>,
        mut sink: S,
        begin: fn(&mut S, u64),
        take: fn(&mut S, &[u8]),
    ) -> Result<Option<S>, StoreError> {
        self.count();
        let found = match self.inner.get(&self.path(name)).await {
            Ok(found) => found,
            Err(Error::NotFound { source, .. }) if !says_no_bucket(&source.to_string()) => return Ok(None),
            Err(error) => return Err(self.failed("read", name, &error)),
        };
        let size = found.meta.size;
        if let Some(length) = expected.filter(|length| *length != size) {
            return Err(self.problem("read", name, Kind::Damaged, format!("it has {size} bytes, and {length} were written")));
        }
        begin(&mut sink, size);
        self.traffic.read.fetch_add(size, Ordering::Relaxed);
        let done = match found.payload {
            GetResultPayload::File(file, _) => {
                let read = move || read_file(file, size, |part| take(&mut sink, part)).map(|()| sink);
                let read = threads::aside(read).await.map_err(std::io::Error::other).flatten();
                read.map_err(|source| Error::Generic { store: "LocalFileSystem", source: source.into() })
            }
            GetResultPayload::Stream(mut parts) => loop {
                match parts.try_next().await {
                    Ok(Some(part)) => take(&mut sink, &part),
                    Ok(None) => break Ok(sink),
                    Err(error) => break Err(error),
                }
            },
        };
        done.map(Some).map_err(|error| self.failed("read", name, &error))
    }

    /// Length of an object; none where there is no such object.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn length(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.count();
        match self.inner.head(&self.path(name)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look for", name, &error)),
        }
    }

    /// Writes an object if there is none of that name; false where there is one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create(&self, name: &str, content: Bytes) -> Result<bool, StoreError> {
        self.writable(name)?;
        let length = content.len() as u64;
        match self.inner.put_opts(&self.path(name), content.into(), PutOptions::from(PutMode::Create)).await {
            Ok(_) => {
                self.traffic.written.fetch_add(length, Ordering::Relaxed);
                Ok(true)
            }
            // An upload whose answer was lost is found as there: the caller compares.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(self.failed("write", name, &error)),
        }
    }

    /// Writes an object, in the place of one that is there.
    ///
    /// # Errors
    /// [`StoreError`]; nobody ever sees part of an object.
    pub async fn put(&self, name: &str, content: &[Bytes]) -> Result<(), StoreError> {
        self.writable(name)?;
        let length: usize = content.iter().map(Bytes::len).sum();
        let written = if length > PART && !matches!(self.address, Address::Folder(_)) {
            self.put_in_parts(name, content).await
        } else {
            self.wait_for_turn(length).await;
            self.inner.put(&self.path(name), content.iter().cloned().collect()).await.map(|_| ())
        };
        self.traffic.written.fetch_add(length as u64, Ordering::Relaxed);
        written.map_err(|error| self.failed("write", name, &error))
    }

    async fn put_in_parts(&self, name: &str, content: &[Bytes]) -> object_store::Result<()> {
        let mut upload = self.inner.put_multipart(&self.path(name)).await?;
        let sent = self.send_parts(upload.as_mut(), content).await;
        let ended = match sent {
            Ok(()) => upload.complete().await.map(|_| ()),
            Err(error) => Err(error),
        };
        if ended.is_err() {
            // What stays is not seen, and the store's own rules for unfinished uploads remove it.
            let _best_effort = upload.abort().await;
        }
        ended
    }

    async fn send_parts(&self, upload: &mut dyn MultipartUpload, content: &[Bytes]) -> object_store::Result<()> {
        let mut under_way = FuturesUnordered::new();
        for part in parts(content) {
            self.wait_for_turn(part.content_length()).await;
            under_way.push(upload.put_part(part));
            if under_way.len() >= PARTS_AT_ONCE {
                under_way.try_next().await?;
            }
        }
        while under_way.try_next().await?.is_some() {}
        Ok(())
    }

    /// Writes `content` where an object was `seen`, or where there was none; false where it has become another since.
    ///
    /// A folder of this machine is locked meanwhile: its files have no compare-and-swap of their own.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn replace(&self, name: &str, seen: Option<Version>, content: Bytes) -> Result<bool, StoreError> {
        let Some(Version(seen)) = seen else { return self.create(name, content).await };
        if let Address::Folder(folder) = &self.address {
            let _lock = lock(folder.clone()).await.map_err(|source| {
                let source = Error::Generic { store: "LocalFileSystem", source: source.into() };
                self.failed("lock", "", &source)
            })?;
            let now = self.inner.head(&self.path(name)).await;
            let same = now.as_ref().is_ok_and(|now| now.e_tag == seen.e_tag);
            if same {
                self.put(name, &[content]).await?;
            }
            return Ok(same);
        }
        self.writable(name)?;
        match self.inner.put_opts(&self.path(name), content.into(), PutOptions::from(PutMode::Update(seen))).await {
            Ok(_) => Ok(true),
            Err(Error::Precondition { .. } | Error::AlreadyExists { .. } | Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed("write", name, &error)),
        }
    }

    /// Objects whose names begin with the folder `within`, those alone that come after `after`, by ascending name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self, within: &str, after: Option<&str>) -> Result<Vec<Listed>, StoreError> {
        let mut pause = PAUSES.0;
        loop {
            match self.list_once(within, after).await {
                // The library repeats what got no answer, and not what broke off in the middle of one.
                Err(error) if error.kind == Kind::Unreachable && pause < PAUSES.1 && error.detail.contains(BROKE_OFF) => {
                    tokio::time::sleep(pause).await;
                    pause *= 4;
                }
                listed => return listed,
            }
        }
    }

    async fn list_once(&self, within: &str, after: Option<&str>) -> Result<Vec<Listed>, StoreError> {
        self.count();
        let folder = self.path(within);
        let objects = match after {
            Some(after) => self.inner.list_with_offset(Some(&folder), &self.path(after)),
            None => self.inner.list(Some(&folder)),
        };
        let objects: Vec<_> = objects.try_collect().await.map_err(|error| self.failed("list", within, &error))?;
        let mut listed: Vec<_> = objects.iter().filter_map(|object| self.listed(object)).collect();
        listed.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(listed)
    }

    fn listed(&self, object: &object_store::ObjectMeta) -> Option<Listed> {
        let name = object.location.prefix_match(&self.prefix)?.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
        Some(Listed { name, bytes: object.size, written: object.last_modified.into() })
    }

    /// Removes an object; one that is gone already is no error.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.writable(name)?;
        match self.inner.delete(&self.path(name)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", name, &error)),
        }
    }

    /// Has what was removed of the folder `within` stay so when the power is lost.
    pub(crate) async fn settle(&self, within: &str) -> Result<(), StoreError> {
        let Address::Folder(folder) = &self.address else { return Ok(()) };
        let folder = folder.join(within);
        let synced = threads::aside(move || File::open(folder)?.sync_all()).await;
        synced.map_err(std::io::Error::from).flatten().map_err(|source| {
            let source = Error::Generic { store: "LocalFileSystem", source: source.into() };
            self.failed("sync", within, &source)
        })
    }

    /// A problem with an object that the store itself does not see.
    pub(crate) fn problem(&self, action: &'static str, name: &str, kind: Kind, detail: impl Into<String>) -> StoreError {
        StoreError { action, object: self.full(name), kind, detail: detail.into() }
    }

    fn failed(&self, action: &'static str, name: &str, error: &Error) -> StoreError {
        StoreError::new(action, self.full(name), error, &self.secrets)
    }

    fn full(&self, name: &str) -> String {
        if name.is_empty() { self.address.to_string() } else { format!("{}/{name}", self.address) }
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.parts().chain(Path::from(name).parts()).collect()
    }

    fn count(&self) {
        self.traffic.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn writable(&self, name: &str) -> Result<(), StoreError> {
        if let Address::Web(_) = self.address {
            return Err(self.problem("write", name, Kind::ReadOnly, "over HTTP checkpoints are read only"));
        }
        self.count();
        Ok(())
    }

    /// Waits until so many bytes may be sent.
    async fn wait_for_turn(&self, bytes: usize) {
        let Some((rate, next)) = &self.pace else { return };
        let turn = {
            let mut next = next.lock().await;
            let turn = (*next).max(Instant::now());
            *next = turn + Duration::from_secs_f64(bytes as f64 / rate);
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

fn says_no_bucket(said: &str) -> bool {
    said.contains("NoSuchBucket") || said.contains("ContainerNotFound")
}

/// Reads so many bytes of a file in blocks, and no more.
fn read_file(file: File, length: u64, mut take: impl FnMut(&[u8])) -> std::io::Result<()> {
    let (mut file, mut block) = (file.take(length), vec![0; BLOCK]);
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(());
        }
        take(&block[..read]);
    }
}

/// `content` in parts of [`PART`] bytes, without copying it.
fn parts(content: &[Bytes]) -> Vec<PutPayload> {
    let mut parts: Vec<Vec<Bytes>> = vec![Vec::new()];
    let mut room = PART;
    for chunk in content {
        let mut rest = chunk.clone();
        while !rest.is_empty() {
            if room == 0 {
                parts.push(Vec::new());
                room = PART;
            }
            let taken = rest.split_to(room.min(rest.len()));
            room -= taken.len();
            if let Some(part) = parts.last_mut() {
                part.push(taken);
            }
        }
    }
    parts.into_iter().map(PutPayload::from_iter).collect()
}

/// Locks a folder of this machine until the value is dropped, or its process ends.
async fn lock(folder: PathBuf) -> std::io::Result<File> {
    let locked = threads::aside(move || {
        let folder = File::open(folder)?;
        folder.lock()?;
        Ok(folder)
    });
    locked.await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn parts_are_of_one_length_and_lose_nothing() {
        let content = [Bytes::from(vec![1; 100]), Bytes::from(vec![2; 2 * PART]), Bytes::from(vec![3; 5])];
        let parts = parts(&content);
        assert_eq!(parts.iter().map(PutPayload::content_length).collect::<Vec<_>>(), [PART, PART, 105]);
        let whole: Vec<u8> = parts.iter().flat_map(|part| part.iter().flatten().copied().collect::<Vec<_>>()).collect();
        assert_eq!(whole, content.concat());
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_are_paced() {
        let folder = tempfile::tempdir().unwrap();
        let access = Access { most_mbps: Some(8.0), ..Access::default() };
        let store = Store::open(&Address::Folder(folder.path().to_owned()), &access).unwrap();
        let begun = Instant::now();
        for index in 0..5 {
            store.put(&format!("o/{index}"), &[vec![0; 500_000].into()]).await.unwrap();
        }
        // A megabyte per second: four pauses of half a second.
        assert_eq!(begun.elapsed().as_millis(), 2_000);
        assert_eq!((store.traffic().requests(), store.traffic().bytes_written()), (5, 2_500_000));
    }

    /// Whether each of two requests of work of so many bytes was carried out where it was made.
    async fn at_once(access: &Access, bytes: u64) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Address::Folder(folder.path().to_owned()), access).unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        let of_work = store.clone();
        let work = async move {
            let created = of_work.create("o", Bytes::from_static(b"1")).now_or_never();
            let settled = of_work.settle("").now_or_never();
            tell.send(created.is_some_and(|done| done.unwrap()) && settled.is_some_and(|done| done.is_ok())).unwrap();
        };
        store.together(bytes, work).await;
        told.await.unwrap()
    }

    #[tokio::test]
    async fn a_folder_is_asked_by_one_thread_where_little_is_asked_for() {
        assert!(at_once(&Access::default(), LITTLE).await);
        assert!(!at_once(&Access::default(), LITTLE + 1).await);
        let paced = Access { most_mbps: Some(8.0), ..Access::default() };
        assert!(!at_once(&paced, 1).await);
    }
}
