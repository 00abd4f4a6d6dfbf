//! The sidecar of a pod, for tests with both processes: what `atoll-sidecar` is.

use std::process::ExitCode;

fn main() -> ExitCode {
    atoll_sidecar::pod::process()
}
