//! Where a run keeps its checkpoints: the address of a folder, of this machine or under a prefix of a bucket.

use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

/// Address of a folder of checkpoints. Its text names no credentials: an address that has some is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A folder of this machine, absolute.
    Folder(PathBuf),
    /// `s3://BUCKET/PREFIX`.
    S3(Bucket),
    /// `gs://BUCKET/PREFIX`, Google Cloud Storage.
    Google(Bucket),
    /// `az://CONTAINER/PREFIX`, Azure Blob Storage.
    Azure(Bucket),
    /// `http://` or `https://`: to read only.
    Web(Url),
}

/// Part of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// Without slashes at its ends; empty for all of the bucket.
    pub prefix: String,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It begins with something else.
    #[error("{0}:// is no kind of store")]
    Scheme(String),
    /// Not a URI.
    #[error("it is no address: {0}")]
    Malformed(String),
    /// It names nobody's bucket.
    #[error("it names no {what}")]
    NoBucket {
        /// What it should name, as in "bucket".
        what: &'static str,
        /// An address that does.
        example: &'static str,
    },
    /// A file of another machine.
    #[error("it names the host {0}, and files of this machine alone are read")]
    Host(String),
    /// A password in it would be shown wherever the address is.
    #[error("an address has no user, password, query or fragment")]
    Credentials,
}

impl AddressError {
    /// What would be right.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::Scheme(_) => "give a folder, file:, s3://, gs://, az://, or http(s):// to read".to_owned(),
            Self::Malformed(_) => "give a folder, or an address as in s3://BUCKET/PREFIX".to_owned(),
            Self::NoBucket { example, .. } => format!("give an address as in {example}"),
            Self::Host(_) => "give file:PATH, file:///PATH, or the path alone".to_owned(),
            Self::Credentials => "give credentials in the environment or in a file".to_owned(),
        }
    }
}

/// Schemes of stores.
const SCHEMES: [&str; 5] = ["s3", "gs", "az", "http", "https"];

impl Address {
    /// Reads an address. Folders may be relative to `base`.
    ///
    /// # Errors
    /// [`AddressError`]: what is wrong with it. It does not repeat the text, which may hold a password.
    pub fn parse(text: &str, base: &Path) -> Result<Self, AddressError> {
        if let Some(rest) = text.strip_prefix("file:") {
            return folder(file(rest)?, base);
        }
        let Some((scheme, _)) = text.split_once("://") else {
            return match text.split_once(':') {
                Some((scheme, _)) if SCHEMES.contains(&scheme) => {
                    Err(AddressError::Malformed(format!("after {scheme}: it has no //")))
                }
                _ => folder(text, base),
            };
        };
        if !SCHEMES.contains(&scheme) {
            return Err(AddressError::Scheme(scheme.chars().filter(char::is_ascii_alphanumeric).take(20).collect()));
        }
        let url = Url::parse(text).map_err(|error| AddressError::Malformed(error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(AddressError::Credentials);
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let bucket = |what, example| {
            let name = host.ok_or(AddressError::NoBucket { what, example })?.to_owned();
            Ok(Bucket { name, prefix: url.path().trim_matches('/').to_owned() })
        };
        match scheme {
            "s3" => bucket("bucket", "s3://BUCKET/PREFIX").map(Self::S3),
            "gs" => bucket("bucket", "gs://BUCKET/PREFIX").map(Self::Google),
            "az" => bucket("container", "az://CONTAINER/PREFIX").map(Self::Azure),
            _ => bucket("host", "https://HOST/PATH").map(|_| Self::Web(url.clone())),
        }
    }
}

/// The path in what follows `file:`, taken literally.
fn file(rest: &str) -> Result<&str, AddressError> {
    let Some(after) = rest.strip_prefix("//") else { return Ok(rest) };
    let (host, path) = after.split_at(after.find('/').unwrap_or(after.len()));
    match host {
        "" | "localhost" => Ok(path),
        _ if host.contains('@') => Err(AddressError::Credentials),
        _ => Err(AddressError::Host(host.chars().take(60).collect())),
    }
}

fn folder(text: &str, base: &Path) -> Result<Address, AddressError> {
    if text.is_empty() || text.contains('\0') {
        return Err(AddressError::Malformed("it is empty".to_owned()));
    }
    let path = std::path::absolute(base.join(text)).map_err(|error| AddressError::Malformed(error.to_string()))?;
    Ok(Address::Folder(path))
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bucket = |scheme: &str, Bucket { name, prefix }: &Bucket| match prefix.as_str() {
            "" => write!(formatter, "{scheme}://{name}"),
            prefix => write!(formatter, "{scheme}://{name}/{prefix}"),
        };
        match self {
            Self::S3(of) => bucket("s3", of),
            Self::Google(of) => bucket("gs", of),
            Self::Azure(of) => bucket("az", of),
            Self::Folder(path) => path.display().fmt(formatter),
            Self::Web(url) => formatter.write_str(url.as_str().trim_end_matches('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, AddressError> {
        Address::parse(text, Path::new("/base")).map(|address| address.to_string())
    }

    #[test]
    fn folders_are_relative_to_their_base_and_buckets_have_a_prefix() {
        assert_eq!(parsed("checkpoints").unwrap(), "/base/checkpoints");
        assert_eq!(parsed("file:///data/kjv").unwrap(), "/data/kjv");
        assert_eq!(parsed("file:t/x").unwrap(), "/base/t/x");
        assert_eq!(parsed("file:/data/kjv").unwrap(), "/data/kjv");
        assert_eq!(parsed("file://localhost/data/kjv").unwrap(), "/data/kjv");
        assert_eq!(parsed("a:b/c").unwrap(), "/base/a:b/c");
        assert_eq!(parsed("s3://bucket/research/kjv/").unwrap(), "s3://bucket/research/kjv");
        assert_eq!(parsed("gs://bucket").unwrap(), "gs://bucket");
        assert_eq!(parsed("az://container/kjv").unwrap(), "az://container/kjv");
        assert_eq!(parsed("https://host:8443/kjv").unwrap(), "https://host:8443/kjv");
    }

    #[test]
    fn what_is_no_address_is_told_why() {
        assert_eq!(parsed("ftp://host/x"), Err(AddressError::Scheme("ftp".to_owned())));
        for (text, example) in [("s3:///kjv", "s3://BUCKET"), ("gs://", "gs://BUCKET"), ("az:///x", "az://CONTAINER")] {
            assert!(parsed(text).unwrap_err().help().contains(example), "{text}");
        }
        for text in ["", "http://", "file:", "file://", "file://localhost", "s3:bucket/kjv", "gs:/bucket"] {
            assert!(matches!(parsed(text), Err(AddressError::Malformed(_))), "{text}");
        }
        for text in ["file://relative/x", "file://host"] {
            let said = parsed(text).unwrap_err();
            assert!(matches!(said, AddressError::Host(_)) && said.help().starts_with("give file:PATH"), "{said}");
        }
    }

    #[test]
    fn an_address_with_credentials_is_refused_and_not_repeated() {
        for text in [
            "s3://key:secret@bucket/kjv",
            "https://user@host/kjv",
            "https://host/kjv?sig=secret",
            "gs://bucket/a#secret",
            "file://u:secret@h/x",
        ] {
            let said = parsed(text).unwrap_err();
            assert_eq!(said, AddressError::Credentials, "{text}");
            assert!(!said.to_string().contains("secret"));
        }
    }
}
