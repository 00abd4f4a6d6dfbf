//! `atoll relay`: the process through which peers of a run are reached that cannot be dialled. Started by a supervisor.
//!
//! What it does is one line of its log, written when it has changed and once more at the end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use atoll_collective::admission::{self, Patience, TurnedAway};
use atoll_collective::identity::HostIdentity;
use atoll_collective::relay::{Figures, Limits, Tokens, serve};
use atoll_collective::transport::outer_acceptor;
use atoll_sdk::events::Event;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::StreamExt;

use crate::Ending;
use crate::process::start;

/// Name of the event that says where it listens.
pub(crate) const LISTENING: &str = "RelayListening";
/// Pause between two looks at the figures.
const LOOK: Duration = Duration::from_secs(10);

/// What a relay is started with.
#[derive(Serialize, Deserialize)]
pub(crate) struct Config {
    /// Where it listens; port 0 takes a free one.
    pub(crate) listen: SocketAddr,
    /// What it shows to those who dial it.
    pub(crate) identity: HostIdentity,
    /// With which it checks passes.
    pub(crate) key: [u8; 32],
}

pub(crate) fn relay() -> Ending {
    let config = match start::<Config>(Signal::TERM) {
        Ok(config) => config,
        Err(ending) => return ending,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.context("no runtime").and_then(|runtime| runtime.block_on(run(&config))) {
        Ok(()) => Ending::Done,
        Err(error) => Ending::failed(&error),
    }
}

async fn run(config: &Config) -> Result<()> {
    let mut stop = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let failed = || format!("cannot listen at {}", config.listen);
    let listener = TcpListener::bind(config.listen).await.with_context(failed)?;
    let address = listener.local_addr()?.to_string();
    let acceptor = outer_acceptor(&config.identity)?;
    let greet = move |stream| {
        let acceptor = acceptor.clone();
        async move { acceptor.accept(stream).await }
    };
    // Strangers are bounded twice: before they speak TLS, and before they have sent their header.
    let secured = admission::admit(admission::accepted(listener), greet, Patience::default(), TurnedAway::default());
    let figures = Figures::default();
    let serving = serve(Box::pin(secured.map(Ok)), Tokens::new(config.key), Limits::default(), figures.clone());
    Event::now("", LISTENING).with("address", address).emit();
    tokio::select! {
        () = serving => {}
        () = log(&figures) => {}
        _ = stop.recv() => {}
    }
    tracing::info!("relay: {}", figures.now());
    Ok(())
}

/// Logs the figures as they change.
async fn log(figures: &Figures) {
    let mut before = figures.now();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = figures.now();
        if now != before {
            tracing::info!("relay: {now}");
            before = now;
        }
    }
}
