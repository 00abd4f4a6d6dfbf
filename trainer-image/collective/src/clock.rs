//! Time as a state machine is told it. A caller's clock that steps back stands still here, so that what has run out stays so.

use crate::Millis;

/// The latest instant that was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Clock(Millis);

impl Clock {
    /// The instant to act at, where the caller says that it is `now`.
    pub(crate) fn at(&mut self, now: Millis) -> Millis {
        self.0 = self.0.max(now);
        self.0
    }
}
