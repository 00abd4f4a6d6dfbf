//! Lanes: raw gRPC bodies between two sidecars, over connections whose bytes are counted.
//!
//! A lane to a peer stays open and carries frames of all operations; the control session has a connection of its own, so
//! that a full window never delays a heartbeat. Payload travels as [`Bytes`] without a copy; the receiver bounds what it
//! accepts before it reads.

mod arrivals;
mod bounds;
mod channel;
mod donors;
mod ends;
mod meter;
mod operations;
mod service;
mod throughput;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body::Frame;
use hyper_util::rt::TokioIo;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel as Connection, Endpoint};
use tower::{Service, ServiceExt};

use crate::Millis;
use crate::framing;
use crate::identity::PeerName;
use crate::protocol::{self, Versions};
use crate::secret::{HEADER, Secret};
use crate::transport::{self, Address, Transport};
use crate::v1::Member;

pub use arrivals::Arrivals;
pub use bounds::Bounds;
pub use channel::{Channel, Lane};
pub use donors::Donors;
pub use ends::Ends;
pub use meter::{Meter, Metered, Traffic};
pub use operations::Operations;
pub use service::LaneService;
use throughput::Throughput;

/// Path of the method that carries frames of operations.
const PUSH: &str = "/atoll.v1.Lane/Push";
/// Path of the method that fetches a donor's table, or chunks of its state: a `StateRequest`, answered by their bytes.
const FETCH: &str = "/atoll.v1.Lane/Fetch";

/// Lanes by slot and address (of a relay it is the same for all who are behind it); one that is being opened is waited for.
type ByMember = BTreeMap<(u32, String), Arc<OnceCell<Arc<Lane>>>>;

/// This sidecar's lanes to all others.
#[derive(Clone)]
pub struct Lanes {
    run: String,
    slot: u32,
    open: Arc<Mutex<ByMember>>,
    transport: Transport,
    secret: Secret,
    started: Instant,
    throughput: Arc<Mutex<Throughput>>,
    bounds: Bounds,
}

impl Lanes {
    /// Lanes of the sidecar of `slot` in `run`, over `transport`, that show `secret`.
    #[must_use]
    pub fn new(run: &str, slot: u32, secret: Secret, transport: Transport) -> Self {
        let (started, throughput) = (Instant::now(), Arc::default());
        let bounds = Bounds::default();
        Self { run: run.to_owned(), slot, open: Arc::default(), transport, secret, started, throughput, bounds }
    }

    /// The same within `bounds`.
    #[must_use]
    pub fn within(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// What the lanes were measured to send together, in bytes per second; none where too little was sent to tell.
    #[must_use]
    pub fn bandwidth(&self) -> Option<u64> {
        self.throughput.lock().unwrap_or_else(PoisonError::into_inner).rate()
    }

    fn arrived(&self, bytes: u64) {
        let now = self.started.elapsed().as_millis() as Millis;
        self.throughput.lock().unwrap_or_else(PoisonError::into_inner).arrived(bytes, now);
    }

    /// The slot of the sidecar whose lanes they are.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Counts the bytes of all its connections.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        self.transport.meter()
    }

    /// Counts the bytes of each peer's connections.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        self.transport.traffic()
    }

    /// Connections that were accepted and then turned away.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.transport.turned_away()
    }

    /// A new connection to a worker at `address`, made when it is first used.
    ///
    /// # Errors
    /// When the address is none, or the names cannot stand in a certificate.
    pub fn connection(&self, address: &str, island: &str, worker: &str) -> Result<Connection, String> {
        let address: Address = address.parse().map_err(|error| format!("address {address}: {error}"))?;
        let name = PeerName::new(&self.run, island, worker).map_err(|error| error.to_string())?;
        let endpoint = Endpoint::from_static("http://peer")
            .connect_timeout(transport::DEADLINE)
            .initial_stream_window_size(self.bounds.stream_window)
            .initial_connection_window_size(self.bounds.connection_window)
            .max_frame_size(self.bounds.frame);
        let transport = self.transport.clone();
        let connector = tower::service_fn(move |_| {
            let (transport, address, name) = (transport.clone(), address.clone(), name.clone());
            async move { transport.connect(&address, &name).await.map(TokioIo::new) }
        });
        Ok(endpoint.connect_with_connector_lazy(connector))
    }

    /// A new connection to a member.
    ///
    /// # Errors
    /// As [`Lanes::connection`].
    pub fn connection_to(&self, member: &Member) -> Result<Connection, String> {
        self.connection(&member.address, &member.island, &member.worker)
    }

    /// The run's secret.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The lane to a member, opened when there is none.
    ///
    /// # Errors
    /// What broke, in words.
    pub async fn lane(&self, member: &Member) -> Result<Arc<Lane>, String> {
        let cell = {
            let mut lanes = self.lock();
            let cell = lanes.entry((member.slot, member.address.clone())).or_default();
            if cell.get().is_some_and(|lane| lane.is_broken()) {
                *cell = Arc::default();
            }
            Arc::clone(cell)
        };
        let lane = cell.get_or_try_init(|| async { Ok::<_, String>(Arc::new(Lane::open(self, member).await?)) }).await?;
        Ok(Arc::clone(lane))
    }

    /// Closes the lanes to all but these members.
    pub fn keep(&self, members: &[Member]) {
        let stays = |slot, address: &str| members.iter().any(|member| member.slot == slot && member.address == address);
        self.lock().retain(|(slot, address), _| stays(*slot, address));
    }

    fn request(&self, path: &str) -> http::request::Builder {
        http::Request::post(format!("http://lane{path}"))
            .version(http::Version::HTTP_2)
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header(HEADER, self.secret.header())
            .header(protocol::HEADER, Versions::OURS.to_string())
    }

    async fn call(mut connection: Connection, request: http::Request<Body>) -> Result<Body, String> {
        let answer = match connection.ready().await {
            Ok(ready) => ready.call(request).await,
            Err(error) => Err(error),
        };
        let response = answer.map_err(|error| {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        })?;
        match Status::from_header_map(response.headers()) {
            Some(status) if status.code() != tonic::Code::Ok => Err(status.message().to_owned()),
            _ => Ok(response.into_body()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByMember> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A gRPC message of each piece: its prefix, then its bytes, not copied.
fn frames(
    pieces: impl Stream<Item = Bytes> + Send + 'static,
) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send + 'static {
    pieces.flat_map(|data| {
        let prefix = framing::prefix(data.len() as u32);
        futures::stream::iter([prefix, data].map(|data| Ok(Frame::data(data))))
    })
}
