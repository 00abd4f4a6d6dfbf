//! Optimisers on flat slices: what one step of training does to parameters, given their gradients.
//!
//! Everything is element-wise f32 with only add, multiply, divide and square root, so that the same gradients give the same
//! bits on every machine; factors that depend on the step are computed once, in f64 with `libm`.

mod adamw;
mod clipping;
mod schedule;
mod sgd;

pub use adamw::{AdamW, AdamWStep};
pub use clipping::{clip_to_norm, global_norm};
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdStep};

/// Elements that one thread takes at a time.
const PIECE: usize = 16 * 1024;
