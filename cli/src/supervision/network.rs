//! The links of a run on this machine, where somebody wants them to be worse than they are: each worker's has a rate and a
//! delay, and some workers can be cut off for a while.
//!
//! Each worker is dialled through a link of its own, and dials from an address of its own, so that a connection passes the links
//! of both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use tokio::sync::watch;

use super::link::{Direction, Proxy, Route, Way, free};
use crate::units::{Rate, RoundTrip};

/// One end of a connection: a worker, or the supervisor.
type End = Option<u32>;

/// Opens and closes with the cuts between two ends.
#[derive(Clone)]
pub(crate) struct Gate {
    cuts: watch::Receiver<Cuts>,
    ends: [End; 2],
}

impl Gate {
    /// Waits until nothing is cut between its ends.
    pub(crate) async fn open(&mut self) {
        let [one, other] = self.ends;
        // Once the network has ended nothing is.
        let _ended = self.cuts.wait_for(|cuts| !cuts.part(one, other)).await;
    }
}

/// Workers that are cut off, with the number of each cut.
#[derive(Debug, Clone, Default)]
struct Cuts(BTreeMap<u64, BTreeSet<u32>>);

impl Cuts {
    fn part(&self, one: End, other: End) -> bool {
        let inside = |workers: &BTreeSet<u32>, end: End| end.is_some_and(|slot| workers.contains(&slot));
        self.0.values().any(|workers| inside(workers, one) != inside(workers, other))
    }
}

/// The link of one worker.
struct Link {
    proxy: Proxy,
    to_supervisor: Option<Proxy>,
}

/// The way out of a worker and the way in.
type Directions = (Arc<Direction>, Arc<Direction>);

/// Of all workers, as the routes of connections find them.
type Known = Arc<Mutex<BTreeMap<u32, Directions>>>;

/// The links of all workers.
pub(crate) struct Network {
    cuts: watch::Sender<Cuts>,
    next_cut: u64,
    links: BTreeMap<u32, Link>,
    known: Known,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self { cuts: watch::Sender::default(), next_cut: 0, links: BTreeMap::new(), known: Arc::default() }
    }

    /// The address that a worker dials from: all of 127.0.0.0/8 is this machine.
    pub(crate) fn source(slot: u32) -> IpAddr {
        IpAddr::from([127, 0, 1, slot as u8 + 1])
    }

    /// Where the sidecar of a worker listens (at `wanted`, or where there is room), and what the others dial.
    ///
    /// # Errors
    /// When there is no port or no thread for its link.
    pub(crate) fn addresses(&mut self, slot: u32, wanted: Option<SocketAddr>) -> Result<(SocketAddr, SocketAddr)> {
        if !self.links.contains_key(&slot) {
            let [up, down] = [(); 2].map(|()| Arc::new(Direction::new(None, None)));
            known(&self.known).insert(slot, (up, down));
            let (known, cuts) = (Arc::clone(&self.known), self.cuts.subscribe());
            let proxy = Proxy::routed(wanted.map_or_else(free, Ok)?, move |dialler| {
                let known = self::known(&known);
                let from = known.keys().copied().find(|slot| Self::source(*slot) == dialler.ip());
                route(&known, &cuts, from, Some(slot))
            })?;
            self.links.insert(slot, Link { proxy, to_supervisor: None });
        }
        let proxy = &self.links[&slot].proxy;
        Ok((proxy.target(), proxy.address()))
    }

    /// What the sidecar of a worker dials for the supervisor, which `listens` there.
    ///
    /// # Errors
    /// When there is no port or no thread for it.
    pub(crate) fn supervisor(&mut self, slot: u32, listens: SocketAddr) -> Result<SocketAddr> {
        let (known, cuts) = (Arc::clone(&self.known), self.cuts.subscribe());
        let Some(link) = self.links.get_mut(&slot) else { return Ok(listens) };
        let proxy = match link.to_supervisor.take().filter(|proxy| proxy.target() == listens) {
            Some(proxy) => proxy,
            None => Proxy::routed(listens, move |_| route(&self::known(&known), &cuts, Some(slot), None))?,
        };
        Ok(link.to_supervisor.insert(proxy).address())
    }

    /// Gives the link of a worker this rate each way, and this round trip.
    pub(crate) fn shape(&self, slot: u32, rate: Option<Rate>, round_trip: Option<RoundTrip>) {
        if let Some((up, down)) = known(&self.known).get(&slot) {
            up.shape(rate, round_trip);
            down.shape(rate, round_trip);
        }
    }

    /// Cuts workers off from the others and from the supervisor; gives what [`Network::heal`] takes.
    pub(crate) fn cut(&mut self, workers: BTreeSet<u32>) -> u64 {
        self.next_cut += 1;
        self.cuts.send_modify(|cuts| _ = cuts.0.insert(self.next_cut, workers));
        self.next_cut
    }

    /// Ends a cut: what waited goes on.
    pub(crate) fn heal(&self, cut: u64) {
        self.cuts.send_modify(|cuts| _ = cuts.0.remove(&cut));
    }
}

fn known(known: &Known) -> MutexGuard<'_, BTreeMap<u32, Directions>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn route(known: &BTreeMap<u32, Directions>, cuts: &watch::Receiver<Cuts>, dialler: End, dialled: End) -> Route {
    let links = |end: End| end.and_then(|slot| known.get(&slot));
    let way = |from: End, to: End| Way {
        directions: links(from).map(|(up, _)| up).into_iter().chain(links(to).map(|(_, down)| down)).cloned().collect(),
        gate: Some(Gate { cuts: cuts.clone(), ends: [from, to] }),
    };
    Route { to: way(dialler, dialled), back: way(dialled, dialler) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_cut_parts_those_inside_from_all_others_and_from_the_supervisor() {
        let cuts = Cuts([(1, [1, 2].into()), (2, [2, 3].into())].into());
        for (one, other, parted) in [
            (Some(0), Some(4), false),
            (Some(1), Some(2), true),
            (Some(0), Some(1), true),
            (Some(1), None, true),
            (Some(0), None, false),
        ] {
            assert_eq!((cuts.part(one, other), cuts.part(other, one)), (parted, parted), "{one:?} {other:?}");
        }
        assert!(!Cuts([(1, [1, 2].into())].into()).part(Some(1), Some(2)));
    }

    #[test]
    fn bytes_between_workers_wait_until_the_cut_has_healed_and_who_dials_is_known_by_its_address() {
        let mut network = Network::new();
        let (listens, dialled) = network.addresses(1, None).unwrap();
        network.addresses(0, None).unwrap();
        let (arrived, arrivals) = mpsc::channel();
        let peer = TcpListener::bind(listens).unwrap();
        let reader = std::thread::spawn(move || {
            let (mut stream, _) = peer.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 {
                arrived.send(byte[0]).unwrap();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut stream = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(Network::source(0), 0)).unwrap();
            socket.connect(dialled).await.unwrap().into_std().unwrap()
        });
        stream.set_nonblocking(false).unwrap();
        let arrival = |wait| arrivals.recv_timeout(Duration::from_millis(wait));
        stream.write_all(&[1]).unwrap();
        assert_eq!(arrival(10_000), Ok(1));
        let both = network.cut([0, 1].into());
        stream.write_all(&[2]).unwrap();
        assert_eq!(arrival(10_000), Ok(2), "both are on one side");
        let cut = network.cut([0].into());
        stream.write_all(&[3]).unwrap();
        assert_eq!(arrival(300), Err(mpsc::RecvTimeoutError::Timeout));
        network.heal(cut);
        assert_eq!(arrival(10_000), Ok(3));
        network.heal(both);
        drop(stream);
        reader.join().unwrap();
    }
}
