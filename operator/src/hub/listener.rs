//! One port for all runs: the name that a dialler expects says what it wants, and TLS who it is.
//!
//! Who expects the hub has no certificate yet, and may ask for one. Who expects the arbiter of an island of a run shows one of
//! that run's. Nobody else is answered.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use atoll_collective::admission::{self, Patience, TurnedAway};
use atoll_collective::identity::{IdentityError, PeerName};
use atoll_collective::transport::{TransportError, as_hub};
use futures::StreamExt;
use futures::future::BoxFuture;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};
use tonic::transport::server::Connected;

use super::daily::Daily;
use super::places::{Opener, Place, Places};
use super::runs::Runs;
use super::{ARBITER, HOST};

/// How long a connection without a certificate stays open.
const ENROLMENT: Duration = Duration::from_mins(1);

/// Why a connection is turned away.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it does not say whom it expects")]
    Nameless,
    #[error("{0} is not served here")]
    NotServed(String),
    #[error("it is of island {presented}, and asks for {expected}")]
    OtherIsland { presented: String, expected: String },
    #[error("it has too many connections, or all have")]
    TooMany,
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Whom a dialler expects.
#[derive(Debug, PartialEq)]
enum Expected {
    /// The hub, to get a certificate from it.
    Hub,
    /// The arbiter of this island of a run.
    Arbiter(PeerName),
}

/// Of the name that a dialler expects.
fn expected(name: &str) -> Option<Expected> {
    if name == HOST {
        return Some(Expected::Hub);
    }
    name.parse().ok().filter(|name: &PeerName| name.worker() == ARBITER).map(Expected::Arbiter)
}

/// Greets those who dial.
#[derive(Clone)]
pub(super) struct Reception {
    runs: Arc<Runs>,
    places: Places,
    /// The TLS towards those without a certificate.
    host: Arc<Daily<Arc<ServerConfig>>>,
    /// Dropped at the other end when the hub stops.
    serving: watch::Receiver<()>,
}

impl Reception {
    pub(super) fn new(runs: Arc<Runs>, places: Places, serving: watch::Receiver<()>) -> Self {
        Self { runs, places, host: Arc::default(), serving }
    }

    /// The connections of those who dial `listener` and are known, or may become so.
    pub(super) fn incoming(self, listener: TcpListener) -> impl futures::Stream<Item = io::Result<Stream>> + Send {
        let greet = move |stream| {
            let reception = self.clone();
            async move { reception.greet(stream).await }
        };
        admission::admit(admission::accepted(listener), greet, Patience::default(), TurnedAway::default()).map(Ok)
    }

    async fn greet(&self, stream: TcpStream) -> Result<Stream, Refused> {
        let address = stream.peer_addr()?.ip().to_canonical();
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let name = hello.client_hello().server_name().ok_or(Refused::Nameless)?.to_owned();
        match expected(&name) {
            Some(Expected::Hub) => self.newcomer(hello, address).await,
            Some(Expected::Arbiter(name)) => self.peer(hello, &name).await,
            None => Err(Refused::NotServed(name)),
        }
    }

    async fn newcomer(&self, hello: StartHandshake<TcpStream>, address: IpAddr) -> Result<Stream, Refused> {
        let place = self.places.take(Opener::Newcomer(address)).ok_or(Refused::TooMany)?;
        let bytes = hello.into_stream(self.host()?).await?;
        let ends = tokio::time::sleep(ENROLMENT);
        Ok(self.stream(bytes, None, place, ends))
    }

    async fn peer(&self, hello: StartHandshake<TcpStream>, expected: &PeerName) -> Result<Stream, Refused> {
        let run = self.runs.named(expected.run()).filter(|run| run.island() == expected.island());
        let run = run.ok_or_else(|| Refused::NotServed(expected.to_string()))?;
        let (bytes, name) = run.security(self.runs.now())?.answer(hello).await?;
        if name.island() != run.island() {
            let (presented, expected) = (name.island().to_owned(), run.island().to_owned());
            return Err(Refused::OtherIsland { presented, expected });
        }
        let place = self.places.take(Opener::Peer(name.clone())).ok_or(Refused::TooMany)?;
        Ok(self.stream(bytes, Some(name), place, std::future::pending()))
    }

    fn stream(
        &self,
        bytes: TlsStream<TcpStream>,
        peer: Option<PeerName>,
        place: Place,
        ends: impl Future<Output = ()> + Send + 'static,
    ) -> Stream {
        let mut serving = self.serving.clone();
        let ended = Box::pin(async move {
            tokio::select! {
                () = ends => {}
                _ = serving.changed() => {}
            }
        });
        Stream { bytes, peer, ended, _place: place }
    }

    fn host(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        self.host.get(|| as_hub(&self.runs.host_identity()?))
    }
}

/// A connection with a worker.
pub(super) struct Stream {
    bytes: TlsStream<TcpStream>,
    /// None where it has no certificate yet.
    peer: Option<PeerName>,
    ended: BoxFuture<'static, ()>,
    _place: Place,
}

impl Connected for Stream {
    type ConnectInfo = Option<PeerName>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ended.as_mut().poll(context).is_ready() {
            self.ended = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.bytes).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_kinds_of_names_are_expected_and_no_other() {
        assert_eq!(expected("hub.atoll.internal"), Some(Expected::Hub));
        let arbiter = PeerName::new("kjv-0a1b2c3d-1", "local", "arbiter").unwrap();
        assert_eq!(expected("arbiter.local.kjv-0a1b2c3d-1.atoll.internal"), Some(Expected::Arbiter(arbiter)));
        for other in
            ["w0.local.kjv.atoll.internal", "atoll.internal", "hub.atoll.internal.example.org", "*.local.kjv.atoll.internal", ""]
        {
            assert_eq!(expected(other), None, "{other}");
        }
    }
}
