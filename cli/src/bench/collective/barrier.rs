//! Where ranks meet: a barrier in shared memory.
//!
//! The last to come lets all go with one call of the kernel, so that they begin within microseconds of each other.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use anyhow::{Context, Result};
use atoll_sdk::Region;
use rustix::thread::futex;
use serde::{Deserialize, Serialize};

/// Looks before a rank sleeps, where every rank has a processor of its own: some tens of microseconds.
const LOOKS: usize = 1000;

/// A region of the supervisor that its ranks open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Opened {
    path: PathBuf,
    length: u64,
}

impl Opened {
    /// Names `region` for other processes of this user; it stays open as long as this process keeps it.
    pub(crate) fn of(region: &Region) -> Self {
        let path = format!("/proc/{}/fd/{}", std::process::id(), region.descriptor().as_raw_fd());
        Self { path: path.into(), length: region.len() as u64 }
    }

    /// Maps it.
    pub(crate) fn open(&self) -> Result<Region> {
        let file = File::options().read(true).write(true).open(&self.path).context("cannot open the ranks' shared memory")?;
        Ok(Region::open("shared", file, self.length)?)
    }
}

/// A barrier that the supervisor made, as its ranks are told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Meeting {
    words: Opened,
    ranks: u32,
    /// Looks before a rank sleeps.
    looks: usize,
}

/// Bytes of a region that a barrier uses.
pub(crate) const BARRIER_BYTES: u64 = 64;

impl Meeting {
    /// A barrier at the beginning of `region`, which nobody has used; called where all processors may be used.
    pub(crate) fn new(region: &Region, ranks: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { words: Opened::of(region), ranks: ranks as u32, looks: if ranks <= processors { LOOKS } else { 0 } }
    }

    /// The barrier, for one rank.
    pub(crate) fn join(&self) -> Result<Barrier> {
        Ok(Barrier { region: self.words.open()?, ranks: self.ranks, looks: self.looks })
    }
}

/// One rank's side of a barrier.
pub(crate) struct Barrier {
    region: Region,
    ranks: u32,
    looks: usize,
}

impl Barrier {
    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// When the region is shorter than [`BARRIER_BYTES`] or the kernel refuses to wait.
    pub(crate) fn wait(&self) -> Result<()> {
        let word = |offset| self.region.word(offset).context("the barrier has no memory");
        let (arrived, passed) = (word(0)?, word(4)?);
        let before = passed.load(Acquire);
        if arrived.fetch_add(1, AcqRel) + 1 == self.ranks {
            arrived.store(0, Relaxed);
            passed.fetch_add(1, Release);
            futex::wake(passed, futex::Flags::empty(), u32::MAX >> 1)?;
            return Ok(());
        }
        for _ in 0..self.looks {
            if passed.load(Acquire) != before {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        sleep_while(passed, before)
    }
}

fn sleep_while(passed: &AtomicU32, before: u32) -> Result<()> {
    while passed.load(Acquire) == before {
        match futex::wait(passed, futex::Flags::empty(), before, None) {
            // Somebody was faster, or a signal came.
            Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the other ranks"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn nobody_passes_before_the_last_has_come() {
        let region = Region::create("barrier", BARRIER_BYTES).unwrap();
        let meeting = Meeting::new(&region, 5);
        let came = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    let barrier = meeting.join().unwrap();
                    for round in 1..=200 {
                        came.fetch_add(1, AcqRel);
                        barrier.wait().unwrap();
                        assert!(came.load(Acquire) >= 5 * round);
                        barrier.wait().unwrap();
                    }
                });
            }
        });
        assert_eq!(came.load(Relaxed), 1000);
    }
}
