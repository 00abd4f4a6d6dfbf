//! How bytes get from one sidecar to another: over TCP or through a relay, with mutual TLS or plain, and counted on the link.
//! What carries them is a [`Network`]: the system's TCP, unless a simulation has another.
//!
//! The counter is below TLS: it sees what the link carries. With TLS, both ends know from the certificates who the other is
//! before the first byte of a request; without, nobody does, which is for tests and for one machine alone.

mod address;
mod error;
mod network;
mod security;
pub(crate) mod socket;

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;
use tonic::transport::server::Connected;

use crate::admission::{self, Patience, TurnedAway};
use crate::guests::{Guest, Guests};
use crate::identity::PeerName;
use crate::lane::{Meter, Metered, Traffic};
use crate::relay::{self, Pass};

pub use address::{Address, AddressError, HostPort};
pub use error::TransportError;
use network::Tcp;
pub use network::{Connection, Duplex, Network};
pub use security::{Security, as_hub, outer, outer_acceptor, towards_hub};

/// The time from dialling to a connection on which both ends know each other.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Connections that one named peer may have open here: its 32 of lanes, and as many again for its session, its questions, its
/// repairs, and those of a process that has ended.
const MOST_CONNECTIONS: usize = 64;

/// Makes and accepts the connections of one peer.
#[derive(Clone)]
pub struct Transport {
    network: Arc<dyn Network>,
    security: Option<Security>,
    relay: Option<(Pass, Option<TlsConnector>)>,
    meter: Arc<Meter>,
    traffic: Traffic,
    turned_away: TurnedAway,
    guests: Guests,
}

/// A connection with another peer.
pub struct Stream {
    bytes: Metered<Connection>,
    peer: Option<PeerName>,
    /// Where it was accepted, its place among those of the other.
    _place: Option<Guest>,
}

impl Transport {
    /// Connections that are secured with `security`, or plain without it, and whose bytes are counted in `meter`.
    #[must_use]
    pub fn new(security: Option<Security>, meter: Arc<Meter>) -> Self {
        let (network, traffic, turned_away) = (Arc::new(Tcp::default()), Traffic::default(), TurnedAway::default());
        Self { network, security, relay: None, meter, traffic, turned_away, guests: Guests::new(MOST_CONNECTIONS) }
    }

    /// The same, whose connections come from this address of the machine.
    #[must_use]
    pub fn from_source(self, source: IpAddr) -> Self {
        self.over(Arc::new(Tcp { source: Some(source) }))
    }

    /// The same over `network`.
    #[must_use]
    pub fn over(self, network: Arc<dyn Network>) -> Self {
        Self { network, ..self }
    }

    /// The same, which can also go through relays: it shows them `pass`, inside of `outer` TLS where they speak TLS.
    #[must_use]
    pub fn through_relays(self, pass: Pass, outer: Option<TlsConnector>) -> Self {
        Self { relay: Some((pass, outer)), ..self }
    }

    /// Whether its connections have TLS: what comes on them is what was sent.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        self.security.is_some()
    }

    /// Counts the bytes of all connections, on the link.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Counts the bytes of each peer's connections, above TLS. Without TLS only who is dialled has a name.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Connections that were accepted and then turned away.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.turned_away.count()
    }

    /// A connection with `expected`, who is to be found at `address`.
    ///
    /// That it accepts this peer's certificate shows only with its first answer: reading fails with a [`TransportError::Refused`]
    /// if it does not.
    ///
    /// # Errors
    /// [`TransportError`], at the latest after [`DEADLINE`].
    pub async fn connect(&self, address: &Address, expected: &PeerName) -> Result<Stream, TransportError> {
        let connected = async {
            match address {
                Address::Direct(place) => self.introduce(self.dial(place).await?, expected).await,
                Address::Relayed(place) => {
                    let (pass, _) = self.relay.as_ref().ok_or_else(|| TransportError::NoPass { address: address.to_string() })?;
                    let outer = self.dial_relay(place).await?;
                    self.introduce(relay::dial(outer, pass, expected).await?, expected).await
                }
            }
        };
        tokio::time::timeout(DEADLINE, connected).await.unwrap_or(Err(TransportError::Late))
    }

    /// The connections of those who dial `listener`.
    pub fn incoming(&self, listener: TcpListener) -> impl futures::Stream<Item = io::Result<Stream>> + Send + use<> {
        self.incoming_of(admission::accepted(listener))
    }

    /// The connections of those who dial this peer, as its network has accepted them.
    pub fn incoming_of<S: Duplex + 'static, A: futures::Stream<Item = io::Result<S>> + Send + Unpin>(
        &self,
        accepted: A,
    ) -> impl futures::Stream<Item = io::Result<Stream>> + Send + use<S, A> {
        let meter = Arc::clone(&self.meter);
        self.clone().greet_all(accepted.map(move |stream| Ok(Metered::new(stream?, Arc::clone(&meter)))))
    }

    /// The connections of those who dial this peer through the relay at `place`; registers with it again whenever that is lost.
    /// Ends when a later process of the same name has registered.
    ///
    /// # Errors
    /// [`TransportError::NoPass`].
    pub fn incoming_through(
        &self,
        place: HostPort,
    ) -> Result<impl futures::Stream<Item = io::Result<Stream>> + Send + use<>, TransportError> {
        let (pass, _) = self.relay.clone().ok_or_else(|| TransportError::NoPass { address: format!("relay/{place}") })?;
        let transport = self.clone();
        let open = move || {
            let (transport, place) = (transport.clone(), place.clone());
            async move { transport.dial_relay(&place).await.map_err(io::Error::other) }
        };
        let accepted = futures::stream::unfold(relay::Listener::new(open, pass), |mut listener| async move {
            let accepted = listener.accept().await?;
            Some((accepted.map_err(io::Error::other), listener))
        });
        Ok(self.clone().greet_all(accepted.boxed()))
    }

    fn greet_all<S: Duplex + 'static>(
        self,
        connections: impl futures::Stream<Item = io::Result<S>> + Send + Unpin,
    ) -> impl futures::Stream<Item = io::Result<Stream>> + Send {
        let turned_away = self.turned_away.clone();
        let greet = move |stream| {
            let transport = self.clone();
            async move { transport.greet(stream).await }
        };
        admission::admit(connections, greet, Patience::default(), turned_away).map(Ok)
    }

    /// The accepting end of one connection: learns who the other is.
    async fn greet<S: Duplex + 'static>(&self, stream: S) -> Result<Stream, TransportError> {
        let Some(security) = &self.security else { return Ok(Stream::new(stream, None, self.traffic.with(None))) };
        let (stream, peer) = security.accept(stream).await?;
        let place = self.guests.admit_named(&peer);
        let place = place.ok_or_else(|| TransportError::TooMany { peer: peer.to_string(), most: MOST_CONNECTIONS })?;
        let meter = self.traffic.with(Some(&peer));
        Ok(Stream { _place: Some(place), ..Stream::new(stream, Some(peer), meter) })
    }

    /// The dialling end of one connection: makes sure that the other is `expected`.
    async fn introduce<S: Duplex + 'static>(&self, stream: S, expected: &PeerName) -> Result<Stream, TransportError> {
        let meter = self.traffic.with(Some(expected));
        let Some(security) = &self.security else { return Ok(Stream::new(stream, None, meter)) };
        let stream = security.connect(stream, expected).await?;
        Ok(Stream::new(stream, Some(expected.clone()), meter))
    }

    async fn dial(&self, place: &HostPort) -> Result<Metered<Connection>, TransportError> {
        let unreachable = |source| TransportError::Unreachable { address: place.to_string(), source };
        let connection = self.network.dial(place).await.map_err(unreachable)?;
        Ok(Metered::new(connection, Arc::clone(&self.meter)))
    }

    /// A connection with a relay, on which nothing has been said.
    async fn dial_relay(&self, place: &HostPort) -> Result<Connection, TransportError> {
        let stream = self.dial(place).await?;
        let Some((_, Some(outer))) = &self.relay else { return Ok(Box::new(stream)) };
        let name = security::name(place.host().to_owned())?;
        Ok(Box::new(outer.connect(name, stream).await?))
    }
}

impl Stream {
    fn new<S: Duplex + 'static>(bytes: S, peer: Option<PeerName>, meter: Arc<Meter>) -> Self {
        Self { bytes: Metered::new(Box::new(bytes), meter), peer, _place: None }
    }

    /// Who is at the other end; none without TLS.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerName> {
        self.peer.as_ref()
    }
}

impl Connected for Stream {
    type ConnectInfo = Option<PeerName>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(context, buffer).map_err(in_plain_words)
    }
}

/// With TLS 1.3 a client learns after its handshake that it was refused.
fn in_plain_words(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>()) {
        Some(tls) => io::Error::new(error.kind(), TransportError::from(tls.clone())),
        None => error,
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.bytes.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
