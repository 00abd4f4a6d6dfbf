//! Atoll's operator: controllers over the API types, and the hub that the workers' sidecars ask.
//!
//! A controller observes, plans (pure), applies and reports. The hub is the run's `Single` arbiter and its authority: it signs
//! identities of pods, and grants terms and epochs by compare-and-swap on one object. [`directory`] is where both meet.

pub mod directory;
