//! The targets, by what they decode.

mod arbiter;
mod checked;
mod codecs;
mod control;
mod exchange;
mod lane;
mod names;
mod passing;
mod planted;
mod relay;
mod state;
mod text;
mod trainer;

use crate::Target;
pub(crate) use passing::sealed_file;

/// All targets.
pub const TARGETS: [Target; 17] = [
    lane::FRAMES,
    lane::SUMMED,
    lane::MESSAGES,
    exchange::EXCHANGE,
    codecs::BLOCKS,
    codecs::PAIRS,
    state::MANIFEST,
    checked::CHECKED,
    control::COORDINATOR,
    control::PEER,
    arbiter::ARBITER,
    trainer::CALLS,
    passing::REGIONS,
    relay::HEADER,
    names::CERTIFICATE,
    text::KEYS,
    text::JSON,
];

/// A target with a bug that only a fuzzer guided by coverage finds in seconds: a fuzzer that misses it is not one.
pub const PLANTED: Target = planted::PLANTED;
