//! The run's arbiter, as the supervisor of a run serves it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use atoll_collective::arbiter::{HUB, Hub, Single};
use atoll_collective::secret::Secret;
use atoll_proto::v1::arbiter_server::{Arbiter, ArbiterServer};
use atoll_proto::v1::{BeatReply, BeatRequest, EpochRecord, EpochRequest, Member, Ruling, TermRequest};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// The pure state machine behind a lock, and its service; its end is the service's.
pub(crate) struct Judge {
    state: Shared,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    hub: Arc<Mutex<Hub>>,
    started: Instant,
}

impl Judge {
    /// Serves those who show `token` at `listen`.
    pub(crate) fn serve(runtime: &Handle, listen: SocketAddr, token: &str, liveness: u64) -> Result<Self> {
        let listener = runtime.block_on(TcpListener::bind(listen)).context("cannot listen for the run's arbiter")?;
        let me = Member { slot: HUB, incarnation: 1, ..Member::default() };
        let hub = Hub::new(me, Single::new(liveness), liveness);
        let state = Shared { hub: Arc::new(Mutex::new(hub)), started: Instant::now() };
        let service = ArbiterServer::with_interceptor(state.clone(), Secret::new(token).guard());
        let serving =
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        let task = runtime.spawn(async { drop(serving.await) });
        Ok(Self { state, task })
    }

    /// A sidecar's process has ended.
    pub(crate) fn ended(&self, slot: u32, incarnation: u64) {
        self.state.lock().ended(slot, incarnation);
    }

    /// The newest record.
    pub(crate) fn record(&self) -> EpochRecord {
        self.state.lock().record().clone()
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

#[tonic::async_trait]
impl Arbiter for Shared {
    async fn beat(&self, request: Request<BeatRequest>) -> Result<Response<BeatReply>, Status> {
        Ok(Response::new(self.lock().beat(&request.into_inner(), self.now())))
    }

    async fn request_term(&self, request: Request<TermRequest>) -> Result<Response<Ruling>, Status> {
        Ok(Response::new(self.lock().request_term(&request.into_inner(), self.now())))
    }

    async fn grant_epoch(&self, request: Request<EpochRequest>) -> Result<Response<Ruling>, Status> {
        Ok(Response::new(self.lock().grant_epoch(&request.into_inner(), self.now())))
    }
}
