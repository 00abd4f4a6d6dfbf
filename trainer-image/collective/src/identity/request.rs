//! How a process asks for its certificate: it makes its key, which never leaves it, and shows that it has it.

use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PublicKey};
use rustls::pki_types::CertificateSigningRequestDer;

use super::IdentityError;

/// Most bytes of a request.
pub const MOST_REQUEST: usize = 4096;

/// A new key, and the request for a certificate (PKCS#10, RFC 2986) that it has signed. It names nobody: who signs knows who asks.
pub struct Request {
    der: Vec<u8>,
    private_key: String,
}

impl Request {
    /// With a new key, ECDSA P-256.
    ///
    /// # Errors
    /// [`IdentityError::Signing`].
    pub fn new() -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        Ok(Self { der: request.der().to_vec(), private_key: key.serialize_pem() })
    }

    /// The request, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The key, PKCS#8 PEM; with the answer to the request it makes an [`super::Identity`].
    #[must_use]
    pub fn private_key(&self) -> &str {
        &self.private_key
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Request")
    }
}

/// The key that signed `request` and is in it.
///
/// # Errors
/// [`IdentityError::LongRequest`], [`IdentityError::Request`].
pub(super) fn public_key(request: &[u8]) -> Result<PublicKey, IdentityError> {
    if request.len() > MOST_REQUEST {
        return Err(IdentityError::LongRequest { bytes: request.len() });
    }
    let read = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request));
    Ok(read.map_err(IdentityError::Request)?.public_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_another_key_signed_is_refused() {
        let request = Request::new().unwrap();
        public_key(request.der()).unwrap();
        let (mut changed, last) = (request.der().to_vec(), request.der().len() - 1);
        changed[last] ^= 1;
        assert!(matches!(public_key(&changed), Err(IdentityError::Request(_))));
        let other = Request::new().unwrap();
        let key = KeyPair::from_pem(other.private_key()).unwrap();
        let point = |bytes: &[u8]| bytes.windows(27).position(|part| part.starts_with(&[0x03, 0x42, 0x00, 0x04])).unwrap() + 3;
        let mut swapped = request.der().to_vec();
        let at = point(&swapped);
        swapped[at..at + 65].copy_from_slice(key.public_key_raw());
        assert!(matches!(public_key(&swapped), Err(IdentityError::Request(_))));
    }

    #[test]
    fn what_is_no_request_or_too_long_is_refused() {
        for bytes in [&b""[..], b"0", &[0x30, 0x80], &Request::new().unwrap().der()[..80]] {
            assert!(matches!(public_key(bytes), Err(IdentityError::Request(_))));
        }
        assert!(matches!(public_key(&[0; MOST_REQUEST + 1]), Err(IdentityError::LongRequest { bytes: 4097 })));
    }

    #[test]
    fn a_request_hides_its_key() {
        assert_eq!(format!("{:?}", Request::new().unwrap()), "Request");
    }
}
