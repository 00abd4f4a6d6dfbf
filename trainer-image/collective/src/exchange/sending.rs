//! The sending side of an exchange: for each other member, copies of its shard and results of this peer's.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Exchange, PoisonError};
use crate::framing::{Header, Kind};
use crate::lane::Lanes;
use crate::peer::Failure;
use crate::v1::AbortReason;

/// What was sent to one member.
#[derive(Debug, Default)]
struct Sent {
    copies: usize,
    results: usize,
}

/// A frame to send.
enum Next {
    Ready(Header, Bytes),
    /// This peer's copy of a block, which is yet to be coded.
    Copy(Header),
}

impl Exchange {
    /// Sends one member everything that it gets, over all channels of its lane at once.
    pub(super) async fn send(self: Arc<Self>, lanes: Lanes, to: usize) -> Result<(), Failure> {
        let member = &self.plan.members[to];
        let lost = |detail| Failure { reason: AbortReason::LaneFailed, culprit: member.slot, detail };
        if self.frames_to(to) == 0 {
            return Ok(());
        }
        let lane = lanes.lane(member).await.map_err(lost)?;
        let sent = Mutex::new(Sent::default());
        let channels = lane.channels().iter().map(|channel| async {
            while let Some(next) = self.next_for(to, &sent).await {
                let (header, payload) = match next {
                    Next::Ready(header, payload) => (header, payload),
                    Next::Copy(header) => (header, self.own_copy(to, header.block as usize)?),
                };
                channel.send(header, payload).await.map_err(lost)?;
            }
            Ok(())
        });
        let sending = async {
            futures::future::try_join_all(channels).await?;
            self.wait_for(|state| (state.missing == 0 || state.failure.is_some()).then_some(())).await;
            Ok(())
        };
        // What was sent may not have arrived, until everything has come back.
        tokio::select! {
            sent = sending => sent,
            broken = lane.broken() => Err(lost(broken)),
        }
    }

    /// Frames that a member gets from this peer.
    fn frames_to(&self, to: usize) -> usize {
        let copies = if self.plan.gives(self.plan.me, to) { self.plan.blocks(to) } else { 0 };
        let results = if self.plan.has_all(to) { 0 } else { self.plan.blocks(self.plan.me) };
        copies + results
    }

    /// The next frame for a member, as soon as there is one; results go first, because others wait for them. None when it
    /// has got all.
    async fn next_for(&self, to: usize, sent: &Mutex<Sent>) -> Option<Next> {
        let copies = if self.plan.gives(self.plan.me, to) { self.plan.blocks(to) } else { 0 };
        let results = if self.plan.has_all(to) { 0 } else { self.plan.blocks(self.plan.me) };
        let header = |kind, block: usize| Header { term: self.plan.term, number: self.plan.number, block: block as u32, kind };
        self.wait_for(|state| {
            let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((block, bytes)) = state.reduced.get(sent.results).filter(|_| sent.results < results) {
                sent.results += 1;
                if self.plan.wants(to) {
                    return Some(Some(Next::Ready(header(Kind::Result, *block), bytes.clone())));
                }
                let digest = state.digests[self.plan.me][*block].unwrap_or_default();
                return Some(Some(Next::Ready(header(Kind::Digest, *block), Bytes::copy_from_slice(&digest))));
            }
            if sent.copies < copies {
                let block = sent.copies;
                sent.copies += 1;
                return Some(Some(Next::Copy(header(Kind::Contribution, block))));
            }
            (sent.results == results).then_some(None)
        })
        .await
    }
}
