//! The way of a repair to its donors: requests for their tables and chunks, over connections of their own.
//!
//! Operations have other connections, so that a state that is given away delays none of them. A donor that is no longer a
//! member is not waited for.

use std::collections::BTreeMap;
use std::future::{pending, ready};
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, BodyStream, Full};
use prost::Message;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel as Connection;

use super::{FETCH, Lanes, ends};
use crate::chain;
use crate::framing::{self, Deframer};
use crate::state::manifest::Hash;
use crate::state::synchronise::Fetch;
use crate::v1::{ChunkRange, EpochRecord, Member, StateRequest};

/// Donors of one repair.
pub struct Donors {
    lanes: Lanes,
    /// By slot.
    members: BTreeMap<u32, (Member, Result<Connection, String>)>,
    record: watch::Receiver<EpochRecord>,
    /// The epoch in which they are members.
    epoch: u64,
}

impl Donors {
    /// The sidecars of `members` of `epoch`, as long as the newest granted `record` has them; each is dialled when it is first
    /// asked.
    #[must_use]
    pub fn new<'a>(
        lanes: &Lanes,
        members: impl IntoIterator<Item = &'a Member>,
        epoch: u64,
        record: watch::Receiver<EpochRecord>,
    ) -> Self {
        let donor = |member: &Member| (member.slot, (member.clone(), lanes.connection_to(member)));
        Self { lanes: lanes.clone(), members: members.into_iter().map(donor).collect(), record, epoch }
    }

    async fn ask(&self, donor: u32, request: StateRequest) -> Result<Body, String> {
        let connection = self.members.get(&donor).map(|(_, connection)| connection.clone());
        let connection = connection.unwrap_or_else(|| Err("it is no member".to_owned()))?;
        let message = request.encode_to_vec();
        let framed = [&framing::prefix(message.len() as u32)[..], &message].concat();
        let body = Full::new(Bytes::from(framed)).map_err(|never| match never {});
        let request = self
            .lanes
            .request(FETCH)
            .header(ends::FROM, self.lanes.slot())
            .body(Body::new(body))
            .map_err(|error| error.to_string())?;
        Lanes::call(connection, request).await
    }

    /// Says so when the donor is no longer a member.
    async fn left(&self, donor: u32) -> Option<Result<Bytes, String>> {
        let (epoch, mut record) = (self.epoch, self.record.clone());
        let member = self.members.get(&donor).map(|(member, _)| member);
        let gone = |record: &EpochRecord| record.epoch >= epoch && member.is_some_and(|member| !chain::includes(record, member));
        let left = record.wait_for(gone).await.is_ok();
        if !left {
            // Nobody tells of records any more.
            pending::<()>().await;
        }
        Some(Err("it is no longer a member".to_owned()))
    }

    /// The bytes of an answer of at most `length` bytes; how it ended is the donor's word.
    fn answer(&self, donor: u32, request: StateRequest, length: u64) -> impl Stream<Item = Result<Bytes, String>> + Send {
        let body = stream::once(self.ask(donor, request));
        let frames = body.map_ok(|body| BodyStream::new(body.map_err(|error| error.message().to_owned()))).try_flatten();
        let mut deframer = Deframer::new(length);
        let pieces = frames.map(move |frame| match frame?.into_data() {
            Ok(mut data) => {
                let mut pieces = Vec::new();
                while let Some(piece) = deframer.next(&mut data).map_err(|error| error.to_string())? {
                    pieces.push(Ok(piece));
                }
                Ok(stream::iter(pieces))
            }
            Err(frame) => match frame.into_trailers().ok().as_ref().and_then(Status::from_header_map) {
                Some(status) if status.code() != tonic::Code::Ok => Err(status.message().to_owned()),
                _ => Ok(stream::iter(Vec::new())),
            },
        });
        let pieces = pieces.try_flatten().map(Some).chain(stream::iter([None]));
        stream::select(pieces, stream::once(self.left(donor))).take_while(|piece| ready(piece.is_some())).filter_map(ready)
    }
}

impl Fetch for Donors {
    type Error = String;

    async fn table(&self, donor: u32, root: Hash, length: u64) -> Result<Bytes, String> {
        let request = StateRequest { root: root.to_vec(), chunks: None };
        let whole = self.answer(donor, request, length).try_fold(BytesMut::new(), |mut whole, piece| {
            whole.extend_from_slice(&piece);
            ready(Ok(whole))
        });
        Ok(whole.await?.freeze())
    }

    fn chunks(
        &self,
        donor: u32,
        root: Hash,
        chunks: Range<usize>,
        length: u64,
    ) -> impl Stream<Item = Result<Bytes, String>> + Send {
        let range = ChunkRange { first: chunks.start as u64, count: chunks.len() as u64 };
        self.answer(donor, StateRequest { root: root.to_vec(), chunks: Some(range) }, length)
    }
}
