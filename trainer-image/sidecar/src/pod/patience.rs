//! How long to wait before something is tried again, and how often that is said.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use tokio::time::Instant;

/// First pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Least time between two lines of the log about it.
const SAID: Duration = Duration::from_secs(10);

/// One thing that is tried until it works.
pub(super) struct Patience {
    pause: Duration,
    said: Option<Instant>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { pause: PAUSES.0, said: None }
    }
}

impl Patience {
    /// Waits, longer each time, and says now and then what does not work and why.
    pub(super) async fn wait(&mut self, what: &str, why: &str) {
        if self.said.is_none_or(|said| said.elapsed() >= SAID) {
            self.said = Some(Instant::now());
            tracing::warn!(why, "{what}; it is tried again");
        }
        tokio::time::sleep(jittered(self.pause, random())).await;
        self.pause = (2 * self.pause).min(PAUSES.1);
    }
}

/// Between half of `pause` and all of it: many who were cut off at once do not come back at once.
fn jittered(pause: Duration, random: u64) -> Duration {
    pause / 2 + (pause / 2).mul_f64(random as f64 / u64::MAX as f64)
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_at_least_half_as_long_as_wanted_and_no_longer() {
        let pause = Duration::from_secs(4);
        assert_eq!([0, u64::MAX].map(|random| jittered(pause, random).as_secs()), [2, 4]);
    }
}
