//! Waiting for a condition, with a bound and the last that was seen.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What a look gives.
pub(crate) enum Look<T> {
    /// It is so.
    Yes(T),
    /// It is not so yet; what is seen instead.
    NotYet(String),
}

/// Looks until it is so, at most for `limit`.
///
/// # Errors
/// The limit has passed, or a look failed.
pub(crate) async fn wait<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Look<T>>) -> Result<T> {
    let until = Instant::now() + limit;
    loop {
        let seen = match look().await? {
            Look::Yes(value) => return Ok(value),
            Look::NotYet(seen) => seen,
        };
        if Instant::now() > until {
            bail!("{what}: not within {} s; last seen: {seen}", limit.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}
