//! The order in which training samples are used: one seeded permutation of all of them per pass, readable at any place.
//!
//! A shuffled list of a trillion samples fits nowhere, so the permutation is computed: a balanced Feistel network permutes the
//! numbers below an even power of two, and a number that falls outside the samples goes through again until it falls inside
//! (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Whoever knows run, pass and position
//! knows the sample; nothing is stored.

use std::num::NonZeroU64;

use rand_core::Rng;

use crate::seed::{Purpose, generator};

/// Rounds of the network. Four make a good permutation of a large domain; small ones need some more.
const ROUNDS: usize = 8;

/// The endless order of a run's training samples: pass after pass, each a permutation of its own.
#[derive(Debug, Clone)]
pub struct SampleOrder {
    run_id: String,
    samples: NonZeroU64,
}

impl SampleOrder {
    /// The order in which the run called `run_id` uses `samples` training samples.
    #[must_use]
    pub fn new(run_id: impl Into<String>, samples: NonZeroU64) -> Self {
        Self { run_id: run_id.into(), samples }
    }

    /// The sample at place `index` of the order, counted from the start of the run over all passes.
    #[must_use]
    pub fn sample(&self, index: u64) -> u64 {
        self.pass(index / self.samples).sample(index % self.samples)
    }

    /// The permutation of pass `pass`, counted from 0.
    #[must_use]
    pub fn pass(&self, pass: u64) -> Permutation {
        Permutation::new(self.samples, &mut generator(&self.run_id, Purpose::SampleOrder, pass))
    }
}

/// A permutation of the numbers below `samples`, in constant memory.
#[derive(Debug, Clone)]
pub struct Permutation {
    samples: NonZeroU64,
    /// Bits of either half of the network; together they hold every sample number.
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    fn new(samples: NonZeroU64, generator: &mut impl Rng) -> Self {
        let bits = u64::BITS - (samples.get() - 1).leading_zeros();
        Self { samples, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| generator.next_u64()) }
    }

    /// The sample at `position`.
    ///
    /// # Panics
    /// If `position` is not below the number of samples, which the walk would not end for.
    #[must_use]
    pub fn sample(&self, position: u64) -> u64 {
        assert!(position < self.samples.get(), "position {position} of a permutation of {} samples", self.samples);
        let mut number = position;
        loop {
            number = self.network(number);
            if number < self.samples.get() {
                return number;
            }
        }
    }

    fn network(&self, number: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// The finaliser of `SplitMix64` (Steele, Lea and Flood, 2014, variant 13): every bit of the input moves every bit of the output.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(run_id: &str, samples: u64) -> SampleOrder {
        SampleOrder::new(run_id, NonZeroU64::new(samples).unwrap())
    }

    #[test]
    fn the_order_never_changes_between_versions() {
        let order = order("kjv", 1000);
        assert_eq!([0, 1, 2, 999, 1000, 1001].map(|index| order.sample(index)), [582, 784, 378, 44, 231, 707]);
        let large = super::tests::order("kjv", 1 << 50);
        assert_eq!([0, 1].map(|index| large.sample(index)), [4_426_148_767_442, 271_952_958_645_925]);
    }

    #[test]
    fn the_largest_number_of_samples_works() {
        let order = order("kjv", u64::MAX);
        assert!(order.sample(u64::MAX - 1) < u64::MAX);
        assert_ne!(order.sample(0), order.sample(1));
    }

    #[test]
    fn passes_and_runs_have_orders_of_their_own() {
        let take = |order: &SampleOrder, pass: u64| (0..100).map(|i| order.sample(pass * 100 + i)).collect::<Vec<_>>();
        let first = order("a", 100);
        assert_ne!(take(&first, 0), take(&first, 1));
        assert_ne!(take(&first, 0), take(&order("b", 100), 0));
        assert_eq!(take(&first, 3), take(&order("a", 100), 3));
    }

    #[test]
    fn the_order_looks_shuffled() {
        let (samples, passes) = (1000u64, 100u64);
        let order = order("kjv", samples);
        let (mut in_place, mut ascending, mut distance) = (0u64, 0u64, 0u64);
        for pass in 0..passes {
            let permutation = order.pass(pass);
            for position in 0..samples {
                let sample = permutation.sample(position);
                in_place += u64::from(sample == position);
                distance += sample.abs_diff(position);
                ascending += u64::from(position + 1 < samples && permutation.sample(position + 1) > sample);
            }
        }
        // A uniform shuffle has one fixed point, a mean distance of a third, and rises at half of the places.
        assert!((60..140).contains(&in_place), "{in_place} fixed points in {passes} passes");
        assert!((330..337).contains(&(distance / (samples * passes))), "mean distance {}", distance / (samples * passes));
        assert!((49_000..51_000).contains(&ascending), "{ascending} ascents");
    }

    proptest! {
        #[test]
        fn each_pass_uses_each_sample_once(samples in 1u64..3000, pass in 0u64..1 << 40) {
            let permutation = order("kjv", samples).pass(pass);
            let mut used = vec![false; samples as usize];
            for position in 0..samples {
                let sample = permutation.sample(position) as usize;
                prop_assert!(!used[sample]);
                used[sample] = true;
            }
        }
    }
}
