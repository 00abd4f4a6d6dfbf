//! `atoll status` and its kin, the real command, against an API server that says what a test has it say.
#![allow(clippy::unwrap_used, missing_docs)]

mod api_server;
mod changing;
mod looking;
mod plugin;
mod refusals;
