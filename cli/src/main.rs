//! The atoll command: run, validate and benchmark decentralized training.

fn main() {}
