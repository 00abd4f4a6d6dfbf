//! What every supervisor of processes needs: to start and hear them, the arbiter they ask, signals, processors, and sockets.

pub(crate) mod arbiter;
pub(crate) mod authority;
pub(crate) mod child;
pub(crate) mod interrupts;
pub(crate) mod link;
pub(crate) mod network;
pub(crate) mod processors;
pub(crate) mod relay;
pub(crate) mod sockets;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use atoll_sdk::regions_socket;
use tempfile::TempDir;

/// Most bytes of a socket's path, with the byte that ends it.
const LONGEST_SOCKET: usize = 108;

/// A slot whose name is as long as any.
const LAST_SLOT: u32 = 999;

/// The loopback address with this port.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A secret of 256 random bits, as text.
pub(crate) fn token() -> Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("no random bytes for the run's secret")?;
    Ok(blake3::Hash::from_bytes(bytes).to_hex().to_string())
}

/// Name of a worker's socket.
pub(crate) fn socket_name(slot: u32) -> String {
    format!("w{slot}.sock")
}

/// Says so where no temporary file can be made.
pub(crate) fn check_temporary_files() -> Result<(), String> {
    let folder = std::env::temp_dir();
    let refused = |error| format!("TMPDIR {}: no file can be made there: {error}; set another", folder.display());
    tempfile::tempfile().map(drop).map_err(refused)
}

/// A new folder whose path leaves room for the names of sockets.
pub(crate) fn socket_folder() -> std::io::Result<TempDir> {
    let made = tempfile::Builder::new().prefix("atoll-").tempdir()?;
    let fits = regions_socket(&made.path().join(socket_name(LAST_SLOT))).as_os_str().len() < LONGEST_SOCKET;
    if fits { Ok(made) } else { tempfile::Builder::new().prefix("atoll-").tempdir_in("/tmp") }
}
