//! How many connections are open, in all and of each who opened them: nobody takes the places of the others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_collective::identity::PeerName;
use prometheus::IntGauge;

/// Connections of all workers.
const MOST: usize = 16_384;
/// Connections of those who have no certificate yet.
const MOST_NEWCOMERS: usize = 1024;
/// Connections of one worker: its process, and one that has ended unnoticed.
const MOST_OF_ONE: usize = 8;
/// Connections without a certificate from one address, behind which there may be a node.
const MOST_OF_ADDRESS: usize = 64;

/// Who opened a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Opener {
    /// Whoever has no certificate yet.
    Newcomer(IpAddr),
    /// A worker.
    Peer(PeerName),
}

/// Counts what is open.
#[derive(Clone)]
pub(super) struct Places {
    open: Arc<Mutex<Open>>,
    shown: IntGauge,
}

#[derive(Default)]
struct Open {
    by: BTreeMap<Opener, usize>,
    newcomers: usize,
    peers: usize,
}

/// One that is open; it is counted as long as this exists.
pub(super) struct Place {
    places: Places,
    opener: Opener,
}

impl Places {
    /// All free; what is taken is shown by `shown`.
    pub(super) fn new(shown: IntGauge) -> Self {
        Self { open: Arc::default(), shown }
    }

    /// A place for one more; none where there is no more for this opener, or for all of its kind.
    pub(super) fn take(&self, opener: Opener) -> Option<Place> {
        let mut open = self.lock();
        let (own, most_own) = match &opener {
            Opener::Newcomer(_) => (open.newcomers < MOST_NEWCOMERS, MOST_OF_ADDRESS),
            Opener::Peer(_) => (open.peers < MOST, MOST_OF_ONE),
        };
        let count = open.by.get(&opener).copied().unwrap_or_default();
        if !own || count >= most_own {
            return None;
        }
        open.by.insert(opener.clone(), count + 1);
        *open.all(&opener) += 1;
        self.shown.inc();
        Some(Place { places: self.clone(), opener })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn all(&mut self, opener: &Opener) -> &mut usize {
        match opener {
            Opener::Newcomer(_) => &mut self.newcomers,
            Opener::Peer(_) => &mut self.peers,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        *open.all(&self.opener) -= 1;
        self.places.shown.dec();
        match open.by.get_mut(&self.opener) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = open.by.remove(&self.opener),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places::new(IntGauge::new("open", "open").unwrap())
    }

    fn peer(worker: &str) -> Opener {
        Opener::Peer(PeerName::new("kjv", "local", worker).unwrap())
    }

    fn newcomer(last: u8) -> Opener {
        Opener::Newcomer([127, 0, 0, last].into())
    }

    #[test]
    fn one_that_opens_too_many_is_refused_and_others_are_not() {
        let places = places();
        let mut open: Vec<_> = (0..MOST_OF_ONE).map(|_| places.take(peer("w1")).unwrap()).collect();
        assert!(places.take(peer("w1")).is_none());
        open.push(places.take(peer("w2")).unwrap());
        assert_eq!(places.shown.get(), MOST_OF_ONE as i64 + 1);
        open.remove(0);
        assert!(places.take(peer("w1")).is_some(), "one has ended");
        open.clear();
        assert_eq!(places.shown.get(), 0);
        assert!(places.lock().by.is_empty());
    }

    #[test]
    fn those_without_a_certificate_take_no_place_of_a_worker() {
        let places = places();
        let open: Vec<_> =
            (0..32).flat_map(|last| (0..64).map_while(move |_| Some(last))).map(|last| places.take(newcomer(last))).collect();
        assert_eq!(open.iter().flatten().count(), MOST_NEWCOMERS);
        assert!(places.take(newcomer(99)).is_none());
        assert!(places.take(peer("w1")).is_some());
    }
}
