//! What a store of checkpoints promises, over a folder of this machine, an S3 server in this process, and any other whose environment
//! `ATOLL_TEST_STORE` names as an address to write under.
#![allow(clippy::unwrap_used)]

mod damage;
mod ground;
mod publishing;
mod refusals;
mod removing;
mod writing;
