//! Sidecars of `atoll sidecars`, real processes that are killed and stopped, with trainers in this process that check every value.
#![allow(clippy::unwrap_used, missing_docs)]

mod contributors;
mod laboratory;
mod peers;
mod relay;
