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
    #[error("{0}:// is no kind of store; give a folder, file://, s3://, gs://, az://, or http(s):// to read")]
    Scheme(String),
    /// Not a URI.
    #[error("it is no address: {0}; give a folder, or an address as in s3://BUCKET/PREFIX")]
    Malformed(String),
    /// It names nobody's bucket.
    #[error("it names no {0}; give an address as in s3://BUCKET/PREFIX")]
    NoBucket(&'static str),
    /// A password in it would be shown wherever the address is.
    #[error("an address has no user, password, query or fragment; give credentials in the environment or in a file")]
    Credentials,
}

impl Address {
    /// Reads an address. Folders may be relative to `base`.
    ///
    /// # Errors
    /// [`AddressError`]: what is wrong with it. It does not repeat the text, which may hold a password.
    pub fn parse(text: &str, base: &Path) -> Result<Self, AddressError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return folder(text, base);
        };
        if scheme == "file" {
            return folder(rest, base);
        }
        if !matches!(scheme, "s3" | "gs" | "az" | "http" | "https") {
            return Err(AddressError::Scheme(scheme.chars().filter(char::is_ascii_alphanumeric).take(20).collect()));
        }
        let url = Url::parse(text).map_err(|error| AddressError::Malformed(error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(AddressError::Credentials);
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let bucket = |what| {
            let name = host.ok_or(AddressError::NoBucket(what))?.to_owned();
            Ok(Bucket { name, prefix: url.path().trim_matches('/').to_owned() })
        };
        match scheme {
            "s3" => bucket("bucket").map(Self::S3),
            "gs" => bucket("bucket").map(Self::Google),
            "az" => bucket("container").map(Self::Azure),
            _ => host.ok_or(AddressError::NoBucket("host")).map(|_| Self::Web(url.clone())),
        }
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
        assert_eq!(parsed("s3://bucket/research/kjv/").unwrap(), "s3://bucket/research/kjv");
        assert_eq!(parsed("gs://bucket").unwrap(), "gs://bucket");
        assert_eq!(parsed("az://container/kjv").unwrap(), "az://container/kjv");
        assert_eq!(parsed("https://host:8443/kjv").unwrap(), "https://host:8443/kjv");
    }

    #[test]
    fn what_is_no_address_is_told_why() {
        assert!(parsed("ftp://host/x").unwrap_err().to_string().starts_with("ftp:// is no kind of store; give a folder"));
        assert_eq!(parsed("s3:///kjv"), Err(AddressError::NoBucket("bucket")));
        assert!(matches!(parsed(""), Err(AddressError::Malformed(_))));
        assert!(matches!(parsed("http://"), Err(AddressError::Malformed(_))));
    }

    #[test]
    fn an_address_with_credentials_is_refused_and_not_repeated() {
        for text in ["s3://key:secret@bucket/kjv", "https://user@host/kjv", "https://host/kjv?sig=secret", "gs://bucket/a#secret"]
        {
            let said = parsed(text).unwrap_err();
            assert_eq!(said, AddressError::Credentials, "{text}");
            assert!(!said.to_string().contains("secret"));
        }
    }
}
