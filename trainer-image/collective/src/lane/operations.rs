//! The attempts under way on this peer, and which frames are for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::guests::Guests;
use crate::exchange::Exchange;
use crate::framing::Header;

/// An attempt: term and number. A coordinator begins them in ascending order.
type Attempt = (u64, u64);

/// Attempts under way, shared by the sidecar and its lanes.
#[derive(Clone, Default)]
pub struct Operations {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    guests: Guests,
    receivers: Guests,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    exchanges: BTreeMap<Attempt, Arc<Exchange>>,
    /// The newest attempt that was begun: earlier ones that are not here have ended.
    newest: Attempt,
}

impl Operations {
    /// Lanes that others have open here.
    pub(super) fn guests(&self) -> &Guests {
        &self.shared.guests
    }

    /// Answers of the state that others are being given here.
    pub(super) fn receivers(&self) -> &Guests {
        &self.shared.receivers
    }

    /// Begins an attempt.
    pub fn begin(&self, exchange: Arc<Exchange>) {
        let attempt = (exchange.plan().term, exchange.plan().number);
        let mut state = self.lock();
        state.newest = state.newest.max(attempt);
        state.exchanges.insert(attempt, exchange);
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Ends an attempt: its output is not written any more.
    pub fn end(&self, term: u64, number: u64) {
        let ended = self.lock().exchanges.remove(&(term, number));
        if let Some(exchange) = ended {
            exchange.close();
        }
    }

    /// A newer term: nothing of earlier ones will be begun any more.
    pub fn saw(&self, term: u64) {
        let mut state = self.lock();
        state.newest = state.newest.max((term, 0));
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// The attempt of a frame: waits when the sender is ahead; none when it has ended.
    pub(super) async fn find(&self, header: &Header) -> Option<Arc<Exchange>> {
        let attempt = (header.term, header.number);
        loop {
            let changed = self.shared.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.lock();
                if state.newest >= attempt {
                    return state.exchanges.get(&attempt).cloned();
                }
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
