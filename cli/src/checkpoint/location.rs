//! Which folder of checkpoints a command is about, and how it is reached.

use std::path::{Path, PathBuf};

use atoll_checkpoint::error::Kind;
use atoll_checkpoint::location::LocationError;
use atoll_checkpoint::{Address, Folder, StoreError};
use clap::Args;

use crate::Ending;

/// Arguments of every command about checkpoints.
#[derive(Debug, Args)]
pub(crate) struct Location {
    /// Where the checkpoints are: a folder, file:, s3://, gs://, az://, or http(s):// to read
    uri: String,
    /// Where an S3 bucket is, if it is not Amazon's, as in `http://minio:9000`
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Region of an S3 bucket
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Whether an S3 bucket is named in the path, and not in the host's name
    #[arg(long, value_name = "BOOL")]
    path_style: Option<bool>,
    /// Folder of files with credentials, named as in the environment; they come before the environment's
    #[arg(long, value_name = "DIR")]
    credentials: Option<PathBuf>,
}

impl Location {
    /// The folder, of which nothing is asked yet but whether it is there, where it is of this machine.
    pub(crate) fn open(&self) -> Result<Folder, Ending> {
        let base = std::env::current_dir().map_err(|error| Ending::BadInput(format!("the current folder is gone: {error}")))?;
        let Self { uri, endpoint, region, path_style, credentials } = self;
        let location = atoll_checkpoint::Location {
            endpoint: endpoint.clone(),
            region: region.clone(),
            path_style: *path_style,
            credentials: credentials.clone(),
            ..atoll_checkpoint::Location::at(uri, base)
        };
        let folder = location.open().map_err(|error| match error {
            LocationError::Address(_) => Ending::BadInput(format!("URI: {error}")),
            LocationError::Credentials(_) => Ending::BadInput(format!("--credentials: {error}")),
            LocationError::Store(StoreError { kind: Kind::Endpoint, .. }) if endpoint.is_some() => {
                Ending::BadInput(format!("--endpoint: {error}"))
            }
            LocationError::Store(_) => Ending::bad_input(&error),
        })?;
        if let Address::Folder(path) = folder.store().address() {
            check(path).map_err(Ending::BadInput)?;
        }
        Ok(folder)
    }
}

/// Says so where there is no folder.
fn check(path: &Path) -> Result<(), String> {
    let help = "give the one that a run keeps its checkpoints in";
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{} is no folder; {help}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("there is no folder {}; {help}", path.display()))
        }
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}
