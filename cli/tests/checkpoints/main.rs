//! `atoll checkpoint`, the real command, over checkpoints in folders and in an S3 server of this process.
#![allow(clippy::unwrap_used, missing_docs)]

mod comparing;
mod exporting;
mod laboratory;
mod listing;
mod pruning;
mod refusals;
mod verifying;
