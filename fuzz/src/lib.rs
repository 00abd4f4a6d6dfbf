//! Fuzz targets: one for everything that decodes what another process sent.
//!
//! A target takes bytes and asserts what must hold whatever they are. It runs under a bound of memory; the fuzzer adds bounds
//! of time. `tests/corpus.rs` runs every target over its corpus without a fuzzer; `cargo xtask fuzz` looks for more.

pub mod frames;
mod input;
mod targets;

use std::alloc::System;

use cap::Cap;

/// Counts what is allocated, and ends the process where an input takes more than its bound.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Memory that one input may take: what a decoder holds at most, and room for values that are larger in memory than on the
/// wire.
pub const MOST_MEMORY: usize = 32 << 20;
/// Longest input, in bytes.
pub const LONGEST: usize = 1 << 16;

/// One decoder under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Decodes the bytes; panics where something does not hold that must.
    pub run: fn(&[u8]),
    /// Inputs to begin with: what this build itself encodes.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub use targets::{PLANTED, TARGETS};

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().chain([&PLANTED]).find(|target| target.name == name)
}

impl Target {
    /// Runs it over one input, with memory bounded.
    ///
    /// # Panics
    /// Where something does not hold that must.
    pub fn check(&self, bytes: &[u8]) {
        ALLOCATOR.set_limit(ALLOCATOR.allocated() + MOST_MEMORY).expect("a bound above what is allocated");
        (self.run)(bytes);
        ALLOCATOR.set_limit(usize::MAX).expect("no bound");
    }
}
