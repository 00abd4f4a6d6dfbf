//! What a relay does and has done, in figures.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lane::Meter;

/// Counts what one relay does; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Figures(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    registered: AtomicU64,
    open: AtomicU64,
    tunnels: AtomicU64,
    refused: AtomicU64,
    carried: Arc<Meter>,
}

/// The figures at one instant, and as one line for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Peers that can be dialled now.
    pub registered: u64,
    /// Tunnels that are open now.
    pub open: u64,
    /// Tunnels since the start.
    pub tunnels: u64,
    /// Bytes that were carried since the start, both ways together.
    pub bytes: u64,
    /// Connections that were refused since the start.
    pub refused: u64,
}

impl fmt::Display for Snapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registered, open, tunnels, bytes, refused } = self;
        write!(formatter, "{registered} registered, {open} tunnels open of {tunnels}, {bytes} bytes carried, {refused} refused")
    }
}

impl Figures {
    /// What they are now.
    #[must_use]
    pub fn now(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            registered: read(&self.0.registered),
            open: read(&self.0.open),
            tunnels: read(&self.0.tunnels),
            bytes: self.0.carried.sent() + self.0.carried.received(),
            refused: read(&self.0.refused),
        }
    }

    /// A peer is registered as long as this lives.
    pub(super) fn registered(&self) -> Present {
        Present::new(&self.0, |counters| &counters.registered)
    }

    /// A tunnel is open as long as this lives; its bytes are to be counted in [`Figures::carried`].
    pub(super) fn tunnel(&self) -> Present {
        self.0.tunnels.fetch_add(1, Ordering::Relaxed);
        Present::new(&self.0, |counters| &counters.open)
    }

    pub(super) fn carried(&self) -> Arc<Meter> {
        Arc::clone(&self.0.carried)
    }

    pub(super) fn refused(&self) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// One more, until it is dropped.
pub(super) struct Present {
    counters: Arc<Counters>,
    which: fn(&Counters) -> &AtomicU64,
}

impl Present {
    fn new(counters: &Arc<Counters>, which: fn(&Counters) -> &AtomicU64) -> Self {
        which(counters).fetch_add(1, Ordering::Relaxed);
        Self { counters: Arc::clone(counters), which }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        (self.which)(&self.counters).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_is_counted_and_not_present() {
        let figures = Figures::default();
        let _peer = figures.registered();
        drop(figures.tunnel());
        let _open = figures.tunnel();
        figures.refused();
        let shown = figures.now();
        assert_eq!((shown.registered, shown.open, shown.tunnels, shown.refused), (1, 1, 2, 1));
        assert_eq!(shown.to_string(), "1 registered, 1 tunnels open of 2, 0 bytes carried, 1 refused");
    }
}
