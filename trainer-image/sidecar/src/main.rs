//! The sidecar of a worker's pod, as a container's one process.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sidecar of a worker's pod: what it needs is in its environment (`ATOLL_HUB`, `ATOLL_POD_IP`, ...)
#[derive(Debug, Parser)]
#[command(name = "atoll-sidecar", version)]
struct Arguments {}

fn main() -> ExitCode {
    let Arguments {} = Arguments::parse();
    atoll_sidecar::pod::process()
}
