//! The run's arbiter, as a gRPC service of the supervisor: the pure state machine behind a lock.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use atoll_collective::arbiter::Single;
use atoll_collective::identity::{Identity, PeerName};
use atoll_collective::lane::Meter;
use atoll_collective::secret::Secret;
use atoll_collective::transport::{Security, Transport};
use atoll_proto::v1::arbiter_server::{Arbiter, ArbiterServer};
use atoll_proto::v1::{BeatReply, BeatRequest, EpochRecord, EpochRequest, Member, Ruling, TermRequest};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

/// Shared by the service and the supervisor.
#[derive(Clone)]
pub(crate) struct ArbiterService {
    state: Arc<Mutex<Single>>,
    started: Instant,
    run: String,
}

/// An arbiter that is reachable; its end is the service's.
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
    /// An arbiter for `run`.
    pub(crate) fn new(run: &str, liveness_milliseconds: u64) -> Self {
        let state = Arc::new(Mutex::new(Single::new(liveness_milliseconds)));
        Self { state, started: Instant::now(), run: run.to_owned() }
    }

    /// Serves those who show `token`, over TLS where it has an identity.
    pub(crate) async fn serve(&self, listen: SocketAddr, token: &str, identity: Option<&Identity>) -> Result<Serving> {
        let listener = TcpListener::bind(listen).await.context("cannot listen for the run's arbiter")?;
        let address = listener.local_addr()?.to_string();
        let service = ArbiterServer::with_interceptor(self.clone(), Secret::new(token).guard());
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

    /// The newest record.
    pub(crate) fn record(&self) -> EpochRecord {
        self.lock().record().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Single> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn check(&self, run: &str) -> Result<(), Status> {
        if run == self.run { Ok(()) } else { Err(Status::not_found(format!("this is run {}", self.run))) }
    }
}

/// A sidecar asks for itself alone.
fn speaks<T>(request: &Request<T>, member: Option<&Member>) -> Result<(), Status> {
    let name = request.extensions().get::<Option<PeerName>>().and_then(Option::as_ref);
    let its_own =
        |name: &PeerName| member.is_some_and(|member| (name.worker(), name.island()) == (&member.worker, &member.island));
    if name.is_none_or(its_own) { Ok(()) } else { Err(Status::permission_denied("the certificate is another worker's")) }
}

fn required<T>(value: Option<T>) -> Result<T, Status> {
    value.ok_or_else(|| Status::invalid_argument("a field is missing"))
}

#[tonic::async_trait]
impl Arbiter for ArbiterService {
    async fn beat(&self, request: Request<BeatRequest>) -> Result<Response<BeatReply>, Status> {
        self.check(&request.get_ref().run)?;
        speaks(&request, request.get_ref().member.as_ref())?;
        let member: Member = required(request.into_inner().member)?;
        let record = Some(self.lock().beat(&member, self.now()));
        Ok(Response::new(BeatReply { record, hub: None }))
    }

    async fn request_term(&self, request: Request<TermRequest>) -> Result<Response<Ruling>, Status> {
        self.check(&request.get_ref().run)?;
        speaks(&request, request.get_ref().candidate.as_ref())?;
        let TermRequest { candidate, observed_term, .. } = request.into_inner();
        Ok(Response::new(self.lock().request_term(&required(candidate)?, observed_term, self.now())))
    }

    async fn grant_epoch(&self, request: Request<EpochRequest>) -> Result<Response<Ruling>, Status> {
        self.check(&request.get_ref().run)?;
        speaks(&request, request.get_ref().proposed.as_ref().and_then(|proposed| proposed.coordinator.as_ref()))?;
        Ok(Response::new(self.lock().grant_epoch(&required(request.into_inner().proposed)?)))
    }
}
