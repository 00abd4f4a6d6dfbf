//! The hub and the sidecars, as hosts of the simulated network.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use atoll_collective::Millis;
use atoll_collective::arbiter::{Answers, Service};
use atoll_collective::coordinator::{Cadence, IN_FLIGHT, Settings};
use atoll_collective::lane::Bounds;
use atoll_collective::secret::Secret;
use atoll_collective::v1::arbiter_server::ArbiterServer;
use atoll_collective::v1::{BeatReply, BeatRequest, EpochRequest, Ruling, TermRequest};
use atoll_sdk::events::Event;
use atoll_sidecar::{ARBITER, Config, Regions, Surroundings, serve_in};
use tonic::Status;
use tonic::transport::Server;

use crate::ground::{Ground, ISLAND, LIVENESS, RUN, TOKEN, now};
use crate::network::accepted;

/// Where everybody listens for peers, and sidecars for their trainers.
const PORT: u16 = 7000;
pub(crate) const TRAINER_PORT: u16 = 7001;
/// When a worker comes that comes later.
pub(crate) const JOINS: Duration = Duration::from_millis(3_500);
/// How long a lane may be silent within an operation.
const PROGRESS: Duration = Duration::from_millis(1_500);

/// The hub, on its host.
pub(crate) async fn hub(ground: Arc<Ground>) -> turmoil::Result {
    let transport = ground.transport(ARBITER);
    let service = Service::new(RUN.to_owned(), Answering(ground));
    let service = ArbiterServer::with_interceptor(service, Secret::new(TOKEN).guard());
    let incoming = transport.incoming_of(accepted(PORT).await?);
    Server::builder().add_service(service).serve_with_incoming(incoming).await?;
    Ok(())
}

struct Answering(Arc<Ground>);

fn milliseconds() -> Millis {
    now().as_millis() as Millis
}

#[tonic::async_trait]
impl Answers for Answering {
    async fn beat(&self, request: BeatRequest) -> Result<BeatReply, Status> {
        Ok(self.0.hub().beat(&request, milliseconds()))
    }

    async fn request_term(&self, request: TermRequest) -> Result<Ruling, Status> {
        Ok(self.0.hub().request_term(&request, milliseconds()))
    }

    async fn grant_epoch(&self, request: EpochRequest) -> Result<Ruling, Status> {
        Ok(self.0.hub().grant_epoch(&request, milliseconds()))
    }
}

/// The sidecar of a slot, on its host, until it is told to stop.
pub(crate) async fn sidecar(ground: Arc<Ground>, slot: u32) -> turmoil::Result {
    let worker = ground.worker(slot);
    let incarnation = worker.sidecars.fetch_add(1, Relaxed) + 1;
    if incarnation == 1 && joins_later(&ground, slot) {
        tokio::time::sleep(JOINS).await;
    }
    let config = config(&ground, slot, incarnation);
    let regions = Regions::default();
    *worker.regions.lock().unwrap() = regions.clone();
    let transport = ground.transport(&config.worker);
    let watched = Arc::clone(&ground);
    let surroundings = Surroundings {
        incoming: transport.incoming_of(accepted(PORT).await?),
        transport,
        address: format!("w{slot}:{PORT}"),
        trainers: accepted(TRAINER_PORT).await?,
        regions,
        tell: Arc::new(move |event: &Event| tell(&watched, slot, event)),
        rules: ground.rules,
        stop: worker.stop.notified(),
    };
    Box::pin(serve_in(surroundings, config)).await?;
    // Its host ends everything that it has left open.
    worker.stopped.store(true, Relaxed);
    std::future::pending().await
}

/// Whether a worker is the one that comes later.
pub(crate) fn joins_later(ground: &Ground, slot: u32) -> bool {
    ground.schedule.joiner && slot + 1 == ground.schedule.workers
}

fn config(ground: &Ground, slot: u32, incarnation: u64) -> Config {
    let workers = ground.schedule.workers as usize - usize::from(ground.schedule.contributor.is_some());
    let settings = Settings {
        run: RUN.into(),
        minimum: workers - usize::from(ground.schedule.joiner),
        target: workers,
        quorum: 2,
        join_window: 0,
        liveness: LIVENESS,
        round_timeout: 4_000,
        drop_stragglers: ground.schedule.drop_stragglers,
        in_flight: IN_FLIGHT,
        checkpoints: Cadence::default(),
        resumed: None,
    };
    let worker = format!("w{slot}");
    Config {
        slot,
        incarnation,
        listen: ([0, 0, 0, 0], PORT).into(),
        announce: None,
        arbiter: format!("hub:{PORT}"),
        socket: "none".into(),
        temporary_folder: None,
        settings,
        progress: PROGRESS,
        bounds: Bounds::default(),
        token: TOKEN.into(),
        island: ISLAND.into(),
        contributor: ground.schedule.contributor == Some(slot),
        identity: ground.identity(&worker),
        metrics: None,
        record: None,
        keeping: None,
        source: None,
        relay: None,
        worker,
    }
}

/// Events have the machine's time; what else they say is part of what is replayed.
fn tell(ground: &Ground, slot: u32, event: &Event) {
    let more = serde_json::to_string(&event.more).unwrap_or_default();
    ground.note(&format!("w{slot} says {} of {:?} {:?} {more}", event.event, event.worker, event.round));
    if event.event == "Evicted" {
        ground.book().evictions += 1;
    }
}
