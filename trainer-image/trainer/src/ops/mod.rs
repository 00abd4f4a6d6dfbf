//! The operations of a decoder that have a backward pass of their own.
//!
//! Several operations of candle run forward and then pass no gradient on (softmax, RMS norm, rotary embedding), and what
//! keeps gradients there allocates at every step. Each operation here has one interface and two [`Form`]s: a fused one for
//! the CPU, and one composed of candle operations that keep gradients, for every other device. Every sum has a fixed
//! order, so that with one number of threads the same input gives the same bits.

mod attention;
mod cross_entropy;
mod lanes;
mod linear;
mod matrix;
mod parallel;
mod rms_norm;
mod rotary;
mod slices;
mod swiglu;

#[cfg(test)]
mod agreement;

pub use attention::{Attention, causal_attention};
pub use cross_entropy::cross_entropy;
pub use linear::linear;
pub(crate) use parallel::for_each;
pub use rms_norm::rms_norm;
pub use rotary::Rotary;
pub(crate) use slices::with_values;
pub use swiglu::swiglu;

use candle_core::Device;

/// How an operation is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One pass over slices in main memory, with a backward pass that recomputes what is cheap. CPU only.
    Fused,
    /// A chain of candle operations. Any device; equal to the fused form within 1e-5 on the CPU.
    Composed,
}

impl Form {
    /// The fused form on the CPU, the composed one elsewhere.
    #[must_use]
    pub fn for_device(device: &Device) -> Self {
        if device.is_cpu() { Self::Fused } else { Self::Composed }
    }
}
