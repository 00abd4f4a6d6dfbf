//! Busy processes of our own, for checks under load.

use anyhow::Result;

use crate::{paths, process::Process};

/// Starts one busy process per core; they end with the value.
pub(crate) fn start() -> Result<Vec<Process>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (0..cores).map(|_| Process::start("load", std::process::Command::new(paths::executable()).arg("spin"))).collect()
}

/// Keeps one core busy until the process is killed or its parent is gone.
pub(crate) fn spin() {
    let parent = rustix::process::getppid();
    while rustix::process::getppid() == parent {
        for turn in 0..1_000_000_u32 {
            std::hint::black_box(turn);
        }
    }
}
