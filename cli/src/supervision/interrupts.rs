//! Signals that ask a run for its end.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Ending;

/// Ctrl-C, a polite end, and a terminal that is gone; from its making on, none of them ends this process by itself. One that
/// was ignored when the process began, as `nohup` does it, stays ignored.
pub(crate) struct Interrupts {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Interrupts {
    pub(crate) fn new() -> Result<Self> {
        let ignored = ignored();
        let on = |kind: SignalKind| -> Result<Option<Signal>> {
            let is_ignored = ignored & (1 << (kind.as_raw_value() - 1)) != 0;
            (!is_ignored).then(|| signal(kind)).transpose().context("cannot listen for signals")
        };
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }

    /// Waits for the next.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            () = come(self.interrupt.as_mut()) => {}
            () = come(self.terminate.as_mut()) => {}
            () = come(self.hang_up.as_mut()) => {}
        }
    }
}

/// Does `work` in a runtime of its own, until it is done or somebody asks for its end.
pub(crate) fn until_interrupted(work: impl Future<Output = Result<(), Ending>>) -> Ending {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Ending::failed(&error.into()),
    };
    let ending = runtime.block_on(async {
        let mut interrupts = match Interrupts::new() {
            Ok(interrupts) => interrupts,
            Err(error) => return Ending::failed(&error),
        };
        tokio::select! {
            performed = work => performed.err().unwrap_or(Ending::Done),
            () = interrupts.next() => Ending::Interrupted,
        }
    });
    // A request that nobody waits for any more may take as long as a store or an API server likes.
    runtime.shutdown_background();
    ending
}

async fn come(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Signals that this process ignores, one bit each.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
