//! The attempts under way on this peer, and which frames are for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Bounds;
use crate::exchange::Exchange;
use crate::framing::Header;
use crate::guests::Guests;

/// Answers that one peer may be given at the same time.
const MOST_ANSWERS: usize = 32;

/// An attempt: term and number. A coordinator begins them in ascending order.
type Attempt = (u64, u64);

/// Attempts under way, shared by the sidecar and its lanes.
#[derive(Clone, Default)]
pub struct Operations {
    shared: Arc<Shared>,
}

struct Shared {
    guests: Guests,
    receivers: Guests,
    state: Mutex<State>,
    changed: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        let [guests, receivers] = [2 * Bounds::MOST_CHANNELS, MOST_ANSWERS].map(Guests::new);
        Self { guests, receivers, state: Mutex::default(), changed: Notify::default() }
    }
}

#[derive(Default)]
struct State {
    /// None where what this peer gives is not put together yet.
    exchanges: BTreeMap<Attempt, Option<Arc<Exchange>>>,
    /// The newest attempt that was reserved: earlier ones that are not here have ended.
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

    /// An attempt has begun, and its data comes later: frames for it wait until then.
    pub fn reserve(&self, term: u64, number: u64) {
        let mut state = self.lock();
        state.newest = state.newest.max((term, number));
        state.exchanges.entry((term, number)).or_default();
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Begins to move the data of an attempt that was reserved; false, and nothing is begun, where that has ended.
    #[must_use]
    pub fn begin_reserved(&self, exchange: Arc<Exchange>) -> bool {
        let attempt = (exchange.plan().term, exchange.plan().number);
        let begun = self.lock().exchanges.get_mut(&attempt).map(|place| *place = Some(exchange)).is_some();
        self.shared.changed.notify_waiters();
        begun
    }

    /// Begins an attempt whose data is there.
    pub fn begin(&self, exchange: Arc<Exchange>) {
        self.reserve(exchange.plan().term, exchange.plan().number);
        // Nobody knows of it yet who could have ended it.
        let _begun = self.begin_reserved(exchange);
    }

    /// Ends an attempt, also one that was reserved alone: frames for it are dropped, and its output is not written any more.
    pub fn end(&self, term: u64, number: u64) {
        let ended = self.lock().exchanges.remove(&(term, number));
        if let Some(exchange) = ended.flatten() {
            exchange.close();
        }
        self.shared.changed.notify_waiters();
    }

    /// A newer term: nothing of earlier ones will be begun any more.
    pub fn saw(&self, term: u64) {
        let mut state = self.lock();
        state.newest = state.newest.max((term, 0));
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// The attempt of a frame: waits when the sender is ahead, and for its data; none when it has ended.
    pub(super) async fn find(&self, header: &Header) -> Option<Arc<Exchange>> {
        let attempt = (header.term, header.number);
        loop {
            let changed = self.shared.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.lock();
                match state.exchanges.get(&attempt) {
                    Some(Some(exchange)) => return Some(Arc::clone(exchange)),
                    None if state.newest >= attempt => return None,
                    Some(None) | None => {}
                }
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;

    use super::*;
    use crate::exchange::{Memory, Plan};
    use crate::framing::Kind;
    use crate::v1::{Begin, Contribution, EpochRecord, Member, Operation, OperationKey, OperationKind};

    /// A barrier of two, as an attempt of this number in the first term.
    fn exchange(number: u64) -> Arc<Exchange> {
        let members: Vec<_> = (0..2).map(|slot| Member { slot, incarnation: 1, ..Member::default() }).collect();
        let contributions = members.iter().map(|member| Contribution { slot: member.slot, ..Contribution::default() }).collect();
        let key = Some(OperationKey { round: 1, sequence: 1, ..OperationKey::default() });
        let operation = Some(Operation { key, kind: OperationKind::Barrier.into(), ..Operation::default() });
        let record = Some(EpochRecord { term: 1, members, ..EpochRecord::default() });
        let begin = Begin { operation, number, record, contributions, ..Begin::default() };
        let plan = Plan::new(&begin, 0).unwrap();
        Exchange::new(plan, Bytes::new(), None, Arc::new(Memory::new(0))).unwrap()
    }

    #[derive(Debug, PartialEq)]
    enum Frame {
        Waits,
        For(u64),
        Dropped,
    }

    /// What becomes now of a frame for the attempt of this number.
    fn frame(operations: &Operations, number: u64) -> Frame {
        let header = Header { term: 1, number, block: 0, kind: Kind::Contribution };
        match operations.find(&header).now_or_never() {
            None => Frame::Waits,
            Some(Some(exchange)) => Frame::For(exchange.plan().number),
            Some(None) => Frame::Dropped,
        }
    }

    #[test]
    fn frames_of_a_reserved_attempt_wait_also_when_a_larger_number_has_begun() {
        let operations = Operations::default();
        operations.reserve(1, 1);
        operations.begin(exchange(2));
        assert_eq!([1, 2, 3].map(|number| frame(&operations, number)), [Frame::Waits, Frame::For(2), Frame::Waits]);
        assert!(operations.begin_reserved(exchange(1)));
        assert_eq!(frame(&operations, 1), Frame::For(1));
    }

    #[test]
    fn a_reserved_attempt_that_has_ended_is_not_begun_and_who_waits_for_it_is_told() {
        let operations = Operations::default();
        operations.reserve(1, 1);
        let header = Header { term: 1, number: 1, block: 0, kind: Kind::Contribution };
        let mut waiting = std::pin::pin!(operations.find(&header));
        assert!(waiting.as_mut().now_or_never().is_none());
        operations.end(1, 1);
        assert!(waiting.now_or_never().unwrap().is_none());
        assert!(!operations.begin_reserved(exchange(1)));
        assert_eq!(frame(&operations, 1), Frame::Dropped);
    }

    #[test]
    fn who_waits_for_a_reserved_attempt_gets_it_when_it_begins() {
        let operations = Operations::default();
        let header = Header { term: 1, number: 1, block: 0, kind: Kind::Contribution };
        let mut waiting = std::pin::pin!(operations.find(&header));
        assert!(waiting.as_mut().now_or_never().is_none(), "nobody has heard of it");
        operations.reserve(1, 1);
        assert!(waiting.as_mut().now_or_never().is_none(), "its data is not there");
        assert!(operations.begin_reserved(exchange(1)));
        assert!(waiting.now_or_never().unwrap().is_some());
    }

    #[test]
    fn an_attempt_that_was_passed_over_has_ended() {
        let operations = Operations::default();
        operations.begin(exchange(2));
        assert_eq!(frame(&operations, 1), Frame::Dropped);
        operations.saw(2);
        assert_eq!(frame(&operations, 3), Frame::Dropped, "nothing of an earlier term is begun any more");
    }
}
