//! The hub: one gRPC listener of the operator, which is authority and `Single` arbiter of every run of its cluster.
//!
//! A pod shows its projected token and gets a certificate of its run; with that it beats, asks for terms and epochs, and tells how
//! far the run is. A grant is stored before it is answered, by compare-and-swap, so that of two operators that both take
//! themselves for the leader one grants. What the controllers have to do with it goes through the [`Directory`].

mod arbiter;
mod authority;
mod daily;
mod enrolment;
mod listener;
mod metrics;
mod places;
mod record;
mod runs;
mod store;
mod supervision;
mod tokens;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use atoll_collective::identity::IdentityError;
use atoll_proto::v1::arbiter_server::ArbiterServer;
use atoll_proto::v1::enrolment_server::EnrolmentServer;
use atoll_proto::v1::supervision_server::SupervisionServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::interceptor::InterceptedService;

use crate::directory::{Directory, RunKey, Served};

pub use authority::{MasterKey, VALID};
pub use metrics::Metrics;
pub use record::RecordError;
pub use store::{ConfigMaps, RecordStore, StoreError, Version};
pub use tokens::{FetchKeys, TokenError};

/// Name of the hub in its own certificate, which a pod expects before it has one.
pub const HOST: &str = "hub.atoll.internal";
/// Worker name of the hub in each run.
pub const ARBITER: &str = "arbiter";
/// Under which the hub's own name is.
const DOMAIN: &str = "atoll.internal";
/// Longest message of a worker, in bytes.
const MOST_MESSAGE: usize = 1 << 20;
/// Longest headers of a request, in bytes: a token is among them.
const MOST_HEADERS: u32 = 16 << 10;
/// Requests of one connection at the same time.
const MOST_REQUESTS: u32 = 16;
/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// A connection that says nothing is asked after so much time, and given up after as much again.
const SILENCE: Duration = Duration::from_secs(20);

/// Why the hub cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Randomness,
    /// An identity cannot be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A metric cannot be made.
    #[error("a metric cannot be made: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The listener failed.
    #[error("the hub cannot go on: {0}")]
    Serving(#[from] tonic::transport::Error),
}

/// The time of the day, for certificates and tokens.
pub type TimeOfDay = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// One attempt of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The run.
    pub key: RunKey,
    /// Uid of the `TrainingRun`.
    pub uid: String,
    /// Counts the times that all of it began.
    pub attempt: u64,
}

impl Attempt {
    fn of(key: &RunKey, served: &Served) -> Self {
        Self { key: key.clone(), uid: served.uid.clone(), attempt: served.attempt }
    }
}

/// What a hub works with.
#[derive(Clone)]
pub struct Setup {
    /// From which all keys follow.
    pub master: MasterKey,
    /// The runs that it serves.
    pub directory: Directory,
    /// Where records are stored.
    pub store: Arc<dyn RecordStore>,
    /// Of the cluster's service account tokens.
    pub issuer: String,
    /// The keys that these are signed with.
    pub keys: FetchKeys,
    /// Tells the time of the day.
    pub time: TimeOfDay,
}

/// Serves the runs of a directory.
pub struct Hub {
    setup: Setup,
    metrics: Metrics,
}

impl Hub {
    /// A hub that serves nobody yet.
    ///
    /// # Errors
    /// [`HubError::Metrics`].
    pub fn new(setup: Setup) -> Result<Self, HubError> {
        Ok(Self { setup, metrics: Metrics::new()? })
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Serves those who dial `listener` until `shutdown`, or until this future is dropped; then all connections are closed.
    ///
    /// What it knows of a run is read anew each time it begins to serve, and nobody is taken for lost before as much time has
    /// passed since then as silence may last.
    ///
    /// # Errors
    /// [`HubError::Serving`].
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<(), HubError> {
        let runs = Arc::new(runs::Runs::new(self.setup.clone(), self.metrics.clone()));
        let (_serving, stopped) = watch::channel(());
        let places = places::Places::new(self.metrics.connections.clone());
        let incoming = listener::Reception::new(Arc::clone(&runs), places, stopped).incoming(listener);
        let enrolment =
            EnrolmentServer::new(enrolment::Enrolling::new(Arc::clone(&runs))).max_decoding_message_size(MOST_MESSAGE);
        let arbiter = ArbiterServer::new(arbiter::Arbitration).max_decoding_message_size(MOST_MESSAGE);
        let supervision = SupervisionServer::new(supervision::Supervising).max_decoding_message_size(MOST_MESSAGE);
        let guard = runs::Guard::new(runs);
        let server = tonic::transport::Server::builder()
            .max_concurrent_streams(MOST_REQUESTS)
            .concurrency_limit_per_connection(MOST_REQUESTS as usize)
            .http2_max_header_list_size(MOST_HEADERS)
            .http2_keepalive_interval(Some(SILENCE))
            .http2_keepalive_timeout(Some(SILENCE))
            .timeout(DEADLINE)
            .add_service(enrolment)
            .add_service(InterceptedService::new(arbiter, guard.clone()))
            .add_service(InterceptedService::new(supervision, guard));
        tokio::select! {
            ended = server.serve_with_incoming(incoming) => Ok(ended?),
            () = shutdown => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
