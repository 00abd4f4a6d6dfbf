//! The sending end of a lane: one or more channels to one peer, each a connection with one raw gRPC body.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel as Connection;

use super::{Arrivals, Bounds, Lanes, PUSH, ends};
use crate::framing::{self, Header};
use crate::v1::Member;

/// Bytes per second that one lane is to be able to carry at least, whatever the distance: a gigabit.
const RATE: u64 = 125_000_000;
/// Bytes that one connection has on the way at most, by the system's usual limits.
const IN_FLIGHT: f64 = (4 << 20) as f64;

/// How many connections a lane has: those that are wanted, as far as they are admitted, or those that fill a link with this
/// round-trip time and bandwidth, where that was measured.
fn channels(wanted: Option<usize>, round_trip: Duration, bandwidth: Option<u64>) -> usize {
    let rate = bandwidth.unwrap_or(RATE).max(RATE) as f64;
    let filling = || (round_trip.as_secs_f64() * rate / IN_FLIGHT).ceil() as usize;
    wanted.unwrap_or_else(filling).clamp(1, Bounds::MOST_CHANNELS)
}

/// A lane to one peer.
pub struct Lane {
    channels: Vec<Channel>,
    broken: watch::Receiver<Option<String>>,
}

/// One connection of a lane.
pub struct Channel {
    frames: mpsc::Sender<(Bytes, Bytes)>,
    /// Frames carry checksums: the connection has no TLS.
    summed: bool,
    /// Waits for its end, which a connection that is half-open has none of.
    hears: JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.hears.abort();
    }
}

impl Channel {
    /// Queues a frame; waits while the queue is full. `sum` is that of the payload, where it is known already.
    ///
    /// # Errors
    /// When the channel has broken.
    pub async fn send(&self, header: Header, payload: Bytes, sum: Option<u32>) -> Result<(), String> {
        let sum = self.summed.then(|| sum.unwrap_or_else(|| framing::sum(&payload)));
        let head = header.encode(payload.len(), sum);
        self.frames.send((head, payload)).await.map_err(|_| "the lane broke".to_owned())
    }
}

impl Lane {
    /// Opens a lane to `member` and waits until it is accepted.
    pub(super) async fn open(lanes: &Lanes, member: &Member) -> Result<Self, String> {
        let (broke, broken) = watch::channel(None);
        let begun = Instant::now();
        let first = open(lanes, member, lanes.connection_to(member)?, broke.clone()).await?;
        let again = Instant::now();
        // The first took the time of making a connection as well.
        let round_trip = again.duration_since(begun) / 2;
        let channels = channels(lanes.bounds.channels, round_trip, lanes.bandwidth());
        let more = (1..channels).map(|_| async { open(lanes, member, lanes.connection_to(member)?, broke.clone()).await });
        let mut channels = futures::future::try_join_all(more).await?;
        channels.insert(0, first);
        Ok(Self { channels, broken })
    }

    /// Its connections.
    #[must_use]
    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// Waits until it breaks, and says why.
    pub async fn broken(&self) -> String {
        let mut broken = self.broken.clone();
        let why = broken.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or_else(|| "the lane was closed".to_owned())
    }

    /// Whether it can carry nothing any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.borrow().is_some()
    }
}

async fn open(
    lanes: &Lanes,
    member: &Member,
    connection: Connection,
    broke: watch::Sender<Option<String>>,
) -> Result<Channel, String> {
    let (frames, queue) = mpsc::channel(lanes.bounds.queue.max(1));
    let sent = Arc::default();
    let request = lanes
        .request(PUSH)
        .header(ends::FROM, lanes.slot())
        .header(ends::TO, member.slot)
        .header(ends::INCARNATION, member.incarnation)
        .body(Body::new(StreamBody::new(body(ReceiverStream::new(queue), Arc::clone(&sent)))))
        .map_err(|error| error.to_string())?;
    let answer = Lanes::call(connection, request).await?;
    let summed = !lanes.transport.is_secured();
    let lanes = lanes.clone();
    let hears = tokio::spawn(async move {
        let why = match hear(&lanes, answer, &sent).await {
            Ok(Some(status)) | Err(status) => status.message().to_owned(),
            Ok(None) => "it ended without a status".to_owned(),
        };
        broke.send_replace(Some(why));
    });
    Ok(Channel { frames, summed, hears })
}

/// Hears how many bytes of those that were `sent` have arrived, until the lane ends.
async fn hear(lanes: &Lanes, mut answer: Body, sent: &AtomicU64) -> Result<Option<Status>, Status> {
    let mut arrivals = Arrivals::default();
    while let Some(frame) = answer.frame().await {
        let data = match frame?.into_data() {
            Ok(data) => data,
            Err(end) => return Ok(end.trailers_ref().and_then(Status::from_header_map)),
        };
        let more = arrivals.take(data, sent.load(Ordering::Relaxed)).map_err(|error| Status::internal(error.to_string()))?;
        if more > 0 {
            lanes.arrived(more);
        }
    }
    Ok(None)
}

/// The pieces of each frame, not copied; each is counted as it goes.
fn body(
    frames: impl Stream<Item = (Bytes, Bytes)> + Send + 'static,
    sent: Arc<AtomicU64>,
) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send {
    frames.flat_map(|(head, payload)| futures::stream::iter([head, payload])).map(move |bytes| {
        sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(Frame::data(bytes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_peers_get_more_connections() {
        let at = |milliseconds| channels(None, Duration::from_millis(milliseconds), None);
        assert_eq!((at(0), at(1), at(100), at(10_000)), (1, 1, 3, 16));
        let measured = |bandwidth| channels(None, Duration::from_millis(20), Some(bandwidth));
        assert_eq!((measured(1_000_000), measured(1_250_000_000)), (1, 6));
    }

    #[tokio::test]
    async fn what_has_gone_is_counted_and_what_waits_is_not() {
        let frame = |length| (Bytes::from_static(&[0; 3]), Bytes::from(vec![0; length]));
        let sent = Arc::new(AtomicU64::new(0));
        let mut body = std::pin::pin!(body(futures::stream::iter([frame(10), frame(20)]), Arc::clone(&sent)));
        for gone in [3, 13, 16, 36] {
            body.next().await.unwrap().unwrap();
            assert_eq!(sent.load(Ordering::Relaxed), gone);
        }
        assert!(body.next().await.is_none());
    }

    #[test]
    fn no_more_connections_are_opened_than_are_admitted() {
        let wanted = |wanted| channels(Some(wanted), Duration::ZERO, None);
        assert_eq!((wanted(0), wanted(7), wanted(16), wanted(17)), (1, 7, 16, 16));
    }
}
