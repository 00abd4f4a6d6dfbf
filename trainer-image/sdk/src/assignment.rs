//! What the sidecar of a pod tells the trainer beside it before it is attached: a file in the folder that both share.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Name of the file.
const FILE: &str = "assignment.json";
/// Name under which it is written before it is whole.
const PARTIAL: &str = ".assignment.json";
/// Longest assignment that is read, in bytes.
const LONGEST: u64 = 32 << 20;

/// Path of the sidecar's socket in the folder that it shares with its trainer.
#[must_use]
pub fn socket(shared: &Path) -> PathBuf {
    shared.join("sidecar.sock")
}

/// What a trainer is in its run. `R` is the checkpoint that it goes on from, as the trainer reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment<R> {
    /// Name of the run in messages: what a session is opened with.
    pub run: String,
    /// Name of the run for people.
    pub name: String,
    /// Name of the worker.
    pub worker: String,
    /// Index of the worker.
    pub slot: u32,
    /// The checkpoint to read, where nobody of the run holds its state yet.
    pub resume: Option<R>,
    /// The last round of the checkpoint that the run goes on from, and the inner steps by then.
    pub after: (u64, u64),
}

impl<R: Serialize> Assignment<R> {
    /// Writes it to the folder, whole or not at all, in the place of an earlier one.
    ///
    /// # Errors
    /// What the system said.
    pub fn write(&self, shared: &Path) -> io::Result<()> {
        let partial = shared.join(PARTIAL);
        std::fs::write(&partial, serde_json::to_vec(self)?)?;
        std::fs::rename(partial, shared.join(FILE))
    }
}

impl<R: DeserializeOwned> Assignment<R> {
    /// Reads it; none where it is not there yet.
    ///
    /// # Errors
    /// What the system said; [`ErrorKind::InvalidData`] where it is no assignment.
    pub fn read(shared: &Path) -> io::Result<Option<Self>> {
        let path = shared.join(FILE);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Ok(found) if found.len() > LONGEST => return Err(ErrorKind::InvalidData.into()),
            found => found?,
        };
        serde_json::from_slice(&std::fs::read(path)?).map(Some).map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Assignment::<u32>::read(folder.path()).unwrap(), None);
        let (run, name, worker) = ("kjv-1-1".to_owned(), "kjv".to_owned(), "w0".to_owned());
        let assignment = Assignment { run, name, worker, slot: 0, resume: Some(7), after: (3, 60) };
        assignment.write(folder.path()).unwrap();
        assert_eq!(Assignment::<u32>::read(folder.path()).unwrap(), Some(assignment));
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(Assignment::<u32>::read(folder.path()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
