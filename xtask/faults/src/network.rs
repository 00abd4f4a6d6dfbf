//! The links between sidecars: every one is dialled through a relay of this process, which reads what passes and strikes when
//! the message has come that a case waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::case::{End, Fault};
use crate::dialler;
use crate::wire::{Kind, Reader, Seen, Sight};

/// Most bytes that are passed on at once.
const CHUNK: usize = 64 << 10;
/// What every link carries where one is slow, in bytes per second, and how late.
const RATE: f64 = 200e6;
const LATE: Duration = Duration::from_millis(1);
/// How many times slower the slow one is.
const SLOWER: u32 = 10;

/// What to wait for, and what to do then.
#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    pub(crate) sight: Sight,
    pub(crate) end: End,
    /// The victim's slot; whoever is at that end where there is none.
    pub(crate) victim: Option<u32>,
    /// Slot of the other end, where it matters.
    pub(crate) other: Option<u32>,
    pub(crate) fault: Fault,
    /// Whether the message still arrives.
    pub(crate) arrives: bool,
    /// Chooses the bit that is changed.
    pub(crate) choice: u64,
}

/// That it was done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Struck {
    pub(crate) victim: u32,
    pub(crate) time: Instant,
}

/// How a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Flowing,
    /// Takes bytes and delivers none.
    Swallowing,
    Closed,
}

struct Connection {
    owner: u32,
    dialler: Option<u32>,
    kind: OnceLock<Kind>,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct Shared {
    /// Process of each sidecar, by slot.
    processes: BTreeMap<u32, u32>,
    trigger: Option<Trigger>,
    slow: BTreeSet<u32>,
    connections: Vec<Arc<Connection>>,
}

/// The links of one case.
pub(crate) struct Network {
    shared: Arc<Mutex<Shared>>,
    struck: mpsc::Sender<Struck>,
    /// Links carry [`RATE`], and not what they can.
    shaped: bool,
    runtime: Handle,
    tasks: Vec<JoinHandle<()>>,
}

impl Network {
    /// Links that tell `struck` when they have struck.
    pub(crate) fn new(runtime: Handle, struck: mpsc::Sender<Struck>, shaped: bool) -> Self {
        Self { shared: Arc::default(), struck, shaped, runtime, tasks: Vec::new() }
    }

    /// Relays to the sidecar of `slot`, which listens at `to`, what comes to `at`.
    pub(crate) fn link(&mut self, slot: u32, at: SocketAddr, to: SocketAddr) -> Result<()> {
        let listener = self.runtime.block_on(TcpListener::bind(at)).with_context(|| format!("no link at {at}"))?;
        let door = Door { owner: slot, to, shared: Arc::clone(&self.shared), struck: self.struck.clone(), shaped: self.shaped };
        self.tasks.push(self.runtime.spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                tokio::spawn(door.clone().relay(stream, from, at));
            }
        }));
        Ok(())
    }

    /// The process of a slot, by which its connections are known.
    pub(crate) fn is_process(&self, slot: u32, process: u32) {
        lock(&self.shared).processes.insert(slot, process);
    }

    pub(crate) fn arm(&self, trigger: Trigger) {
        lock(&self.shared).trigger = Some(trigger);
    }

    /// Links are as they were; what was swallowed is lost, so its connections end.
    pub(crate) fn heal(&self) {
        let mut shared = lock(&self.shared);
        shared.slow.clear();
        for connection in &shared.connections {
            connection.state.send_if_modified(|state| {
                let swallows = *state == State::Swallowing;
                if swallows {
                    *state = State::Closed;
                }
                swallows
            });
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for connection in &lock(&self.shared).connections {
            connection.state.send_replace(State::Closed);
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to one sidecar.
#[derive(Clone)]
struct Door {
    owner: u32,
    to: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    struck: mpsc::Sender<Struck>,
    shaped: bool,
}

impl Door {
    async fn relay(self, stream: TcpStream, from: SocketAddr, at: SocketAddr) {
        // A peer that is not there is one that refuses the connection.
        let Ok(peer) = TcpStream::connect(self.to).await else { return };
        let _faster_only = stream.set_nodelay(true).and_then(|()| peer.set_nodelay(true));
        let processes = lock(&self.shared).processes.clone();
        // The kernel walks all its sockets for this: other links go on meanwhile.
        let dialler = tokio::task::spawn_blocking(move || dialler::find(from, at, &processes)).await.ok().flatten();
        let connection =
            Arc::new(Connection { owner: self.owner, dialler, kind: OnceLock::new(), state: watch::channel(State::Flowing).0 });
        lock(&self.shared).connections.push(Arc::clone(&connection));
        let ((from_dialler, to_dialler), (from_peer, to_peer)) = (stream.into_split(), peer.into_split());
        let there = Way::new(&self, &connection, true).carry(from_dialler, to_peer);
        let back = Way::new(&self, &connection, false).carry(from_peer, to_dialler);
        tokio::join!(there, back);
        lock(&self.shared).connections.retain(|open| !Arc::ptr_eq(open, &connection));
    }
}

/// One direction of a connection.
struct Way<'a> {
    door: &'a Door,
    connection: &'a Connection,
    /// From who dialled.
    there: bool,
    reader: Reader,
    free: Instant,
}

/// What is left to do with bytes after a strike.
struct Cut {
    /// Bytes that still arrive.
    delivered: usize,
    state: State,
}

impl<'a> Way<'a> {
    fn new(door: &'a Door, connection: &'a Connection, there: bool) -> Self {
        Self { door, connection, there, reader: Reader::new(there), free: Instant::now() }
    }

    /// Carries bytes until either side closes or the connection is cut.
    async fn carry(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut state = self.connection.state.subscribe();
        let mut chunk = vec![0; CHUNK];
        loop {
            let closed = state.wait_for(|state| *state == State::Closed);
            let count = tokio::select! {
                count = from.read(&mut chunk) => count.unwrap_or(0),
                _ = closed => return,
            };
            if count == 0 {
                break;
            }
            let bytes = &mut chunk[..count];
            let cut = self.strike_if_due(bytes);
            let delivered = cut.as_ref().map_or(count, |cut| cut.delivered);
            if *self.connection.state.borrow() == State::Flowing {
                self.wait_for_the_link(delivered).await;
                let closed = state.wait_for(|state| *state == State::Closed);
                tokio::select! {
                    written = to.write_all(&bytes[..delivered]) => if written.is_err() { break },
                    _ = closed => return,
                }
            }
            if let Some(cut) = cut.filter(|cut| cut.state != State::Flowing) {
                self.connection.state.send_replace(cut.state);
            }
        }
        let _closed_already = to.shutdown().await;
    }

    async fn wait_for_the_link(&mut self, bytes: usize) {
        if !self.door.shaped {
            return;
        }
        let slow = {
            let shared = lock(&self.door.shared);
            shared.slow.contains(&self.connection.owner) || self.connection.dialler.is_some_and(|who| shared.slow.contains(&who))
        };
        let times = if slow { SLOWER } else { 1 };
        self.free = self.free.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / RATE) * times;
        tokio::time::sleep_until((self.free + LATE * times).into()).await;
    }

    /// Slots at the two ends: who says it, and who hears it.
    fn ends(&self) -> (Option<u32>, Option<u32>) {
        let (owner, dialler) = (Some(self.connection.owner), self.connection.dialler);
        if self.there { (dialler, owner) } else { (owner, dialler) }
    }

    fn strike_if_due(&mut self, bytes: &mut [u8]) -> Option<Cut> {
        for seen in self.reader.read(bytes, &self.connection.kind) {
            let mut shared = lock(&self.door.shared);
            let (from, to) = self.ends();
            let Some(victim) = shared.trigger.as_ref().and_then(|trigger| trigger.due(seen.sight, from, to)) else { continue };
            let Some(trigger) = shared.trigger.take() else { continue };
            let cut = strike(&trigger, &seen, victim, &mut shared, bytes);
            drop(shared);
            let _over = self.door.struck.send(Struck { victim, time: Instant::now() });
            return Some(cut);
        }
        None
    }
}

impl Trigger {
    /// The victim, if this is the message to strike at.
    fn due(&self, sight: Sight, from: Option<u32>, to: Option<u32>) -> Option<u32> {
        let (victim, other) = if self.end == End::From { (from, to) } else { (to, from) };
        let victim = victim.filter(|victim| self.victim.is_none_or(|wanted| wanted == *victim))?;
        (sight == self.sight && (self.other.is_none() || self.other == other)).then_some(victim)
    }
}

fn strike(trigger: &Trigger, seen: &Seen, victim: u32, shared: &mut Shared, bytes: &mut [u8]) -> Cut {
    let up_to = if trigger.arrives { seen.range.end } else { seen.range.end - 1 };
    match trigger.fault {
        Fault::Kill => {
            signal(shared, victim, Signal::KILL);
            Cut { delivered: up_to, state: State::Closed }
        }
        Fault::Stop => {
            signal(shared, victim, Signal::STOP);
            Cut { delivered: bytes.len(), state: State::Flowing }
        }
        Fault::Close => Cut { delivered: up_to, state: State::Closed },
        Fault::HalfOpen => Cut { delivered: up_to, state: State::Swallowing },
        Fault::Slow => {
            shared.slow.insert(victim);
            Cut { delivered: bytes.len(), state: State::Flowing }
        }
        Fault::Corrupt => {
            let bit = trigger.choice as usize % (seen.range.len() * 8);
            bytes[seen.range.start + bit / 8] ^= 1 << (bit % 8);
            Cut { delivered: bytes.len(), state: State::Flowing }
        }
    }
}

fn signal(shared: &Shared, slot: u32, signal: Signal) {
    if let Some(process) = shared.processes.get(&slot).and_then(|process| Pid::from_raw(*process as i32)) {
        let _ended_already = kill_process(process, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(fault: Fault, arrives: bool) -> Trigger {
        Trigger { sight: Sight::Enter, end: End::From, victim: Some(2), other: None, fault, arrives, choice: 13 }
    }

    #[test]
    fn a_trigger_is_for_one_message_at_one_end() {
        let waits = trigger(Fault::Close, true);
        assert_eq!(waits.due(Sight::Enter, Some(2), Some(0)), Some(2));
        assert_eq!(waits.due(Sight::Enter, Some(0), Some(2)), None);
        assert_eq!(waits.due(Sight::Arrive, Some(2), Some(0)), None);
        let anybody = Trigger { victim: None, other: Some(3), ..waits };
        assert_eq!(anybody.due(Sight::Enter, Some(1), Some(3)), Some(1));
        assert_eq!(anybody.due(Sight::Enter, Some(1), Some(0)), None);
    }

    #[test]
    fn a_message_that_does_not_arrive_lacks_its_last_byte() {
        let seen = Seen { sight: Sight::Enter, range: 10..20 };
        let mut bytes = [0; 30];
        let cut = |arrives, bytes: &mut [u8]| strike(&trigger(Fault::Close, arrives), &seen, 2, &mut Shared::default(), bytes);
        assert_eq!((cut(true, &mut bytes).delivered, cut(false, &mut bytes).delivered), (20, 19));
        assert_eq!(bytes, [0; 30]);
    }

    #[test]
    fn one_bit_of_the_message_is_changed_and_all_of_it_arrives() {
        let seen = Seen { sight: Sight::Enter, range: 10..20 };
        let mut bytes = [0; 30];
        let cut = strike(&trigger(Fault::Corrupt, true), &seen, 2, &mut Shared::default(), &mut bytes);
        assert_eq!((cut.delivered, bytes[11], bytes.iter().filter(|byte| **byte != 0).count()), (30, 1 << 5, 1));
    }
}
