//! What carries connections: TCP of the system. A simulation has a network of its own, and all above it is what ships.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

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
#[derive(Default)]
pub(super) struct Tcp {
    /// The address of this machine that its connections come from; the system's choice without it.
    pub(super) source: Option<IpAddr>,
}

impl Network for Tcp {
    fn dial(&self, place: &HostPort) -> BoxFuture<'static, io::Result<Connection>> {
        let (place, source) = (place.to_string(), self.source);
        async move {
            let stream = match source {
                Some(source) => connect_from(source, &place).await?,
                None => TcpStream::connect(place).await?,
            };
            socket::prepare(&stream)?;
            Ok(Box::new(stream) as Connection)
        }
        .boxed()
    }
}

/// Tries the addresses of `place` that are of the family of `source`, one after the other.
async fn connect_from(source: IpAddr, place: &str) -> io::Result<TcpStream> {
    let mut refused = io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{place} has no address that {source} reaches"));
    for address in lookup_host(place).await?.filter(|address| address.is_ipv4() == source.is_ipv4()) {
        let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind(SocketAddr::new(source, 0))?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connections_come_from_the_address_that_is_given() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place: HostPort = listener.local_addr().unwrap().to_string().parse().unwrap();
        for source in [None, Some(IpAddr::from([127, 0, 3, 7]))] {
            let _dialled = Tcp { source }.dial(&place).await.unwrap();
            let (_, from) = listener.accept().await.unwrap();
            assert_eq!(from.ip(), source.unwrap_or(IpAddr::from([127, 0, 0, 1])));
        }
        let refused = Tcp { source: Some("::1".parse().unwrap()) }.dial(&place).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
