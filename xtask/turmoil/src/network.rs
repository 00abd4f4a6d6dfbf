//! The simulated network below the shipped transport.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use atoll_collective::transport::{Connection, HostPort, Network};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

/// Dials over turmoil's TCP; host names are turmoil's.
pub(crate) struct Simulated;

impl Network for Simulated {
    fn dial(&self, place: &HostPort) -> BoxFuture<'static, io::Result<Connection>> {
        let place = place.to_string();
        async move { Ok(Box::new(TcpStream::connect(place).await?) as Connection) }.boxed()
    }
}

/// Those who dial a port of this host.
pub(crate) async fn accepted(port: u16) -> io::Result<BoxStream<'static, io::Result<Wire>>> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Wire(stream));
        Some((accepted, listener))
    })
    .boxed())
}

/// A connection that says nothing of who is at its other end.
pub(crate) struct Wire(TcpStream);

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
