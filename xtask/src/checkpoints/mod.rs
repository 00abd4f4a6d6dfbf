//! What checkpoints are for: a run that is killed goes on to the same result, and whatever fails at whatever moment, the newest whole
//! checkpoint is there and a run goes on from it.

mod case;
mod course;
mod disk_full;
mod ground;
mod matrix;
mod opinion;
mod power_loss;
mod same_result;
mod sockets;
mod strike;
mod survivor;
mod verdict;

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) use self::{
    matrix::perform as crash_matrix, opinion::perform as second_opinion, same_result::perform as same_result,
    survivor::perform as survivor,
};
use crate::paths;

/// Runs that go at once: as many as the machine that the budgets are for has processors.
const AT_ONCE: usize = 2;

/// Threads for the stores of all cases.
fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(AT_ONCE).enable_all().build().context("cannot start threads for the stores")
}

/// A folder for what a case leaves; it goes with the value, unless it is kept.
fn folder(prefix: &str) -> Result<TempDir> {
    let all = all_folders();
    fs::create_dir_all(&all)?;
    Ok(tempfile::Builder::new().prefix(prefix).tempdir_in(all)?)
}

fn all_folders() -> PathBuf {
    paths::target().join("xtask")
}

/// What `work` makes of each of `items`, in their order; some at once.
fn each<I: Sync, O: Send>(items: &[I], work: impl Fn(&I) -> O + Sync) -> Vec<O> {
    let next = Mutex::new(items.iter().enumerate());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let item = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((index, item)) = item else { return };
                    let result = work(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_their_items() {
        let items: Vec<u64> = (0..50).collect();
        assert_eq!(each(&items, |item| item * 2), items.iter().map(|item| item * 2).collect::<Vec<_>>());
    }
}
