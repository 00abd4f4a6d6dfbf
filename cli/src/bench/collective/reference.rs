//! The plain shared-memory reduction that ours is judged against: no sidecar, no vote, nothing that can fail alone.
//!
//! Each rank adds its part of everybody's input in rank order into a shared result, block by block so that a block stays in
//! the cache; when all are done each copies the whole result into memory of its own.

use std::ops::Range;

use anyhow::{Context, Result};
use atoll_sdk::Region;
use serde::{Deserialize, Serialize};

use super::barrier::{BARRIER_BYTES, Barrier, Meeting, Opened};
use super::case::{Case, ELEMENT};
use super::measure::{Measured, measure};
use super::pattern;
use super::processes::Processes;
use super::rank::{self, Operations, Work};
use crate::supervision::child::own;

/// Elements that are added at once: 32 KiB of each input.
const BLOCK: usize = 8192;
/// Elements of a cache line; parts begin at whole ones.
const LINE: usize = 16;

const TOO_SHORT: &str = "the ranks' shared memory is too short";

/// What a rank of the reference is started with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    /// All inputs in rank order, then the result.
    pub(crate) vectors: Opened,
    /// Where the ranks meet within an operation.
    pub(crate) barrier: Meeting,
    pub(crate) bytes: u64,
}

/// Length of the region that holds all vectors.
fn region_length(bytes: u64, ranks: usize) -> u64 {
    bytes * (ranks as u64 + 1)
}

/// Starts the ranks of `case`, measures, and leaves `processes` to be stopped.
pub(crate) async fn run(processes: &mut Processes, case: &Case, iterations: usize) -> Result<Measured> {
    let vectors = Region::create("vectors", region_length(case.bytes, case.peers))?;
    let [before, within] = [Region::create("barrier", BARRIER_BYTES)?, Region::create("barrier", BARRIER_BYTES)?];
    for rank in 0..case.peers {
        let work = Config { vectors: Opened::of(&vectors), barrier: Meeting::new(&within, case.peers), bytes: case.bytes };
        let config =
            rank::Config { rank, ranks: case.peers, barrier: Meeting::new(&before, case.peers), work: Work::Reference(work) };
        processes.start_rank(&own("rank")?, config).await?;
    }
    measure(processes, case.peers, iterations, &[]).await
}

/// One rank of the reference.
pub(crate) struct ReferenceRank {
    vectors: Region,
    barrier: Barrier,
    elements: usize,
    mine: Range<usize>,
    ranks: usize,
    copy: Vec<f32>,
}

impl ReferenceRank {
    pub(crate) fn new(config: &Config, rank: usize, ranks: usize) -> Result<Self> {
        let elements = (config.bytes / ELEMENT) as usize;
        let barrier = config.barrier.join()?;
        let mine = share(elements, rank, ranks);
        let mut this = Self { vectors: config.vectors.open()?, barrier, elements, mine, ranks, copy: vec![0.0; elements] };
        let input = vector(elements, rank, &(0..elements));
        pattern::fill(this.vectors.values_mut(input).context(TOO_SHORT)?, rank);
        Ok(this)
    }

    /// Adds one block of all inputs into the result; none where the region is too short.
    fn reduce(&mut self, block: &Range<usize>) -> Option<()> {
        let inputs = self.vectors.clone();
        let input = |rank| inputs.values(vector(self.elements, rank, block));
        let (first, second) = (input(0)?, input(1)?);
        let others = (2..self.ranks).map(input).collect::<Option<Vec<_>>>()?;
        let sums = self.vectors.values_mut(vector(self.elements, self.ranks, block))?;
        sums.iter_mut().zip(first.iter().zip(second)).for_each(|(sum, (first, second))| *sum = first + second);
        for input in others {
            sums.iter_mut().zip(input).for_each(|(sum, value)| *sum += value);
        }
        Some(())
    }
}

/// Where some elements of a rank's input are, in bytes; the result follows the last rank's input.
fn vector(elements: usize, rank: usize, part: &Range<usize>) -> Range<usize> {
    let byte = |element: usize| (rank * elements + element) * ELEMENT as usize;
    byte(part.start)..byte(part.end)
}

/// The elements that a rank reduces: an even share, in whole cache lines.
fn share(elements: usize, rank: usize, ranks: usize) -> Range<usize> {
    let lines = elements.div_ceil(LINE);
    let at = |rank: usize| (lines * rank / ranks * LINE).min(elements);
    at(rank)..at(rank + 1)
}

impl Operations for ReferenceRank {
    fn prepare(&mut self) -> Result<()> {
        self.copy[0] = f32::NAN;
        Ok(())
    }

    fn operate(&mut self) -> Result<()> {
        for start in self.mine.clone().step_by(BLOCK) {
            self.reduce(&(start..(start + BLOCK).min(self.mine.end))).context(TOO_SHORT)?;
        }
        self.barrier.wait()?;
        let result = vector(self.elements, self.ranks, &(0..self.elements));
        self.copy.copy_from_slice(self.vectors.values(result).context(TOO_SHORT)?);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        pattern::check(&self.copy, |value| pattern::sum(value, self.ranks), 0.0)
    }

    fn control_messages(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_elements_once_in_whole_cache_lines() {
        for (elements, ranks) in [(1, 2), (1024, 3), (1000, 4), (7, 64)] {
            let shares: Vec<_> = (0..ranks).map(|rank| share(elements, rank, ranks)).collect();
            assert_eq!((shares[0].start, shares[ranks - 1].end), (0, elements));
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(shares.iter().all(|share| share.start % LINE == 0 || share.is_empty()));
        }
    }

    #[test]
    fn every_rank_holds_the_sum() {
        let (ranks, elements) = (3, 20_000);
        let bytes = elements * ELEMENT;
        let vectors = Region::create("vectors", region_length(bytes, ranks)).unwrap();
        let meeting = Region::create("barrier", BARRIER_BYTES).unwrap();
        let config = Config { vectors: Opened::of(&vectors), barrier: Meeting::new(&meeting, ranks), bytes };
        let mut members: Vec<_> = (0..ranks).map(|rank| ReferenceRank::new(&config, rank, ranks).unwrap()).collect();
        std::thread::scope(|scope| members.iter_mut().for_each(|member| drop(scope.spawn(|| member.operate().unwrap()))));
        for member in &members {
            member.check().unwrap();
        }
    }
}
