//! The process beside a trainer that owns the network: one peer of the run, and the coordinator's role when it has it.
//!
//! [`run`] serves lanes and control sessions over TCP and the trainer over a Unix socket; [`serve_in`] does the same in other
//! surroundings. One task, [`core`], owns both state machines; everything else brings it events and carries out its actions.

mod arbiter;
mod checkpoint;
mod control;
mod core;
mod metrics;
mod operation;
pub mod pod;
mod ranks;
pub mod recording;
mod recovery;
mod regions;
mod report;
mod state;
mod trainer;
mod turn;
mod votes;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use atoll_checkpoint::location::LocationError;
use atoll_collective::arbiter::Service;
use atoll_collective::coordinator::Settings;
use atoll_collective::identity::{Identity, IdentityError};
use atoll_collective::lane::{Bounds, LaneService, Lanes, Meter, Operations};
use atoll_collective::relay::Pass;
use atoll_collective::rules::Rules;
use atoll_collective::secret::Secret;
use atoll_collective::transport::{self, Address, AddressError, HostPort, Security, Transport, TransportError};
use atoll_collective::v1::Member;
use atoll_collective::v1::arbiter_server::ArbiterServer;
use atoll_collective::v1::coordinator_server::CoordinatorServer;
use atoll_collective::v1::recovery_server::RecoveryServer;
use atoll_collective::v1::sidecar_server::SidecarServer;
use atoll_sdk::events::Event;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

pub use checkpoint::Keeping;
use metrics::serve::Pages;
pub use regions::{RegionRefused, Regions};
pub use report::Tell;
use report::{News, Reporter};

/// Name of the arbiter in its certificate, in the island of those who ask it.
pub const ARBITER: &str = "arbiter";

/// Calls that may be under way on one connection: the 32 answers of a state that one peer is given; all else takes fewer.
const MOST_STREAMS: u32 = 32;

/// What a sidecar is started with.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct Config {
    /// Name of its worker.
    pub worker: String,
    /// Index of its worker.
    pub slot: u32,
    /// Counts its starts.
    pub incarnation: u64,
    /// Where its lanes listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `HOST:PORT` that the others dial, where that is not where it listens.
    pub announce: Option<String>,
    /// The address of this machine that its own connections come from; without it the system chooses one.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// `HOST:PORT` of the run's arbiter.
    pub arbiter: String,
    /// Path of the socket for the trainer; the region socket is beside it, with `.regions` at the end.
    pub socket: PathBuf,
    /// A folder to remove with the sockets once it is empty: the supervisor's own, where it made one.
    pub temporary_folder: Option<PathBuf>,
    /// What the run asks of its membership.
    pub settings: Settings,
    /// How long a lane may be silent within an operation.
    pub progress: Duration,
    /// Memory of its lanes.
    pub bounds: Bounds,
    /// The run's secret, shown by every peer. Never logged.
    pub token: String,
    /// The island of its worker.
    pub island: String,
    /// Its worker contributes, and is trusted with nothing: it owns no shard, has no vote, never coordinates and gives no state.
    pub contributor: bool,
    /// What it shows and checks others against; without it connections are plain.
    pub identity: Option<Identity>,
    /// Where Prometheus asks for its metrics; port 0 takes a free one, which an event tells. Without it they are not served.
    pub metrics: Option<SocketAddr>,
    /// A file for what its state machines hear and do, to be replayed; without it nothing is recorded.
    pub record: Option<PathBuf>,
    /// The relay of the run, where it has one.
    pub relay: Option<Relay>,
    /// Where the run keeps its checkpoints, if it does.
    #[serde(default)]
    pub keeping: Option<Keeping>,
}

/// How a sidecar uses the relay of its run.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Relay {
    /// `HOST:PORT` of the relay.
    pub address: String,
    /// What it shows the relay.
    pub pass: Pass,
    /// Certificates that the relay's is signed by, PEM.
    pub roots: String,
    /// This sidecar cannot be dialled: it listens on no port, and is reached through the relay alone.
    pub behind: bool,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { worker, slot, incarnation, listen, .. } = self;
        formatter.debug_tuple("Config").field(worker).field(slot).field(incarnation).field(listen).finish()
    }
}

/// Errors that end a sidecar.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// It cannot listen.
    #[error("cannot listen at {place}: {source}")]
    Listen {
        /// Address or path.
        place: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A server ended.
    #[error("a server of the sidecar ended: {0}")]
    Server(#[from] tonic::transport::Error),
    /// Its relay cannot be used.
    #[error("the sidecar's relay: {0}")]
    Relay(#[from] AddressError),
    /// It has no pass for its relay.
    #[error(transparent)]
    NoPass(#[from] TransportError),
    /// Its identity cannot be used.
    #[error("the sidecar's identity: {0}")]
    Identity(#[from] IdentityError),
    /// It cannot reach the folder of checkpoints.
    #[error("the run's checkpoints: {0}")]
    Checkpoints(#[from] LocationError),
    /// Its metrics cannot be made.
    #[error("the sidecar's metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The asynchronous runtime or a signal handler could not be set up.
    #[error("cannot set up the process: {0}")]
    Process(#[source] std::io::Error),
}

/// Runs a sidecar until it is told to stop (SIGTERM); leaves no socket behind.
///
/// # Errors
/// [`SidecarError`] where it cannot listen or a server fails.
pub fn run(config: Config) -> Result<(), SidecarError> {
    // A task that panics would leave an operation that nobody ends: the process ends instead, and is started again.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SidecarError::Process)?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), SidecarError> {
    // Heard before there is a socket to remove.
    let mut told = signal(SignalKind::terminate()).map_err(SidecarError::Process)?;
    let sockets = Sockets::bind(&config.socket, config.temporary_folder.clone())?;
    let security = config.identity.as_ref().map(Security::new).transpose()?;
    let transport = Transport::new(security, Arc::new(Meter::default()));
    let transport = match config.source {
        Some(source) => transport.from_source(source),
        None => transport,
    };
    let transport = through_relay(transport, config.relay.as_ref())?;
    let (incoming, address) = incoming(&config, &transport).await?;
    let surroundings = Surroundings {
        transport,
        incoming,
        address,
        trainers: UnixListenerStream::new(sockets.trainer),
        regions: Regions::listen(sockets.regions)?,
        tell: Arc::new(Event::emit),
        rules: Rules::default(),
        stop: async move { _ = told.recv().await },
    };
    Box::pin(serve_in(surroundings, config)).await
}

/// What is around a sidecar: the system's sockets and signals, or a simulation's. Its clock is tokio's.
pub struct Surroundings<Peers, Trainers, Stop> {
    /// Its way to others.
    pub transport: Transport,
    /// Those who dial it.
    pub incoming: Peers,
    /// Where they do, unless another address is announced.
    pub address: String,
    /// Connections of its trainer's processes.
    pub trainers: Trainers,
    /// What they share with it.
    pub regions: Regions,
    /// Takes its events.
    pub tell: Tell,
    /// All of them, but in a simulation that shows what for.
    pub rules: Rules,
    /// It is told to stop.
    pub stop: Stop,
}

/// Runs a sidecar in `surroundings` until it is told to stop. What `config` says of sockets and addresses is done already.
///
/// # Errors
/// [`SidecarError::Server`] where a server fails, and what is wrong with its metrics.
pub async fn serve_in<Trainer>(
    surroundings: Surroundings<
        impl Stream<Item = io::Result<transport::Stream>>,
        impl Stream<Item = io::Result<Trainer>>,
        impl Future<Output = ()>,
    >,
    config: Config,
) -> Result<(), SidecarError>
where
    Trainer: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    serve_linked(surroundings, config, Link::default()).await
}

/// What ties a sidecar to an operator; nothing, unless it runs in a pod.
#[derive(Default)]
struct Link {
    /// Takes what it is told beside the events.
    news: Option<mpsc::UnboundedSender<News>>,
    /// Rounds of which, or of later ones, a checkpoint is wanted.
    wishes: Option<mpsc::Receiver<u64>>,
    /// Where its metrics are shown.
    pages: Pages,
    /// How long a checkpoint that is being written is waited for once it is told to stop.
    grace: Duration,
}

async fn serve_linked<Trainer>(
    surroundings: Surroundings<
        impl Stream<Item = io::Result<transport::Stream>>,
        impl Stream<Item = io::Result<Trainer>>,
        impl Future<Output = ()>,
    >,
    config: Config,
    link: Link,
) -> Result<(), SidecarError>
where
    Trainer: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let Surroundings { transport, incoming, address, trainers, regions, tell, rules, stop } = surroundings;
    let (mut bounds, secret) = (config.bounds, Secret::new(&config.token));
    if config.contributor {
        // Its copies are waited for one after the other.
        bounds.channels = Some(1);
    }
    let lanes = Lanes::new(&config.settings.run, config.slot, secret.clone(), transport).within(bounds);
    let (inbox, events) = mpsc::channel(1024);
    let operations = Operations::default();
    let (offer, offers) = watch::channel(None);
    let me = member(&config, address);
    let lane_service = LaneService {
        me: (config.slot, config.incarnation),
        operations: operations.clone(),
        offer: offers,
        secret: secret.clone(),
        patience: config.progress,
    };
    let control = CoordinatorServer::with_interceptor(
        control::Control::new(inbox.clone(), Duration::from_millis(config.settings.liveness)),
        secret.clone().guard(),
    );
    let voter = Service::new(config.settings.run.clone(), votes::Votes::new(inbox.clone()));
    let network = Server::builder()
        .max_concurrent_streams(MOST_STREAMS)
        .initial_stream_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window)
        .max_frame_size(bounds.frame)
        .add_service(lane_service)
        .add_service(control)
        // A contributor has no vote in any record; it hears here who coordinates.
        .add_service(ArbiterServer::with_interceptor(voter, secret.guard()))
        .serve_with_incoming(incoming);
    let seam = Server::builder()
        .add_service(SidecarServer::new(trainer::TrainerSeam::new(inbox.clone(), config.settings.run.clone())))
        .add_service(RecoveryServer::new(recovery::HumanWord::new(inbox.clone())))
        .serve_with_incoming(trainers);
    let metrics = Arc::new(metrics::Metrics::new(&config.settings.run, &config.worker)?);
    let report = Reporter::new(&config.worker, tell).with_news(link.news);
    link.pages.fill(Arc::clone(&metrics), lanes.clone());
    let watched = watched(&config, &report, link.pages).await?;
    let wished = wished(link.wishes, inbox.clone());
    let keeper = checkpoint::Keeper::of(&config, &report, &inbox)?;
    let shared = core::Shared { metrics, operations, offer, regions, report, keeper, rules, grace: link.grace };
    let core = core::Core::new(config, me, lanes, inbox, shared);
    tokio::select! {
        biased;
        ended = network => ended?,
        ended = seam => ended?,
        () = watched => {}
        () = wished => {}
        () = core.run(events, stop) => {}
    }
    Ok(())
}

/// The sidecar as the others see it: at `address`, unless it announces another.
fn member(config: &Config, address: String) -> Member {
    Member {
        slot: config.slot,
        worker: config.worker.clone(),
        incarnation: config.incarnation,
        address: config.announce.clone().unwrap_or(address),
        contributor: config.contributor,
        island: config.island.clone(),
    }
}

/// Serves the metrics, where that is asked for.
async fn watched(config: &Config, report: &Reporter, pages: Pages) -> Result<impl Future<Output = ()> + use<>, SidecarError> {
    let listener = match config.metrics {
        Some(place) => Some(listen(place).await?),
        None => None,
    };
    if let Some(address) = listener.as_ref().and_then(|listener| listener.local_addr().ok()) {
        report.metrics(address);
    }
    Ok(async move {
        match listener {
            Some(listener) => {
                pages.start();
                metrics::serve::serve(listener, pages).await;
            }
            None => std::future::pending().await,
        }
    })
}

/// Brings wishes for checkpoints to the core.
async fn wished(wishes: Option<mpsc::Receiver<u64>>, inbox: mpsc::Sender<core::Input>) {
    if let Some(mut wishes) = wishes {
        while let Some(round) = wishes.recv().await {
            let _ending = inbox.send(core::Input::Keep(round)).await;
        }
    }
    std::future::pending::<()>().await;
}

async fn listen(place: SocketAddr) -> Result<TcpListener, SidecarError> {
    TcpListener::bind(place).await.map_err(|source| SidecarError::Listen { place: place.to_string(), source })
}

/// Those who dial a sidecar.
type Incoming = Pin<Box<dyn Stream<Item = io::Result<transport::Stream>> + Send>>;

fn through_relay(transport: Transport, relay: Option<&Relay>) -> Result<Transport, SidecarError> {
    let Some(relay) = relay else { return Ok(transport) };
    Ok(transport.through_relays(relay.pass.clone(), Some(transport::outer(&relay.roots)?)))
}

/// Those who dial this sidecar, and where: at a port of its own, or through the relay that it is behind.
async fn incoming(config: &Config, transport: &Transport) -> Result<(Incoming, String), SidecarError> {
    if let Some(relay) = config.relay.as_ref().filter(|relay| relay.behind) {
        let place: HostPort = relay.address.parse()?;
        let address = Address::Relayed(place.clone()).to_string();
        return Ok((Box::pin(transport.incoming_through(place)?), address));
    }
    let listener = listen(config.listen).await?;
    let address = listener.local_addr().map_err(SidecarError::Process)?.to_string();
    Ok((Box::pin(transport.incoming(listener)), address))
}

/// The two sockets for the trainer, and the paths to remove in the end.
struct Sockets {
    trainer: UnixListener,
    regions: std::os::unix::net::UnixListener,
    _paths: RemovedPaths,
}

struct RemovedPaths {
    sockets: [PathBuf; 2],
    folder: Option<PathBuf>,
}

impl Drop for RemovedPaths {
    fn drop(&mut self) {
        for path in &self.sockets {
            let _gone_already = std::fs::remove_file(path);
        }
        if let Some(folder) = &self.folder {
            let _others_are_left = std::fs::remove_dir(folder);
        }
    }
}

impl Sockets {
    /// Binds both; a socket that an earlier incarnation left behind is replaced, one that somebody serves is not.
    fn bind(path: &std::path::Path, folder: Option<PathBuf>) -> Result<Self, SidecarError> {
        let paths = [path.to_owned(), atoll_sdk::regions_socket(path)];
        for path in &paths {
            let failed = |source| SidecarError::Listen { place: path.display().to_string(), source };
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(failed(std::io::ErrorKind::AddrInUse.into()));
            }
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        let failed = |source| SidecarError::Listen { place: path.display().to_string(), source };
        let trainer = UnixListener::bind(&paths[0]).map_err(failed)?;
        let regions = std::os::unix::net::UnixListener::bind(&paths[1]).map_err(failed)?;
        Ok(Self { trainer, regions, _paths: RemovedPaths { sockets: paths, folder } })
    }
}
