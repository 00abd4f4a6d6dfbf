//! Counts the bytes that cross a connection, below HTTP/2: what a link really carries.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::identity::PeerName;

/// Bytes since the sidecar's start.
#[derive(Debug, Default)]
pub struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    /// Bytes written to connections.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes read from connections.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// The bytes of each peer's connections; shared by all who hold a copy.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// Without name: who was not told by a certificate.
    by_peer: Arc<Mutex<BTreeMap<Option<PeerName>, Arc<Meter>>>>,
}

impl Traffic {
    /// Counts a connection with `peer`.
    pub(crate) fn with(&self, peer: Option<&PeerName>) -> Arc<Meter> {
        Arc::clone(self.lock().entry(peer.cloned()).or_default())
    }

    /// Each peer with what was sent to it and received from it, above TLS.
    #[must_use]
    pub fn by_peer(&self) -> Vec<(Option<PeerName>, u64, u64)> {
        self.lock().iter().map(|(peer, meter)| (peer.clone(), meter.sent(), meter.received())).collect()
    }

    /// Forgets those that are not wanted and have no connection.
    pub fn keep(&self, wanted: impl Fn(Option<&PeerName>) -> bool) {
        self.lock().retain(|peer, meter| wanted(peer.as_ref()) || Arc::strong_count(meter) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Option<PeerName>, Arc<Meter>>> {
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose bytes are counted.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    /// Counts the bytes of `stream` in `meter`.
    pub fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self { stream, meter }
    }
}

impl<S: Connected> Connected for Metered<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.meter.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> Metered<S> {
    fn count(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &polled {
            self.meter.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, data);
        self.count(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, data);
        self.count(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_forgotten_when_it_has_left_and_its_connections_have_ended() {
        let traffic = Traffic::default();
        let name = |worker| PeerName::new("run", "here", worker).unwrap();
        let (stays, left) = (traffic.with(Some(&name("w0"))), traffic.with(Some(&name("w1"))));
        stays.sent.fetch_add(7, Ordering::Relaxed);
        let wanted = |peer: Option<&PeerName>| peer.is_some_and(|peer| peer.worker() == "w0");
        traffic.keep(wanted);
        assert_eq!(traffic.by_peer().len(), 2, "it still has a connection");
        drop((stays, left));
        traffic.keep(wanted);
        assert_eq!(traffic.by_peer(), [(Some(name("w0")), 7, 0)], "what is wanted is counted on over connections");
    }
}
