//! A link as a program: passes bytes on to one peer and back, at a rate and after a delay.
//!
//! Each direction is a clock that says when the bytes so far have left; all connections of the peer share it, chunk by chunk.
//! Bytes are charged as an Ethernet-sized link would carry them. What is under way is bounded by the link's own product of
//! bandwidth and delay, and a little more.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::loopback;
use super::network::Gate;
use crate::units::{FRAMING, Rate, RoundTrip};

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

/// What the bytes of a connection pass through.
pub(crate) struct Route {
    /// From whoever dialled.
    pub(crate) to: Way,
    /// The other way.
    pub(crate) back: Way,
}

/// One after the other, as long as the gate is open; bytes wait where it is not.
pub(crate) struct Way {
    pub(crate) directions: Vec<Arc<Direction>>,
    pub(crate) gate: Option<Gate>,
}

impl Proxy {
    /// A link to a peer that will listen at [`Proxy::target`]; others dial [`Proxy::address`].
    ///
    /// # Errors
    /// When there is no free port, or no thread.
    pub(crate) fn start(rate: Option<Rate>, round_trip: Option<RoundTrip>) -> Result<Self> {
        let [to, back] = [(); 2].map(|()| Arc::new(Direction::new(rate, round_trip)));
        let way = |direction: &Arc<Direction>| Way { directions: vec![Arc::clone(direction)], gate: None };
        Self::routed(free()?, move |_| Route { to: way(&to), back: way(&back) })
    }

    /// A link to `target` on which each connection goes as `route` says of the address that dialled.
    ///
    /// # Errors
    /// When there is no free port, or no thread.
    pub(crate) fn routed(target: SocketAddr, route: impl Fn(SocketAddr) -> Route + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind(loopback(0)).context("no port for a link")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("link".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = accept(listener, target, route) => {}
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

/// An address for a peer. Free now; nobody else takes one of so many in the moment until the peer listens.
///
/// # Errors
/// When there is none.
pub(crate) fn free() -> Result<SocketAddr> {
    TcpListener::bind(loopback(0)).and_then(|free| free.local_addr()).context("no port for a peer")
}

async fn accept(listener: TcpListener, target: SocketAddr, route: impl Fn(SocketAddr) -> Route) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, dialler) = listener.accept().await?;
        let Route { to, back } = route(dialler);
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
pub(crate) struct Direction(Mutex<Clock>);

struct Clock {
    /// Bytes per second, framing taken off; infinite where it is not bounded.
    rate: f64,
    delay: Duration,
    /// Most bytes under way on one connection.
    room: usize,
    /// When everything that was given so far has left.
    free: Instant,
}

/// Bytes under way, and when they arrive.
type UnderWay = (Instant, Vec<u8>, OwnedSemaphorePermit);

impl Direction {
    pub(crate) fn new(rate: Option<Rate>, round_trip: Option<RoundTrip>) -> Self {
        let mut clock = Clock { rate: 0.0, delay: Duration::ZERO, room: 0, free: Instant::now() };
        clock.shape(rate, round_trip);
        Self(Mutex::new(clock))
    }

    /// Gives it another rate and delay; connections that are there keep their room.
    pub(crate) fn shape(&self, rate: Option<Rate>, round_trip: Option<RoundTrip>) {
        self.clock().shape(rate, round_trip);
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    fn shape(&mut self, rate: Option<Rate>, round_trip: Option<RoundTrip>) {
        self.rate = rate.map_or(f64::INFINITY, |rate| rate.0 as f64 / 8.0 / FRAMING);
        self.delay = round_trip.map_or(Duration::ZERO, |round_trip| round_trip.0 / 2);
        let bits = rate.map_or(UNBOUNDED, |rate| rate.0);
        self.room = (bits as f64 / 8.0 * self.delay.as_secs_f64()) as usize + ROOM as usize;
    }

    /// When the last of `bytes` has left, if they are given `now`.
    fn leave(&mut self, bytes: usize, now: Instant) -> Instant {
        let begin = self.free.max(now.checked_sub(CREDIT).unwrap_or(now));
        self.free = begin + Duration::from_secs_f64(bytes as f64 / self.rate);
        self.free
    }
}

impl Way {
    /// Carries one connection's bytes until either side closes.
    async fn carry(self, from: OwnedReadHalf, to: OwnedWriteHalf) {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::join!(self.take(from, sender), deliver(receiver, to));
    }

    async fn take(mut self, mut from: OwnedReadHalf, under_way: mpsc::UnboundedSender<UnderWay>) {
        let room = self.directions.iter().map(|direction| direction.clock().room).max().unwrap_or(ROOM as usize);
        let room = Arc::new(Semaphore::new(room));
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            let Ok(count @ 1..) = (&mut from).take(CHUNK as u64).read_buf(&mut chunk).await else { return };
            let Ok(permit) = Arc::clone(&room).acquire_many_owned(count as u32).await else { return };
            if let Some(gate) = &mut self.gate {
                gate.open().await;
            }
            let (left, delay) = self.leave(count, Instant::now());
            wait_until(left).await;
            if under_way.send((left + delay, chunk, permit)).is_err() {
                return;
            }
        }
    }

    /// When the last of `bytes` has left, and how long it takes from there.
    fn leave(&self, bytes: usize, now: Instant) -> (Instant, Duration) {
        // What an idle link saved makes bytes leave earlier, not before they came.
        self.directions.iter().fold((now, Duration::ZERO), |(left, delay), direction| {
            let mut clock = direction.clock();
            (clock.leave(bytes, now).max(left), delay + clock.delay)
        })
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
        let mut clock = direction.clock();
        let first = clock.leave(second as usize, now) - now;
        assert!((first.as_secs_f64() - 1.0 + CREDIT.as_secs_f64()).abs() < 1e-4, "{first:?}");
        let next = clock.leave(second as usize, now) - now;
        assert!((next.as_secs_f64() - 2.0 + CREDIT.as_secs_f64()).abs() < 1e-4, "{next:?}");
        assert_eq!(Direction::new(None, None).clock().leave(1 << 30, now) + CREDIT, now);
    }

    #[test]
    fn a_way_is_as_slow_as_its_slowest_direction_and_as_long_as_all() {
        let direction = |rate: &str, round_trip: &str| {
            Arc::new(Direction::new(Some(rate.parse().unwrap()), Some(round_trip.parse().unwrap())))
        };
        let way = Way { directions: vec![direction("8mbit", "20ms"), direction("80mbit", "40ms")], gate: None };
        let now = Instant::now() + Duration::from_secs(10);
        let (left, delay) = way.leave((1_000_000.0 / FRAMING) as usize, now);
        assert!(((left - now).as_secs_f64() - 1.0 + CREDIT.as_secs_f64()).abs() < 1e-4);
        assert_eq!(delay, Duration::from_millis(30));
        way.directions[0].shape(None, None);
        assert_eq!(way.leave(0, now + Duration::from_secs(9)).1, Duration::from_millis(20));
    }

    #[test]
    fn room_is_the_product_of_bandwidth_and_delay_and_a_little_more() {
        let direction = Direction::new(Some("80mbit".parse().unwrap()), Some("100ms".parse().unwrap()));
        assert_eq!(direction.clock().room, 500_000 + (4 << 20));
        assert_eq!(direction.clock().delay, Duration::from_millis(50));
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
