//! The project's own tasks: test tiers, drift checks, acceptance tables, fault suites.

fn main() {}
