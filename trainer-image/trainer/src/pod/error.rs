//! Why a trainer's container ends before its time.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use atoll_checkpoint::StoreError;
use atoll_checkpoint::address::AddressError;
use atoll_checkpoint::error::Kind;
use atoll_sdk::SdkError;

use super::digest::{Digest, DigestError};
use crate::process::TrainerError;

/// Why a trainer's container ends before its time.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// A signal handler or the asynchronous runtime could not be set up.
    #[error("cannot set up the process: {0}")]
    Process(#[source] io::Error),
    /// A file that the pod was given cannot be read.
    #[error("cannot read the {what}, {path}", path = path.display())]
    Unreadable {
        /// What is in it.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The sidecar has left no assignment.
    #[error("the sidecar left no assignment in {folder} for {seconds} s", folder = folder.display())]
    NoAssignment {
        /// The folder that both share.
        folder: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The run's specification is none.
    #[error("{path} is no specification of a run", path = path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The training.
    #[error(transparent)]
    Training(#[from] TrainerError),
    /// What is to be fetched is not said as it should be.
    #[error("ATOLL_FETCH: {0}; give a list as in [{{\"uri\": \"s3://BUCKET/text.txt\", \"into\": \"/data\"}}]")]
    List(String),
    /// An address to fetch from.
    #[error("{uri}: {source}; {help}", help = source.help())]
    Address {
        /// The address; it holds no password, or is not repeated.
        uri: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// An address names no file.
    #[error("{uri}: it names no file; give the address of one")]
    NoFile {
        /// The address.
        uri: String,
    },
    /// A digest is none.
    #[error("the digest of {uri}: {source}")]
    Digest {
        /// Of what.
        uri: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// What was fetched is something else.
    #[error("{uri} is not what was expected: its digest is {found}, not {expected}")]
    Other {
        /// The address.
        uri: String,
        /// What it was to be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// The store does not give it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was fetched cannot be written.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl PodError {
    /// The exit code of the process.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Training(TrainerError::Session(SdkError::Refused(_))) => 3,
            Self::Spec { .. }
            | Self::List(_)
            | Self::Address { .. }
            | Self::NoFile { .. }
            | Self::Digest { .. }
            | Self::Other { .. } => 2,
            Self::Store(error) if !matches!(error.kind, Kind::Unreachable | Kind::Failing | Kind::Full | Kind::Other) => 2,
            _ => 1,
        }
    }

    /// What it says to a person, with its causes.
    pub(super) fn message(&self) -> String {
        let mut message = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = cause.source();
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(kind: Kind) -> PodError {
        StoreError { action: "read", object: "s3://b/t".into(), kind, detail: String::new() }.into()
    }

    #[test]
    fn what_the_user_can_mend_is_told_from_what_may_pass_and_from_another_attempts_sidecar() {
        assert_eq!([Kind::Missing, Kind::Denied, Kind::NoBucket].map(|kind| store(kind).exit_code()), [2; 3]);
        assert_eq!([Kind::Unreachable, Kind::Failing].map(|kind| store(kind).exit_code()), [1; 2]);
        let refused = TrainerError::Session(SdkError::Refused("run kjv-2, not kjv-1".into()));
        assert_eq!(PodError::from(refused).exit_code(), 3);
        assert_eq!(PodError::from(TrainerError::Rank).exit_code(), 1);
    }

    #[test]
    fn a_message_has_its_causes_once() {
        let source = io::Error::other("no such thing");
        let error = PodError::Unreadable { what: "spec", path: "/x".into(), source };
        assert_eq!(error.message(), "cannot read the spec, /x: no such thing");
    }
}
