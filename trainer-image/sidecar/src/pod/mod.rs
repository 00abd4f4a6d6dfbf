//! A sidecar in a worker's pod. What it is and what it does it is told by the operator's hub; the rest is in its environment.
//!
//! It shows its token to get an identity, asks what the run begins from, leaves its trainer an assignment in the folder that both
//! share, and serves. Beside that it renews its identity and reports to the hub, and neither disturbs the training.

mod beginning;
mod environment;
mod hub;
mod patience;
mod reports;
mod untold;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use atoll_checkpoint::Resume;
use atoll_collective::coordinator::{Cadence, IN_FLIGHT, Settings};
use atoll_collective::identity::IdentityError;
use atoll_collective::lane::{Bounds, Lanes, Meter};
use atoll_collective::rules::Rules;
use atoll_collective::secret::Secret;
use atoll_collective::transport::{Security, Transport};
use atoll_collective::v1::{Member, RunSettings};
use atoll_sdk::assignment::{Assignment, socket};
use atoll_sdk::events::Event;
use atoll_sdk::process::{begin_logging, leave_last_words};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnixListenerStream;

use crate::metrics::serve::{Pages, serve as serve_pages};
use crate::{Config, Link, Regions, SidecarError, Sockets, Surroundings, incoming, listen, serve_linked};
use beginning::{Begun, Store, begin};
use environment::Environment;
use hub::{Enrolled, Hub, enrol};

/// Wishes for checkpoints that wait; later ones come with the next report.
const WISHES: usize = 4;

/// Why a sidecar in a pod ends.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// A variable of its environment.
    #[error("{name} {problem}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A file that the pod was given.
    #[error("cannot read the pod's {what}, {path}: {source}", path = path.display())]
    Unreadable {
        /// What is in it.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The hub will not do it.
    #[error("the hub does not {what}: {why}")]
    Refused {
        /// What it was asked.
        what: &'static str,
        /// What it said.
        why: String,
    },
    /// What the run begins from is not there, or is another.
    #[error("what the run begins from: {0}")]
    Beginning(String),
    /// An identity cannot be made or used.
    #[error("the pod's identity: {0}")]
    Identity(#[from] IdentityError),
    /// The assignment cannot be written.
    #[error("cannot write the trainer's assignment to {folder}: {source}", folder = folder.display())]
    Assignment {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The sidecar itself.
    #[error(transparent)]
    Sidecar(#[from] SidecarError),
}

/// Runs the sidecar of this pod until it is told to stop (SIGTERM, SIGINT). Exit codes: 0 as told, 1 failed, with the reason in the log
/// and in the container's last words.
#[must_use]
pub fn process() -> ExitCode {
    begin_logging();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        leave_last_words(&panic.to_string());
        // As the first process of its container it cannot end itself by a signal.
        std::process::exit(101);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.map_err(SidecarError::Process).map_err(PodError::from).and_then(|runtime| {
        let environment = Environment::of(|name| std::env::var(name).ok())?;
        runtime.block_on(run(&environment))
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the sidecar ends");
            leave_last_words(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn run(environment: &Environment) -> Result<(), PodError> {
    let mut signals = Signals::new().map_err(SidecarError::Process)?;
    let pages = Pages::default();
    let serving = tokio::spawn(serve_pages(listen(environment.pages).await?, pages.clone()));
    let ready = tokio::select! {
        ready = Ready::new(environment) => ready?,
        () = signals.told() => return Ok(()),
    };
    let ended = Box::pin(ready.serve(environment, pages, signals)).await;
    serving.abort();
    ended
}

/// The signals that tell a process to end: the first of a container ends by none unless it says so.
struct Signals([Signal; 2]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]))
    }

    async fn told(&mut self) {
        let [terminate, interrupt] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// Everything that a sidecar has to know before it serves.
struct Ready {
    config: Config,
    assignment: Assignment<Resume>,
    security: Security,
    transport: Transport,
    hub: Hub,
    /// Its identity ends so long after it was made.
    valid: Duration,
}

impl Ready {
    async fn new(environment: &Environment) -> Result<Self, PodError> {
        let enrolled = enrol(environment, 0).await?;
        let Enrolled { reply, settings, identity } = &enrolled;
        tracing::info!(run = reply.run, worker = reply.worker, slot = reply.slot, incarnation = reply.incarnation, "enrolled");
        let security = Security::new(identity)?;
        let transport = Transport::new(Some(security.clone()), Arc::new(Meter::default()));
        let me = Member {
            slot: reply.slot,
            worker: reply.worker.clone(),
            incarnation: reply.incarnation,
            address: environment.lanes.to_string(),
            contributor: false,
            island: reply.island.clone(),
        };
        let lanes = Lanes::new(&reply.run, reply.slot, Secret::new(&reply.secret), transport.clone());
        let mut hub = Hub::new(environment.hub.to_string(), lanes, reply.run.clone(), me);
        let store = settings.checkpoints.as_ref().map(|folder| Store { run: &reply.name, folder });
        let begun = begin(&mut hub, store).await?;
        let after = begun.resume.as_ref().map_or((0, 0), |resume| (resume.committed.round, resume.manifest.step));
        tracing::info!(round = after.0, step = after.1, held = begun.held, "the run begins after this round");
        let valid = Duration::from_secs(reply.valid_seconds);
        let config = config(environment, &enrolled, &begun);
        let assignment = Assignment {
            run: enrolled.reply.run,
            name: enrolled.reply.name,
            worker: enrolled.reply.worker,
            slot: enrolled.reply.slot,
            resume: begun.resume.filter(|_| !begun.held),
            after,
        };
        Ok(Self { config, assignment, security, transport, hub, valid })
    }

    async fn serve(self, environment: &Environment, pages: Pages, mut signals: Signals) -> Result<(), PodError> {
        let Self { config, assignment, security, transport, hub, valid } = self;
        let sockets = Sockets::bind(&config.socket, None)?;
        let (incoming, address) = incoming(&config, &transport).await?;
        let folder = &environment.shared;
        assignment.write(folder).map_err(|source| PodError::Assignment { folder: folder.clone(), source })?;
        pages.start();
        let surroundings = Surroundings {
            transport,
            incoming,
            address,
            trainers: UnixListenerStream::new(sockets.trainer),
            regions: Regions::listen(sockets.regions)?,
            tell: Arc::new(Event::emit),
            rules: Rules::default(),
            stop: async move { signals.told().await },
        };
        let (news, heard) = mpsc::unbounded_channel();
        let (wish, wishes) = mpsc::channel(WISHES);
        let reporting = tokio::spawn(reports::run(hub, heard, wish));
        let link = Link { news: Some(news), wishes: Some(wishes), pages, grace: environment.grace };
        let incarnation = config.incarnation;
        let ended = tokio::select! {
            ended = Box::pin(serve_linked(surroundings, config, link)) => ended,
            () = renew(environment, incarnation, &security, valid) => Ok(()),
        };
        // The last report goes out once nobody brings news any more.
        let _told = reporting.await;
        Ok(ended?)
    }
}

/// Gets another identity whenever half the time of the last is over.
async fn renew(environment: &Environment, incarnation: u64, security: &Security, valid: Duration) {
    let mut valid = valid;
    loop {
        tokio::time::sleep((valid / 2).max(Duration::from_secs(1))).await;
        match enrol(environment, incarnation).await {
            Ok(enrolled) => {
                valid = Duration::from_secs(enrolled.reply.valid_seconds);
                match security.renew(&enrolled.identity) {
                    Ok(()) => tracing::debug!(seconds = valid.as_secs(), "the identity is renewed"),
                    Err(error) => tracing::warn!(%error, "the new identity cannot be used"),
                }
            }
            // It goes on with the one that it has, as long as that is good.
            Err(error) => tracing::warn!(%error, "the identity is not renewed"),
        }
    }
}

fn config(environment: &Environment, enrolled: &Enrolled, begun: &Begun) -> Config {
    let Enrolled { reply, settings, identity } = enrolled;
    Config {
        worker: reply.worker.clone(),
        slot: reply.slot,
        incarnation: reply.incarnation,
        listen: environment.lanes,
        announce: Some(environment.lanes.to_string()),
        source: None,
        arbiter: environment.hub.to_string(),
        socket: socket(&environment.shared),
        temporary_folder: None,
        settings: membership(&reply.run, settings, begun.resume.as_ref()),
        progress: Duration::from_millis(settings.progress_milliseconds),
        bounds: Bounds::default(),
        token: reply.secret.clone(),
        island: reply.island.clone(),
        contributor: false,
        identity: Some(identity.clone()),
        metrics: None,
        record: None,
        relay: None,
        keeping: begun.keeping.clone(),
    }
}

/// What the run asks of its membership, as the coordinator reads it.
fn membership(run: &str, asked: &RunSettings, resume: Option<&Resume>) -> Settings {
    let cadence =
        asked.checkpoints.as_ref().map(|folder| Cadence { rounds: folder.every_rounds, time: folder.every_milliseconds });
    Settings {
        run: run.to_owned(),
        minimum: asked.minimum as usize,
        target: asked.target as usize,
        quorum: asked.quorum as usize,
        join_window: asked.join_window_milliseconds,
        liveness: asked.liveness_milliseconds,
        round_timeout: asked.round_timeout_milliseconds,
        drop_stragglers: asked.drop_stragglers,
        in_flight: IN_FLIGHT,
        checkpoints: cadence.unwrap_or_default(),
        resumed: resume.map(|resume| resume.committed.clone()),
    }
}
