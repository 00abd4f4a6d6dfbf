//! What is made anew each day: the hub's own certificates, which are valid for longer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const DAY: Duration = Duration::from_hours(24);

/// One value, and when it was made.
pub(super) struct Daily<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for Daily<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Daily<T> {
    /// Today's, by `make` where there is none; one that failed is tried again.
    pub(super) fn get<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, value)) = kept.as_ref().filter(|(made, _)| made.elapsed() < DAY) {
            return Ok(value.clone());
        }
        let value = make()?;
        *kept = Some((Instant::now(), value.clone()));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_made_once_a_day_and_again_where_that_failed() {
        let daily = Daily::default();
        assert_eq!(daily.get(|| Err::<u8, _>("no")), Err("no"));
        assert_eq!(daily.get(|| Ok::<_, ()>(1)), Ok(1));
        assert_eq!(daily.get(|| Ok::<_, ()>(2)), Ok(1));
        tokio::time::advance(DAY).await;
        assert_eq!(daily.get(|| Ok::<_, ()>(3)), Ok(3));
    }
}
