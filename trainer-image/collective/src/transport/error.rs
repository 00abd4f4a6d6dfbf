//! Why there is no connection, in words for who reads the run's events.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::DEADLINE;
use crate::identity::IdentityError;
use crate::relay::RelayError;

/// Why there is no connection between two peers.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nobody answers there.
    #[error("nobody can be reached at {address}: {source}")]
    Unreachable {
        /// `HOST:PORT`.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The other, or the relay, took longer than it may.
    #[error("not connected after {} s", DEADLINE.as_secs())]
    Late,
    /// The connection broke while the two learned who they are.
    #[error("the connection broke before both ends knew each other: {0}")]
    Broken(#[source] io::Error),
    /// Its certificate is of another run, or of an island's authority that has no right to sign it.
    #[error("its certificate is not signed by the authorities of this run: {0}")]
    OtherRun(CertificateError),
    /// Its certificate is too old.
    #[error("its certificate expired {seconds} s ago")]
    Expired {
        /// Seconds since then.
        seconds: u64,
    },
    /// Its certificate is for later, or a clock is wrong.
    #[error("its certificate is valid only in {seconds} s")]
    NotYetValid {
        /// Seconds until then.
        seconds: u64,
    },
    /// It shows no certificate.
    #[error("it shows no certificate")]
    NoCertificate,
    /// It is a peer, but not the one that was dialled.
    #[error("it is {presented}, not {expected}")]
    OtherPeer {
        /// Who was dialled.
        expected: String,
        /// Who answered.
        presented: String,
    },
    /// Its certificate, though signed, is no peer's.
    #[error("its certificate is not that of a peer: {0}")]
    Nobody(#[source] IdentityError),
    /// It has as many connections here as one peer may have.
    #[error("{peer} has {most} connections here already: it may have no more")]
    TooMany {
        /// Its name.
        peer: String,
        /// How many it may have.
        most: usize,
    },
    /// It does not accept this peer's certificate.
    #[error("it refused this peer: {}", words(*.0))]
    Refused(AlertDescription),
    /// What it speaks is not the TLS that is spoken between peers.
    #[error("no TLS connection: {0}")]
    Tls(Error),
    /// The relay did not connect the two.
    #[error("through the relay: {0}")]
    Relay(#[from] RelayError),
    /// There is no pass for the relay.
    #[error("{address} is behind a relay, for which this peer has no pass")]
    NoPass {
        /// The address.
        address: String,
    },
}

impl From<io::Error> for TransportError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|source| source.downcast_ref::<Error>()) {
            Some(tls) => tls.clone().into(),
            None => Self::Broken(error),
        }
    }
}

impl From<Error> for TransportError {
    fn from(error: Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::AlertReceived(alert) => Self::Refused(alert),
            Error::InvalidCertificate(certificate) => match certificate {
                CertificateError::ExpiredContext { time, not_after } => {
                    Self::Expired { seconds: time.as_secs().saturating_sub(not_after.as_secs()) }
                }
                CertificateError::NotValidYetContext { time, not_before } => {
                    Self::NotYetValid { seconds: not_before.as_secs().saturating_sub(time.as_secs()) }
                }
                CertificateError::NotValidForNameContext { expected, presented } => {
                    let presented: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
                    Self::OtherPeer { expected: expected.to_str().into_owned(), presented: presented.join(", ") }
                }
                other => Self::OtherRun(other),
            },
            other => Self::Tls(other),
        }
    }
}

/// The name in what the verifier presents as `DnsName("...")`.
fn bare(presented: &str) -> &str {
    presented.strip_prefix("DnsName(\"").and_then(|name| name.strip_suffix("\")")).unwrap_or(presented)
}

/// What the other end complained of (RFC 8446, 6.2).
fn words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError | AlertDescription::BadCertificate => {
            "its certificate is not signed by the authorities of that run".into()
        }
        AlertDescription::CertificateExpired => "its certificate is not valid at this time".into(),
        AlertDescription::CertificateRequired => "it showed no certificate".into(),
        AlertDescription::ProtocolVersion => "it speaks another version of TLS".into(),
        other => format!("{other:?}"),
    }
}
