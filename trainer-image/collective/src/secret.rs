//! The run's secret: what every process of a run shows to every other.

use std::sync::Arc;

use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

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

    /// Shows it with a request.
    pub fn show(&self, metadata: &mut MetadataMap) {
        if let Ok(value) = self.header.parse() {
            metadata.insert(HEADER, value);
        }
    }

    /// Whether a caller that shows `shown` belongs to the run.
    #[must_use]
    pub fn admits(&self, shown: &[u8]) -> bool {
        // Hashes are compared in constant time.
        blake3::hash(shown) == blake3::hash(self.header.as_bytes())
    }

    /// An interceptor that refuses callers of other runs.
    pub fn guard(self) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
        move |request| {
            let shown = request.metadata().get(HEADER).map(tonic::metadata::MetadataValue::as_bytes).unwrap_or_default();
            if self.admits(shown) { Ok(request) } else { Err(Status::unauthenticated("not a process of this run")) }
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
}
