//! The turn of an attempt to write to the trainer's memory: piece by piece, and nothing more once it was ended.
//!
//! Threads that add up cannot be stopped from outside. The next attempt, which begins from the same memory, and the trainer, which
//! is given it back, wait until the last piece of those that were ended is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::RwLock;

/// One attempt's turn; it lasts until it is ended.
#[derive(Default)]
pub(crate) struct Turn {
    ended: AtomicBool,
    /// Shared by those who write a piece each.
    pieces: RwLock<()>,
}

impl Turn {
    /// Writes a piece; nothing is done where the turn has ended. Others wait for it: it has to be small.
    pub(crate) fn piece<T>(&self, write: impl FnOnce() -> T) -> Option<T> {
        // Nobody has it alone before the turn has ended.
        let _until_it_is_written = self.pieces.try_read().ok()?;
        (!self.ended.load(Ordering::Acquire)).then(write)
    }

    /// Ends it: the pieces that are being written now are its last.
    pub(crate) fn end(self: Arc<Self>) -> Ended {
        self.ended.store(true, Ordering::Release);
        Ended(self)
    }
}

/// A turn that was ended.
#[derive(Clone)]
pub(crate) struct Ended(Arc<Turn>);

impl Ended {
    /// Whether its last piece is written.
    pub(crate) fn is_over(&self) -> bool {
        self.0.pieces.try_write().is_ok()
    }

    /// Waits until its last piece is written.
    pub(crate) async fn over(&self) {
        drop(self.0.pieces.write().await);
    }
}

/// Waits until none of these writes any more.
pub(crate) async fn all_over(turns: &[Ended]) {
    for turn in turns {
        turn.over().await;
    }
}

/// Does `work` once none of these writes any more: at once where that is so already and the work is short.
pub(crate) fn after(turns: Vec<Ended>, long: bool, work: impl FnOnce() + Send + 'static) {
    if !long && turns.iter().all(Ended::is_over) {
        return work();
    }
    tokio::spawn(async move {
        all_over(&turns).await;
        // It answers by itself.
        let _done = tokio::task::spawn_blocking(work).await;
    });
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_turn_that_was_ended_writes_no_piece_more() {
        let turn = Arc::new(Turn::default());
        assert_eq!(turn.piece(|| 1), Some(1));
        let ended = Arc::clone(&turn).end();
        assert_eq!(turn.piece(|| 2), None);
        assert!(ended.is_over());
    }

    #[test]
    fn it_is_over_when_the_last_of_its_pieces_is_written() {
        let turn = Arc::new(Turn::default());
        let ended = Arc::clone(&turn).end();
        let turn = Arc::new(Turn::default());
        let second = turn.piece(|| {
            let second = turn.piece(|| Arc::clone(&turn).end()).unwrap();
            let turns = [ended, second.clone()];
            let mut waiting = std::pin::pin!(all_over(&turns));
            assert!(!second.is_over());
            assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            second
        });
        assert!(second.unwrap().is_over());
    }

    #[tokio::test]
    async fn what_comes_after_waits_for_a_piece_that_is_being_written() {
        let turn = Arc::new(Turn::default());
        let (done, mut end) = oneshot::channel();
        turn.piece(|| {
            let ended = Arc::clone(&turn).end();
            after(vec![ended], false, move || done.send(()).unwrap());
            assert!(end.try_recv().is_err());
        });
        end.await.unwrap();
        let (done, mut end) = oneshot::channel();
        after(vec![turn.end()], false, move || done.send(()).unwrap());
        assert!(end.try_recv().is_ok(), "nobody has to wait");
    }
}
