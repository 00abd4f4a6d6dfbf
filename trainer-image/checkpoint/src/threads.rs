//! On which threads a folder of this machine is asked. A request takes some microseconds, and as long again to be handed to another
//! thread and back: many small ones go to one thread together.

use std::sync::{LazyLock, mpsc};
use std::thread;

use futures::executor::block_on;
use futures::future::{BoxFuture, Either, Ready, ready};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

/// What is to be done, and what is dropped when it is.
type Work = (BoxFuture<'static, ()>, mpsc::Sender<()>);

/// A thread without a runtime: requests are carried out where they are made.
static ONE: LazyLock<mpsc::Sender<Work>> = LazyLock::new(|| {
    let (give, take) = mpsc::channel::<Work>();
    thread::spawn(move || {
        for (work, _ended) in take {
            block_on(work);
        }
    });
    give
});

/// Begins `work`, which takes its time: on another thread, or at once where there is no runtime that has any.
pub(crate) fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Either<JoinHandle<T>, Ready<Result<T, JoinError>>> {
    match Handle::try_current() {
        Ok(runtime) => Either::Left(runtime.spawn_blocking(work)),
        Err(_) => Either::Right(ready(Ok(work()))),
    }
}

/// Does `work` on one thread, after what it was given before. It needs no clock and no network.
pub(crate) async fn on_one(work: impl Future<Output = ()> + Send + 'static) {
    let (ending, ended) = mpsc::channel();
    let _always_there = ONE.send((Box::pin(work), ending));
    // The runtime does not end before the work has.
    let _done = spawn_blocking(move || ended.recv()).await;
}
