//! The sending side of an exchange: for each other member, copies of its shard and results of this peer's.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Exchange, Finished, PoisonError};
use crate::framing::{self, Header, Kind};
use crate::lane::Lanes;
use crate::peer::Failure;
use crate::v1::AbortReason;

/// What is yet to be sent to one member.
#[derive(Debug)]
struct Rest {
    /// Copies, by the index of their block among those of all shards.
    copies: Vec<Range<usize>>,
    /// How many of what is finished were looked at.
    seen: usize,
    /// How many of what will be finished are for the member.
    finished: usize,
}

/// What `sending` comes to, unless neither it nor another that notes its end in `taken` ends for `patience`: then how long none has.
async fn within<T>(patience: Duration, taken: &Mutex<Instant>, sending: impl Future<Output = T>) -> Result<T, Duration> {
    let last = || *taken.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    let mut sending = std::pin::pin!(sending);
    loop {
        let since = last().max(begun);
        match tokio::time::timeout(patience.saturating_sub(since.elapsed()), &mut sending).await {
            Ok(sent) => {
                *taken.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                return Ok(sent);
            }
            Err(_) if last() <= since => return Err(since.elapsed()),
            Err(_) => {}
        }
    }
}

/// A frame to send.
enum Next {
    Ready(Header, Bytes, Option<u32>),
    /// This peer's copy of a block of an owner's shard, which is yet to be coded.
    Copy(Header, usize, usize),
}

impl Exchange {
    /// Sends one member everything that it gets, over all channels of its lane at once. One that takes no frame for `patience` is
    /// at fault, whatever else it says.
    pub(super) async fn send(self: Arc<Self>, lanes: Lanes, to: usize, patience: Duration) -> Result<(), Failure> {
        let member = &self.plan.members[to];
        let lost = |detail| Failure { reason: AbortReason::LaneFailed, culprit: member.slot, detail };
        let rest = self.rest(to);
        if rest.copies.is_empty() && rest.finished == 0 {
            return Ok(());
        }
        let unanswered = |_| Failure {
            reason: AbortReason::NoProgress,
            culprit: member.slot,
            detail: format!("its lane was not answered for {} ms", patience.as_millis()),
        };
        let lane = tokio::time::timeout(patience, lanes.lane(member)).await.map_err(unanswered)?.map_err(lost)?;
        let rest = Mutex::new(rest);
        let taken = Mutex::new(Instant::now());
        let channels = lane.channels().iter().map(|channel| async {
            while let Some(next) = self.next_for(to, &rest).await {
                let (header, payload, sum) = match next {
                    Next::Ready(header, payload, sum) => (header, payload, sum),
                    Next::Copy(header, owner, block) => (header, self.own_copy(owner, block)?, None),
                };
                let silent = |silence: Duration| {
                    let detail = format!("took no block for {} ms", silence.as_millis());
                    Failure { reason: AbortReason::NoProgress, culprit: member.slot, detail }
                };
                let sent = within(patience, &taken, channel.send(header, payload, sum));
                sent.await.map_err(silent)?.map_err(lost)?;
                // A channel's queue would take all of a small tensor before the next one had a turn.
                if lane.channels().len() > 1 {
                    tokio::task::yield_now().await;
                }
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
            biased;
            sent = sending => sent,
            broken = lane.broken() => Err(lost(broken)),
        }
    }

    /// All that a member gets from this peer.
    fn rest(&self, to: usize) -> Rest {
        let (plan, me) = (&self.plan, self.plan.me);
        let owners = || 0..plan.members.len();
        let copied = owners().filter(|owner| plan.gives(me, *owner) && plan.hop(me, *owner) == to);
        let copies = copied.map(|owner| plan.shard_blocks(owner)).filter(|blocks| !blocks.is_empty()).collect();
        let finished = owners().map(|owner| {
            let times = usize::from(self.is_for(to, Kind::Partial, owner)) + usize::from(self.is_for(to, Kind::Result, owner));
            times * plan.blocks(owner)
        });
        Rest { copies, seen: 0, finished: finished.sum() }
    }

    /// Whether a member gets from this peer what it finished of `owner`'s shard.
    fn is_for(&self, to: usize, kind: Kind, owner: usize) -> bool {
        let (plan, me) = (&self.plan, self.plan.me);
        match kind {
            Kind::Partial => owner == to && plan.collects(me, owner),
            _ => owner != to && !plan.has_all(to) && plan.supplier(to, owner) == me,
        }
    }

    /// The next frame for a member, as soon as there is one; what is finished goes first, because others wait for it. None when
    /// it has got all.
    async fn next_for(&self, to: usize, rest: &Mutex<Rest>) -> Option<Next> {
        let header = |kind, block: usize| Header { term: self.plan.term, number: self.plan.number, block: block as u32, kind };
        self.wait_for(|state| {
            let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(finished) = state.finished.get(rest.seen) {
                let Finished { kind, block, owner, ref bytes } = *finished;
                rest.seen += 1;
                if !self.is_for(to, kind, owner) {
                    continue;
                }
                rest.finished -= 1;
                if kind == Kind::Partial {
                    return Some(Some(Next::Ready(header(kind, block), bytes.clone(), None)));
                }
                let place = self.plan.place(block).map_or(0, |(_, place)| place);
                let digest = state.digests[owner][place].unwrap_or_default();
                if self.plan.wants(to) {
                    let sum = framing::sum_of_result(&digest);
                    return Some(Some(Next::Ready(header(kind, block), bytes.clone(), Some(sum))));
                }
                return Some(Some(Next::Ready(header(Kind::Digest, block), Bytes::copy_from_slice(&digest), None)));
            }
            while let Some(blocks) = rest.copies.first_mut() {
                if let Some(block) = blocks.next() {
                    return self
                        .plan
                        .place(block)
                        .map(|(owner, place)| Some(Next::Copy(header(Kind::Contribution, block), owner, place)));
                }
                rest.copies.remove(0);
            }
            (rest.finished == 0).then_some(None)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn who_takes_no_frame_for_as_long_as_the_patience_is_found_out() {
        let taken = Mutex::new(Instant::now());
        let never = std::future::pending::<()>();
        assert_eq!(within(PATIENCE, &taken, never).await, Err(PATIENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_may_take_longer_while_others_of_the_lane_arrive() {
        let taken = Mutex::new(Instant::now());
        let slow = within(PATIENCE, &taken, tokio::time::sleep(3 * PATIENCE / 2));
        let other = within(PATIENCE, &taken, tokio::time::sleep(PATIENCE / 2));
        let (slow, other) = futures::join!(slow, async {
            other.await?;
            within(PATIENCE, &taken, tokio::time::sleep(PATIENCE / 2)).await
        });
        assert_eq!((slow, other), (Ok(()), Ok(())));
    }
}
