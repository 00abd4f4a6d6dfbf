//! The library's client of each kind of store, made from an address and what reaches it.
//!
//! The library takes an endpoint as it comes, and panics at the first request where it is no URL: it is checked here before.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::access::Access;
use crate::address::{Address, Bucket};

/// Longest time for one request.
const DEADLINE: Duration = Duration::from_mins(2);
/// Longest time to reach a store.
const CONNECTING: Duration = Duration::from_secs(10);
/// Most times that one request is repeated.
const MOST_RETRIES: usize = 20;
/// First and longest pause before a request is repeated.
pub(crate) const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Longest endpoint that a message repeats, in characters.
const MOST_REPEATED: usize = 60;

/// Why there is no client.
#[derive(Debug)]
pub(crate) enum Unopened {
    /// What is wrong with which endpoint.
    Endpoint(String),
    /// The library does not take it.
    Library(object_store::Error),
}

impl From<object_store::Error> for Unopened {
    fn from(error: object_store::Error) -> Self {
        Self::Library(error)
    }
}

/// A client of the store at `address`. An endpoint that was given is checked whatever the address.
pub(crate) fn open(address: &Address, access: &Access) -> Result<Arc<dyn ObjectStore>, Unopened> {
    // Whoever else in this process has chosen is right as well.
    let _chosen_already = rustls::crypto::ring::default_provider().install_default();
    let given = access.endpoint.as_deref().map(|text| endpoint("the endpoint", text)).transpose()?;
    match address {
        Address::Folder(_) => Ok(Arc::new(LocalFileSystem::new().with_fsync(true))),
        Address::S3(bucket) => s3(bucket, access, given),
        Address::Google(bucket) => google(bucket, access),
        Address::Azure(bucket) => azure(bucket, access),
        Address::Web(url) => {
            let builder = HttpBuilder::new().with_url(url.as_str()).with_client_options(client()).with_retry(retry(access));
            Ok(Arc::new(builder.build()?))
        }
    }
}

/// The endpoint that `text`, the value of `name`, says, as a URL is written. What may hold a password is not repeated.
fn endpoint(name: &str, text: &str) -> Result<String, Unopened> {
    let holds_more = text.contains(['@', '?', '#']);
    let repeated: String = text.chars().take(MOST_REPEATED).collect();
    let refused = |why: &str| {
        let value = if holds_more { String::new() } else { format!(" {repeated:?}") };
        Unopened::Endpoint(format!("{name}{value} {why}"))
    };
    let url = Url::parse(text).map_err(|error| refused(&format!("is no URL: {error}")))?;
    let after_scheme = text.trim_start().get(url.scheme().len()..).and_then(|rest| rest.strip_prefix("://"));
    match after_scheme {
        _ if !matches!(url.scheme(), "http" | "https") => Err(refused("is of another scheme")),
        None => Err(refused("has no // after its scheme")),
        Some(rest) if rest.starts_with(['/', '\\']) => Err(refused("names no host")),
        Some(_) if holds_more => Err(refused("must not hold a user, a password, a query or a fragment")),
        Some(_) => Ok(url.as_str().trim_end_matches('/').to_owned()),
    }
}

fn client() -> ClientOptions {
    ClientOptions::new().with_timeout(DEADLINE).with_connect_timeout(CONNECTING).with_allow_http(true)
}

fn retry(access: &Access) -> RetryConfig {
    let (init_backoff, max_backoff) = PAUSES;
    RetryConfig {
        backoff: BackoffConfig { init_backoff, max_backoff, base: 2.0 },
        max_retries: MOST_RETRIES,
        retry_timeout: access.patience,
    }
}

/// The values whose names begin so and that the library knows, but those that are `left_out`; endpoints among them are checked.
fn settings<K: FromStr>(
    access: &Access,
    start: &'static str,
    left_out: impl Fn(&K) -> bool,
    is_endpoint: impl Fn(&K) -> bool,
) -> Result<Vec<(K, String)>, Unopened> {
    let known =
        access.values(start).filter_map(|(name, value)| Some((name, value, name.to_ascii_lowercase().parse::<K>().ok()?)));
    let wanted = known.filter(|(.., key)| !left_out(key));
    let checked = wanted.map(|(name, value, key)| {
        let value = if is_endpoint(&key) { endpoint(name, value)? } else { value.to_owned() };
        Ok((key, value))
    });
    checked.collect()
}

fn s3(bucket: &Bucket, access: &Access, given: Option<String>) -> Result<Arc<dyn ObjectStore>, Unopened> {
    use AmazonS3ConfigKey as Key;
    let mut builder =
        AmazonS3Builder::new().with_bucket_name(&bucket.name).with_client_options(client()).with_retry(retry(access));
    // What was given goes before these.
    let instead = |key: &Key| given.is_some() && matches!(key, Key::Endpoint | Key::S3Endpoint);
    let is_endpoint = |key: &Key| matches!(key, Key::Endpoint | Key::S3Endpoint | Key::StsEndpoint);
    for (key, value) in settings(access, "AWS_", instead, is_endpoint)? {
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = given {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &access.region {
        builder = builder.with_region(region);
    }
    if let Some(path_style) = access.path_style {
        builder = builder.with_virtual_hosted_style_request(!path_style);
    }
    Ok(Arc::new(builder.build()?))
}

fn google(bucket: &Bucket, access: &Access) -> Result<Arc<dyn ObjectStore>, Unopened> {
    let builder = GoogleCloudStorageBuilder::new().with_bucket_name(&bucket.name);
    let mut builder = builder.with_client_options(client()).with_retry(retry(access));
    for (key, value) in settings(access, "GOOGLE_", |_| false, |key| matches!(key, GoogleConfigKey::BaseUrl))? {
        builder = builder.with_config(key, value);
    }
    Ok(Arc::new(builder.build()?))
}

fn azure(bucket: &Bucket, access: &Access) -> Result<Arc<dyn ObjectStore>, Unopened> {
    let builder = MicrosoftAzureBuilder::new().with_container_name(&bucket.name);
    let mut builder = builder.with_client_options(client()).with_retry(retry(access));
    for (key, value) in settings(access, "AZURE_", |_| false, |key| matches!(key, AzureConfigKey::Endpoint))? {
        builder = builder.with_config(key, value);
    }
    Ok(Arc::new(builder.build()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, access: &Access) -> String {
        let address = Address::parse(address, std::path::Path::new("/")).unwrap();
        match open(&address, access) {
            Err(Unopened::Endpoint(said)) => said,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_and_named() {
        let none = ["notaurl", "", "http://", "http:///", "http:///h", "http:h", "http://[::1", "http://a b"];
        for text in none.into_iter().chain(["http://127.0.0.1:99999", "https://", "ftp://x", "//x", "x:9000"]) {
            let access = Access { endpoint: Some(text.to_owned()), ..Access::default() };
            assert!(refused("s3://b/p", &access).starts_with(&format!("the endpoint {text:?} ")), "{text}");
        }
        for (name, address) in [
            ("AWS_ENDPOINT", "s3://b"),
            ("AWS_ENDPOINT_URL", "s3://b"),
            ("AWS_ENDPOINT_URL_S3", "s3://b"),
            ("GOOGLE_BASE_URL", "gs://b"),
            ("AZURE_ENDPOINT", "az://b"),
        ] {
            let access = Access::default().with([(name.to_owned(), "ftp://x".to_owned())]);
            assert_eq!(refused(address, &access), format!("{name} \"ftp://x\" is of another scheme"));
        }
    }

    #[test]
    fn an_endpoint_with_a_password_is_refused_and_not_repeated() {
        for text in ["http://u:secret@h", "http://u:secret@h:99999", "u:secret@h", "http://h/?sig=secret", "http://h#secret"] {
            let access = Access { endpoint: Some(text.to_owned()), ..Access::default() };
            let said = refused("s3://b/p", &access);
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn an_endpoint_is_taken_as_a_url_is_written_and_goes_before_those_of_the_environment() {
        for (text, written) in [
            ("http://minio:9000", "http://minio:9000"),
            ("HTTPS://Minio/", "https://minio"),
            ("http://[::1]:9000/s3/", "http://[::1]:9000/s3"),
        ] {
            assert_eq!(endpoint("the endpoint", text).unwrap(), written);
        }
        let access = Access::default().with([("AWS_ENDPOINT_URL".to_owned(), "notaurl".to_owned())]);
        let access = Access { endpoint: Some("http://minio:9000".to_owned()), ..access };
        let bucket = Address::parse("s3://b", std::path::Path::new("/")).unwrap();
        assert!(open(&bucket, &access).is_ok());
    }
}
