//! The run's hub, as a gRPC service of the supervisor: the pure state machine behind a lock.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use atoll_collective::arbiter::{Answers, HUB, Hub, Service, Single};
use atoll_collective::identity::Identity;
use atoll_collective::lane::Meter;
use atoll_collective::secret::Secret;
use atoll_collective::transport::{Security, Transport};
use atoll_proto::v1::arbiter_server::ArbiterServer;
use atoll_proto::v1::{ArbiterKind, BeatReply, BeatRequest, EpochRecord, EpochRequest, Member, Ruling, TermRequest};
use atoll_sidecar::ARBITER;
use clap::ValueEnum;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::Status;

use super::authority::ISLAND;

/// Who is to grant terms and changes of membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wanted {
    /// This process
    Single,
    /// A majority of the workers, and this process where their number is even
    Peers,
}

impl Wanted {
    fn kind(self) -> ArbiterKind {
        match self {
            Self::Single => ArbiterKind::Single,
            Self::Peers => ArbiterKind::Peers,
        }
    }
}

/// Shared by the service and the supervisor.
#[derive(Clone)]
pub(crate) struct ArbiterService {
    hub: Arc<Mutex<Hub>>,
    started: Instant,
}

/// A hub that is reachable; its end is the service's.
pub(crate) struct Serving {
    address: String,
    task: JoinHandle<()>,
}

impl Serving {
    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ArbiterService {
    /// The hub of a run, whose coordinators are lost after so much silence. It ends with the run, so what it grants needs no
    /// other place than its memory.
    pub(crate) fn new(liveness_milliseconds: u64, wanted: Wanted) -> Self {
        let me = Member { slot: HUB, worker: ARBITER.to_owned(), incarnation: 1, island: ISLAND.to_owned(), ..Member::default() };
        let mut hub = Hub::new(me, Single::new(liveness_milliseconds), liveness_milliseconds);
        hub.want(wanted.kind());
        Self { hub: Arc::new(Mutex::new(hub)), started: Instant::now() }
    }

    /// Serves those of `run` who show `token`, over TLS where it has an identity.
    pub(crate) async fn serve(&self, run: &str, listen: SocketAddr, token: &str, identity: Option<&Identity>) -> Result<Serving> {
        let listener = TcpListener::bind(listen).await.context("cannot listen for the run's arbiter")?;
        let address = listener.local_addr()?.to_string();
        let service = Service::new(run.to_owned(), self.clone());
        let service = ArbiterServer::with_interceptor(service, Secret::new(token).guard());
        let security = identity.map(Security::new).transpose()?;
        let transport = Transport::new(security, Arc::new(Meter::default()));
        let serving = tonic::transport::Server::builder().add_service(service).serve_with_incoming(transport.incoming(listener));
        let task = tokio::spawn(async { drop(serving.await) });
        Ok(Serving { address, task })
    }

    /// A sidecar's process has ended.
    pub(crate) fn ended(&self, slot: u32, incarnation: u64) {
        self.lock().ended(slot, incarnation);
    }

    /// The newest record that it knows.
    pub(crate) fn record(&self) -> EpochRecord {
        self.lock().record().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

#[tonic::async_trait]
impl Answers for ArbiterService {
    async fn beat(&self, request: BeatRequest) -> Result<BeatReply, Status> {
        Ok(self.lock().beat(&request, self.now()))
    }

    async fn request_term(&self, request: TermRequest) -> Result<Ruling, Status> {
        Ok(self.lock().request_term(&request, self.now()))
    }

    async fn grant_epoch(&self, request: EpochRequest) -> Result<Ruling, Status> {
        Ok(self.lock().grant_epoch(&request, self.now()))
    }
}
