//! Fetching what a trainer reads: objects of a bucket, files over HTTP or of this machine, into a folder that may hold them already.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_checkpoint::address::{Address, Bucket};
use atoll_checkpoint::error::{Kind, StoreError};
use atoll_checkpoint::{Access, Store};
use serde::Deserialize;

use super::PodError;
use super::digest::{Digest, Function, Hasher};

/// Least time between two lines that say how far it is.
const SAID: Duration = Duration::from_secs(5);

/// One file to fetch.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wanted {
    /// Its address.
    uri: String,
    /// The folder that it goes to, under the last part of its address.
    into: PathBuf,
    /// What it must be.
    #[serde(default)]
    digest: Option<String>,
    /// Where an S3 bucket is, if it is not Amazon's.
    #[serde(default)]
    endpoint: Option<String>,
    /// Region of an S3 bucket.
    #[serde(default)]
    region: Option<String>,
    /// Whether an S3 bucket is named in the path.
    #[serde(default)]
    path_style: Option<bool>,
}

/// Fetches all that `ATOLL_FETCH` lists.
///
/// # Errors
/// [`PodError`]: the first that cannot be fetched, or is something else.
pub(super) fn fetch(variable: impl Fn(&'static str) -> Option<String>) -> Result<(), PodError> {
    let text = variable("ATOLL_FETCH").ok_or_else(|| PodError::List("it is not set".into()))?;
    let list: Vec<Wanted> = serde_json::from_str(&text).map_err(|error| PodError::List(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PodError::Process)?;
    runtime.block_on(async {
        for wanted in &list {
            fetch_one(wanted).await?;
        }
        Ok(())
    })
}

async fn fetch_one(wanted: &Wanted) -> Result<(), PodError> {
    let uri = &wanted.uri;
    let digest = wanted.digest.as_deref().map(str::parse::<Digest>).transpose();
    let digest = digest.map_err(|source| PodError::Digest { uri: uri.clone(), source })?;
    let address = Address::parse(uri, Path::new("/")).map_err(|source| {
        // What may hold a password is not repeated.
        PodError::Address { uri: uri.split(['@', '?']).next_back().unwrap_or_default().chars().take(200).collect(), source }
    })?;
    let (folder, name) = parted(address).ok_or_else(|| PodError::NoFile { uri: uri.clone() })?;
    let target = wanted.into.join(&name);
    if let Some(expected) = digest
        && is_there(&target, expected)
    {
        tracing::info!(uri, path = %target.display(), "it is there already");
        return Ok(());
    }
    let mut access = Access::of_environment();
    access.endpoint.clone_from(&wanted.endpoint);
    access.region.clone_from(&wanted.region);
    access.path_style = wanted.path_style;
    let store = Store::open(&folder, &access)?;
    let partial = wanted.into.join(format!(".{name}.partial"));
    let found = download(&store, &name, &partial, digest.map_or(Function::Blake3, |digest| digest.function())).await;
    let kept = found.and_then(|found| match digest.filter(|expected| *expected != found) {
        Some(expected) => Err(PodError::Other { uri: uri.clone(), expected, found }),
        None => {
            std::fs::rename(&partial, &target).map(|()| found).map_err(|source| PodError::Write { path: target.clone(), source })
        }
    });
    let found = kept.inspect_err(|_| _ = std::fs::remove_file(&partial))?;
    tracing::info!(uri, path = %target.display(), digest = %found, "fetched");
    Ok(())
}

/// The folder of a file, and its name there.
fn parted(address: Address) -> Option<(Address, String)> {
    let in_bucket = |Bucket { name, prefix }: Bucket| {
        let (folder, file) = prefix.rsplit_once('/').unwrap_or(("", &prefix));
        (!file.is_empty()).then(|| (Bucket { name, prefix: folder.to_owned() }, file.to_owned()))
    };
    match address {
        Address::Folder(path) => {
            let name = path.file_name()?.to_str()?.to_owned();
            Some((Address::Folder(path.parent()?.to_owned()), name))
        }
        Address::S3(bucket) => in_bucket(bucket).map(|(bucket, name)| (Address::S3(bucket), name)),
        Address::Google(bucket) => in_bucket(bucket).map(|(bucket, name)| (Address::Google(bucket), name)),
        Address::Azure(bucket) => in_bucket(bucket).map(|(bucket, name)| (Address::Azure(bucket), name)),
        Address::Web(url) => {
            let name = url.path_segments()?.next_back().filter(|name| !name.is_empty())?.to_owned();
            let mut folder = url;
            folder.path_segments_mut().ok()?.pop();
            Some((Address::Web(folder), name))
        }
    }
}

/// Whether a file is there and is what it should be.
fn is_there(path: &Path, expected: Digest) -> bool {
    let found = File::open(path).and_then(|file| Hasher::new(expected.function()).all(file));
    found.is_ok_and(|found| found == expected)
}

/// Takes a file as it comes.
struct Sink {
    name: String,
    file: File,
    hasher: Hasher,
    written: u64,
    total: u64,
    failure: Option<io::Error>,
    said: Instant,
}

impl Sink {
    fn begin(&mut self, total: u64) {
        self.total = total;
    }

    fn take(&mut self, part: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        self.failure = self.file.write_all(part).err();
        self.hasher.update(part);
        self.written += part.len() as u64;
        if self.said.elapsed() >= SAID {
            self.said = Instant::now();
            tracing::info!(file = self.name, bytes = self.written, of = self.total, "fetching");
        }
    }

    /// Once it is on the disk.
    fn end(self) -> io::Result<Digest> {
        self.failure.map_or(Ok(()), Err)?;
        self.file.sync_all()?;
        Ok(self.hasher.end())
    }
}

async fn download(store: &Store, name: &str, partial: &Path, function: Function) -> Result<Digest, PodError> {
    let unwritable = |source| PodError::Write { path: partial.to_owned(), source };
    std::fs::create_dir_all(partial.parent().unwrap_or(Path::new("/"))).map_err(unwritable)?;
    let file = File::create(partial).map_err(unwritable)?;
    let sink = Sink {
        name: name.to_owned(),
        file,
        hasher: Hasher::new(function),
        written: 0,
        total: 0,
        failure: None,
        said: Instant::now(),
    };
    let taken = store.stream(name, None, sink, Sink::begin, Sink::take).await?;
    let missing = || StoreError {
        action: "read",
        object: format!("{}/{name}", store.address()),
        kind: Kind::Missing,
        detail: "no file of this name".to_owned(),
    };
    taken.ok_or_else(missing)?.end().map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    struct Ground(tempfile::TempDir);

    impl Ground {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("text.txt"), "abc").unwrap();
            Self(folder)
        }

        fn cached(&self) -> PathBuf {
            self.0.path().join("cache/text.txt")
        }

        fn fetch(&self, name: &str, digest: Option<&str>) -> Result<(), PodError> {
            let uri = format!("file://{}", self.0.path().join(name).display());
            let list = serde_json::json!([{"uri": uri, "into": self.0.path().join("cache"), "digest": digest}]);
            fetch(|_| Some(list.to_string()))
        }
    }

    #[test]
    fn a_file_is_fetched_once_and_checked() {
        let ground = Ground::new();
        ground.fetch("text.txt", Some(DIGEST)).unwrap();
        assert_eq!(std::fs::read_to_string(ground.cached()).unwrap(), "abc");
        std::fs::remove_file(ground.0.path().join("text.txt")).unwrap();
        ground.fetch("text.txt", Some(DIGEST)).unwrap();
        std::fs::write(ground.cached(), "damaged").unwrap();
        assert_eq!(ground.fetch("text.txt", Some(DIGEST)).unwrap_err().exit_code(), 2, "it is fetched again, and is gone");
    }

    #[test]
    fn what_is_something_else_is_refused_with_both_digests_and_not_kept() {
        let ground = Ground::new();
        let expected = format!("sha256:{}", "0".repeat(64));
        let error = ground.fetch("text.txt", Some(&expected)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.message().contains(&format!("its digest is {DIGEST}, not {expected}")), "{}", error.message());
        assert_eq!(std::fs::read_dir(ground.0.path().join("cache")).unwrap().count(), 0);
    }

    #[test]
    fn bad_input_is_named_and_is_no_failure_of_the_store() {
        let ground = Ground::new();
        for error in [ground.fetch("no.txt", None), ground.fetch("text.txt", Some("md5:0")), fetch(|_| None)] {
            assert_eq!(error.unwrap_err().exit_code(), 2);
        }
        let list = |text: &str| fetch(|_| Some(text.to_owned())).unwrap_err();
        assert!(list("{").message().contains("ATOLL_FETCH"));
        for uri in ["ftp://h/x", "s3://bucket", "https://host/", "https://u:secret@h/x"] {
            let error = list(&serde_json::json!([{"uri": uri, "into": "/nowhere"}]).to_string());
            assert_eq!(error.exit_code(), 2, "{uri}");
            assert!(!error.message().contains("secret"), "{}", error.message());
        }
    }

    #[test]
    fn an_address_is_parted_into_its_folder_and_a_name() {
        let parts = |uri: &str| {
            let (folder, name) = parted(Address::parse(uri, Path::new("/")).unwrap()).unwrap();
            format!("{folder} {name}")
        };
        assert_eq!(parts("http://host:80/data/text.txt"), "http://host/data text.txt");
        assert_eq!(parts("s3://bucket/a/b/text.txt"), "s3://bucket/a/b text.txt");
        assert_eq!(parts("gs://bucket/text.txt"), "gs://bucket text.txt");
        assert_eq!(parts("/data/text.txt"), "/data text.txt");
    }
}
