//! Links as a program that passes packets on: at a rate, after a delay, and not all of them. The kernel's own way to lose
//! packets is not built everywhere; TCP above cannot tell the difference.
//!
//! Each peer's interface is a TUN device whose packets come here. A sender's link is a clock that says when the bytes so far
//! have left, with a queue as long as that of the token bucket; a packet that has left arrives after the delay.

use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use rustix::ioctl::{Opcode, Setter, ioctl};

use crate::units::{Loss, Rate};

/// Bytes around a packet on an Ethernet-sized link.
const AROUND: usize = 14;
/// Largest packet.
const LARGEST: usize = 1 << 16;
/// How long a packet may wait for its turn before it is dropped.
const QUEUE: Duration = Duration::from_millis(50);
/// What a link that was idle may send at once.
const CREDIT: Duration = Duration::from_millis(1);

/// What one peer's link does to what the peer sends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    /// None where it is not bounded.
    pub(super) rate: Option<Rate>,
    /// One way.
    pub(super) delay: Duration,
    pub(super) loss: Loss,
}

impl Shape {
    /// A link that passes on everything at once.
    pub(super) const PLAIN: Self = Self { rate: None, delay: Duration::ZERO, loss: Loss::NONE };
}

/// The sending end of a link.
#[derive(Debug)]
struct Sender {
    shape: Shape,
    /// When everything that was given so far has left.
    free: Instant,
    /// Which packets are lost: the same ones in every run.
    random: ChaCha8Rng,
}

impl Sender {
    fn new(shape: Shape, seed: u64, now: Instant) -> Self {
        Self { shape, free: now, random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// When a packet arrives that is sent `now`; none where it is lost, or finds the queue full.
    fn arrives(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        let Shape { rate, delay, loss } = self.shape;
        let begin = self.free.max(now.checked_sub(CREDIT).unwrap_or(now));
        if begin > now + QUEUE {
            return None;
        }
        let seconds = rate.map_or(0.0, |rate| ((bytes + AROUND) * 8) as f64 / rate.0 as f64);
        self.free = begin + Duration::from_secs_f64(seconds);
        // What is lost was sent all the same.
        let lost = ((u64::from(self.random.next_u32()) * Loss::ALL) >> 32) < loss.0;
        (!lost).then(|| self.free.max(now) + delay)
    }
}

/// A packet under way; the one that arrives first is the greatest.
#[derive(Debug, PartialEq, Eq)]
struct UnderWay {
    arrives: Instant,
    /// Packets that arrive together keep their order.
    number: u64,
    packet: Vec<u8>,
}

impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.arrives, other.number).cmp(&(self.arrives, self.number))
    }
}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What is on its way to one device.
#[derive(Default)]
struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    under_way: BinaryHeap<UnderWay>,
    sent: u64,
    ended: bool,
}

impl Inbox {
    fn put(&self, arrives: Instant, packet: &[u8]) {
        let mut state = self.lock();
        state.sent += 1;
        let packet = UnderWay { arrives, number: state.sent, packet: packet.to_vec() };
        let is_next = state.under_way.peek().is_none_or(|next| packet > *next);
        state.under_way.push(packet);
        drop(state);
        if is_next {
            self.changed.notify_one();
        }
    }

    /// Waits for the next packet's arrival; none when the link has ended.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            let wait = match state.under_way.peek() {
                Some(next) => next.arrives.saturating_duration_since(Instant::now()),
                None => Duration::MAX,
            };
            if wait.is_zero() {
                return state.under_way.pop().map(|under_way| under_way.packet);
            }
            let wait = wait.min(Duration::from_hours(1));
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes packets on among devices, until their interfaces are deleted.
pub(super) struct Switch {
    inboxes: Arc<[Inbox]>,
    threads: Vec<JoinHandle<()>>,
}

impl Switch {
    /// Among `devices`, each with its link; a packet is for the device at the position that `of` finds in it.
    ///
    /// # Errors
    /// When there is no thread.
    pub(super) fn start(devices: Vec<(File, Shape)>, of: fn(&[u8]) -> Option<usize>) -> Result<Self> {
        let mut switch = Self { inboxes: devices.iter().map(|_| Inbox::default()).collect(), threads: Vec::new() };
        for (position, (device, shape)) in devices.into_iter().enumerate() {
            let (device, inboxes) = (Arc::new(device), Arc::clone(&switch.inboxes));
            let mut sender = Sender::new(shape, position as u64, Instant::now());
            let takes = (Arc::clone(&device), Arc::clone(&inboxes));
            let take = move || {
                let (device, mut packet) = (takes.0, vec![0; LARGEST]);
                // A device without interface has no packets any more.
                while let Ok(length @ 1..) = (&*device).read(&mut packet) {
                    let packet = &packet[..length];
                    let Some(inbox) = of(packet).and_then(|to| takes.1.get(to)) else { continue };
                    if let Some(arrives) = sender.arrives(length, Instant::now()) {
                        inbox.put(arrives, packet);
                    }
                }
            };
            let give = move || {
                while let Some(packet) = inboxes[position].next() {
                    // An interface that is not up loses what comes.
                    let _lost = (&*device).write(&packet);
                }
            };
            switch.spawn(take)?;
            switch.spawn(give)?;
        }
        Ok(switch)
    }

    fn spawn(&mut self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        self.threads.push(std::thread::Builder::new().name("link".into()).spawn(work).context("no thread for a link")?);
        Ok(())
    }

    /// Waits for the end of its threads; the interfaces were deleted.
    pub(super) fn end(&mut self) {
        self.inboxes.iter().for_each(Inbox::end);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// `_IOW('T', 202, int)`.
const TUNSETIFF: Opcode = 0x4004_54ca;
/// Packets without a header of the device's own.
const IFF_TUN_NO_PI: i16 = 0x1001;

/// The kernel's `ifreq`, as far as it is read here.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// Where the kernel makes TUN devices.
pub(super) const DEVICES: &str = "/dev/net/tun";

/// A TUN device to be, where this user may open any.
pub(super) fn openable() -> std::io::Result<File> {
    File::options().read(true).write(true).open(DEVICES)
}

/// A new TUN device in the calling thread's network; its interface is deleted with the file at the latest.
///
/// # Errors
/// When the kernel has no such devices, or this user may not make them.
pub(super) fn device(interface: &str) -> Result<File> {
    let file = openable().with_context(|| format!("cannot open {DEVICES}"))?;
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TUN_NO_PI, rest: [0; 22] };
    request.name.iter_mut().zip(interface.bytes().take(15)).for_each(|(place, byte)| *place = byte);
    // SAFETY: of this code the kernel reads one `ifreq`, which has this layout, and keeps no reference to it.
    #[allow(unsafe_code)]
    let made = unsafe { ioctl(&file, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) };
    made.context("cannot make a TUN device")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(rate: &str, loss: &str) -> (Sender, Instant) {
        let now = Instant::now() + Duration::from_secs(10);
        let shape = Shape { rate: Some(rate.parse().unwrap()), delay: Duration::from_millis(50), loss: loss.parse().unwrap() };
        (Sender::new(shape, 7, now), now)
    }

    #[test]
    fn packets_leave_at_the_rate_and_arrive_after_the_delay() {
        let (mut sender, now) = sender("12112kbit", "0%");
        // 1,514 bytes take a millisecond.
        let times = [0; 4].map(|_| sender.arrives(1500, now).unwrap() - now);
        assert_eq!(times, [51, 52, 53, 54].map(Duration::from_millis));
        let later = now + Duration::from_secs(1);
        assert_eq!(
            sender.arrives(1500, later).unwrap() - later,
            Duration::from_millis(50),
            "an idle link has saved a millisecond"
        );
    }

    #[test]
    fn a_full_queue_drops() {
        let (mut sender, now) = sender("12112kbit", "0%");
        let taken = (0..100).filter(|_| sender.arrives(1500, now).is_some()).count();
        assert_eq!(taken, 51, "50 ms of packets wait while one is sent");
        assert!(sender.arrives(1500, now + QUEUE).is_some());
    }

    #[test]
    fn as_many_are_lost_as_shall_be_and_the_same_ones_each_time() {
        let lost = || {
            let (mut sender, now) = sender("100gbit", "1%");
            (0..100_000).filter(|_| sender.arrives(100, now).is_none()).count()
        };
        assert!((900..1100).contains(&lost()), "{}", lost());
        assert_eq!(lost(), lost());
    }

    #[test]
    fn what_arrives_first_is_given_first() {
        let (inbox, now) = (Inbox::default(), Instant::now());
        for (after, packet) in [(2, 3), (1, 1), (1, 2)] {
            inbox.put(now + Duration::from_millis(after), &[packet]);
        }
        assert_eq!([(); 3].map(|()| inbox.next().unwrap()), [[1], [2], [3]]);
        assert!(now.elapsed() >= Duration::from_millis(2));
        inbox.end();
        assert_eq!(inbox.next(), None);
    }
}
