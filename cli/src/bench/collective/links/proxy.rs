//! A link as a program: passes bytes on to one peer and back, at a rate and after a delay.
//!
//! Each direction is a clock that says when the bytes so far have left; all connections of the peer share it, chunk by chunk.
//! Bytes are charged as an Ethernet-sized link would carry them. What is under way is bounded by the link's own product of
//! bandwidth and delay, and a little more.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::super::theory::FRAMING;
use super::super::units::{Rate, RoundTrip};
use crate::supervision::loopback;

/// Most bytes that are passed on at once.
const CHUNK: usize = 32 << 10;
/// What a link that was idle may send at once; also what makes up for timers of a millisecond.
const CREDIT: Duration = Duration::from_millis(5);
/// Bytes under way on one connection beyond the product of bandwidth and delay.
const ROOM: u64 = 4 << 20;
/// Bits per second that are taken for that product where the rate is not bounded.
const UNBOUNDED: u64 = 10_000_000_000;

/// The link of one peer, in a thread of its own; its end is the link's.
pub(crate) struct Proxy {
    address: SocketAddr,
    target: SocketAddr,
    _end: oneshot::Sender<()>,
}

impl Proxy {
    /// A link to a peer that will listen at [`Proxy::target`]; others dial [`Proxy::address`].
    ///
    /// # Errors
    /// When there is no free port, or no thread.
    pub(crate) fn start(rate: Option<Rate>, round_trip: Option<RoundTrip>) -> Result<Self> {
        let listener = TcpListener::bind(loopback(0)).context("no port for a link")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        // Free now; nobody else takes one of so many in the moment until the peer listens.
        let target = TcpListener::bind(loopback(0)).and_then(|free| free.local_addr()).context("no port for a peer")?;
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let direction = || Arc::new(Direction::new(rate, round_trip));
        let directions = [direction(), direction()];
        std::thread::Builder::new().name("link".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = accept(listener, target, directions) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { address, target, _end: end })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn target(&self) -> SocketAddr {
        self.target
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, [to, back]: [Arc<Direction>; 2]) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (to, back) = (Arc::clone(&to), Arc::clone(&back));
        tokio::spawn(async move {
            // A peer that is not there is one that refuses the connection.
            let Ok(peer) = TcpStream::connect(target).await else { return };
            let _faster_only = stream.set_nodelay(true).and_then(|()| peer.set_nodelay(true));
            let ((from_dialler, to_dialler), (from_peer, to_peer)) = (stream.into_split(), peer.into_split());
            tokio::join!(to.carry(from_dialler, to_peer), back.carry(from_peer, to_dialler));
        });
    }
}

/// One direction of a link.
struct Direction {
    /// Bytes per second, framing taken off; infinite where it is not bounded.
    rate: f64,
    delay: Duration,
    /// When everything that was given so far has left.
    free: Mutex<Instant>,
    /// Most bytes under way on one connection.
    room: usize,
}

/// Bytes under way, and when they arrive.
type UnderWay = (Instant, Vec<u8>, OwnedSemaphorePermit);

impl Direction {
    fn new(rate: Option<Rate>, round_trip: Option<RoundTrip>) -> Self {
        let delay = round_trip.map_or(Duration::ZERO, |round_trip| round_trip.0 / 2);
        let bits = rate.map_or(UNBOUNDED, |rate| rate.0);
        Self {
            rate: rate.map_or(f64::INFINITY, |rate| rate.0 as f64 / 8.0 / FRAMING),
            delay,
            free: Mutex::new(Instant::now()),
            room: (bits as f64 / 8.0 * delay.as_secs_f64()) as usize + ROOM as usize,
        }
    }

    /// When the last of `bytes` has left, if they are given `now`.
    fn leave(&self, bytes: usize, now: Instant) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = (*free).max(now.checked_sub(CREDIT).unwrap_or(now));
        *free = begin + Duration::from_secs_f64(bytes as f64 / self.rate);
        *free
    }

    /// Carries one connection's bytes until either side closes.
    async fn carry(&self, from: OwnedReadHalf, to: OwnedWriteHalf) {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::join!(self.take(from, sender), deliver(receiver, to));
    }

    async fn take(&self, mut from: OwnedReadHalf, under_way: mpsc::UnboundedSender<UnderWay>) {
        let room = Arc::new(Semaphore::new(self.room));
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            let Ok(count @ 1..) = (&mut from).take(CHUNK as u64).read_buf(&mut chunk).await else { return };
            let Ok(permit) = Arc::clone(&room).acquire_many_owned(count as u32).await else { return };
            let now = Instant::now();
            // What an idle link saved makes bytes leave earlier, not before they came.
            let left = self.leave(count, now).max(now);
            wait_until(left).await;
            if under_way.send((left + self.delay, chunk, permit)).is_err() {
                return;
            }
        }
    }
}

/// Timers end with a millisecond, so one for an instant that has passed costs the rest of it: more than a chunk takes.
async fn wait_until(instant: Instant) {
    if instant > Instant::now() {
        tokio::time::sleep_until(instant.into()).await;
    }
}

/// Writes what has arrived, in order; the other side's close is an arrival too.
async fn deliver(mut under_way: mpsc::UnboundedReceiver<UnderWay>, mut to: OwnedWriteHalf) {
    while let Some((due, chunk, _permit)) = under_way.recv().await {
        wait_until(due).await;
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
    let _closed_already = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn bytes_leave_at_the_rate_and_an_idle_link_saves_little() {
        let direction = Direction::new(Some("8mbit".parse().unwrap()), None);
        let now = Instant::now() + Duration::from_secs(10);
        let second = 1_000_000.0 / FRAMING;
        let first = direction.leave(second as usize, now) - now;
        assert!((first.as_secs_f64() - 1.0 + CREDIT.as_secs_f64()).abs() < 1e-4, "{first:?}");
        let next = direction.leave(second as usize, now) - now;
        assert!((next.as_secs_f64() - 2.0 + CREDIT.as_secs_f64()).abs() < 1e-4, "{next:?}");
        assert_eq!(Direction::new(None, None).leave(1 << 30, now) + CREDIT, now);
    }

    #[test]
    fn room_is_the_product_of_bandwidth_and_delay_and_a_little_more() {
        let direction = Direction::new(Some("80mbit".parse().unwrap()), Some("100ms".parse().unwrap()));
        assert_eq!(direction.room, 500_000 + (4 << 20));
        assert_eq!(direction.delay, Duration::from_millis(50));
    }

    #[test]
    fn bytes_arrive_whole_in_order_and_not_before_their_time() {
        let round_trip: RoundTrip = "40ms".parse().unwrap();
        let proxy = Proxy::start(None, Some(round_trip)).unwrap();
        let peer = TcpListener::bind(proxy.target()).unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = peer.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            stream.write_all(&received).unwrap();
        });
        let mut stream = std::net::TcpStream::connect(proxy.address()).unwrap();
        let sent: Vec<u8> = (0..300_000_u32).map(|index| (index % 251) as u8).collect();
        let began = Instant::now();
        stream.write_all(&sent).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(began.elapsed() >= round_trip.0);
        assert!(received == sent);
        echo.join().unwrap();
    }
}
