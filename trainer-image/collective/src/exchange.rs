//! The data movement of one reduction: direct reduce-scatter and all-gather, block by block.
//!
//! Every peer owns one shard. It receives that shard from all others, adds the copies in slot order as soon as a block is
//! there from everybody, and sends each finished block on at once. The input is never written; the output is valid only
//! after the commit.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, Stream};
use tokio::sync::Notify;

use crate::chain::HASH;
use crate::lane::{Lanes, Parcel};
use crate::peer::Failure;
use crate::v1::{AbortReason, Begin, Member};
use crate::{NotFinite, reduce, shards};

/// Bytes of one element.
const ELEMENT: usize = 4;
/// Bytes of one block.
const BLOCK_BYTES: usize = shards::BLOCK * ELEMENT;

/// Where a result is put together.
pub trait Output: Send + Sync {
    /// Writes at a byte offset; false when it does not fit.
    fn write(&self, offset: usize, data: &[u8]) -> bool;
    /// All of it.
    fn bytes(&self) -> &[u8];
}

/// What travels on a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The sender's copy of the receiver's shard.
    Contribution,
    /// The sender's shard, reduced.
    Result,
}

/// Who reduces what, in which order and with which weights.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Epoch of the operation.
    pub epoch: u64,
    /// Round of the operation.
    pub round: u64,
    members: Vec<Member>,
    me: usize,
    weights: Vec<u32>,
    /// Ranges of bytes, by member.
    shards: Vec<Range<usize>>,
}

impl Plan {
    /// The plan of `begin` as the member of `slot` sees it; none when it is not a member or a contribution is missing.
    #[must_use]
    pub fn new(begin: &Begin, slot: u32) -> Option<Self> {
        let record = begin.record.as_ref()?;
        let members = record.members.clone();
        let me = members.iter().position(|member| member.slot == slot)?;
        let weight =
            |member: &Member| begin.contributions.iter().find(|given| given.slot == member.slot).map(|given| given.weight);
        let weights = members.iter().map(weight).collect::<Option<Vec<_>>>()?;
        let elements = usize::try_from(begin.elements).ok()?;
        let shards =
            shards::divide(elements, members.len()).into_iter().map(|shard| shard.start * ELEMENT..shard.end * ELEMENT).collect();
        Some(Self { epoch: record.epoch, round: begin.round, members, me, weights, shards })
    }

    /// Operations in the order in which they can follow each other.
    #[must_use]
    pub fn order(&self) -> (u64, u64) {
        (self.epoch, self.round)
    }

    fn mine(&self) -> Range<usize> {
        self.shards[self.me].clone()
    }

    /// The other members' positions.
    fn others(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(|member| *member != self.me)
    }

    /// Bytes that `from` sends this peer on a lane of `kind`.
    fn expected(&self, from: usize, kind: Kind) -> usize {
        match kind {
            Kind::Contribution => self.mine().len(),
            Kind::Result => self.shards[from].len(),
        }
    }
}

/// One operation on one peer.
pub struct Exchange {
    plan: Plan,
    input: Bytes,
    output: Arc<dyn Output>,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    closed: bool,
    /// By member: its copy of this peer's shard, as far as it has come.
    copies: Vec<Vec<u8>>,
    /// By member: bytes of its reduced shard that have come.
    results: Vec<usize>,
    /// Lanes that were opened, by member and kind: none may come twice.
    opened: Vec<[bool; 2]>,
    /// Reduced blocks of this peer's shard.
    blocks: Vec<Bytes>,
    failure: Option<Failure>,
    progress: Instant,
}

/// A lane that is not part of the operation, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The operation has ended.
    #[error("the operation has ended")]
    Closed,
    /// The sender is not a member of the operation.
    #[error("the sender is not a member of the operation")]
    Stranger,
    /// The same lane was opened before.
    #[error("the lane was opened before")]
    Twice,
    /// More bytes than the shard has.
    #[error("more bytes than the shard has")]
    TooLong,
}

impl Exchange {
    /// An operation over `input`; none when the lengths do not fit the plan.
    #[must_use]
    pub fn new(plan: Plan, input: Bytes, output: Arc<dyn Output>) -> Option<Arc<Self>> {
        let length = plan.shards.last()?.end;
        if input.len() != length || output.bytes().len() != length {
            return None;
        }
        let members = plan.members.len();
        let state = State {
            closed: false,
            copies: vec![Vec::new(); members],
            results: vec![0; members],
            opened: vec![[false; 2]; members],
            blocks: Vec::new(),
            failure: None,
            progress: Instant::now(),
        };
        Some(Arc::new(Self { plan, input, output, state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Its plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Opens a lane from the member of `slot`; returns its position and how many bytes will come.
    ///
    /// # Errors
    /// [`Refused`] for strangers, repeated lanes, and operations that have ended.
    pub fn open(&self, slot: u32, kind: Kind) -> Result<(usize, usize), Refused> {
        let from = self.plan.others().find(|from| self.plan.members[*from].slot == slot).ok_or(Refused::Stranger)?;
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if std::mem::replace(&mut state.opened[from][kind as usize], true) {
            return Err(Refused::Twice);
        }
        let expected = self.plan.expected(from, kind);
        if kind == Kind::Contribution {
            state.copies[from].reserve_exact(expected);
        }
        Ok((from, expected))
    }

    /// Takes the next bytes of a lane that was opened.
    ///
    /// # Errors
    /// [`Refused::Closed`] when the operation has ended, [`Refused::TooLong`] for more than the shard.
    pub fn accept(&self, from: usize, kind: Kind, data: &[u8]) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        state.progress = Instant::now();
        match kind {
            Kind::Contribution => {
                if state.copies[from].len() + data.len() > self.plan.mine().len() {
                    return Err(Refused::TooLong);
                }
                state.copies[from].extend_from_slice(data);
                self.reduce(&mut state);
            }
            Kind::Result => {
                let shard = &self.plan.shards[from];
                let offset = shard.start + state.results[from];
                if offset + data.len() > shard.end || !self.output.write(offset, data) {
                    return Err(Refused::TooLong);
                }
                state.results[from] += data.len();
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// Reduces every block that has come from everybody.
    fn reduce(&self, state: &mut State) {
        let shard = self.plan.mine();
        let there = self.plan.others().map(|from| state.copies[from].len()).min().unwrap_or(shard.len());
        let total: u64 = self.plan.weights.iter().map(|weight| u64::from(*weight)).sum();
        while state.failure.is_none() {
            let start = state.blocks.len() * BLOCK_BYTES;
            let end = (start + BLOCK_BYTES).min(shard.len());
            if start >= end || there < end {
                return;
            }
            let first = (shard.start + start) / ELEMENT;
            let mut sum = vec![0.0; (end - start) / ELEMENT];
            let copy = |member: usize| {
                if member == self.plan.me {
                    &self.input[shard.start + start..shard.start + end]
                } else {
                    &state.copies[member][start..end]
                }
            };
            let failed = |member: usize, detail| {
                let culprit = self.plan.members[member].slot;
                Some(Failure { reason: AbortReason::NotFinite, culprit, detail })
            };
            for (member, weight) in self.plan.weights.iter().enumerate() {
                if let Err(NotFinite { position }) = reduce::add(&mut sum, copy(member), *weight) {
                    state.failure = failed(member, format!("element {} is not finite", first + position));
                    return;
                }
            }
            let mut block = vec![0; end - start];
            if let Err(NotFinite { position }) = reduce::mean_to_bytes(&sum, total, &mut block) {
                // All were finite, so the largest of them is the likeliest cause.
                let value = |member: &usize| f64::from(f32::from_le_bytes(copy(*member).as_chunks().0[position]).abs());
                let term = |member: &usize| f64::from(self.plan.weights[*member]) * value(member);
                let largest = (0..self.plan.members.len()).max_by(|one, other| term(one).total_cmp(&term(other)));
                state.failure =
                    failed(largest.unwrap_or(self.plan.me), format!("the sum of element {} is not finite", first + position));
                return;
            }
            let block = Bytes::from(block);
            // The length was checked when the exchange was made.
            let _fits = self.output.write(shard.start + start, &block);
            state.blocks.push(block);
        }
    }

    /// Moves the data and returns the result's hash.
    ///
    /// # Errors
    /// [`Failure`] names the peer whose lane broke, was silent for `patience`, or whose contribution is not finite.
    pub async fn run(self: Arc<Self>, lanes: Lanes, patience: Duration) -> Result<[u8; HASH], Failure> {
        self.reduce(&mut self.lock());
        self.changed.notify_waiters();
        let sending = self.plan.others().flat_map(|to| [(to, Kind::Contribution), (to, Kind::Result)]);
        let sending: Vec<_> = sending.map(|(to, kind)| Arc::clone(&self).send(lanes.clone(), to, kind)).collect();
        futures::try_join!(futures::future::try_join_all(sending), self.complete(patience))?;
        let hash = blake3::hash(self.output.bytes());
        Ok(*hash.as_bytes())
    }

    async fn send(self: Arc<Self>, lanes: Lanes, to: usize, kind: Kind) -> Result<(), Failure> {
        let shard = match kind {
            Kind::Contribution => self.plan.shards[to].clone(),
            Kind::Result => self.plan.mine(),
        };
        if shard.is_empty() {
            return Ok(());
        }
        let member = &self.plan.members[to];
        let parcel = Parcel { epoch: self.plan.epoch, round: self.plan.round, from: self.plan.members[self.plan.me].slot, kind };
        let pushed = match kind {
            Kind::Contribution => lanes.push(&member.address, &parcel, blocks(self.input.slice(shard))).await,
            Kind::Result => lanes.push(&member.address, &parcel, Arc::clone(&self).reduced_blocks()).await,
        };
        pushed.map_err(|detail| Failure { reason: AbortReason::LaneFailed, culprit: member.slot, detail })
    }

    /// This peer's reduced blocks, each as soon as it is there.
    fn reduced_blocks(self: Arc<Self>) -> impl Stream<Item = Bytes> + Send + 'static {
        let count = self.plan.mine().len().div_ceil(BLOCK_BYTES);
        stream::unfold((self, 0), move |(exchange, next)| async move {
            if next == count {
                return None;
            }
            let block = exchange.wait_for(|state| state.blocks.get(next).cloned()).await;
            Some((block, (exchange, next + 1)))
        })
    }

    /// Waits until everything has come.
    async fn complete(&self, patience: Duration) -> Result<(), Failure> {
        let ended = self.wait_for(|state| {
            if let Some(failure) = &state.failure {
                return Some(Err(failure.clone()));
            }
            self.missing(state).is_none().then_some(Ok(()))
        });
        let mut ended = std::pin::pin!(ended);
        loop {
            let silence = self.lock().progress.elapsed();
            let left = patience.saturating_sub(silence);
            if left.is_zero() {
                let Some(culprit) = self.missing(&self.lock()) else { continue };
                let detail = format!("no block for {} ms", silence.as_millis());
                return Err(Failure { reason: AbortReason::NoProgress, culprit, detail });
            }
            if let Ok(result) = tokio::time::timeout(left, &mut ended).await {
                return result;
            }
        }
    }

    /// Slot of a member whose bytes have not all come.
    fn missing(&self, state: &State) -> Option<u32> {
        // Results wait for everybody's copies, so a missing copy is the nearer cause.
        let copy = |from: &usize| state.copies[*from].len() < self.plan.mine().len();
        let result = |from: &usize| state.results[*from] < self.plan.shards[*from].len();
        let missing = self.plan.others().find(copy).or_else(|| self.plan.others().find(result));
        missing.map(|from| self.plan.members[from].slot)
    }

    async fn wait_for<T>(&self, mut ready: impl FnMut(&State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(value) = ready(&self.lock()) {
                return value;
            }
            changed.await;
        }
    }

    /// Ends the operation: nothing more is accepted, and the output is not written any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// Waits until the operation is ended.
    pub async fn closed(&self) {
        self.wait_for(|state| state.closed.then_some(())).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts bytes into blocks without copying them.
fn blocks(mut bytes: Bytes) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::iter(std::iter::from_fn(move || {
        let next = bytes.len().min(BLOCK_BYTES);
        (next > 0).then(|| bytes.split_to(next))
    }))
}
