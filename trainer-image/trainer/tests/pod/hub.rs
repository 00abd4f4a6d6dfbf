//! An operator's hub for one run: it enrols pods by their tokens, decides what the run begins from, hears reports, and is the arbiter.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use atoll_collective::arbiter::{Answers, HUB, Hub as Arbiter, Service, Single};
use atoll_collective::identity::{HostIdentity, IslandAuthority, PeerName, RunAuthority, Validity};
use atoll_collective::transport::{Security, as_hub};
use atoll_proto::v1::arbiter_server::ArbiterServer;
use atoll_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};
use atoll_proto::v1::supervision_server::{Supervision, SupervisionServer};
use atoll_proto::v1::{
    BeatReply, BeatRequest, BeginReply, BeginRequest, Beginning, EnrolReply, EnrolRequest, EpochRequest, KeptCheckpoint, Member,
    Progress, ReportReply, ReportRequest, Ruling, RunSettings, TermRequest,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::LazyConfigAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

const ISLAND: &str = "here";
/// So long are identities good: short enough that each is renewed in a test.
const VALID: u64 = 4;
const NAME: &str = "hub.atoll.internal";

/// What the hub knows of the run.
#[derive(Default)]
pub(crate) struct Known {
    /// Starts of each worker's sidecar.
    pub(crate) starts: BTreeMap<String, u64>,
    /// Identities that were made for processes that had one.
    pub(crate) renewals: u64,
    looks: bool,
    pub(crate) beginning: Option<Beginning>,
    pub(crate) failure: String,
    pub(crate) progress: Option<Progress>,
    /// Names of events and workers.
    pub(crate) occurrences: Vec<(String, String)>,
    pub(crate) kept: Vec<KeptCheckpoint>,
    /// A checkpoint of this or a later round is wanted.
    pub(crate) wish: Option<u64>,
    /// The attempt ends: nothing is granted any more, so that those who are left do not go on without the others.
    pub(crate) ends: bool,
}

/// The hub of one attempt of a run.
#[derive(Clone)]
pub(crate) struct Hub {
    run: String,
    settings: RunSettings,
    island: Arc<IslandAuthority>,
    arbiter: Arc<Mutex<Arbiter>>,
    known: Arc<Mutex<Known>>,
    started: Instant,
}

/// Where a hub is, and what pods trust.
pub(crate) struct Place {
    pub(crate) address: String,
    pub(crate) roots: String,
}

fn validity() -> Validity {
    #[expect(clippy::disallowed_methods, reason = "a certificate's validity is in the time of the day")]
    let now = SystemTime::now();
    Validity { from: now - Duration::from_hours(1), length: Duration::from_hours(2) }
}

impl Hub {
    /// Serves this attempt of a run.
    pub(crate) async fn serve(attempt: u32, settings: RunSettings) -> (Self, Place) {
        let run = format!("tiny-{attempt}");
        let authority = RunAuthority::new(&run, validity()).unwrap();
        let island = Arc::new(authority.island(ISLAND, validity()).unwrap());
        let me = Member { slot: HUB, worker: "arbiter".into(), incarnation: 1, island: ISLAND.into(), ..Member::default() };
        let liveness = settings.liveness_milliseconds;
        let arbiter = Arc::new(Mutex::new(Arbiter::new(me, Single::new(liveness), liveness)));
        let hub = Self { run: run.clone(), settings, island, arbiter, known: Arc::default(), started: Instant::now() };
        let host = HostIdentity::self_signed(NAME, validity()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = Place { address: listener.local_addr().unwrap().to_string(), roots: host.certificate_chain().to_owned() };
        let peers = Security::new(&hub.island.peer("arbiter", validity()).unwrap()).unwrap();
        let (accept, accepted) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (accept, host, peers) = (accept.clone(), host.clone(), peers.clone());
                tokio::spawn(async move {
                    if let Some(connection) = greet(stream, &host, &peers).await {
                        let _ended = accept.send(Ok::<_, io::Error>(connection)).await;
                    }
                });
            }
        });
        let serving = Server::builder()
            .add_service(EnrolmentServer::new(hub.clone()))
            .add_service(SupervisionServer::new(hub.clone()))
            .add_service(ArbiterServer::new(Service::new(run, hub.clone())))
            .serve_with_incoming(ReceiverStream::new(accepted));
        tokio::spawn(serving);
        (hub, place)
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    /// Rounds that were committed, as far as it was told.
    pub(crate) fn round(&self) -> u64 {
        self.known().progress.as_ref().map_or(0, |progress| progress.round)
    }

    fn grants(&self) -> Result<MutexGuard<'_, Arbiter>, Status> {
        if self.known().ends { Err(Status::unavailable("the attempt ends")) } else { Ok(self.arbiter.lock().unwrap()) }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// The worker whose pod has this token.
pub(crate) fn token(worker: &str) -> String {
    format!("token of {worker}")
}

/// Who is dialled is in the first message.
async fn greet(stream: TcpStream, host: &HostIdentity, peers: &Security) -> Option<Connection> {
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.ok()?;
    if hello.client_hello().server_name() == Some(NAME) {
        let stream = hello.into_stream(as_hub(host).unwrap()).await.ok()?;
        return Some(Connection { stream: Box::new(stream), peer: None });
    }
    let (stream, peer) = peers.answer(hello).await.ok()?;
    Some(Connection { stream: Box::new(stream), peer: Some(peer) })
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

struct Connection {
    stream: Box<dyn Duplex>,
    peer: Option<PeerName>,
}

impl Connected for Connection {
    type ConnectInfo = Option<PeerName>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[tonic::async_trait]
impl Enrolment for Hub {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let slot = (0..8).find(|slot| shown == format!("Bearer {}", token(&format!("w{slot}"))));
        let slot = slot.ok_or_else(|| Status::permission_denied("no pod of this run has this token"))?;
        let worker = format!("w{slot}");
        let request = request.into_inner();
        let mut known = self.known();
        let incarnation = if request.incarnation == 0 {
            let starts = known.starts.entry(worker.clone()).or_default();
            *starts += 1;
            *starts
        } else {
            known.renewals += 1;
            request.incarnation
        };
        let chain = self.island.sign_request(&worker, &request.certificate_request, validity());
        Ok(Response::new(EnrolReply {
            run: self.run.clone(),
            name: "tiny".into(),
            worker,
            island: ISLAND.into(),
            slot,
            incarnation,
            certificate_chain: chain.map_err(|error| Status::invalid_argument(error.to_string()))?,
            run_root: self.island.run_root().to_owned(),
            valid_seconds: VALID,
            secret: "0123456789abcdef".into(),
            protocol: request.protocol_high,
            settings: Some(self.settings.clone()),
        }))
    }
}

#[tonic::async_trait]
impl Supervision for Hub {
    async fn begin(&self, request: Request<BeginRequest>) -> Result<Response<BeginReply>, Status> {
        assert!(request.extensions().get::<Option<PeerName>>().is_some_and(Option::is_some), "over mutual TLS alone");
        let request = request.into_inner();
        let mut known = self.known();
        known.failure = request.failure;
        known.beginning = known.beginning.take().or(request.found);
        let look = known.beginning.is_none() && !std::mem::replace(&mut known.looks, true);
        let held = known.progress.as_ref().is_some_and(|progress| progress.round > 0);
        Ok(Response::new(BeginReply { beginning: known.beginning.clone(), look, held }))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportReply>, Status> {
        let ReportRequest { progress, occurrences, kept, .. } = request.into_inner();
        let mut known = self.known();
        known.progress = progress.or(known.progress.take());
        known.occurrences.extend(occurrences.into_iter().map(|occurrence| (occurrence.event, occurrence.worker)));
        known.kept.extend(kept);
        Ok(Response::new(ReportReply { keep_round: known.wish }))
    }
}

#[tonic::async_trait]
impl Answers for Hub {
    async fn beat(&self, request: BeatRequest) -> Result<BeatReply, Status> {
        Ok(self.arbiter.lock().unwrap().beat(&request, self.now()))
    }

    async fn request_term(&self, request: TermRequest) -> Result<Ruling, Status> {
        Ok(self.grants()?.request_term(&request, self.now()))
    }

    async fn grant_epoch(&self, request: EpochRequest) -> Result<Ruling, Status> {
        Ok(self.grants()?.grant_epoch(&request, self.now()))
    }
}
