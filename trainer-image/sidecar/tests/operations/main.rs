//! Operations of workers through real sidecars, by value: of several ranks each, of payloads of pairs, and with error feedback.
#![allow(clippy::unwrap_used, missing_docs)]

mod feedback;
#[path = "../hostile/hub.rs"]
mod hub;
mod payloads;
mod ranks;
mod run;
