//! Atoll's operator: controllers over the API types, and the hub that the workers' sidecars ask.
//!
//! A controller observes, plans (pure), applies and reports. The hub is the run's `Single` arbiter and its authority: it signs
//! identities of pods, and grants terms and epochs by compare-and-swap on one object. [`directory`] is where both meet.

mod admin;
mod apply;
pub mod build;
pub mod conditions;
mod controller;
pub mod directory;
pub mod hub;
mod index;
mod lease;
mod metrics;
pub mod names;
pub mod plan;
pub mod ports;
pub mod process;
pub mod rbac;
mod run_settings;
pub mod settings;
pub mod watched;
