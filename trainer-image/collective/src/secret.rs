//! The run's secret: what every process of a run shows to every other, with the versions of the protocol that it speaks.

use std::sync::Arc;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Status};

use crate::protocol::{self, Versions};

/// Name of the header that carries it.
pub const HEADER: &str = "authorization";

/// A secret that is shown and checked, never logged.
#[derive(Clone)]
pub struct Secret {
    header: Arc<str>,
}

impl Secret {
    /// The secret with this text, which must be printable ASCII.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self { header: format!("Bearer {token}").into() }
    }

    /// The header's value.
    #[must_use]
    pub fn header(&self) -> &str {
        &self.header
    }

    /// Shows it with a request, and the versions that this build speaks.
    pub fn show(&self, metadata: &mut MetadataMap) {
        for (name, value) in [(HEADER, self.header.parse()), (protocol::HEADER, Versions::OURS.to_string().parse())] {
            if let Ok(value) = value {
                metadata.insert(name, value);
            }
        }
    }

    /// Whether a caller that shows `shown` belongs to the run.
    #[must_use]
    pub fn admits(&self, shown: &[u8]) -> bool {
        // Hashes are compared in constant time.
        blake3::hash(shown) == blake3::hash(self.header.as_bytes())
    }

    /// An interceptor that refuses callers of other runs, and those that speak no common version of the protocol.
    pub fn guard(self) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
        move |request| {
            let shown = |name| request.metadata().get(name).map(MetadataValue::as_bytes);
            if !self.admits(shown(HEADER).unwrap_or_default()) {
                return Err(Status::unauthenticated("not a process of this run"));
            }
            let common = Versions::OURS.common_with(shown(protocol::HEADER));
            common.map_err(|apart| Status::failed_precondition(apart.to_string())).map(|_| request)
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_is_admitted_and_none_is_printed() {
        let secret = Secret::new("open sesame");
        assert!(secret.admits(b"Bearer open sesame"));
        assert!(!secret.admits(b"Bearer open"));
        assert!(!secret.admits(b""));
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    #[test]
    fn one_version_apart_is_let_in_and_two_are_told_what_to_install() {
        let secret = Secret::new("open sesame");
        let asks = |versions: Option<&str>| {
            let mut request = Request::new(());
            secret.show(request.metadata_mut());
            request.metadata_mut().remove(protocol::HEADER);
            if let Some(versions) = versions {
                request.metadata_mut().insert(protocol::HEADER, versions.parse().unwrap());
            }
            secret.clone().guard()(request).map(|_| ()).map_err(|status| (status.code(), status.message().to_owned()))
        };
        assert_eq!((asks(Some("1")), asks(Some("1-2"))), (Ok(()), Ok(())));
        for apart in [Some("2-3"), Some("7"), Some("?"), None] {
            let (code, told) = asks(apart).unwrap_err();
            assert_eq!(code, tonic::Code::FailedPrecondition);
            assert!(told.contains("install atoll"), "{told}");
        }
        let mut stranger = Request::new(());
        Secret::new("open").show(stranger.metadata_mut());
        assert_eq!(secret.guard()(stranger).unwrap_err().code(), tonic::Code::Unauthenticated, "before anything is told");
    }
}
