//! Mutual TLS between the peers of one run, and server-authenticated TLS towards hosts: a relay, or an operator's hub.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, CommonState, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{StartHandshake, TlsAcceptor, TlsConnector, client, server};

use super::TransportError;
use crate::identity::{HostIdentity, Identity, IdentityError, PeerName, peer_name};
use crate::relay;

/// HTTP/2, the only protocol that is spoken inside.
const ALPN: &[u8] = b"h2";

/// The TLS of one peer. TLS 1.3 only, with the run's root as the only one that is trusted, on both ends. Its clones are one: what
/// renews one renews all.
#[derive(Clone)]
pub struct Security {
    ends: Arc<RwLock<Ends>>,
}

/// What a new connection is made with.
#[derive(Clone)]
struct Ends {
    connector: TlsConnector,
    server: Arc<ServerConfig>,
}

impl Security {
    /// The security of a peer with this identity.
    ///
    /// # Errors
    /// [`IdentityError`] where its parts cannot be read, or do not fit together.
    pub fn new(identity: &Identity) -> Result<Self, IdentityError> {
        Ok(Self { ends: Arc::new(RwLock::new(Ends::new(identity)?)) })
    }

    /// Shows `identity` from now on, and trusts its root. Connections that are open go on as they are.
    ///
    /// # Errors
    /// [`IdentityError`] where its parts cannot be read, or do not fit together; then nothing changes.
    pub fn renew(&self, identity: &Identity) -> Result<(), IdentityError> {
        let ends = Ends::new(identity)?;
        *self.ends.write().unwrap_or_else(PoisonError::into_inner) = ends;
        Ok(())
    }

    fn ends(&self) -> Ends {
        self.ends.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The dialling end: verifies that the other is `expected`.
    pub(super) async fn connect<S: Bytes>(&self, stream: S, expected: &PeerName) -> Result<client::TlsStream<S>, TransportError> {
        let name = name(expected.to_string())?;
        let stream = self.ends().connector.connect(name, stream).await?;
        // A wildcard passes for the name, and is no peer's.
        peer(stream.get_ref().1)?;
        Ok(stream)
    }

    /// The accepting end: verifies that the other is a peer of the run, and which.
    pub(super) async fn accept<S: Bytes>(&self, stream: S) -> Result<(server::TlsStream<S>, PeerName), TransportError> {
        let stream = TlsAcceptor::from(self.ends().server).accept(stream).await?;
        let name = peer(stream.get_ref().1)?;
        Ok((stream, name))
    }

    /// The accepting end of a connection whose dialler has said whom it means: verifies that it is a peer of the run, and which.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        hello: StartHandshake<S>,
    ) -> Result<(server::TlsStream<S>, PeerName), TransportError> {
        let stream = hello.into_stream(self.ends().server).await?;
        let name = peer(stream.get_ref().1)?;
        Ok((stream, name))
    }
}

impl Ends {
    fn new(identity: &Identity) -> Result<Self, IdentityError> {
        let provider = Arc::new(ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let roots = Arc::new(trust([identity.root()?])?);
        let chain = identity.certificates()?;

        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), identity.key()?)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would not verify again, and so outlive the short life of a certificate.
        client.resumption = Resumption::disabled();

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, identity.key()?)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { connector: Arc::new(client).into(), server: Arc::new(server) })
    }
}

/// What TLS asks of the connection below it.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Bytes for S {}

/// TLS towards a relay whose certificate is signed by one of `roots` (PEM); the relay learns who dials from the header inside.
///
/// # Errors
/// [`IdentityError::Pem`] and [`IdentityError::Unfit`].
pub fn outer(roots: &str) -> Result<TlsConnector, IdentityError> {
    host_connector(roots, "root of the relay", relay::ALPN)
}

/// TLS of a relay with this identity, towards those who dial it.
///
/// # Errors
/// [`IdentityError::Pem`] and [`IdentityError::Unfit`].
pub fn outer_acceptor(identity: &HostIdentity) -> Result<TlsAcceptor, IdentityError> {
    Ok(host_config(identity, relay::ALPN)?.into())
}

/// TLS towards a hub whose certificate is signed by one of `roots` (PEM), with HTTP/2 inside; the hub learns who dials from the
/// token that is shown there.
///
/// # Errors
/// [`IdentityError::Pem`] and [`IdentityError::Unfit`].
pub fn towards_hub(roots: &str) -> Result<TlsConnector, IdentityError> {
    host_connector(roots, "root of the hub", ALPN)
}

/// TLS of a hub with this identity, towards those who have no certificate yet.
///
/// # Errors
/// [`IdentityError::Pem`] and [`IdentityError::Unfit`].
pub fn as_hub(identity: &HostIdentity) -> Result<Arc<ServerConfig>, IdentityError> {
    host_config(identity, ALPN)
}

fn host_connector(roots: &str, part: &'static str, protocol: &[u8]) -> Result<TlsConnector, IdentityError> {
    let read = CertificateDer::pem_slice_iter(roots.as_bytes()).collect::<Result<Vec<_>, _>>();
    let roots = read.map_err(|source| IdentityError::Pem { part, source })?;
    let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(trust(roots)?)
        .with_no_client_auth();
    client.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(client).into())
}

fn host_config(identity: &HostIdentity, protocol: &[u8]) -> Result<Arc<ServerConfig>, IdentityError> {
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(identity.certificates()?, identity.key()?)?;
    server.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(server))
}

/// The name to expect in a server's certificate.
pub(super) fn name(host: String) -> Result<ServerName<'static>, TransportError> {
    ServerName::try_from(host).map_err(|_| TransportError::Tls(rustls::Error::UnsupportedNameType))
}

fn trust(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn peer(connection: &CommonState) -> Result<PeerName, TransportError> {
    let own = connection.peer_certificates().and_then(<[_]>::first).ok_or(TransportError::NoCertificate)?;
    peer_name(own).map_err(TransportError::Nobody)
}
