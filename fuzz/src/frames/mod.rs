//! Frames of each release: what it sent, recorded byte by byte, and what those bytes mean.
//!
//! Later builds still have to understand them, so a change of the wire's format fails here until it is a new version of the
//! protocol beside the old one. `cargo xtask frames --record RELEASE` records those of a new release; what is recorded stays.

mod arbiter;
mod lanes;
mod recovery;
mod session;
mod trainer;

use prost::Message;

/// One thing that is sent.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Its name, and that of its file.
    pub name: &'static str,
    /// The bytes that this build sends for it.
    pub bytes: fn() -> Vec<u8>,
    /// Panics where the bytes do not mean it.
    pub check: fn(&[u8]),
}

/// All frames that release 0.1.0 has.
pub fn all() -> impl Iterator<Item = Frame> {
    [&session::FRAMES[..], &arbiter::FRAMES, &trainer::FRAMES, &lanes::FRAMES, &recovery::FRAMES].into_iter().flatten().copied()
}

/// The bytes are an encoding of `value`.
fn means<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8], value: M) {
    assert_eq!(M::decode(bytes), Ok(value));
}

/// A frame that is a message.
macro_rules! message {
    ($name:literal, $value:expr) => {
        Frame {
            name: $name,
            bytes: || prost::Message::encode_to_vec(&$value),
            check: |bytes| $crate::frames::means(bytes, $value),
        }
    };
}
use message;
