//! The data movement of one attempt at an operation, block by block.
//!
//! Every owner receives copies of its shard, reduces each block in slot order as soon as all copies are there, and sends it
//! on at once. The input is never written; the output is valid only after the commit. The result's hash is over the hashes
//! of its blocks, so that nothing is read twice.

mod arithmetic;
mod measures;
mod memory;
mod payloads;
mod plan;
mod receiving;
mod sending;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::framing::Kind;
use crate::lane::Lanes;
use crate::operation;
use crate::peer::Failure;
use crate::v1::AbortReason;
use arithmetic::Given;
pub use arithmetic::feed_back;
pub use measures::{Arrival, Instants};
pub use memory::Memory;
pub use plan::{BLOCK_BYTES, Plan};
pub use receiving::{Incoming, Refused, Sender};

type Digest = [u8; 32];

/// Where a result is put together.
pub trait Output: Send + Sync {
    /// Writes at a byte offset; false when it does not fit.
    fn write(&self, offset: usize, data: &[u8]) -> bool;
    /// The bytes from `start` to `end` as they are now, without copying them; empty when they do not lie inside.
    fn shared(&self, start: usize, end: usize) -> Bytes;
    /// Length in bytes.
    fn len(&self) -> usize;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One attempt at an operation on one peer.
pub struct Exchange {
    plan: Plan,
    input: Bytes,
    /// What coding lost in earlier operations; as long as the input.
    residual: Option<Bytes>,
    output: Arc<dyn Output>,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    closed: bool,
    /// By block of all shards: what has come of what this peer adds up, by member; nothing once that is done, and where it
    /// adds up nothing.
    copies: Vec<Vec<Option<Bytes>>>,
    /// By member and block of all shards: the kinds of frames that were begun, a bit each; none may come twice.
    begun: Vec<Vec<u8>>,
    /// By member and block of its shard: the hash of the reduced block.
    digests: Vec<Vec<Option<Digest>>>,
    /// Blocks without hash.
    missing: usize,
    /// What there is to send besides copies, in the order in which it was finished.
    finished: Vec<Finished>,
    /// Blocks of this peer's shard that are not reduced.
    unreduced: usize,
    failure: Option<Failure>,
    /// By member: when its newest block had come whole, of a contributor's the next in order; the attempt's beginning before.
    progress: Vec<Instant>,
    /// By member: no copy of a block before this one is missing, or is yet to come.
    next: Vec<usize>,
    instants: Instants,
}

impl State {
    /// The hash of a reduced block is known.
    fn finish_block(&mut self, owner: usize, block: usize, digest: Digest) {
        if self.digests[owner][block].replace(digest).is_none() {
            self.missing -= 1;
        }
    }
}

/// A member whose blocks have not all come.
struct Awaited {
    member: usize,
    /// How long it has given none, and may give none from now on.
    silence: Duration,
    left: Duration,
}

/// A block that is ready for others, as it goes on the lanes.
struct Finished {
    kind: Kind,
    /// Index of the block among those of all shards.
    block: usize,
    owner: usize,
    bytes: Bytes,
}

impl Exchange {
    /// An attempt over `input`, and the `residual` that is added to it before it is coded.
    ///
    /// # Errors
    /// [`Failure`] when the lengths do not fit the plan; it names who is to blame, as [`Plan::check_output`] does.
    pub fn new(plan: Plan, input: Bytes, residual: Option<Bytes>, output: Arc<dyn Output>) -> Result<Arc<Self>, Failure> {
        let fits = input.len() == plan.input_bytes() && residual.as_ref().is_none_or(|residual| residual.len() == input.len());
        if !fits {
            let detail = "the contribution does not fit the operation".to_owned();
            return Err(arithmetic::mismatch(&plan, plan.me, detail));
        }
        plan.check_output(output.len())?;
        let members = plan.members.len();
        let digests: Vec<Vec<Option<Digest>>> = (0..members).map(|owner| vec![None; plan.blocks(owner)]).collect();
        let adds_up = |owner: usize| owner == plan.me || plan.collects(plan.me, owner);
        let copies = |owner| vec![vec![None; if adds_up(owner) { members } else { 0 }]; plan.blocks(owner)];
        let state = State {
            closed: false,
            copies: (0..members).flat_map(copies).collect(),
            begun: vec![vec![0; plan.all_blocks()]; members],
            missing: digests.iter().map(Vec::len).sum(),
            digests,
            finished: Vec::new(),
            unreduced: plan.blocks(plan.me),
            failure: None,
            progress: vec![Instant::now(); members],
            next: vec![0; members],
            instants: Instants::default(),
        };
        Ok(Arc::new(Self { plan, input, residual, output, state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Its plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Moves the data and returns the result's hash.
    ///
    /// # Errors
    /// [`Failure`] names the peer whose lane broke, was silent or took nothing for `patience`, or whose contribution cannot be
    /// reduced, is not finite, or is no payload where it should be one.
    pub async fn run(self: Arc<Self>, lanes: Lanes, patience: Duration) -> Result<Digest, Failure> {
        self.judge(vec![self.plan.me]).await?;
        let sending: Vec<_> = self.plan.others().map(|to| Arc::clone(&self).send(lanes.clone(), to, patience)).collect();
        let own = async {
            self.begin_own();
            Ok(())
        };
        futures::try_join!(futures::future::try_join_all(sending), own, self.complete(patience))?;
        self.judge(self.plan.others().collect()).await?;
        Ok(self.digest())
    }

    /// What this peer can do alone: add up blocks of which it is the only source, and take over what it gives to all.
    fn begin_own(&self) {
        for block in 0..self.plan.all_blocks() {
            self.add_up_if_ready(block);
        }
        if self.plan.has_all(self.plan.me) {
            for owner in self.plan.others() {
                for block in 0..self.plan.blocks(owner) {
                    let range = self.plan.block(owner, block);
                    let bytes = &self.input[self.plan.in_input(range.clone())];
                    // The length was checked when the exchange was made.
                    let _fits = self.output.write(range.start, bytes);
                    self.finish_block(owner, block, *blake3::hash(bytes).as_bytes());
                }
            }
        }
        self.changed.notify_waiters();
    }

    /// Adds up a block when all that this peer needs for it is there: reduces it, or adds up its group's part of it.
    fn add_up_if_ready(&self, index: usize) {
        let (plan, me) = (&self.plan, self.plan.me);
        let Some((owner, block)) = plan.place(index) else { return };
        let mut state = self.lock();
        let done = state.copies[index].is_empty() || state.closed || state.failure.is_some();
        let mut needed = plan.others().filter(|from| plan.needs(me, *from, owner));
        if done || needed.any(|from| state.copies[index][from].is_none()) {
            return;
        }
        let copies = std::mem::take(&mut state.copies[index]);
        drop(state);
        let added = if owner == me {
            self.reduce(block, &copies).map(|(sent, digest)| (sent, Some(digest)))
        } else {
            self.add_up(owner, block, &copies).map(|sum| (sum, None))
        };
        match added {
            Err(failure) => self.lock().failure = Some(failure),
            Ok((bytes, digest)) => {
                let kind = if owner == me { Kind::Result } else { Kind::Partial };
                let mut state = self.lock();
                // Who sends the block sends its hash with it.
                if let Some(digest) = digest {
                    state.finish_block(me, block, digest);
                }
                state.finished.push(Finished { kind, block: index, owner, bytes });
                state.unreduced -= usize::from(owner == me);
                if owner == me && state.unreduced == 0 {
                    state.instants.reduced.get_or_insert_with(Instant::now);
                }
            }
        }
        self.changed.notify_waiters();
    }

    /// Adds up what this peer's group gives to a block of another's shard.
    fn add_up(&self, owner: usize, block: usize, copies: &[Option<Bytes>]) -> Result<Bytes, Failure> {
        let range = self.plan.block(owner, block);
        let own = self.input.slice(self.plan.in_input(range.clone()));
        let given = self.given(owner, &own, copies);
        arithmetic::add_up(&self.plan, (range.start, range.len()), &given).map(Bytes::from)
    }

    /// What there is to add up, by member: this peer's own copy, and what has come.
    fn given<'a>(&self, owner: usize, own: &'a [u8], copies: &'a [Option<Bytes>]) -> Vec<Option<Given<'a>>> {
        let (plan, me) = (&self.plan, self.plan.me);
        let of = |member: usize| {
            let own = (member == me && plan.gives(me, owner)).then_some(own);
            let bytes = own.or_else(|| copies.get(member)?.as_deref())?;
            Some(Given { bytes, partial: member != me && plan.collects(member, owner) })
        };
        (0..plan.members.len()).map(of).collect()
    }

    /// Reduces a block into the output; gives it as it goes on the lanes, and its hash.
    fn reduce(&self, block: usize, copies: &[Option<Bytes>]) -> Result<(Bytes, Digest), Failure> {
        let range = self.plan.block(self.plan.me, block);
        let own = match arithmetic::contribution_codec(&self.plan) {
            Some(_) => self.own_copy(self.plan.me, block)?,
            None if self.plan.gives(self.plan.me, self.plan.me) => self.input.slice(self.plan.in_input(range.clone())),
            None => Bytes::new(),
        };
        let given = self.given(self.plan.me, &own, copies);
        let keeps = self.plan.wants(self.plan.me);
        let mut hasher = blake3::Hasher::new();
        let mut for_others = Vec::new();
        let coded = arithmetic::reduce(&self.plan, (range.start, range.len()), &given, |place, bytes| {
            hasher.update(bytes);
            if keeps {
                // The length was checked when the exchange was made.
                let _fits = self.output.write(range.start + place, bytes);
            } else {
                for_others.extend_from_slice(bytes);
            }
        })?;
        let sent = match coded {
            Some(coded) => Bytes::from(coded),
            None if keeps => self.output.shared(range.start, range.end),
            None => Bytes::from(for_others),
        };
        Ok((sent, *hasher.finalize().as_bytes()))
    }

    /// This peer's copy of a block, as it goes on the lanes.
    fn own_copy(&self, owner: usize, block: usize) -> Result<Bytes, Failure> {
        let range = self.plan.block(owner, block);
        let place = self.plan.in_input(range.clone());
        let Some(codec) = arithmetic::contribution_codec(&self.plan) else { return Ok(self.input.slice(place)) };
        let residual = self.residual.as_ref().map(|residual| &residual[place.clone()]);
        arithmetic::encode(&self.plan, codec, range.start, &self.input[place], residual).map(Bytes::from)
    }

    fn finish_block(&self, owner: usize, block: usize, digest: Digest) {
        self.lock().finish_block(owner, block, digest);
    }

    /// BLAKE3 over the hashes of all blocks in order.
    fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for digest in self.lock().digests.iter().flatten().flatten() {
            hasher.update(digest);
        }
        *hasher.finalize().as_bytes()
    }

    /// Waits until everything has come. A member that gives no whole block for as long as it may take is at fault: bytes of one
    /// count as little as what others give.
    async fn complete(&self, patience: Duration) -> Result<(), Failure> {
        let ended = self.wait_for(|state| match &state.failure {
            Some(failure) => Some(Err(failure.clone())),
            None => (state.missing == 0).then_some(Ok(())),
        });
        let mut ended = std::pin::pin!(ended);
        loop {
            let left = match self.awaited(patience) {
                Some(Awaited { left, member, silence }) if left.is_zero() => {
                    let detail = format!("no block for {} ms", silence.as_millis());
                    let culprit = self.plan.members[member].slot;
                    return Err(Failure { reason: AbortReason::NoProgress, culprit, detail });
                }
                awaited => awaited.map_or(patience, |awaited| awaited.left),
            };
            if let Ok(result) = tokio::time::timeout(left, &mut ended).await {
                return result;
            }
        }
    }

    /// Whose next block has the least time left: the nearest cause of several.
    fn awaited(&self, patience: Duration) -> Option<Awaited> {
        let state = self.lock();
        let of = |member: usize| {
            let steps = self.steps(&state, member)?;
            let silence = state.progress[member].elapsed();
            Some((steps, Awaited { left: (patience * steps).saturating_sub(silence), member, silence }))
        };
        let next = self.plan.others().filter_map(of).min_by_key(|(steps, awaited)| (awaited.left, *steps));
        next.map(|(_, awaited)| awaited)
    }

    /// How many times the patience a member's next block may take: once for what it has; once more for each that it may have to
    /// wait for first, or who waits would be blamed before whom it waits for. None where nothing of it is missing.
    fn steps(&self, state: &State, from: usize) -> Option<u32> {
        let copies = self.lacks(state, from).map(|owner| 1 + u32::from(self.plan.collects(from, owner)));
        let results = || self.lacks_results(state, from).map(|owner| self.plan.steps(from, owner)).min();
        copies.min().or_else(results)
    }

    /// Owners of whose shards this peer waits for something of `from` that it has to add up.
    fn lacks(&self, state: &State, from: usize) -> impl Iterator<Item = usize> {
        let lacks = move |owner: &usize| {
            state.copies[self.plan.shard_blocks(*owner)].iter().any(|block| block.get(from).is_some_and(Option::is_none))
        };
        (0..self.plan.members.len()).filter(move |owner| self.plan.needs(self.plan.me, from, *owner)).filter(lacks)
    }

    /// Owners of whose shards this peer waits for results that `from` gives it.
    fn lacks_results(&self, state: &State, from: usize) -> impl Iterator<Item = usize> {
        let supplied = move |owner: &usize| *owner != self.plan.me && self.plan.supplier(self.plan.me, *owner) == from;
        let lacks = move |owner: &usize| state.digests[*owner].iter().any(Option::is_none);
        (0..self.plan.members.len()).filter(supplied).filter(lacks)
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

    /// Ends the attempt: nothing more is accepted, and the output is not written any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a frame's payload for a block of `length` uncoded bytes.
fn wire_length(plan: &Plan, kind: Kind, length: usize) -> usize {
    let size = operation::size(plan.operation.data_type()) as usize;
    let codec = match kind {
        Kind::Contribution => arithmetic::contribution_codec(plan),
        Kind::Result => arithmetic::codec(plan),
        Kind::Digest => return 32,
        Kind::Partial => return arithmetic::partial_len(plan, length / size),
    };
    codec.map_or(length, |codec| codec.encoded_len(length / 4))
}
