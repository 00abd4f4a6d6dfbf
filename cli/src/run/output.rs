//! The folder of a run's results: claimed by one run, and never one that holds another's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Where results go when nothing else is said.
const DEFAULT: &str = "atoll-out";
/// Most runs of one name in the default place.
const MOST: u32 = 10_000;
/// Held while a run writes.
const LOCK: &str = ".lock";

/// A claimed folder.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    /// Folders that were made for it, the innermost first; removed again when nothing comes into them.
    made: Vec<PathBuf>,
    lock: Option<File>,
}

/// Why a folder cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("--out {}: cannot be written: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("--out {}: not a folder; give a folder, or one that does not exist yet", path.display())]
    NotAFolder { path: PathBuf },
    #[error("--out {}: the path is not UTF-8; give another folder", path.display())]
    NotText { path: PathBuf },
    #[error("--out {}: another atoll run is writing to it; give another folder", path.display())]
    Busy { path: PathBuf },
    #[error("--out {}: not empty, perhaps the results of an earlier run; give another folder or empty this one", path.display())]
    NotEmpty { path: PathBuf },
}

impl Output {
    /// Claims `explicit`, or the first of `atoll-out/NAME`, `atoll-out/NAME-2` ... that does not exist.
    pub(crate) fn claim(explicit: Option<&Path>, name: &str) -> Result<Self, OutputError> {
        if let Some(path) = explicit.and_then(|path| std::path::absolute(path).ok())
            && path.to_str().is_none()
        {
            return Err(OutputError::NotText { path });
        }
        match explicit {
            Some(path) => Self::claim_explicit(path),
            None => Self::claim_default(name),
        }
    }

    fn claim_default(name: &str) -> Result<Self, OutputError> {
        let parent = Path::new(DEFAULT);
        let mut made = make(parent).map_err(|source| OutputError::Io { path: parent.to_owned(), source })?;
        for number in 1..MOST {
            let path = parent.join(if number == 1 { name.to_owned() } else { format!("{name}-{number}") });
            match fs::create_dir(&path) {
                Ok(()) => {
                    made.insert(0, path.clone());
                    return Self::lock(path, made);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(OutputError::Io { path, source }),
            }
        }
        Err(OutputError::NotEmpty { path: parent.join(name) })
    }

    fn claim_explicit(path: &Path) -> Result<Self, OutputError> {
        let failed = |source| OutputError::Io { path: path.to_owned(), source };
        if path.exists() && !path.is_dir() {
            return Err(OutputError::NotAFolder { path: path.to_owned() });
        }
        let made = make(path).map_err(failed)?;
        let output = Self::lock(path.to_owned(), made)?;
        let others = fs::read_dir(path).map_err(failed)?.flatten().any(|entry| entry.file_name() != LOCK);
        if others {
            return Err(OutputError::NotEmpty { path: path.to_owned() });
        }
        Ok(output)
    }

    fn lock(path: PathBuf, made: Vec<PathBuf>) -> Result<Self, OutputError> {
        let mut output = Self { path, made, lock: None };
        let failed = |source| OutputError::Io { path: output.path.clone(), source };
        let lock = File::create(output.path.join(LOCK)).map_err(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(OutputError::Busy { path: output.path.clone() });
        }
        output.lock = Some(lock);
        Ok(output)
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder for what the sidecars' state machines hear and do.
    pub(crate) fn recordings(&self) -> PathBuf {
        self.path.join("recordings")
    }

    /// The recording of one start of a worker's sidecar.
    pub(crate) fn recording(&self, worker: &str, incarnation: u64) -> PathBuf {
        self.recordings().join(format!("{worker}-{incarnation}.jsonl"))
    }

    /// From here on there are results in it.
    pub(crate) fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.lock.take().is_some() {
            let _gone_already = fs::remove_file(self.path.join(LOCK));
        }
        for folder in &self.made {
            let _not_empty = fs::remove_dir(folder);
        }
    }
}

/// Makes a folder and what is missing above it; gives what it made, the innermost first, and leaves nothing when it fails.
fn make(path: &Path) -> io::Result<Vec<PathBuf>> {
    let missing: Vec<PathBuf> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).map(Path::to_owned).collect();
    fs::create_dir_all(path).inspect_err(|_| {
        for folder in &missing {
            let _not_made = fs::remove_dir(folder);
        }
    })?;
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_an_earlier_run_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("report.json"), "{}").unwrap();
        assert!(matches!(Output::claim(Some(folder.path()), "kjv"), Err(OutputError::NotEmpty { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the lock is gone, the report is there");
    }

    #[test]
    fn two_runs_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let first = Output::claim(Some(&path), "kjv").unwrap();
        assert!(matches!(Output::claim(Some(&path), "kjv"), Err(OutputError::Busy { .. })));
        drop(first);
        assert!(!path.exists(), "a run that never began leaves nothing");
    }

    #[test]
    fn folders_above_it_that_were_made_for_nothing_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        drop(Output::claim(Some(&folder.path().join("a/b/c")), "kjv").unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(folder.path().join("a"), "a file").unwrap();
        assert!(matches!(Output::claim(Some(&folder.path().join("a/b")), "kjv"), Err(OutputError::Io { .. })));
    }

    #[test]
    fn a_file_is_not_a_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Output::claim(Some(file.path()), "kjv"), Err(OutputError::NotAFolder { .. })));
    }
}
