//! What the workers of a case share: how far they may go, and what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::Ledger;

/// Pause between two looks of who waits for something.
const LOOK: Duration = Duration::from_millis(5);

/// Shared by the workers of a case.
#[derive(Debug)]
pub(crate) struct Course {
    state: Mutex<State>,
    changed: Condvar,
    /// Elements of every vector.
    pub(crate) elements: usize,
    /// Of every operation.
    pub(crate) deadline: Duration,
}

/// How far it has come.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The last round that may be begun.
    pub(crate) allowed: u64,
    over: bool,
    left: BTreeSet<u32>,
    pub(crate) ledger: Ledger,
    /// When a worker last began an operation, and of which round.
    pub(crate) entered: BTreeMap<u32, (u64, Instant)>,
    /// Calls that ended without a result, or in doubt.
    pub(crate) again: u64,
    pub(crate) doubts: u64,
}

impl Course {
    /// Over vectors of `elements`, in operations with this deadline; no round is allowed yet.
    pub(crate) fn new(elements: usize, deadline: Duration) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), elements, deadline }
    }

    /// Waits until a worker may begin a round; false when it is to end.
    pub(crate) fn may_begin(&self, slot: u32, round: u64) -> bool {
        let mut state = self.lock();
        while state.allowed < round && state.goes_on(slot) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.goes_on(slot)
    }

    /// Whether a worker goes on when its round has failed.
    pub(crate) fn goes_on(&self, slot: u32) -> bool {
        self.lock().goes_on(slot)
    }

    /// Allows rounds up to this one.
    pub(crate) fn allow(&self, round: u64) {
        let mut state = self.lock();
        state.allowed = state.allowed.max(round);
        drop(state);
        self.changed.notify_all();
    }

    /// A worker's process is gone; a later one of the slot may come.
    pub(crate) fn leave(&self, slot: u32, gone: bool) {
        let mut state = self.lock();
        if gone {
            state.left.insert(slot);
        } else {
            state.left.remove(&slot);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Workers that wait for a round end.
    pub(crate) fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    /// Waits until `ready` gives something, and allows one round after the other meanwhile, with a pause between them where
    /// there is one; none when it takes longer than `limit`.
    pub(crate) fn pace<T>(&self, pause: Duration, limit: Duration, mut ready: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let until = Instant::now() + limit;
        let mut next = Instant::now();
        loop {
            let newest = {
                let state = self.lock();
                if let Some(value) = ready(&state) {
                    return Some(value);
                }
                (state.ledger.newest() >= state.allowed).then(|| state.ledger.newest())
            };
            if let Some(newest) = newest.filter(|_| Instant::now() >= next) {
                self.allow(newest + 1);
                next = Instant::now() + pause;
            }
            if Instant::now() > until {
                return None;
            }
            std::thread::sleep(LOOK);
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn goes_on(&self, slot: u32) -> bool {
        !self.over && !self.left.contains(&slot)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_worker_waits_until_its_round_is_allowed_and_ends_when_it_is_told() {
        let course = Arc::new(Course::new(1, Duration::ZERO));
        let waiting = {
            let course = Arc::clone(&course);
            std::thread::spawn(move || (course.may_begin(0, 2), course.may_begin(0, 3)))
        };
        course.allow(2);
        course.end();
        assert!(!waiting.join().unwrap().1);
        course.leave(1, true);
        assert!(!course.goes_on(1));
    }

    #[test]
    fn what_never_becomes_ready_is_given_up() {
        let course = Course::new(1, Duration::ZERO);
        assert_eq!(course.pace(Duration::ZERO, Duration::from_millis(20), |_| None::<()>), None);
        assert_eq!(course.pace(Duration::ZERO, Duration::ZERO, |state| Some(state.allowed)), Some(1));
    }
}
