//! The folder of the workers' sockets: made for a run and removed with it, or the user's own.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use atoll_sdk::regions_socket;
use tempfile::TempDir;

use super::{socket_folder, socket_name};

/// Permissions of a folder that only its owner enters.
const OWN_ALONE: u32 = 0o700;

/// The folder of the workers' sockets.
pub(crate) enum Sockets {
    /// Made for this run, removed with it.
    Temporary(TempDir),
    /// The user's.
    Given(PathBuf),
}

impl Sockets {
    /// The folder that `--socket-dir` names, once sockets of all `workers` can be made in it; else a temporary one.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub(crate) fn new(given: Option<&Path>, workers: u32) -> Result<Self, String> {
        let Some(folder) = given else {
            return socket_folder().map(Self::Temporary).map_err(|error| {
                let folder = std::env::temp_dir();
                let folder = folder.display();
                format!("TMPDIR {folder}: no folder for sockets can be made there: {error}; set another, or give --socket-dir")
            });
        };
        let refuse = |problem: String| format!("--socket-dir {}: {problem}", folder.display());
        let folder = folder.canonicalize().map_err(|error| refuse(error.to_string()))?;
        for path in (0..workers).map(|slot| folder.join(socket_name(slot))) {
            for path in [regions_socket(&path), path] {
                let problem = match UnixListener::bind(&path) {
                    Ok(_free) => std::fs::remove_file(&path).err().map(|error| error.to_string()),
                    Err(error) if error.kind() != ErrorKind::AddrInUse => Some(error.to_string()),
                    // Left behind by a run that was killed, or somebody's.
                    Err(_) if UnixStream::connect(&path).is_ok() => Some("in use".to_owned()),
                    Err(_) => (!is_socket(&path)).then(|| "a file that is no socket".to_owned()),
                };
                if let Some(problem) = problem {
                    return Err(refuse(format!("{}: {problem}; give another folder, or none", path.display())));
                }
            }
        }
        Ok(Self::Given(folder))
    }

    /// The socket of a worker.
    pub(crate) fn socket(&self, slot: u32) -> PathBuf {
        let folder = match self {
            Self::Temporary(folder) => folder.path(),
            Self::Given(folder) => folder,
        };
        folder.join(socket_name(slot))
    }

    /// The folder to remove with the last socket in it; none where it is the user's.
    pub(crate) fn temporary_folder(&self) -> Option<PathBuf> {
        match self {
            Self::Temporary(folder) => Some(folder.path().to_owned()),
            Self::Given(_) => None,
        }
    }

    /// Makes the folder again: the last sidecar removed it.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn renew(&self) -> std::io::Result<()> {
        match self {
            Self::Temporary(folder) if !folder.path().exists() => {
                std::fs::DirBuilder::new().mode(OWN_ALONE).create(folder.path())
            }
            _ => Ok(()),
        }
    }

    /// Removes what sidecars that had to be killed could not remove themselves.
    pub(crate) fn clear(&self, workers: u32) {
        for socket in (0..workers).map(|slot| self.socket(slot)) {
            let _usually_gone = std::fs::remove_file(regions_socket(&socket)).and(std::fs::remove_file(&socket));
        }
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}
