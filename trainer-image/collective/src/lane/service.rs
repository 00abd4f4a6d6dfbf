//! The receiving end of lanes: a raw gRPC service beside the control services, on the same port.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

use super::{FETCH, PUSH, Parcel, frames};
use crate::exchange::{Exchange, Kind, Refused};
use crate::framing::Deframer;
use crate::secret::{HEADER, Secret};

/// Bytes per message of a state that is fetched.
const PIECE: usize = 1 << 18;

/// The replicated state that this worker can give to others.
#[derive(Debug, Clone)]
pub struct Offer {
    /// BLAKE3 of the bytes.
    pub hash: [u8; 32],
    /// The state; others check the hash, so that a state that changes on the way is refused there.
    pub bytes: Bytes,
}

/// Serves the lanes of one sidecar.
#[derive(Clone)]
pub struct LaneService {
    /// The operation that is under way.
    pub operation: watch::Receiver<Option<Arc<Exchange>>>,
    /// The state that can be fetched.
    pub offer: watch::Receiver<Option<Offer>>,
    /// What a peer must show.
    pub secret: Secret,
    /// How long a lane may be ahead of this peer.
    pub patience: Duration,
}

impl tonic::server::NamedService for LaneService {
    const NAME: &'static str = "atoll.v1.Lane";
}

impl tower::Service<http::Request<Body>> for LaneService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.serve(request).await.unwrap_or_else(tonic::Status::into_http)) })
    }
}

impl LaneService {
    async fn serve(self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let shown = request.headers().get(HEADER).map(http::HeaderValue::as_bytes).unwrap_or_default();
        if !self.secret.admits(shown) {
            return Err(Status::unauthenticated("not a peer of this run"));
        }
        match request.uri().path() {
            PUSH => self.receive(request).await,
            FETCH => self.give(&request),
            path => Err(Status::unimplemented(path.to_owned())),
        }
    }

    async fn receive(mut self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let parcel = parcel(request.headers()).ok_or_else(|| Status::invalid_argument("headers of a lane are missing"))?;
        let exchange = tokio::time::timeout(self.patience, self.find(&parcel))
            .await
            .map_err(|_| Status::deadline_exceeded("this peer has not begun the operation"))??;
        let refused = |refused: Refused| Status::failed_precondition(refused.to_string());
        let (from, expected) = exchange.open(parcel.from, parcel.kind).map_err(refused)?;
        let mut deframer = Deframer::new(expected as u64);
        let mut body = request.into_body();
        // No clock for one lane: its sender may wait for somebody else, and the operation knows for whom.
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = exchange.closed() => return Err(refused(Refused::Closed)),
            };
            let Some(frame) = frame else { break };
            let Ok(mut data) = frame?.into_data() else { continue };
            while let Some(piece) = deframer.next(&mut data).map_err(|error| Status::invalid_argument(error.to_string()))? {
                exchange.accept(from, parcel.kind, &piece).map_err(refused)?;
            }
        }
        if !deframer.is_complete() {
            return Err(Status::data_loss("the lane ended early"));
        }
        Ok(answer(futures::stream::empty()))
    }

    /// The operation of a parcel: waits when the sender is ahead, refuses when it is behind.
    async fn find(&mut self, parcel: &Parcel) -> Result<Arc<Exchange>, Status> {
        let wanted = (parcel.epoch, parcel.round);
        let found = self
            .operation
            .wait_for(|operation| operation.as_ref().is_some_and(|exchange| exchange.plan().order() >= wanted))
            .await
            .map_err(|_| Status::unavailable("the sidecar stops"))?
            .clone();
        found
            .filter(|exchange| exchange.plan().order() == wanted)
            .ok_or_else(|| Status::failed_precondition("the operation has ended"))
    }

    fn give(self, request: &http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let wanted = request.headers().get("atoll-state").and_then(|value| blake3::Hash::from_hex(value.as_bytes()).ok());
        let offer = self.offer.borrow().clone();
        let offer = offer
            .filter(|offer| wanted.is_some_and(|wanted| wanted == offer.hash))
            .ok_or_else(|| Status::not_found("this worker does not hold that state"))?;
        let mut rest = offer.bytes;
        let pieces = std::iter::from_fn(move || {
            let next = rest.len().min(PIECE);
            (next > 0).then(|| rest.split_to(next))
        });
        Ok(answer(futures::stream::iter(pieces)))
    }
}

fn parcel(headers: &http::HeaderMap) -> Option<Parcel> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = match text("atoll-kind")? {
        "contribution" => Kind::Contribution,
        "result" => Kind::Result,
        _ => return None,
    };
    Some(Parcel {
        epoch: text("atoll-epoch")?.parse().ok()?,
        round: text("atoll-round")?.parse().ok()?,
        from: text("atoll-from")?.parse().ok()?,
        kind,
    })
}

/// A gRPC answer: messages, and the status OK.
fn answer(messages: impl futures::Stream<Item = Bytes> + Send + 'static) -> http::Response<Body> {
    let frames = frames(messages);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let end = futures::stream::once(async move { Ok(Frame::trailers(trailers)) });
    let mut response = http::Response::new(Body::new(StreamBody::new(frames.chain(end))));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}
