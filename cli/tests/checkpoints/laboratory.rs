//! Folders of checkpoints, and the command that looks at them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use atoll_checkpoint::folder::{manifest_name, shard_name};
use atoll_checkpoint::manifest::{ElementType, Manifest, PrivateState, VERSION, Vector};
use atoll_checkpoint::write::{Cut, ShardFile, Writer};
use atoll_checkpoint::{Access, Address, Folder, Place, Store};
use atoll_test_store::{BUCKET, KEY, Server};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A folder of checkpoints that nobody else uses, and what keeps it.
pub(crate) struct Laboratory {
    pub(crate) runtime: Runtime,
    pub(crate) folder: Folder,
    pub(crate) uri: String,
    pub(crate) server: Option<Server>,
    /// Where its objects are.
    pub(crate) objects: PathBuf,
    files: TempDir,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) error: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "JSON and nothing else: {self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

/// Runs `test` on every kind of store.
pub(crate) fn on_every_store(test: impl Fn(Laboratory)) {
    test(Laboratory::local());
    test(Laboratory::s3());
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Laboratory {
    pub(crate) fn local() -> Self {
        let files = tempfile::tempdir().unwrap();
        let objects = files.path().join("run");
        std::fs::create_dir(&objects).unwrap();
        let uri = objects.to_str().unwrap().to_owned();
        let store = Store::open(&Address::Folder(objects.clone()), &Access::default()).unwrap();
        Self { runtime: runtime(), folder: Folder::new(store), uri, server: None, objects, files }
    }

    pub(crate) fn s3() -> Self {
        let (files, runtime) = (tempfile::tempdir().unwrap(), runtime());
        let server = runtime.block_on(Server::start(files.path())).unwrap();
        let uri = format!("s3://{BUCKET}/research/run");
        let address = Address::parse(&uri, Path::new("/")).unwrap();
        let store = Store::open(&address, &Access::default().with(server.environment())).unwrap();
        let objects = files.path().join(BUCKET).join("research/run");
        Self { runtime, folder: Folder::new(store), uri, server: Some(server), objects, files }
    }

    pub(crate) fn path(&self) -> &Path {
        self.files.path()
    }

    /// `atoll checkpoint` with these arguments, and what its environment needs.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.arg("checkpoint").args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command.env("AWS_SHARED_CREDENTIALS_FILE", "/nowhere").env("RUST_LOG", "debug").env("ATOLL_LOG", "debug");
        command.envs(self.server.iter().flat_map(Server::environment));
        command
    }

    /// Runs to the end. Whatever it says, it tells no secret.
    pub(crate) fn said(mut command: Command) -> Said {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let said =
            Said { code: status.code(), out: String::from_utf8(stdout).unwrap(), error: String::from_utf8(stderr).unwrap() };
        let escaped = KEY.1.replace('/', "%2F").replace('+', "%2B");
        for secret in [KEY.1, &escaped] {
            assert!(!said.out.contains(secret) && !said.error.contains(secret), "{said:?}");
        }
        assert!(!said.error.contains("panicked"), "{said:?}");
        said
    }

    /// `atoll checkpoint COMMAND URI` with more arguments.
    pub(crate) fn run(&self, command: &str, more: &[&str]) -> Said {
        Self::said(self.command(&[&[command, self.uri.as_str()], more].concat()))
    }

    /// The same, which must succeed.
    pub(crate) fn done(&self, command: &str, more: &[&str]) -> Said {
        let said = self.run(command, more);
        assert_eq!((said.code, said.error.as_str()), (Some(0), ""), "{said:?}");
        said
    }

    /// Writes and publishes a checkpoint of these vectors.
    pub(crate) fn published(&self, place: Place, cuts: &[Cut]) -> Manifest {
        self.published_with(place, cuts, |_, _| {})
    }

    /// The same, after `change` of its manifest, for which it may write more vectors.
    pub(crate) fn published_with(
        &self,
        place: Place,
        cuts: &[Cut],
        change: impl FnOnce(&mut Manifest, &mut dyn FnMut(&Cut) -> Vector),
    ) -> Manifest {
        let writer = Writer::new(self.folder.clone(), &format!("writer-{place}"));
        let mut write = |cut: &Cut| self.runtime.block_on(written(&writer, cut));
        let replicated = cuts.iter().map(&mut write).collect();
        let mut manifest = manifest(place, replicated);
        change(&mut manifest, &mut write);
        self.runtime.block_on(self.folder.publish(&manifest)).unwrap();
        self.runtime.block_on(writer.end()).unwrap();
        manifest
    }

    /// Three checkpoints that share their momentum, the newest with files and private states.
    pub(crate) fn three(&self) -> [Manifest; 3] {
        let same = cut("outerMomentum", 9, 50);
        let [one, two] = [1, 2].map(|round| self.published(place(round), &[cut("parameters", round, 100), same.clone()]));
        let three = self.published_with(place(3), &[cut("parameters", 3, 100), same], |manifest, write| {
            manifest.files = vec![write(&file("config.json", b"{}"))];
            manifest.private = [(0, 3), (2, 2)]
                .map(|(slot, round)| {
                    let vectors = vec![write(&cut("adamW.moment", 100 + u64::from(slot), 100))];
                    PrivateState { slot, round, steps: 20 * round, vectors }
                })
                .into();
        });
        [one, two, three]
    }

    /// Changes the file of an object.
    pub(crate) fn damage(&self, name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let path = self.objects.join(name);
        let content = std::fs::read(&path).unwrap();
        std::fs::write(path, change(content)).unwrap();
    }
}

async fn written(writer: &Writer, cut: &Cut) -> Vector {
    let files: Vec<_> = cut.pieces().into_iter().map(|values| ShardFile::new(cut.element_type, values)).collect();
    cut.vector(writer.write(&files).await.unwrap())
}

pub(crate) fn place(round: u64) -> Place {
    Place { lineage: 1, term: 1, epoch: 2, round }
}

pub(crate) fn manifest(place: Place, replicated: Vec<Vector>) -> Manifest {
    Manifest {
        version: VERSION,
        written_by: "atoll test".into(),
        run: "kjv".into(),
        place,
        from: None,
        step: 20 * place.round,
        tokens: 1_000 * place.round,
        loss: 4.0 / place.round as f64,
        seed: 7,
        record: "0a1b".repeat(40),
        replicated,
        private: Vec::new(),
        files: Vec::new(),
    }
}

/// `count` elements of a vector that is another for every seed: each is one more than that of the seed before.
pub(crate) fn cut(name: &str, seed: u64, count: usize) -> Cut {
    let values: Vec<u8> = (0..count as u64).flat_map(|index| ((seed + 1_000 * index) as f32).to_le_bytes()).collect();
    Cut { name: name.to_owned(), element_type: ElementType::F32, values: values.into() }
}

pub(crate) fn file(name: &str, content: &[u8]) -> Cut {
    Cut { name: name.to_owned(), element_type: ElementType::U8, values: content.to_vec().into() }
}

/// Names of the objects of a checkpoint: its manifest, and the first shard of its first vector.
pub(crate) fn objects(manifest: &Manifest) -> [String; 2] {
    [manifest_name(manifest.place), shard_name(&manifest.replicated[0].pieces[0].shard)]
}
