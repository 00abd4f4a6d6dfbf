//! What others have open here, counted by who opened it: each takes memory for what it carries.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::exchange::Sender;
use crate::identity::PeerName;

/// By the name that the connection proved; by the slot that it claims where it is plain.
type Opener = Result<PeerName, u32>;

/// Counts what is open of one kind.
#[derive(Clone)]
pub(crate) struct Guests {
    /// That one opener may have at the same time.
    most: usize,
    open: Arc<Mutex<BTreeMap<Opener, usize>>>,
}

/// One that is open; it is counted as long as this exists.
pub(crate) struct Guest {
    guests: Guests,
    opener: Opener,
}

impl Guests {
    /// At most `most` of each opener.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    /// Lets one more of `sender` in; none where it has as many as it may.
    pub(crate) fn admit(&self, sender: &Sender) -> Option<Guest> {
        self.admit_opener(sender.name.clone().ok_or(sender.slot))
    }

    /// Lets one more of the peer of this name in; none where it has as many as it may.
    pub(crate) fn admit_named(&self, name: &PeerName) -> Option<Guest> {
        self.admit_opener(Ok(name.clone()))
    }

    fn admit_opener(&self, opener: Opener) -> Option<Guest> {
        let mut open = self.lock();
        let count = open.get(&opener).copied().unwrap_or_default();
        if count >= self.most {
            return None;
        }
        open.insert(opener.clone(), count + 1);
        Some(Guest { guests: self.clone(), opener })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Opener, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut open = self.guests.lock();
        match open.get_mut(&self.opener) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.opener);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 3;

    fn sender(slot: u32, worker: Option<&str>) -> Sender {
        Sender { slot, name: worker.map(|worker| PeerName::new("run", "west", worker).unwrap()) }
    }

    #[test]
    fn one_that_opens_too_many_is_refused_and_others_are_not() {
        let guests = Guests::new(MOST);
        // Whatever slots it claims.
        let mut open: Vec<_> = (0..MOST as u32).map(|slot| guests.admit(&sender(slot, Some("w1"))).unwrap()).collect();
        assert!(guests.admit(&sender(1, Some("w1"))).is_none());
        assert!(guests.admit(&sender(1, Some("w2"))).is_some());
        assert!(guests.admit(&sender(1, None)).is_some());
        open.pop();
        assert!(guests.admit(&sender(1, Some("w1"))).is_some(), "one has ended");
    }

    #[test]
    fn nobody_is_remembered_who_is_gone() {
        let guests = Guests::new(MOST);
        drop((guests.admit(&sender(1, None)), guests.admit(&sender(1, None))));
        assert!(guests.lock().is_empty());
    }
}
