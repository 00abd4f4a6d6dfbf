//! The receiving end of lanes: a raw gRPC service beside the control services, on the same port.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tokio::sync::{oneshot, watch};
use tokio::time::MissedTickBehavior;
use tonic::Status;
use tonic::body::Body;

use super::{Ends, FETCH, Operations, PUSH, ends, frames};
use crate::exchange::{Exchange, Incoming, Sender};
use crate::framing::{Deframer, FramingError, Part, Unframer};
use crate::identity::PeerName;
use crate::protocol::{self, Versions};
use crate::secret::{HEADER, Secret};
use crate::state::HASHED_AT_ONCE;
use crate::state::offer::{Offer, Refused};
use crate::v1::StateRequest;

/// How often a sender is told what has arrived, while much does.
const TELL: Duration = Duration::from_millis(25);
/// Less is not told of: it says nothing of the link.
const MUCH: u64 = 1 << 16;

/// Largest request for a part of a state.
const LARGEST_REQUEST: u64 = 256;

/// Serves the lanes of one sidecar.
#[derive(Clone)]
pub struct LaneService {
    /// The sidecar's slot and incarnation: what was meant for an earlier process at its address is refused.
    pub me: (u32, u64),
    /// The operations that are under way.
    pub operations: Operations,
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
        let shown = header(&request, HEADER).unwrap_or_default();
        if !self.secret.admits(shown) {
            return Err(Status::unauthenticated("not a peer of this run"));
        }
        Versions::OURS
            .common_with(header(&request, protocol::HEADER))
            .map_err(|apart| Status::failed_precondition(apart.to_string()))?;
        match request.uri().path() {
            PUSH => self.receive(request),
            FETCH => self.give(request).await,
            path => Err(Status::unimplemented(path.to_owned())),
        }
    }

    /// Accepts a lane, and answers at once: the answer's end is the lane's end.
    fn receive(self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let ends = Ends::read(|name| header(&request, name));
        let ends = ends.ok_or_else(|| Status::invalid_argument("headers of a lane are missing, or are no numbers"))?;
        if (ends.to, ends.incarnation) != self.me {
            return Err(Status::failed_precondition("the lane is for another process"));
        }
        let from = Sender { slot: ends.from, name: name(&request) };
        let guest = self.operations.guests().admit(&from);
        let guest = guest.ok_or_else(|| Status::resource_exhausted("this peer has as many lanes open here as it may"))?;
        let (ended, end) = oneshot::channel();
        let (arrived, arrivals) = watch::channel(0);
        tokio::spawn(async move {
            let _open = guest;
            let mut carried = Carried::default();
            let status = self.take_frames(&from, request.into_body(), arrived, &mut carried).await.err();
            let status = status.unwrap_or_else(|| Status::unavailable("the sender closed the lane"));
            carried.lose(&from, status.message());
            let _gone = ended.send(status);
        });
        Ok(answer(told(arrivals), async { end.await.unwrap_or_else(|_| Status::unavailable("the sidecar stops")) }))
    }

    async fn take_frames(
        &self,
        from: &Sender,
        mut body: Body,
        arrived: watch::Sender<u64>,
        carried: &mut Carried,
    ) -> Result<(), Status> {
        // What comes over TLS was checked there.
        let mut unframer = if from.name.is_some() { Unframer::default() } else { Unframer::summed() };
        let mut incoming: Option<(Incoming, Option<u32>)> = None;
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let Ok(mut data) = frame?.into_data() else { continue };
            bytes += data.len() as u64;
            arrived.send_if_modified(|told| (bytes - *told >= MUCH).then(|| *told = bytes).is_some());
            let invalid = |error: &dyn std::error::Error| Status::invalid_argument(error.to_string());
            while let Some(part) = unframer.next(&mut data).map_err(|error| invalid(&error))? {
                match part {
                    Part::Head(header, length, sum) => {
                        let exchange = tokio::time::timeout(self.patience, self.operations.find(&header)).await;
                        let exchange =
                            exchange.map_err(|_| Status::deadline_exceeded("this peer has not begun the operation"))?;
                        carried.extend(exchange.as_ref());
                        // What belongs to an attempt that has ended is dropped.
                        incoming = exchange
                            .map(|exchange| {
                                exchange.receive(from, header.kind, header.block, length).map(|incoming| (incoming, sum))
                            })
                            .transpose()
                            .map_err(|refused| invalid(&refused))?;
                    }
                    Part::Payload { bytes, last } => {
                        if let Some((incoming, _)) = &mut incoming {
                            incoming.take(bytes);
                        }
                        if let Some((incoming, sum)) = incoming.take_if(|_| last) {
                            incoming.finish(sum).map_err(|error| invalid(&error))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Answers a request for a part of the state that is offered. Large chunks are copied and hashed on threads of
    /// their own.
    async fn give(self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        // Those who do not say who they are, and show no certificate, count as one.
        let slot =
            header(&request, ends::FROM).and_then(ends::number).and_then(|slot| u32::try_from(slot).ok()).unwrap_or(u32::MAX);
        let receiver = self.operations.receivers().admit(&Sender { slot, name: name(&request) });
        let receiver = receiver.ok_or_else(|| Status::resource_exhausted("this peer is given as many answers as it may be"))?;
        let request = tokio::time::timeout(self.patience, state_request(request.into_body())).await;
        let request = request.map_err(|_| Status::deadline_exceeded("the request does not come"))??;
        let offer = self.offer.borrow().clone().ok_or(Refused::Root).map_err(|refused| status(&refused))?;
        let answer = offer.answer(&request).map_err(|refused| status(&refused))?;
        let (ended, end) = oneshot::channel();
        let pieces = futures::stream::unfold((answer, ended, receiver), |(mut answer, ended, receiver)| async move {
            let next = if answer.work() < HASHED_AT_ONCE {
                Ok((answer.next(), answer))
            } else {
                let turn = answer.turn().await;
                let piece = move || {
                    let _until_it_is_made = turn;
                    (answer.next(), answer)
                };
                tokio::task::spawn_blocking(piece).await
            };
            let end = match next {
                Ok((Some(Ok(piece)), answer)) => return Some((piece, (answer, ended, receiver))),
                Ok((Some(Err(refused)), _)) => status(&refused),
                Ok((None, _)) => Status::ok(""),
                Err(error) => Status::internal(error.to_string()),
            };
            let _gone = ended.send(end);
            None
        });
        Ok(self::answer(pieces, async { end.await.unwrap_or_else(|_| Status::unavailable("the answer ended")) }))
    }
}

/// The attempts whose frames a lane has carried: its end is their matter alone, since a sender that tries again has opened another.
#[derive(Default)]
struct Carried(Vec<Weak<Exchange>>);

impl Carried {
    fn extend(&mut self, exchange: Option<&Arc<Exchange>>) {
        let Some(exchange) = exchange.filter(|exchange| !self.0.iter().any(|known| known.as_ptr() == Arc::as_ptr(exchange)))
        else {
            return;
        };
        self.0.retain(|known| known.strong_count() > 0);
        self.0.push(Arc::downgrade(exchange));
    }

    fn lose(&self, sender: &Sender, detail: &str) {
        for exchange in self.0.iter().filter_map(Weak::upgrade) {
            exchange.lose(sender, detail);
        }
    }
}

/// The number of bytes that have arrived, at most once in [`TELL`]; ends with the lane.
fn told(arrivals: watch::Receiver<u64>) -> impl futures::Stream<Item = Bytes> {
    let mut times = tokio::time::interval(TELL);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    futures::stream::unfold((arrivals, times), |(mut arrivals, mut times)| async {
        times.tick().await;
        arrivals.changed().await.ok()?;
        let arrived = *arrivals.borrow_and_update();
        Some((Bytes::copy_from_slice(&arrived.to_le_bytes()), (arrivals, times)))
    })
}

fn header<'a>(request: &'a http::Request<Body>, name: &str) -> Option<&'a [u8]> {
    request.headers().get(name).map(http::HeaderValue::as_bytes)
}

/// The name that the connection proved.
fn name(request: &http::Request<Body>) -> Option<PeerName> {
    request.extensions().get::<Option<PeerName>>().cloned().flatten()
}

fn status(refused: &Refused) -> Status {
    Status::failed_precondition(refused.to_string())
}

/// Reads a request: one message, bounded before it is read.
async fn state_request(mut body: Body) -> Result<StateRequest, Status> {
    let mut deframer = Deframer::new(LARGEST_REQUEST);
    let mut message = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else { continue };
        let invalid = |error: FramingError| Status::invalid_argument(error.to_string());
        while let Some(piece) = deframer.next(&mut data).map_err(invalid)? {
            message.extend_from_slice(&piece);
        }
    }
    StateRequest::decode(&message[..]).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// A gRPC answer: messages, and a status in the end.
fn answer(
    messages: impl futures::Stream<Item = Bytes> + Send + 'static,
    status: impl Future<Output = Status> + Send + 'static,
) -> http::Response<Body> {
    let end = futures::stream::once(async move {
        let mut trailers = http::HeaderMap::new();
        let _unprintable = status.await.add_header(&mut trailers);
        Ok(Frame::trailers(trailers))
    });
    let mut response = http::Response::new(Body::new(StreamBody::new(frames(messages).chain(end))));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sender_is_told_the_newest_count_after_a_pause_and_no_more_when_the_lane_ends() {
        let (arrived, arrivals) = watch::channel(0_u64);
        let mut told = std::pin::pin!(told(arrivals));
        arrived.send_replace(1);
        assert_eq!(told.next().await.unwrap(), 1_u64.to_le_bytes().as_slice());
        arrived.send_replace(2);
        let next = told.next();
        arrived.send_replace(3);
        assert_eq!(next.await.unwrap(), 3_u64.to_le_bytes().as_slice());
        drop(arrived);
        assert_eq!(told.next().await, None);
    }
}
