//! Training methods as pure functions on flat f32 slices.
//!
//! A [`Method`] says when workers synchronise, what each hands to the reduction, what is done with the mean that comes back, and
//! which state must then be equal on all of them. The reduction itself, and the inner optimiser, belong to others.
//!
//! All arithmetic is element-wise f32 with add, subtract and multiply alone, never fused: equal inputs give equal bits on every
//! machine, so replicas that start equal stay equal.

mod error;
mod method;
mod outer;
mod traffic;

pub use error::MethodError;
pub use method::{Contribution, Method, StateClass, StateVector};
pub use outer::{OuterStep, pseudo_gradient};
pub use traffic::{payload_bytes, wire_bytes_per_worker};
