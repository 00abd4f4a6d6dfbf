//! Operations of three workers through real sidecars, by value: of several ranks each, and of payloads of pairs.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../hostile/hub.rs"]
mod hub;
mod payloads;
mod ranks;
mod run;
