//! What carries connections: TCP of the system. A simulation has a network of its own, and all above it is what ships.

use std::io;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{HostPort, socket};

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// A connection on which nothing has been said.
pub type Connection = Box<dyn Duplex>;

/// Makes connections.
pub trait Network: Send + Sync {
    /// A connection with whoever listens at `place`. It fails where nobody does.
    fn dial(&self, place: &HostPort) -> BoxFuture<'static, io::Result<Connection>>;
}

/// The system's.
pub(super) struct Tcp;

impl Network for Tcp {
    fn dial(&self, place: &HostPort) -> BoxFuture<'static, io::Result<Connection>> {
        let place = place.to_string();
        async move {
            let stream = TcpStream::connect(place).await?;
            socket::prepare(&stream)?;
            Ok(Box::new(stream) as Connection)
        }
        .boxed()
    }
}
