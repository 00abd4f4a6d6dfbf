//! A store for one case, and runs that keep their checkpoints in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use atoll_checkpoint::{
    Access, Address, Folder, Manifest, Place, Store,
    folder::{manifest_name, shard_name},
    shard::ShardName,
};
use atoll_test_store::{BUCKET, Server};
use tokio::runtime::Handle;

use crate::product::Run;

/// Name of the run, and of its folder in the store.
pub(super) const RUN: &str = "small";
/// Checkpoints that stay.
pub(super) const KEEP: usize = 2;
/// Inner steps of a round.
pub(super) const INNER_STEPS: u64 = 2;

/// A store and the folder of a case.
pub(super) struct Ground {
    runtime: Handle,
    server: Option<Server>,
    /// Where the objects of the run are as files.
    objects: PathBuf,
    folder: PathBuf,
}

/// A checkpoint of a folder: what is wrong with it, by object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) place: Place,
    pub(super) problems: Vec<String>,
}

/// All checkpoints of a folder, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents(pub(super) Vec<Checked>);

impl Contents {
    /// The newest that can be restored.
    pub(super) fn newest_whole(&self) -> Option<Place> {
        self.0.iter().rev().find(|checked| checked.problems.is_empty()).map(|checked| checked.place)
    }

    pub(super) fn newest(&self) -> Option<Place> {
        self.0.last().map(|checked| checked.place)
    }
}

impl Ground {
    /// An S3 server for a case whose files are in `folder`.
    pub(super) fn with_server(runtime: &Handle, folder: &Path) -> Result<Self> {
        let store = folder.join("store");
        let server = runtime.block_on(Server::start(&store)).context("cannot start the store")?;
        let objects = store.join(BUCKET).join(RUN);
        Self { runtime: runtime.clone(), server: Some(server), objects, folder: folder.to_owned() }.with_run_file()
    }

    /// A folder of this machine as store.
    pub(super) fn on_disk(runtime: &Handle, objects: &Path, folder: &Path) -> Result<Self> {
        let objects = objects.to_owned();
        Self { runtime: runtime.clone(), server: None, objects, folder: folder.to_owned() }.with_run_file()
    }

    fn with_run_file(self) -> Result<Self> {
        let checkpoint = match &self.server {
            Some(server) => {
                format!("{{uri: \"s3://{BUCKET}/{RUN}\", endpoint: \"{}\", region: us-east-1, ", server.endpoint())
            }
            None => format!("{{uri: '{}', ", self.objects.display()),
        };
        let text = format!(
            "apiVersion: atoll.dev/v1alpha1
kind: TrainingRun
metadata: {{name: {RUN}}}
spec:
  model: {{architecture: {{llama: {{layers: 1, hiddenSize: 32, heads: 2, intermediateSize: 64, contextLength: 32}}}}}}
  dataset: {{source: {{uri: \"builtin:kjv\"}}, tokenizer: {{characters: {{}}}}}}
  optimizer: {{adamW: {{learningRate: 3.0e-3, weightDecay: 0.1}}}}
  method: {{diLoCo: {{innerSteps: {INNER_STEPS}, outerLearningRate: 0.7, outerMomentum: 0.5}}}}
  workers: {{min: 3, target: 3, batchSize: 2}}
  rounds: {{quorum: {{min: 2}}}}
  checkpoint: {checkpoint}everyRounds: 1, keep: {KEEP}}}
  stop: {{steps: 100}}
"
        );
        fs::write(self.file(), text)?;
        Ok(self)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("run.yaml")
    }

    pub(super) fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// A run of so many rounds.
    pub(super) fn run(&self, name: &str, rounds: u64) -> Result<Run> {
        let run = Run::new(name, &self.file(), &self.folder)?.set(&[&format!("stop.steps={}", rounds * INNER_STEPS)]);
        Ok(run.with_environment(self.server.iter().flat_map(Server::environment)))
    }

    /// Reads and checks all checkpoints, as files: whatever the server does.
    pub(super) fn contents(&self) -> Result<Contents> {
        let folder = Folder::new(Store::open(&Address::Folder(self.objects.clone()), &Access::default())?);
        self.runtime.block_on(contents(&folder))
    }

    /// Changes one bit of a shard that the newest checkpoint names, and `all` of them or no other; gives its name in the folder.
    pub(super) fn flip(&self, all: bool, choice: u64) -> Result<String> {
        let places = places(&self.objects)?;
        let (newest, others) = places.split_last().context("there is no checkpoint")?;
        let newest = self.manifest(*newest)?;
        let others = others.iter().map(|place| self.manifest(*place)).collect::<Result<Vec<_>>>()?;
        let names = |other: &Manifest, shard: &ShardName| other.shards().contains(shard);
        let suits = |shard: &&&ShardName| {
            if all { others.iter().all(|other| names(other, shard)) } else { !others.iter().any(|other| names(other, shard)) }
        };
        let shards = newest.shards();
        let shards: Vec<_> = shards.iter().filter(suits).collect();
        let shard = shards.get(choice as usize % shards.len().max(1)).context("it names no such shard")?;
        let name = shard_name(shard);
        let mut bytes = fs::read(self.objects.join(&name))?;
        let at = choice as usize % bytes.len().max(1);
        *bytes.get_mut(at).context("an empty shard")? ^= 1 << (choice % 8);
        fs::write(self.objects.join(&name), bytes)?;
        Ok(name)
    }

    fn manifest(&self, place: Place) -> Result<Manifest> {
        Ok(Manifest::parse(&fs::read(self.objects.join(manifest_name(place)))?)?)
    }

    fn newest(&self) -> Result<Place> {
        places(&self.objects)?.last().copied().context("there is no checkpoint")
    }

    /// Bytes of each shard that the newest checkpoint names.
    pub(super) fn shards_of_the_newest(&self) -> Result<Vec<u64>> {
        Ok(self.manifest(self.newest()?)?.pieces().map(|piece| piece.bytes).collect())
    }

    /// Removes the second half of the newest manifest; gives its name in the folder.
    pub(super) fn truncate(&self) -> Result<String> {
        let newest = manifest_name(self.newest()?);
        let file = fs::File::options().write(true).open(self.objects.join(&newest))?;
        file.set_len(file.metadata()?.len() / 2)?;
        Ok(newest)
    }
}

/// The checkpoints that are there as files, the oldest first.
fn places(objects: &Path) -> Result<Vec<Place>> {
    let names = fs::read_dir(objects.join("checkpoints")).context("there is no checkpoint")?;
    let names = names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
    let mut places: Vec<_> = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect();
    places.sort();
    Ok(places)
}

/// Checks all checkpoints of a folder, and that the search finds the newest whole one.
pub(super) async fn contents(folder: &Folder) -> Result<Contents> {
    let mut contents = Contents::default();
    for entry in folder.entries().await? {
        let problems = match folder.manifest(entry.place).await {
            Ok(manifest) => folder.check(&manifest, |_, _| ()).await,
            Err(problem) => vec![problem],
        };
        let problems = problems.iter().map(ToString::to_string).collect();
        contents.0.push(Checked { place: entry.place, problems });
    }
    let found = folder.newest_whole(|_, _| ()).await?.manifest.map(|manifest| manifest.place);
    if found != contents.newest_whole() {
        bail!("the search finds {found:?}, and the newest whole checkpoint is {:?}", contents.newest_whole());
    }
    Ok(contents)
}
