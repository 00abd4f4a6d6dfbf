//! How a connection's socket is set up, at both of its ends.

use std::io;

use tokio::net::TcpStream;

/// What the system offers everywhere, and paces nothing.
const UNPACED: &str = "reno";

/// Sends without waiting for more (`TCP_NODELAY`); between processes of one machine also without the timers that pace senders
/// over a distance (BBR), which cost a fifth of the time there and win nothing.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if stream.local_addr()?.ip() == stream.peer_addr()?.ip() {
        // As it is, where the system does not let us choose.
        let _not_allowed = rustix::net::sockopt::set_tcp_congestion(stream, UNPACED);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn between_processes_of_one_machine_nothing_is_held_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&dialled).unwrap();
        assert!(dialled.nodelay().unwrap());
        assert_eq!(rustix::net::sockopt::tcp_congestion(&dialled).unwrap(), UNPACED);
    }
}
