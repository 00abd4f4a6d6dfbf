//! What can be read off the bytes between two sidecars without TLS: enough to know the phase of an operation.

mod http2;
mod reader;

pub use reader::{Kind, Reader, Seen, Sight};
