//! The checkpoints of a run, before its first process starts: where they go, and which one it goes on from.

use std::path::Path;

use anyhow::{Result, anyhow};
use atoll_checkpoint::beginning::{self, Opened, Search, SearchError, begin_lineage};
use atoll_checkpoint::error::{Kind, StoreError};
use atoll_checkpoint::location::LocationError;
use atoll_checkpoint::manifest::{ElementType, Manifest};
use atoll_checkpoint::write::{Cut, ShardFile};
use atoll_checkpoint::{Address, Folder, Location, Place};
use atoll_crds::RunFile;
use atoll_crds::spec::Checkpoint;
use atoll_sidecar::Keeping;
use atoll_trainer::process::{Resume, check, vectors};

use crate::checkpoint::bar::Bar;
use crate::{Ending, say};

/// What a run does with checkpoints.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checkpoints {
    /// Where they go.
    pub(crate) keeping: Option<Keeping>,
    /// The one that it goes on from.
    pub(crate) resume: Option<Resume>,
    /// Newer ones that were passed over, and why.
    pub(crate) skipped: Vec<(String, String)>,
}

/// What a run's own checkpoints are of.
pub(crate) struct Own {
    /// Parameters of the model.
    pub(crate) parameters: u64,
    /// The `config.json` of the model.
    pub(crate) config: String,
    /// The `tokenizer.json`.
    pub(crate) tokenizer: Vec<u8>,
}

impl Own {
    /// In which of its files a checkpoint is of something else; one that has none says nothing.
    fn differs(&self, manifest: &Manifest) -> Option<&'static str> {
        let other = |name: &str, bytes: &[u8]| {
            let kept = manifest.files.iter().find(|file| file.name == name);
            let cut = Cut { name: name.to_owned(), element_type: ElementType::U8, values: bytes.to_vec().into() };
            let own = cut.pieces().into_iter().map(|values| ShardFile::new(ElementType::U8, values).piece().shard);
            kept.is_some_and(|kept| !kept.pieces.iter().map(|piece| piece.shard.first_copy()).eq(own))
        };
        let tokenizer = || other("tokenizer.json", &self.tokenizer).then_some("tokenizer");
        other("config.json", self.config.as_bytes()).then_some("model").or_else(tokenizer)
    }
}

impl Checkpoints {
    /// The last round of the checkpoint that it goes on from, and the inner steps by then.
    pub(crate) fn after(&self) -> (u64, u64) {
        self.resume.as_ref().map_or((0, 0), |resume| (resume.committed.round, resume.manifest.step))
    }

    /// Tokens that were trained on by then.
    pub(crate) fn tokens(&self) -> u64 {
        self.resume.as_ref().map_or(0, |resume| resume.manifest.tokens)
    }
}

/// The field that names the folder.
const URI: &str = "spec.checkpoint.uri";
/// The field that names the folder of another run.
const RESUME_FROM: &str = "spec.checkpoint.resumeFrom";

/// Finds the checkpoint to go on from, and takes a number for what follows it.
pub(crate) async fn prepare(file: &RunFile, base: &Path, resume: bool, own: &Own, silent: bool) -> Result<Checkpoints, Ending> {
    let Some(spec) = &file.spec.checkpoint else {
        let help = "give spec.checkpoint.uri, where this run keeps its checkpoints";
        let none = || Ending::bad_input(&file.problem("spec", "--resume: the run keeps no checkpoints", help));
        return if resume { Err(none()) } else { Ok(Checkpoints::default()) };
    };
    let location = location(spec, &spec.uri, base);
    let folder = opened(file, URI, &location)?;
    let other = spec.resume_from.as_ref().map(|other| self::location(spec, other, base));
    let other = other.map(|location| Ok((opened(file, RESUME_FROM, &location)?, location))).transpose()?;
    if let Address::Web(_) = folder.store().address() {
        let message = format!("a web server can only be read: {}", location.uri);
        return Err(Ending::bad_input(&file.problem(URI, message, "give a folder or a bucket")));
    }
    let trouble = |error: StoreError| unusable(file, URI, &error);
    let newest = folder.newest().await.map_err(trouble)?;
    if let (Some(newest), false) = (newest, resume) {
        let message = format!("{} holds checkpoints of an earlier run, the newest of round {}", location.uri, newest.round);
        return Err(Ending::bad_input(&file.problem(URI, message, "give --resume to go on from it, or another folder")));
    }
    let searched = search((&folder, &location), other.as_ref().map(|(other, location)| (other, location)), silent).await;
    let Search { found, of_other } = searched.map_err(|error| not_found(file, error))?;
    let from = other.filter(|_| of_other).map_or_else(|| location.clone(), |(_, location)| location);
    if found.manifest.is_none() && resume {
        say(&format!("no checkpoint in {} yet: the run begins", location.uri));
    }
    if let Some((_, newer)) = found.skipped.iter().find(|(_, why)| why.kind == Kind::Newer) {
        return Err(unusable(file, URI, newer));
    }
    let resume = found.manifest.map(|manifest| resumed(file, manifest, from, &location, own)).transpose()?;
    let keeping = keeping(file, spec, location, &folder, newest.map_or(0, |newest| newest.lineage), resume.as_ref()).await?;
    Ok(Checkpoints { keeping: Some(keeping), resume, skipped: told(found.skipped) })
}

/// Opens the folder that `field` names.
fn opened(file: &RunFile, field: &str, location: &Location) -> Result<Folder, Ending> {
    location.open().map_err(|error| {
        let (field, message, help) = match &error {
            LocationError::Address(error) => (field, error.to_string(), error.help()),
            LocationError::Store(StoreError { kind: Kind::Endpoint, detail, .. }) => {
                let field = if location.endpoint.is_some() { "spec.checkpoint.endpoint" } else { field };
                (field, detail.clone(), Kind::Endpoint.help().to_owned())
            }
            LocationError::Credentials(_) | LocationError::Store(_) => (field, error.to_string(), HELP.to_owned()),
        };
        Ending::bad_input(&file.problem(field, message, help))
    })
}

const HELP: &str = "the run keeps its checkpoints there";

fn location(spec: &Checkpoint, uri: &str, base: &Path) -> Location {
    Location {
        endpoint: spec.endpoint.clone(),
        region: spec.region.clone(),
        path_style: spec.path_style,
        most_mbps: spec.max_mbps,
        ..Location::at(uri, base.to_owned())
    }
}

/// The same for a run that lost its state: from the newest whole checkpoint of its folder, or from the beginning.
pub(crate) async fn again(file: &RunFile, keeping: &Keeping, own: &Own) -> Result<Checkpoints> {
    let failed = |ending: Ending| anyhow!("{}", ending.message());
    let Some(spec) = &file.spec.checkpoint else { return Ok(Checkpoints::default()) };
    let location = keeping.location.clone();
    let folder = location.open()?;
    // Nothing of its own yet: what it began from is all there is.
    let other = spec.resume_from.as_ref().map(|other| Location { uri: other.clone(), ..location.clone() });
    let begun_from = other.as_ref().map(Location::open).transpose()?;
    let Search { found, of_other } = search((&folder, &location), begun_from.as_ref().zip(other.as_ref()), true).await?;
    let from = other.filter(|_| of_other).unwrap_or_else(|| location.clone());
    let resume = found.manifest.map(|manifest| resumed(file, manifest, from, &location, own));
    let resume = resume.transpose().map_err(failed)?;
    let keeping = self::keeping(file, spec, location, &folder, keeping.lineage, resume.as_ref()).await.map_err(failed)?;
    Ok(Checkpoints { keeping: Some(keeping), resume, skipped: told(found.skipped) })
}

fn told(skipped: Vec<(Place, StoreError)>) -> Vec<(String, String)> {
    skipped.into_iter().map(|(place, why)| (place.to_string(), why.to_string())).collect()
}

/// A store that refuses is the user's to correct; one that fails may be well again soon.
fn unusable(file: &RunFile, field: &str, error: &StoreError) -> Ending {
    match error.kind {
        Kind::Unreachable | Kind::Failing | Kind::Other | Kind::Full => Ending::Failed(error.to_string()),
        _ => Ending::bad_input(&file.problem(field, error.to_string(), HELP)),
    }
}

fn not_found(file: &RunFile, error: SearchError) -> Ending {
    match error {
        SearchError::Own(error) => unusable(file, URI, &error),
        SearchError::Other(error) => unusable(file, RESUME_FROM, &error),
        SearchError::NothingWhole { of_other: true, .. } => {
            let help = "give a folder with a checkpoint that is whole";
            Ending::bad_input(&file.problem(RESUME_FROM, error.to_string(), help))
        }
        SearchError::NothingWhole { .. } => Ending::Failed(error.to_string()),
    }
}

/// The newest whole checkpoint; a bar shows how much of it was read.
async fn search(own: Opened<'_>, other: Option<Opened<'_>>, silent: bool) -> Result<Search, SearchError> {
    let bar = Bar::new("checking the checkpoint ", silent);
    beginning::search(own, other, |checked, total| bar.show(checked, total)).await
}

/// Checks that the run can go on from a checkpoint.
fn resumed(file: &RunFile, manifest: Manifest, from: Location, folder: &Location, own: &Own) -> Result<Resume, Ending> {
    let goes_on = from == *folder;
    let field = if goes_on { URI } else { RESUME_FROM };
    let refused = |message: String, help: &str| Ending::bad_input(&file.problem(field, message, help));
    let place = manifest.place;
    if goes_on && manifest.run != file.name {
        let message = format!("the checkpoints in {} are of run {}", from.uri, manifest.run);
        return Err(refused(message, "give another folder, and this one as spec.checkpoint.resumeFrom to begin from it"));
    }
    let resume = Resume::of(from, manifest).map_err(|none| refused(none.to_string(), "an older checkpoint may be whole"))?;
    let checked = check(&resume, &vectors(&file.spec), own.parameters);
    checked.map_err(|error| {
        refused(format!("checkpoint {place}: {error}"), "give the model, method, optimizer and codec that it was made with")
    })?;
    if let Some(differs) = own.differs(&resume.manifest).or((goes_on && resume.manifest.seed != file.spec.seed).then_some("seed"))
    {
        let message = format!("checkpoint {place} is of a run with another {differs}");
        return Err(refused(message, "give the model, dataset and seed that it was made with"));
    }
    Ok(resume)
}

/// Takes the number of a new history in the folder, which also shows that it can be written to.
async fn keeping(
    file: &RunFile,
    spec: &Checkpoint,
    location: Location,
    folder: &Folder,
    newest: u64,
    resume: Option<&Resume>,
) -> Result<Keeping, Ending> {
    let from = resume.map(Resume::origin);
    let nonce = crate::supervision::token().map_err(|error| Ending::failed(&error))?;
    let lineage = begin_lineage(folder, newest, &file.name, from.clone(), nonce).await;
    let lineage = lineage.map_err(|error| unusable(file, URI, &error))?;
    let (run, seed, keep) = (file.name.clone(), file.spec.seed, spec.keep as usize);
    Ok(Keeping { run, location, lineage, from, seed, keep, keep_every: spec.keep_every })
}
