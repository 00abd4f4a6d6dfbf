//! Our side of a case: one sidecar and one rank per peer, and this process as their arbiter.

use std::time::Duration;

use anyhow::Result;
use atoll_collective::coordinator::Settings;
use atoll_collective::lane::Bounds;
use atoll_sdk::Region;
use atoll_sidecar::ARBITER;

use super::barrier::{BARRIER_BYTES, Meeting};
use super::case::{Case, Path};
use super::kernel::pss_bytes;
use super::links::Links;
use super::measure::{Measured, measure};
use super::processes::Processes;
use super::rank::{AtollConfig, Config, Work};
use crate::supervision::arbiter::{ArbiterService, Serving, Wanted};
use crate::supervision::authority::{Authority, ISLAND};
use crate::supervision::child::own;
use crate::supervision::token;

/// Name of the run.
pub(crate) const RUN: &str = "bench";
/// Silence after which a peer is lost. Nobody is to be lost here: a crowded machine must not end a benchmark.
const LIVENESS: Duration = Duration::from_secs(20);
/// How long an operation, and a lane within it, may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// Starts the sidecars of `case` and waits until they listen; this process is their arbiter as long as the result lives.
pub(crate) async fn start_sidecars(processes: &mut Processes, case: &Case, links: &Links) -> Result<Serving> {
    let token = token()?;
    let liveness = LIVENESS.as_millis() as u64;
    let authority = case.tls.then(|| Authority::new(RUN)).transpose()?;
    let identity = |name: &str| authority.as_ref().map(|authority| authority.identity(name)).transpose();
    let arbiter = ArbiterService::new(liveness, Wanted::Single);
    let serving = arbiter.serve(RUN, links.supervisor(), &token, identity(ARBITER)?.as_ref()).await?;
    let sidecars = if case.path == Path::Shm { 1 } else { case.peers };
    let settings = Settings {
        quorum: sidecars,
        join_window: PATIENCE.as_millis() as u64,
        liveness,
        round_timeout: PATIENCE.as_millis() as u64,
        ..Settings::of(RUN, sidecars)
    };
    let mut bounds = Bounds { channels: case.lane.channels, ..Bounds::default() };
    if let Some(window) = case.lane.window {
        bounds.stream_window = window.0 as u32;
        bounds.connection_window = window.0 as u32;
    }
    for slot in 0..sidecars {
        let config = atoll_sidecar::Config {
            worker: format!("w{slot}"),
            slot: slot as u32,
            incarnation: 1,
            listen: links.listen(slot),
            announce: links.announce(slot),
            arbiter: serving.address().to_owned(),
            socket: processes.socket(slot),
            temporary_folder: processes.folder(),
            settings: settings.clone(),
            progress: PATIENCE,
            bounds,
            token: token.clone(),
            island: ISLAND.to_owned(),
            contributor: false,
            identity: identity(&format!("w{slot}"))?,
            metrics: None,
            record: None,
            keeping: None,
            source: None,
            relay: None,
        };
        processes.start_sidecar(&links.place(slot, own("sidecar")?), config).await?;
    }
    processes.listening().await?;
    Ok(serving)
}

/// Starts the peers of `case`, measures, and leaves `processes` to be stopped.
pub(crate) async fn run(processes: &mut Processes, case: &Case, links: &Links, iterations: usize) -> Result<Measured> {
    let _serving = start_sidecars(processes, case, links).await?;
    let shared = case.path == Path::Shm;
    let at_start = processes.sidecars().map(pss_bytes).collect::<Result<Vec<_>>>()?;
    let barrier = Region::create("barrier", BARRIER_BYTES)?;
    for rank in 0..case.peers {
        let socket = processes.socket(if shared { 0 } else { rank });
        let Case { bytes, codec, tensors, concurrent, .. } = *case;
        let work = AtollConfig { run: RUN.to_owned(), socket, bytes, shared, codec, tensors, concurrent };
        let config = Config { rank, ranks: case.peers, barrier: Meeting::new(&barrier, case.peers), work: Work::Atoll(work) };
        processes.start_rank(&own("rank")?, config).await?;
    }
    measure(processes, case.peers, iterations, &at_start).await
}
