//! Shared-state synchronisation: all peers begin a round from the same bytes, and a repair moves only what differs.
//!
//! A state's identity is the root of its [`manifest`]. The coordinator [`election`] says whose state counts; a peer that
//! holds another compares the two tables and fetches its dirty chunks from all donors at once ([`repair`] decides,
//! [`synchronise`](mod@synchronise) acts). Donors answer from their [`offer`]. A chunk counts when its hash does.

pub mod election;
pub mod manifest;
pub mod offer;
pub mod repair;
pub mod synchronise;
pub mod wire;

mod receive;
mod source;

/// Bytes that are hashed, and copied, where they are needed: another thread would take as long to begin.
pub const HASHED_AT_ONCE: usize = 1 << 16;
