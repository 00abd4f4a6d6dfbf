//! Short runs of the real command with real processes.
#![allow(clippy::unwrap_used, missing_docs)]

mod bad_input;
mod chaos;
mod checkpoints;
mod divergence;
mod endings;
mod laboratory;
mod recordings;
mod training;
