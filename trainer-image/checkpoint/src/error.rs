//! What goes wrong between a run and its store, told to the person who can mend it.

use std::error::Error;
use std::io;

/// A request that a store did not answer as it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action} {object}: {}{detail}; {}", kind.what(), kind.help())]
pub struct StoreError {
    /// What was wanted, as in "read".
    pub action: &'static str,
    /// The address of the object.
    pub object: String,
    /// Which kind of problem it is.
    pub kind: Kind,
    /// What the store said, without credentials.
    pub detail: String,
}

/// Kinds of problems with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no such object.
    Missing,
    /// There is no such bucket, container or folder.
    NoBucket,
    /// Credentials are refused, or do not allow it.
    Denied,
    /// It cannot be written to.
    ReadOnly,
    /// It has no room left.
    Full,
    /// It cannot be reached, or it takes too long.
    Unreachable,
    /// It answers that it cannot answer.
    Failing,
    /// It is not what its name or the manifest says.
    Damaged,
    /// A newer program wrote it.
    Newer,
    /// It leaves no number for a lineage that begins.
    Last,
    /// Its endpoint is none.
    Endpoint,
    /// Anything else.
    Other,
}

impl Kind {
    fn what(self) -> &'static str {
        match self {
            Self::Missing => "it is not there: ",
            Self::NoBucket => "there is no such bucket: ",
            Self::Denied => "access is denied: ",
            Self::ReadOnly => "it is read-only: ",
            Self::Full => "there is no room left: ",
            Self::Unreachable => "the store cannot be reached: ",
            Self::Failing => "the store fails: ",
            Self::Damaged => "it is damaged: ",
            Self::Newer => "it is of a newer program: ",
            Self::Last => "no lineage can begin after it: ",
            Self::Endpoint | Self::Other => "",
        }
    }

    /// What its user can do about it.
    #[must_use]
    pub fn help(self) -> &'static str {
        match self {
            Self::Missing => "`atoll checkpoint list` shows what is there",
            Self::NoBucket => "make the bucket, or correct the address",
            Self::Denied => "check the credentials, and what they are allowed to do",
            Self::ReadOnly => "give an address that can be written to",
            Self::Full => "make room, or keep fewer checkpoints",
            Self::Unreachable => "check the address and the endpoint, and whether the store is up",
            Self::Damaged => "`atoll checkpoint verify` names all that is; an older checkpoint may be whole",
            Self::Newer => "use the program that wrote it",
            Self::Last => "remove it, or give another folder",
            Self::Endpoint => "give http:// or https:// and a host, as in http://minio:9000",
            Self::Failing | Self::Other => "the store's own log may say more",
        }
    }
}

/// Longest text of a store that is passed on, in characters.
const MOST_SAID: usize = 300;

impl StoreError {
    /// Whether one object is wrong, and others of the store may not be.
    #[must_use]
    pub fn is_of_the_object(&self) -> bool {
        matches!(self.kind, Kind::Missing | Kind::Damaged | Kind::Newer)
    }

    /// Of what the store library says, less every one of `secrets`.
    pub(crate) fn new(action: &'static str, object: String, source: &object_store::Error, secrets: &[String]) -> Self {
        let kind = kind(source);
        let mut detail = chain(source);
        for secret in secrets {
            detail = detail.replace(secret.as_str(), "***");
        }
        let detail = detail.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { action, object, kind, detail: detail.chars().take(MOST_SAID).collect() }
    }
}

/// The messages of an error and its sources, each once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn kind(error: &object_store::Error) -> Kind {
    use object_store::Error as Store;
    let said = chain(error);
    match error {
        _ if said.contains("NoSuchBucket") || said.contains("ContainerNotFound") => Kind::NoBucket,
        Store::NotFound { .. } => Kind::Missing,
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => Kind::Denied,
        _ if said.contains("status code: 401") || said.contains("status code: 403") => Kind::Denied,
        _ if said.contains("status code: 5") => Kind::Failing,
        _ => by_source(error).unwrap_or(Kind::Other),
    }
}

/// Of the first cause that says what it is.
fn by_source(error: &dyn Error) -> Option<Kind> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return match io.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(Kind::Full),
                io::ErrorKind::ReadOnlyFilesystem => Some(Kind::ReadOnly),
                io::ErrorKind::PermissionDenied => Some(Kind::Denied),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::TimedOut => {
                    Some(Kind::Unreachable)
                }
                _ => None,
            };
        }
        if cause.downcast_ref::<object_store::client::HttpError>().is_some() {
            return Some(Kind::Unreachable);
        }
        source = cause.source();
    }
    None
}
