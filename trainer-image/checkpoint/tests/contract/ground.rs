//! Stores to test on, and checkpoints to keep in them.

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_checkpoint::manifest::{ElementType, Manifest, VERSION};
use atoll_checkpoint::write::{Cut, Writer};
use atoll_checkpoint::{Access, Address, Folder, Place, Store};
use atoll_test_store::{BUCKET, Server};
use bytes::Bytes;
use tempfile::TempDir;

/// A folder of checkpoints that nobody else uses, and what keeps it.
pub(crate) struct Ground {
    pub(crate) folder: Folder,
    /// Where its objects are files of this machine.
    pub(crate) files: Option<std::path::PathBuf>,
    _server: Option<Server>,
    _files: TempDir,
}

/// Runs `test` on every kind of store.
pub(crate) async fn on_every_store<T: Future<Output = ()>>(test: impl Fn(Ground) -> T) {
    test(local()).await;
    test(in_this_process().await).await;
    if let Some(ground) = elsewhere() {
        test(ground).await;
    }
}

pub(crate) fn local() -> Ground {
    let files = tempfile::tempdir().unwrap();
    let store = Store::open(&Address::Folder(files.path().join("run")), &Access::default()).unwrap();
    Ground { folder: Folder::new(store), files: Some(files.path().join("run")), _server: None, _files: files }
}

async fn in_this_process() -> Ground {
    let files = tempfile::tempdir().unwrap();
    let server = Server::start(files.path()).await.unwrap();
    let store = Store::open(&s3_address("research/run"), &access(&server)).unwrap();
    let objects = files.path().join(BUCKET).join("research/run");
    Ground { folder: Folder::new(store), files: Some(objects), _server: Some(server), _files: files }
}

/// Another server, in a folder of its own.
fn elsewhere() -> Option<Ground> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let address = std::env::var("ATOLL_TEST_STORE").ok()?;
    let address = format!("{address}/{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let address = Address::parse(&address, Path::new("/")).unwrap();
    let store = Store::open(&address, &Access::of_environment()).unwrap();
    Some(Ground { folder: Folder::new(store), files: None, _server: None, _files: tempfile::tempdir().unwrap() })
}

pub(crate) fn s3_address(prefix: &str) -> Address {
    Address::parse(&format!("s3://{BUCKET}/{prefix}"), Path::new("/")).unwrap()
}

pub(crate) fn access(server: &Server) -> Access {
    Access::default().with(server.environment())
}

pub(crate) fn place(round: u64) -> Place {
    Place { lineage: 1, term: 1, epoch: 1, round }
}

/// `count` elements of a vector that is another for every seed.
pub(crate) fn cut(name: &str, seed: u64, count: usize) -> Cut {
    let values: Vec<u8> = (0..count as u64).flat_map(|index| ((seed * 1_000 + index) as f32).to_le_bytes()).collect();
    Cut { name: name.to_owned(), element_type: ElementType::F32, values: values.into() }
}

pub(crate) fn files(cuts: &[Cut]) -> Vec<(ElementType, Bytes)> {
    cuts.iter().flat_map(|cut| cut.pieces().into_iter().map(|values| (cut.element_type, values))).collect()
}

/// Writes the shards of a checkpoint, and returns the manifest that would publish it.
pub(crate) async fn written(folder: &Folder, place: Place, cuts: &[Cut]) -> Manifest {
    let writer = Writer::new(folder.clone(), &format!("writer-{place}"));
    let mut pieces = writer.write(files(cuts)).await.unwrap().into_iter();
    let replicated = cuts.iter().map(|cut| cut.vector(pieces.by_ref().take(cut.pieces().len()).collect())).collect();
    Manifest {
        version: VERSION,
        written_by: "atoll test".into(),
        run: "kjv".into(),
        place,
        from: None,
        step: 20 * place.round,
        tokens: 1_000 * place.round,
        loss: 1.5,
        seed: 7,
        record: if place.round == 0 { String::new() } else { "0a1b".into() },
        replicated,
        private: Vec::new(),
        files: Vec::new(),
    }
}

/// Writes and publishes a checkpoint.
pub(crate) async fn published(folder: &Folder, place: Place, cuts: &[Cut]) -> Manifest {
    let manifest = written(folder, place, cuts).await;
    assert!(folder.publish(&manifest).await.unwrap());
    Writer::new(folder.clone(), &format!("writer-{place}")).end().await.unwrap();
    manifest
}
