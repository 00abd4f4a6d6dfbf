//! A machine that loses its power while checkpoints are written to its disk: what was not on the disk is gone, in part, or in any order.
//!
//! A store that syncs what it writes, and the folder in which it removes manifests, must lose nothing that was said to be published.
//! The same without syncing must lose something, or this would show nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Result, ensure};
use async_trait::async_trait;
use atoll_checkpoint::{
    Access, Address, Folder, Manifest, Place as CheckpointPlace, Store,
    manifest::{ElementType, VERSION},
    retention::Retention,
    sweep::Sweeper,
    write::{Cut, Writer},
};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, local::LocalFileSystem, path::Path as Name,
};
use tokio::runtime::Handle;

use super::{case::Place, ground::contents, verdict::Outcome};
use crate::random::Random;

/// Losses at each place, with syncing and without.
const LOSSES: usize = 20;
/// Checkpoints that are written, if the power does not go before.
const ROUNDS: u64 = 6;
const KEPT: Retention = Retention { keep: 2, keep_every: None };

/// A store on the disk of a machine that loses its power at one operation.
#[derive(Debug, Clone)]
struct Machine {
    files: Arc<LocalFileSystem>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    place: Place,
    syncs: bool,
    /// Operations at the place that go well before.
    passing: u64,
    is_off: bool,
    random: Random,
    /// What may not be on the disk.
    volatile: Vec<Change>,
}

/// A change of a file, and what it was before.
#[derive(Debug)]
struct Change {
    file: PathBuf,
    before: Option<Vec<u8>>,
    removed: bool,
}

impl Machine {
    fn new(place: Place, syncs: bool, mut random: Random) -> Self {
        let passing = random.below(if removes(place) { 2 } else { ROUNDS - 1 });
        let state = State { place, syncs, passing, is_off: false, random, volatile: Vec::new() };
        Self { files: Arc::new(LocalFileSystem::new()), state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn removes(place: Place) -> bool {
    matches!(place, Place::RemovingManifest | Place::Condemning | Place::RemovingShard)
}

/// What becomes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// The power goes before it.
    Before,
    /// Half of a file is written by then, under a name of its own.
    Half,
    /// It is done, and nobody hears of it.
    After,
}

impl State {
    /// Notes an operation, and says what becomes of it.
    fn begin(&mut self, name: &Name, removes: bool) -> object_store::Result<Fate> {
        if self.is_off {
            return Err(no_power());
        }
        let file = Path::new("/").join(name.as_ref());
        // What was removed of a folder of manifests is gone before anything else is changed: it was synced.
        let of_manifests = |file: &Path| file.parent().is_some_and(|folder| folder.ends_with("checkpoints"));
        if self.syncs && !(removes && of_manifests(&file)) {
            self.volatile.retain(|change| !of_manifests(&change.file));
        }
        // What is synced may only be missing while it is written.
        self.volatile.retain(|change| !self.syncs || change.removed);
        let fate = self.fate(name.as_ref(), removes);
        if fate != Fate::Before {
            let before = fs::read(&file).ok();
            self.volatile.push(Change { file, before, removed: removes });
        }
        Ok(fate)
    }

    fn fate(&mut self, name: &str, removes: bool) -> Fate {
        let is_in = |folder: &str| name.contains(&format!("/{folder}/"));
        let (here, fate) = match self.place {
            Place::Intent => (is_in("intents") && !removes, Fate::Before),
            Place::BeforeShard => (is_in("shards") && !removes, Fate::Before),
            Place::InShard => (is_in("shards") && !removes, Fate::Half),
            Place::AfterShard => (is_in("shards") && !removes, Fate::After),
            Place::BeforeManifest => (is_in("checkpoints") && !removes, Fate::Before),
            Place::AfterManifest => (is_in("checkpoints") && !removes, Fate::After),
            Place::BeforeLatest => (name.ends_with("/LATEST"), Fate::Before),
            Place::AfterLatest => (name.ends_with("/LATEST"), Fate::After),
            Place::RemovingManifest => (is_in("checkpoints") && removes, Fate::After),
            Place::Condemning => (is_in("condemned") && !removes, Fate::After),
            Place::RemovingShard => (is_in("shards") && removes, Fate::After),
            Place::Snapshot | Place::PeerTransfer | Place::Checking | Place::Restoring => (false, Fate::Done),
        };
        if !here {
            return Fate::Done;
        }
        if self.passing > 0 {
            self.passing -= 1;
            return Fate::Done;
        }
        fate
    }

    /// The power goes: each change that was not on the disk is there, is not, or is there in part.
    fn lose_power(&mut self) -> std::io::Result<()> {
        self.is_off = true;
        for change in std::mem::take(&mut self.volatile).into_iter().rev() {
            match (self.random.below(3), change.before) {
                (0, _) => {}
                // Names may be on the disk before what they name, unless that was synced.
                (1, _) if !change.removed && !self.syncs => fs::write(&change.file, b"")?,
                (_, Some(before)) => fs::write(&change.file, before)?,
                (_, None) => {
                    let _not_there = fs::remove_file(&change.file);
                }
            }
        }
        Ok(())
    }
}

fn no_power() -> Error {
    Error::Generic { store: "Machine", source: "it has no power".into() }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a machine without power")
    }
}

impl Machine {
    fn end(&self, fate: Fate) -> object_store::Result<()> {
        if fate == Fate::Done {
            return Ok(());
        }
        let lost = self.state().lose_power();
        lost.map_err(|error| Error::Generic { store: "Machine", source: error.into() })?;
        Err(no_power())
    }
}

#[async_trait]
impl ObjectStore for Machine {
    async fn put_opts(&self, name: &Name, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        let fate = self.state().begin(name, false)?;
        match fate {
            Fate::Before => {}
            Fate::Half => {
                let bytes: Bytes = payload.into();
                let part = Name::from(format!("{name}.part"));
                self.files.put(&part, bytes.slice(..bytes.len() / 2).into()).await?;
            }
            Fate::Done | Fate::After => {
                let result = self.files.put_opts(name, payload, options).await;
                self.end(fate)?;
                return result;
            }
        }
        self.end(fate)?;
        Err(no_power())
    }

    async fn put_multipart_opts(&self, _: &Name, _: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "put_multipart".to_owned(), implementer: "Machine".to_owned() })
    }

    async fn get_opts(&self, name: &Name, options: GetOptions) -> object_store::Result<GetResult> {
        self.files.get_opts(name, options).await
    }

    fn delete_stream(
        &self,
        names: BoxStream<'static, object_store::Result<Name>>,
    ) -> BoxStream<'static, object_store::Result<Name>> {
        let machine = self.clone();
        let removed = names.then(move |name| {
            let machine = machine.clone();
            async move {
                let name = name?;
                let fate = machine.state().begin(&name, true)?;
                if fate != Fate::Before {
                    machine.files.delete(&name).await?;
                }
                machine.end(fate).map(|()| name)
            }
        });
        removed.boxed()
    }

    fn list(&self, prefix: Option<&Name>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Name>) -> object_store::Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Name, to: &Name, options: CopyOptions) -> object_store::Result<()> {
        self.files.copy_opts(from, to, options).await
    }
}

/// Loses the power at a place, many times; says what was wrong.
pub(super) fn perform(place: Place, seed: u64, runtime: &Handle, folder: &Path) -> Result<Outcome> {
    let mut random = Random::new(seed);
    let mut faults = Vec::new();
    let mut damaged_without = 0;
    for loss in 0..LOSSES {
        for syncs in [true, false] {
            let folder = folder.join(format!("{loss}-{}", if syncs { "synced" } else { "not-synced" }));
            let machine = Machine::new(place, syncs, Random::new(random.next()));
            let found = runtime.block_on(lose(&machine, &folder));
            ensure!(machine.state().is_off, "the power was never lost");
            match (found, syncs) {
                (Ok(()), _) => fs::remove_dir_all(&folder)?,
                (Err(error), true) => faults.push(format!("{}: {error:#}", folder.display())),
                (Err(_), false) => damaged_without += 1,
            }
        }
    }
    if damaged_without == 0 {
        faults.push("nothing is lost without syncing: this shows nothing".to_owned());
    }
    let well = LOSSES - faults.len().min(LOSSES);
    let struck = format!("{well} of {LOSSES} did no damage; without syncing {} of {LOSSES}", LOSSES - damaged_without);
    Ok(Outcome { done: format!("{LOSSES} losses"), struck, whole: None, lost: 0, faults })
}

/// Writes checkpoints until the power goes; then every one that is there is whole, the newest is not older than what was published, and
/// the next can be written.
async fn lose(machine: &Machine, folder: &Path) -> Result<()> {
    let files = || Store::open(&Address::Folder(folder.to_owned()), &Access::default());
    let mut published = None;
    let on_machine = Folder::new(files()?.over(Arc::new(machine.clone())));
    let mut sweeper = Sweeper::new(on_machine.clone(), "collector");
    for round in 1..=ROUNDS {
        match write(&on_machine, round).await {
            Ok(place) => published = Some(place),
            Err(_) if machine.state().is_off => break,
            Err(error) => return Err(error),
        }
        let swept = sweeper.sweep(&KEPT).await;
        if machine.state().is_off {
            break;
        }
        swept?;
    }
    let again = Folder::new(files()?);
    let found = contents(&again).await?;
    let damaged = found.0.iter().find(|checked| !checked.problems.is_empty());
    ensure!(damaged.is_none(), "a checkpoint is damaged: {damaged:?}");
    ensure!(found.newest() >= published, "{published:?} was published, and the newest is {:?}", found.newest());
    let next = write(&again, ROUNDS + 1).await?;
    Sweeper::new(again.clone(), "another").sweep(&KEPT).await?;
    let found = contents(&again).await?;
    ensure!(found.newest_whole() == Some(next), "the next checkpoint is not whole: {found:?}");
    Ok(())
}

/// Writes and publishes a checkpoint of three vectors, of which one never changes.
async fn write(folder: &Folder, round: u64) -> Result<CheckpointPlace> {
    let cuts = [cut("parameters", round), cut("momentum", 100 + round), cut("frozen", 0)];
    let values = cuts.iter().flat_map(|cut| cut.pieces().into_iter().map(|values| (cut.element_type, values)));
    let writer = Writer::new(folder.clone(), "writer");
    let mut pieces = writer.write(values.collect()).await?.into_iter();
    let place = CheckpointPlace { lineage: 1, term: 1, epoch: 1, round };
    let manifest = Manifest {
        version: VERSION,
        written_by: "atoll".to_owned(),
        run: "small".to_owned(),
        place,
        from: None,
        step: round,
        tokens: round,
        loss: 1.5,
        seed: 0,
        record: "00".to_owned(),
        replicated: cuts.iter().map(|cut| cut.vector(pieces.by_ref().take(cut.pieces().len()).collect())).collect(),
        private: Vec::new(),
        files: Vec::new(),
    };
    folder.publish(&manifest).await?;
    // It is forgotten by itself.
    let _not_needed = writer.end().await;
    Ok(place)
}

fn cut(name: &str, seed: u64) -> Cut {
    let values: Vec<u8> = (0..64_u64).flat_map(|index| ((seed * 1000 + index) as f32).to_le_bytes()).collect();
    Cut { name: name.to_owned(), element_type: ElementType::F32, values: values.into() }
}
