//! Gloo on the same case: a small program of ours on Debian's PyTorch, one process per rank, over TCP.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::Serialize;

use super::case::Case;
use super::links::{Links, Network};
use super::measure::{Measured, measure};
use super::processes::Processes;
use crate::supervision::loopback;

/// The interpreter that Debian's `python3-torch` is for; another may be first on the path.
const PYTHON: &str = "/usr/bin/python3";
/// Says by its exit code whether Gloo is there, which takes seconds; ends with this process.
const PROBE: &str = "import ctypes; ctypes.CDLL(None).prctl(1, 9); import torch.distributed as d; \
    raise SystemExit(not d.is_gloo_available())";
const PROGRAM: &str = include_str!("gloo.py");
/// Where the ranks find each other in a network of their own, in which every port is free.
const PORT: u16 = 29_511;

/// What a rank is started with.
#[derive(Debug, Serialize)]
struct Config {
    rank: usize,
    ranks: usize,
    bytes: u64,
    tensors: usize,
    concurrent: usize,
    /// There are more ranks than processors, and each rank's threads keep to one: 4 KiB over 4 ranks on 2 processors take
    /// 1.2 ms so and 4.8 ms otherwise. Where there are enough it is the other way round, 0.17 and 0.11 ms over 2 ranks.
    crowded: bool,
    interface: &'static str,
    store: SocketAddr,
}

/// What to install where Gloo cannot be run; none where it can.
pub(crate) fn missing() -> Option<String> {
    let mut command = Command::new(PYTHON);
    command.args(["-c", PROBE]);
    let found = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    (!found).then(|| format!("--peer gloo: {PYTHON} has no PyTorch with Gloo; install it: apt-get install python3-torch"))
}

/// Starts the ranks of `case`, measures, and leaves `processes` to be stopped.
pub(crate) async fn run(processes: &mut Processes, case: &Case, links: &Links, iterations: usize) -> Result<Measured> {
    let store = match links {
        Links::Namespaces(_) => SocketAddr::new(Network::peer(0).ip(), PORT),
        Links::Plain | Links::Proxies(_) => {
            TcpListener::bind(loopback(0)).and_then(|free| free.local_addr()).context("no port for Gloo's ranks")?
        }
    };
    for rank in 0..case.peers {
        let Case { peers: ranks, bytes, tensors, concurrent, .. } = *case;
        let crowded = ranks > std::thread::available_parallelism().map_or(1, usize::from);
        let config = Config { rank, ranks, bytes, tensors, concurrent, crowded, interface: links.interface(), store };
        let program = [PYTHON, "-c", PROGRAM].map(OsString::from).to_vec();
        processes.start_rank(&links.place(rank, program), config).await?;
    }
    measure(processes, case.peers, iterations, &[]).await
}
