//! What the run begins from: found by the pod that the hub has look for it, and read by all others where the hub says that it is.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use atoll_checkpoint::beginning::{begin_lineage, search};
use atoll_checkpoint::error::{Kind, StoreError};
use atoll_checkpoint::{Folder, Location, Place, Resume};
use atoll_collective::v1::{BeginRequest, Beginning, CheckpointFolder};
use atoll_sdk::process::beginning as first_bytes;
use tokio::time::Duration;

use super::PodError;
use super::hub::{Hub, is_final};
use super::patience::Patience;
use crate::Keeping;

/// Pause between two questions whether another pod has found it.
const LOOK: Duration = Duration::from_secs(1);
/// Longest text about a failure, in bytes.
const LONGEST: usize = 1024;

/// What this attempt of the run goes on from, and where it keeps its own.
pub(super) struct Begun {
    pub(super) keeping: Option<Keeping>,
    pub(super) resume: Option<Resume>,
    /// Somebody holds the run's state: it need not be read.
    pub(super) held: bool,
}

/// The run's folder, as the hub describes it.
pub(super) struct Store<'a> {
    /// Name of the run in its checkpoints.
    pub(super) run: &'a str,
    pub(super) folder: &'a CheckpointFolder,
}

impl Store<'_> {
    fn location(&self, uri: &str) -> Location {
        let CheckpointFolder { endpoint, region, path_style, most_mbps, .. } = self.folder.clone();
        Location { endpoint, region, path_style, most_mbps, ..Location::at(uri, PathBuf::from("/")) }
    }

    /// Finds the checkpoint to go on from, and takes a number for what follows it.
    async fn find(&self) -> Result<Beginning, String> {
        let location = self.location(&self.folder.uri);
        let folder = open(&location)?;
        let other = self.folder.resume_from.as_deref().map(|uri| self.location(uri));
        let opened = other.as_ref().map(open).transpose()?;
        let newest = folder.newest().await.map_err(|error| error.to_string())?;
        let found = search((&folder, &location), opened.as_ref().zip(other.as_ref()), |_, _| ()).await;
        let found = found.map_err(|error| error.to_string())?;
        for (place, why) in &found.found.skipped {
            tracing::warn!(%place, %why, "a checkpoint is passed over");
        }
        let from = other.filter(|_| found.of_other).unwrap_or_else(|| location.clone());
        let resume = found.found.manifest.map(|manifest| Resume::of(from, manifest)).transpose();
        let resume = resume.map_err(|error| error.to_string())?;
        if let Some(resume) = resume.as_ref().filter(|_| !found.of_other) {
            self.check(resume)?;
        }
        let digest = match &resume {
            Some(resume) => {
                let of = opened.as_ref().filter(|_| found.of_other).unwrap_or(&folder);
                let read = of.manifest_and_hash(resume.manifest.place).await;
                read.map_err(|error| error.to_string())?.1.to_string()
            }
            None => String::new(),
        };
        let after = newest.map_or(0, |newest| newest.lineage);
        let nonce = nonce().map_err(|error| format!("no random bytes: {error}"))?;
        let claimed = begin_lineage(&folder, after, self.run, resume.as_ref().map(Resume::origin), nonce).await;
        let lineage = claimed.map_err(|error| error.to_string())?;
        let (uri, place) =
            resume.map_or_else(Default::default, |resume| (resume.location.uri, resume.manifest.place.to_string()));
        Ok(Beginning { lineage, uri, place, digest })
    }

    /// Whether a checkpoint of the run's own folder is the run's own.
    fn check(&self, resume: &Resume) -> Result<(), String> {
        let (place, uri) = (resume.manifest.place, &resume.location.uri);
        if resume.manifest.run != self.run {
            return Err(format!(
                "the checkpoints in {uri} are of run {}; give another folder, and this one as checkpoint.resumeFrom to begin from it",
                resume.manifest.run
            ));
        }
        if resume.manifest.seed != self.folder.seed {
            return Err(format!(
                "checkpoint {place} in {uri} is of a run with another seed; give the seed that it was made with"
            ));
        }
        Ok(())
    }

    /// Reads what the run begins from.
    async fn read(&self, beginning: &Beginning, held: bool) -> Result<Option<Resume>, Unread> {
        if beginning.uri.is_empty() {
            return Ok(None);
        }
        let location = self.location(&beginning.uri);
        let folder = location.open().map_err(|error| Unread::Wrong(error.to_string()))?;
        let place: Place =
            beginning.place.parse().map_err(|_| Unread::Wrong(format!("{:?} is no checkpoint", beginning.place)))?;
        match folder.manifest_and_hash(place).await {
            Ok((manifest, hash)) if hash.to_string() == beginning.digest => {
                Resume::of(location, manifest).map(Some).map_err(|error| Unread::Wrong(error.to_string()))
            }
            Ok((_, hash)) => Err(Unread::Wrong(format!(
                "checkpoint {place} in {} is another than the run began from: its hash is {hash}, not {}",
                location.uri, beginning.digest
            ))),
            // It may have been removed since: a later one of this history says the same of what others hold.
            Err(error) if error.kind == Kind::Missing && held => self.newest_of(beginning.lineage).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn newest_of(&self, lineage: u64) -> Result<Option<Resume>, Unread> {
        let location = self.location(&self.folder.uri);
        let folder = location.open().map_err(|error| Unread::Wrong(error.to_string()))?;
        let newest = folder.newest().await?.filter(|newest| newest.lineage == lineage);
        let Some(newest) = newest else {
            return Err(Unread::Wrong(format!("nothing in {} says what the run began from", location.uri)));
        };
        let manifest = folder.manifest(newest).await?;
        Resume::of(location, manifest).map(Some).map_err(|error| Unread::Wrong(error.to_string()))
    }

    fn keeping(&self, lineage: u64, resume: Option<&Resume>) -> Keeping {
        Keeping {
            run: self.run.to_owned(),
            location: self.location(&self.folder.uri),
            lineage,
            from: resume.map(Resume::origin),
            seed: self.folder.seed,
            keep: self.folder.keep as usize,
            keep_every: self.folder.keep_every,
        }
    }
}

/// Why what the run begins from cannot be read.
enum Unread {
    /// The store does not answer.
    Passing(String),
    /// It is not what it should be.
    Wrong(String),
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        if error.is_of_the_object() { Self::Wrong(error.to_string()) } else { Self::Passing(error.to_string()) }
    }
}

fn open(location: &Location) -> Result<Folder, String> {
    location.open().map_err(|error| error.to_string())
}

fn nonce() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(blake3::Hash::from_bytes(bytes).to_string())
}

/// Asks the hub until it says what the run begins from; looks for it where the hub wants that.
///
/// # Errors
/// [`PodError`]: the hub refuses this pod, or the checkpoint is not what it was.
pub(super) async fn begin(hub: &mut Hub, store: Option<Store<'_>>) -> Result<Begun, PodError> {
    let mut request = BeginRequest { run: hub.run.clone(), member: Some(hub.me.clone()), ..BeginRequest::default() };
    let mut patience = Patience::default();
    loop {
        let reply = match hub.begin(request.clone()).await {
            Ok(reply) => reply,
            Err(status) if is_final(&status) => {
                return Err(PodError::Refused { what: "let this pod begin", why: status.message().to_owned() });
            }
            Err(status) => {
                patience.wait("the hub does not say what the run begins from", status.message()).await;
                continue;
            }
        };
        match (reply.beginning, &store) {
            (Some(beginning), Some(store)) => return begun(store, &beginning, reply.held).await,
            (Some(_), None) => return Ok(Begun { keeping: None, resume: None, held: reply.held }),
            (None, _) if reply.look && request.found.is_none() => match found(store.as_ref()).await {
                Ok(found) => (request.found, request.failure) = (Some(found), String::new()),
                Err(why) => {
                    first_bytes(&why, LONGEST).clone_into(&mut request.failure);
                    patience.wait("what the run begins from cannot be found", &why).await;
                }
            },
            (None, _) => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn found(store: Option<&Store<'_>>) -> Result<Beginning, String> {
    match store {
        Some(store) => store.find().await,
        None => Ok(Beginning::default()),
    }
}

async fn begun(store: &Store<'_>, beginning: &Beginning, held: bool) -> Result<Begun, PodError> {
    let mut patience = Patience::default();
    loop {
        match store.read(beginning, held).await {
            Ok(resume) => {
                let keeping = Some(store.keeping(beginning.lineage, resume.as_ref()));
                return Ok(Begun { keeping, resume, held });
            }
            Err(Unread::Wrong(why)) => return Err(PodError::Beginning(why)),
            Err(Unread::Passing(why)) => patience.wait("the checkpoint cannot be read that the run begins from", &why).await,
        }
    }
}
