//! Checkpoints of a run: what they are made of, and the rules by which they are written and removed.
//!
//! A checkpoint is one [`Manifest`] and the shards that it names. Shards are written first, the manifest last and only where none of
//! that name exists, so a checkpoint exists completely or not at all. The format is described in `docs/src/checkpoint-format.md`.

pub mod access;
pub mod address;
pub mod beginning;
pub mod collect;
pub mod error;
pub mod folder;
pub mod intent;
mod library;
pub mod location;
pub mod manifest;
pub mod place;
pub mod publish;
pub mod retention;
pub mod shard;
pub mod share;
mod staged;
pub mod store;
pub mod sweep;
mod threads;
pub mod write;

pub use access::Access;
pub use address::Address;
pub use beginning::Resume;
pub use error::StoreError;
pub use folder::Folder;
pub use location::Location;
pub use manifest::Manifest;
pub use place::Place;
pub use store::Store;
