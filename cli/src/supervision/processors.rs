//! Which processors each worker uses.
//!
//! When the workers share the processors evenly, each keeps to its own, trainer and sidecar: otherwise the scheduler puts two
//! on one processor and one on another, round by round, and the round waits for the slower ones.

use rustix::thread::sched_getaffinity;

/// What one worker may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Processors {
    /// Threads for arithmetic.
    pub(crate) threads: usize,
    /// Processors it keeps to; all when empty.
    pub(crate) pinned: Vec<usize>,
}

/// The processors that this process may use; none to pin to where a quota allows fewer than it may choose from.
pub(crate) fn available() -> Vec<Option<usize>> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    sched_getaffinity(None)
        .map(|set| (0..rustix::thread::CpuSet::MAX_CPU).filter(|processor| set.is_set(*processor)).map(Some).collect::<Vec<_>>())
        .ok()
        .filter(|processors| processors.len() == count)
        .unwrap_or_else(|| vec![None; count])
}

/// Divides `available` among `workers` trainers of `ranks` ranks: the share of each, by slot.
pub(crate) fn divide(available: &[Option<usize>], workers: usize, ranks: usize) -> Vec<Processors> {
    let count = available.len();
    let threads = (count / (workers * ranks)).max(1);
    let share = |slot: usize| -> Vec<usize> {
        if workers.is_multiple_of(count) && ranks == 1 {
            available[slot % count].into_iter().collect()
        } else if count == workers * ranks * threads {
            available[slot * ranks * threads..(slot + 1) * ranks * threads].iter().flatten().copied().collect()
        } else {
            Vec::new()
        }
    };
    (0..workers).map(|slot| Processors { threads, pinned: share(slot) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(available: usize, workers: usize, ranks: usize) -> Vec<Vec<usize>> {
        let available: Vec<Option<usize>> = (0..available).map(Some).collect();
        divide(&available, workers, ranks).into_iter().map(|share| share.pinned).collect()
    }

    #[test]
    fn four_workers_on_two_processors_are_two_on_each() {
        assert_eq!(pinned(2, 4, 1), [[0], [1], [0], [1]]);
    }

    #[test]
    fn two_workers_on_four_processors_have_two_each() {
        assert_eq!(pinned(4, 2, 1), [[0, 1], [2, 3]]);
        assert_eq!(divide(&[None; 4], 2, 1), vec![Processors { threads: 2, pinned: vec![] }; 2]);
        assert_eq!(pinned(4, 2, 2), [[0, 1], [2, 3]]);
    }

    #[test]
    fn what_cannot_be_shared_evenly_is_left_to_the_scheduler() {
        assert_eq!(pinned(2, 3, 1), vec![Vec::<usize>::new(); 3]);
        assert_eq!(pinned(4, 3, 1), vec![Vec::<usize>::new(); 3]);
    }
}
