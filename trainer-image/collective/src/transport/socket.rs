//! How a connection's socket is set up, at both of its ends.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// What the system offers everywhere, and paces nothing.
const UNPACED: &str = "reno";

/// Silence after which the system asks whether the other end is still there, and the time between the times that it asks.
const QUIET: Duration = Duration::from_secs(30);
/// Times that it asks before the connection has ended.
const ASKS: u32 = 4;

/// Sends without waiting for more (`TCP_NODELAY`); between processes of one machine also without the timers that pace senders
/// over a distance (BBR), which cost a fifth of the time there and win nothing. A connection whose other end is gone without a word
/// ends, and holds no place any longer.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, QUIET)?;
    sockopt::set_tcp_keepintvl(stream, QUIET)?;
    sockopt::set_tcp_keepcnt(stream, ASKS)?;
    // The system asks nothing while something that it has sent is not acknowledged.
    sockopt::set_tcp_user_timeout(stream, (QUIET * (ASKS + 1)).as_millis() as u32)?;
    if stream.local_addr()?.ip() == stream.peer_addr()?.ip() {
        // As it is, where the system does not let us choose.
        let _not_allowed = sockopt::set_tcp_congestion(stream, UNPACED);
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
        assert_eq!(sockopt::tcp_congestion(&dialled).unwrap(), UNPACED);
        assert!(sockopt::socket_keepalive(&dialled).unwrap(), "an end that is gone is noticed");
    }
}
