//! Models, data and optimisers of the trainer, and its training loop.

pub mod bench;
pub mod data;
pub mod evaluate;
pub mod export;
pub mod model;
pub mod numerics;
pub mod ops;
pub mod optimizer;
pub mod pod;
pub mod process;
pub mod seed;
