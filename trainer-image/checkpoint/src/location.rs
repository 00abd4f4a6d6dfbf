//! Where a run keeps its checkpoints and how it gets there, as it is handed from process to process: without a secret in it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::access::Access;
use crate::address::{Address, AddressError};
use crate::error::StoreError;
use crate::folder::Folder;
use crate::store::Store;

/// A folder of checkpoints. Credentials are in each process's environment, or in files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Its address. A folder that is relative is so to `base`.
    pub uri: String,
    /// Where relative folders begin.
    pub base: PathBuf,
    /// Where an S3 bucket is, if it is not Amazon's.
    pub endpoint: Option<String>,
    /// Region of an S3 bucket.
    pub region: Option<String>,
    /// Whether an S3 bucket is named in the path.
    pub path_style: Option<bool>,
    /// A folder with credentials as files.
    pub credentials: Option<PathBuf>,
    /// Most bits per second that one process uploads, in millions.
    pub most_mbps: Option<f64>,
}

/// Why a folder of checkpoints cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Its address.
    #[error("{0}; {help}", help = .0.help())]
    Address(#[from] AddressError),
    /// Its credentials.
    #[error("{0}; give a folder with a file for each, named as in the environment")]
    Credentials(String),
    /// They do not fit together.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Location {
    /// The folder at `uri`, with nothing else said.
    #[must_use]
    pub fn at(uri: &str, base: PathBuf) -> Self {
        let uri = uri.to_owned();
        Self { uri, base, endpoint: None, region: None, path_style: None, credentials: None, most_mbps: None }
    }

    /// Opens it with the credentials of this process. Nothing is asked of the store yet.
    ///
    /// # Errors
    /// [`LocationError`]: what is wrong, without a secret.
    pub fn open(&self) -> Result<Folder, LocationError> {
        let address = Address::parse(&self.uri, &self.base)?;
        let mut access = Access::of_environment();
        if let Some(folder) = &self.credentials {
            access = access.with_folder(folder).map_err(LocationError::Credentials)?;
        }
        access.endpoint.clone_from(&self.endpoint);
        access.region.clone_from(&self.region);
        access.path_style = self.path_style;
        access.most_mbps = self.most_mbps;
        Ok(Folder::new(Store::open(&address, &access)?))
    }
}
