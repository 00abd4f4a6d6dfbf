//! Speed of the product, beside what is measured alternately in the same minutes.

pub(crate) mod checkpoint;
pub(crate) mod collective;
pub(crate) mod state;
pub(crate) mod trainer;
