//! The one source of everything pseudo-random in a run: the same (run, purpose, step) gives the same bits on every worker and in
//! every version of this program.
//!
//! No worker draws from a generator whose place depends on what happened before; each draw names what it is for and when.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// Separates these hashes from every other use of BLAKE3. Changing it changes every run.
const CONTEXT: &str = "atoll 2026 seed of (run, purpose, step)";

/// What a seed is for. Two purposes never share a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Parameters of a model that starts from scratch; the step is 0.
    InitialWeights,
    /// Order of the training samples; the step is the pass over them.
    SampleOrder,
}

impl Purpose {
    /// The text that enters the hash. It must never change.
    fn name(self) -> &'static str {
        match self {
            Self::InitialWeights => "initial weights",
            Self::SampleOrder => "sample order",
        }
    }
}

/// The 32-byte seed of one purpose at one step of the run called `run_id`.
///
/// It is BLAKE3, in key derivation mode, of the run id and the purpose, each behind its length in bytes, and the step; lengths
/// and step are little-endian u64.
#[must_use]
pub fn seed(run_id: &str, purpose: Purpose, step: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    for text in [run_id, purpose.name()] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.update(&step.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// `ChaCha20` keyed with [`seed`], at the start of its stream.
#[must_use]
pub fn generator(run_id: &str, purpose: Purpose, step: u64) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(seed(run_id, purpose, step))
}

#[cfg(test)]
mod tests {
    use rand_core::Rng;

    use super::*;

    #[test]
    fn seeds_never_change_between_versions() {
        let hex = |seed: [u8; 32]| blake3::Hash::from_bytes(seed).to_hex().to_string();
        assert_eq!(
            hex(seed("kjv", Purpose::InitialWeights, 0)),
            "dddbe339eb972c20f16bde09e8c1a4047209784409aaa57d087a544bdf06dcfb"
        );
        assert_eq!(hex(seed("kjv", Purpose::SampleOrder, 7)), "aa05e301ae21f3255a7cebc11ec2a7afd36037ea6b52da42d6d72cfc8fdfd4c6");
    }

    #[test]
    fn the_generator_never_changes_between_versions() {
        let mut generator = generator("kjv", Purpose::InitialWeights, 0);
        assert_eq!([generator.next_u64(), generator.next_u64()], [15_926_714_256_381_632_820, 11_114_862_948_793_744_074]);
    }

    #[test]
    fn run_purpose_and_step_each_change_the_seed() {
        let first = seed("kjv", Purpose::SampleOrder, 0);
        assert_ne!(first, seed("kjw", Purpose::SampleOrder, 0));
        assert_ne!(first, seed("kjv", Purpose::InitialWeights, 0));
        assert_ne!(first, seed("kjv", Purpose::SampleOrder, 1));
    }

    #[test]
    fn a_run_cannot_be_named_so_that_it_looks_like_another_purpose() {
        assert_ne!(seed("", Purpose::SampleOrder, 0), seed("sample order", Purpose::InitialWeights, 0));
        assert_ne!(seed("a\0", Purpose::SampleOrder, 0), seed("a", Purpose::SampleOrder, 0));
    }
}
