//! Identities: what a peer shows to prove who it is, and who signs it.
//!
//! A run has one root. Everybody of the run trusts this root and no other; it signs one authority per island, which can sign
//! names of that island alone. Certificates are short-lived instead of revoked. Time is an argument of all that signs.

mod authority;
mod host;
mod name;
mod request;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

#[cfg(test)]
pub(crate) use authority::tests::forged;
pub use authority::{IslandAuthority, RunAuthority, Validity};
pub use host::{HostAuthority, HostIdentity};
pub use name::{NameError, PeerName};
pub use request::{MOST_REQUEST, Request};

/// Why an identity cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The time cannot be written into a certificate.
    #[error("a certificate's validity lies between the years 1970 and 9999")]
    Validity,
    /// A key could not be made, or did not sign.
    #[error("cannot sign a certificate: {0}")]
    Signing(#[from] rcgen::Error),
    /// A request for a certificate cannot be read, or is not signed by the key in it.
    #[error("the request for a certificate is refused: {0}")]
    Request(#[source] rcgen::Error),
    /// A request for a certificate is too long.
    #[error("the request for a certificate has {bytes} bytes: {MOST_REQUEST} is the most")]
    LongRequest {
        /// How long it is.
        bytes: usize,
    },
    /// A part of it is not PEM.
    #[error("the {part} of an identity is not PEM: {source}")]
    Pem {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(webpki::Error),
    /// A certificate names nobody, or more than one.
    #[error("the certificate has {0} DNS names, not one")]
    Names(usize),
    /// Its parts do not belong together.
    #[error("the parts of the identity do not fit together: {0}")]
    Unfit(#[from] rustls::Error),
    /// Its root cannot be trusted.
    #[error("the identity's root cannot be used: {0}")]
    Root(#[from] rustls::server::VerifierBuilderError),
}

/// What one peer shows, and what it checks others against. Given to a process over its standard input, never in its arguments.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// The peer's certificate and its island's, PEM.
    certificate_chain: String,
    /// The key of the peer's certificate, PKCS#8 PEM.
    private_key: String,
    /// The certificate of the run's authority, PEM.
    run_root: String,
}

impl Identity {
    /// What was signed for a [`Request`]: its chain and the run's root (PEM), and the request's key (PKCS#8 PEM).
    ///
    /// # Errors
    /// [`IdentityError::Pem`] where a part cannot be read, and those of [`Self::name`].
    pub fn from_parts(certificate_chain: String, private_key: String, run_root: String) -> Result<Self, IdentityError> {
        let identity = Self { certificate_chain, private_key, run_root };
        identity.key()?;
        identity.root()?;
        identity.name()?;
        Ok(identity)
    }

    /// Who it is.
    ///
    /// # Errors
    /// [`IdentityError::Pem`] and those of [`peer_name`].
    pub fn name(&self) -> Result<PeerName, IdentityError> {
        peer_name(self.certificates()?.first().ok_or(IdentityError::Names(0))?)
    }

    /// The chain, the peer's own certificate first.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        certificates(&self.certificate_chain)
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        key(&self.private_key)
    }

    pub(crate) fn root(&self) -> Result<CertificateDer<'static>, IdentityError> {
        let read = CertificateDer::from_pem_slice(self.run_root.as_bytes());
        read.map_err(|source| IdentityError::Pem { part: "run root", source })
    }
}

fn certificates(chain: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let read = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>();
    read.map_err(|source| IdentityError::Pem { part: "certificate chain", source })
}

fn key(key: &str) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let read = PrivateKeyDer::from_pem_slice(key.as_bytes());
    read.map_err(|source| IdentityError::Pem { part: "private key", source })
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Identity").field(&self.name().ok()).finish()
    }
}

/// The peer that a certificate was issued for. Says nothing about who signed it: TLS has verified that before.
///
/// # Errors
/// [`IdentityError::Certificate`], [`IdentityError::Names`] unless it has exactly one DNS name, [`IdentityError::Name`].
pub(crate) fn peer_name(certificate: &CertificateDer<'_>) -> Result<PeerName, IdentityError> {
    let certificate = webpki::EndEntityCert::try_from(certificate).map_err(IdentityError::Certificate)?;
    let names: Vec<&str> = certificate.valid_dns_names().collect();
    match names[..] {
        [name] => Ok(name.parse()?),
        _ => Err(IdentityError::Names(names.len())),
    }
}
