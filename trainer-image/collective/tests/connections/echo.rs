//! A raw tonic service that gives back what it gets and says who it was, and the peers that call it.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use atoll_collective::identity::{Identity, IslandAuthority, PeerName, RunAuthority, Validity};
use atoll_collective::lane::Meter;
use atoll_collective::transport::{Address, Security, Stream, Transport};
use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Server};
use tower::ServiceExt;

/// Bytes that are easily found again where they must not be.
const MARK: &[u8] = b"attack at dawn, all workers! ";
/// Bytes that are sent, and come back.
pub(crate) const PAYLOAD: usize = 8 << 20;
/// Bytes of one piece of them.
const PIECE: usize = 64 << 10;

pub(crate) fn name(worker: &str) -> PeerName {
    PeerName::new("kjv", "west", worker).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a certificate's validity is in the time of the day")]
pub(crate) fn an_hour() -> Validity {
    Validity { from: SystemTime::now() - Duration::from_mins(1), length: Duration::from_hours(1) }
}

pub(crate) fn island() -> IslandAuthority {
    RunAuthority::new("kjv", an_hour()).unwrap().island("west", an_hour()).unwrap()
}

pub(crate) fn plain() -> Transport {
    Transport::new(None, Arc::new(Meter::default()))
}

pub(crate) fn secured(identity: &Identity) -> Transport {
    Transport::new(Some(Security::new(identity).unwrap()), Arc::new(Meter::default()))
}

#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Option<PeerName>>().unwrap();
        let peer = peer.as_ref().map_or("nobody".to_owned(), PeerName::to_string);
        ready(Ok(http::Response::builder().header("peer", peer).body(request.into_body()).unwrap()))
    }
}

/// Serves the echo on `incoming`; ends with what is returned.
pub(crate) fn serve(incoming: impl futures::Stream<Item = io::Result<Stream>> + Send + 'static) -> JoinSet<()> {
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        Server::builder().add_service(Echo).serve_with_incoming(incoming).await.unwrap();
    });
    serving
}

pub(crate) fn channel(transport: &Transport, address: &Address, expected: &PeerName) -> Channel {
    let (transport, address, expected) = (transport.clone(), address.clone(), expected.clone());
    let connector = tower::service_fn(move |_| {
        let (transport, address, expected) = (transport.clone(), address.clone(), expected.clone());
        async move { transport.connect(&address, &expected).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://peer").connect_with_connector_lazy(connector)
}

/// Sends the payload and takes it back; says whom the service took the caller for.
///
/// An error is the chain of causes, in words.
pub(crate) async fn exchange(channel: Channel) -> Result<String, String> {
    let piece = Bytes::from(MARK.iter().copied().cycle().take(PIECE).collect::<Vec<u8>>());
    let pieces = futures::stream::iter(vec![piece; PAYLOAD / PIECE]);
    let body = StreamBody::new(pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece))));
    let request = http::Request::post("http://peer/test.Echo/Call").version(http::Version::HTTP_2).body(Body::new(body)).unwrap();
    let response = channel.oneshot(request).await.map_err(|error| causes(&error))?;
    let peer = response.headers()["peer"].to_str().unwrap().to_owned();
    let mut body = response.into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|error| causes(&error))?.into_data().unwrap();
        assert!(data.iter().enumerate().all(|(at, byte)| *byte == MARK[(received + at) % PIECE % MARK.len()]));
        received += data.len();
    }
    assert_eq!(received, PAYLOAD);
    Ok(peer)
}

fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Whether the bytes hold what was sent in the clear.
pub(crate) fn tells(bytes: &[u8]) -> bool {
    bytes.windows(MARK.len()).any(|window| window == MARK)
}
