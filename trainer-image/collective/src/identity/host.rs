//! What a host shows to all who dial it: a relay, or an operator's hub. It is no peer of a run.

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::authority::{authority, ed25519, parameters, subject};
use super::{IdentityError, Validity, certificates, key};

/// What a host shows to all who dial it. Given to a process over its standard input, never in its arguments.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct HostIdentity {
    /// Its certificate and those of its authorities, PEM.
    certificate_chain: String,
    /// The key of its certificate, PKCS#8 PEM.
    private_key: String,
}

/// Signs for the hosts under one domain.
#[derive(Debug)]
pub struct HostAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl HostAuthority {
    /// The authority for `domain` whose Ed25519 key is `key`: the same arguments give the same root.
    ///
    /// # Errors
    /// [`IdentityError::Validity`], [`IdentityError::Signing`].
    pub fn of_key(domain: &str, key: &[u8; 32], validity: Validity) -> Result<Self, IdentityError> {
        let mut root = authority(domain, 0, validity)?;
        root.distinguished_name = subject(&[(DnType::OrganizationName, domain), (DnType::CommonName, "host authority")]);
        Ok(Self { issuer: CertifiedIssuer::self_signed(root, ed25519(key)?)? })
    }

    /// What those trust who dial its hosts, PEM.
    #[must_use]
    pub fn root(&self) -> String {
        self.issuer.pem()
    }

    /// A new key for `host`, and a certificate.
    ///
    /// # Errors
    /// [`IdentityError::Validity`], [`IdentityError::Signing`].
    pub fn host(&self, host: &str, validity: Validity) -> Result<HostIdentity, IdentityError> {
        let key = KeyPair::generate()?;
        let certificate = host_certificate(host, validity)?.signed_by(&key, &self.issuer)?;
        Ok(HostIdentity { certificate_chain: certificate.pem(), private_key: key.serialize_pem() })
    }
}

impl HostIdentity {
    /// A new key for `host`, a DNS name or an IP address, and a certificate that it signs itself.
    ///
    /// # Errors
    /// [`IdentityError::Validity`], [`IdentityError::Signing`].
    pub fn self_signed(host: &str, validity: Validity) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let certificate = host_certificate(host, validity)?.self_signed(&key)?;
        Ok(Self { certificate_chain: certificate.pem(), private_key: key.serialize_pem() })
    }

    /// The chain, PEM: where it is signed by itself, what others trust.
    #[must_use]
    pub fn certificate_chain(&self) -> &str {
        &self.certificate_chain
    }

    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        certificates(&self.certificate_chain)
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        key(&self.private_key)
    }
}

fn host_certificate(host: &str, validity: Validity) -> Result<CertificateParams, IdentityError> {
    let mut certificate = parameters(validity)?;
    certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    certificate.distinguished_name = subject(&[(DnType::CommonName, host)]);
    certificate.subject_alt_names = vec![match host.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(Ia5String::try_from(host)?),
    }];
    Ok(certificate)
}

impl std::fmt::Debug for HostIdentity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("HostIdentity")
    }
}
