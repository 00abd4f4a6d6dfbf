//! The data movement of one attempt at an operation, block by block.
//!
//! Every owner receives copies of its shard, reduces each block in slot order as soon as all copies are there, and sends it
//! on at once. The input is never written; the output is valid only after the commit. The result's hash is over the hashes
//! of its blocks, so that nothing is read twice.

mod arithmetic;
mod measures;
mod plan;
mod receiving;
mod sending;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::framing::Kind;
use crate::lane::Lanes;
use crate::peer::Failure;
use crate::v1::AbortReason;
pub use arithmetic::feed_back;
pub use measures::{Arrival, Instants};
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
    /// By block of this peer's shard: the copies that have come, by member; nothing once it is reduced.
    copies: Vec<Vec<Option<Bytes>>>,
    /// By member and block of its shard: frames that were begun, of each kind; none may come twice.
    begun: Vec<[Vec<bool>; 3]>,
    /// By member and block of its shard: the hash of the reduced block.
    digests: Vec<Vec<Option<Digest>>>,
    /// Blocks without hash.
    missing: usize,
    /// Blocks of this peer's shard that are reduced, as they go on the lanes, in the order in which they were finished.
    reduced: Vec<(usize, Bytes)>,
    failure: Option<Failure>,
    progress: Instant,
    instants: Instants,
}

impl Exchange {
    /// An attempt over `input`, and the `residual` that is added to it before it is coded; none when the lengths do not fit the
    /// plan.
    #[must_use]
    pub fn new(plan: Plan, input: Bytes, residual: Option<Bytes>, output: Arc<dyn Output>) -> Option<Arc<Self>> {
        let fits = input.len() == plan.input_bytes() && residual.as_ref().is_none_or(|residual| residual.len() == input.len());
        if !fits || plan.wants(plan.me) && output.len() != plan.result_bytes() {
            return None;
        }
        let members = plan.members.len();
        let digests: Vec<Vec<Option<Digest>>> = (0..members).map(|owner| vec![None; plan.blocks(owner)]).collect();
        let begun = |from: usize| {
            let (mine, theirs) = (plan.blocks(plan.me), plan.blocks(from));
            [vec![false; mine], vec![false; theirs], vec![false; theirs]]
        };
        let state = State {
            closed: false,
            copies: vec![vec![None; members]; plan.blocks(plan.me)],
            begun: (0..members).map(begun).collect(),
            missing: digests.iter().map(Vec::len).sum(),
            digests,
            reduced: Vec::new(),
            failure: None,
            progress: Instant::now(),
            instants: Instants::default(),
        };
        Some(Arc::new(Self { plan, input, residual, output, state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Its plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Moves the data and returns the result's hash.
    ///
    /// # Errors
    /// [`Failure`] names the peer whose lane broke, was silent for `patience`, or whose contribution cannot be reduced.
    pub async fn run(self: Arc<Self>, lanes: Lanes, patience: Duration) -> Result<Digest, Failure> {
        let sending: Vec<_> = self.plan.others().map(|to| Arc::clone(&self).send(lanes.clone(), to)).collect();
        let own = async {
            self.begin_own();
            Ok(())
        };
        futures::try_join!(futures::future::try_join_all(sending), own, self.complete(patience))?;
        Ok(self.digest())
    }

    /// What this peer can do alone: reduce blocks of which it is the only source, and take over what it gives to all.
    fn begin_own(&self) {
        for block in 0..self.plan.blocks(self.plan.me) {
            self.reduce_if_ready(block);
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

    /// Reduces a block of this peer's shard when all copies of it are there.
    fn reduce_if_ready(&self, block: usize) {
        let mut state = self.lock();
        let mut sources = self.plan.others().filter(|from| self.plan.gives(*from, self.plan.me));
        let reduced = state.copies[block].is_empty();
        if reduced || state.closed || state.failure.is_some() || sources.any(|from| state.copies[block][from].is_none()) {
            return;
        }
        let copies = std::mem::take(&mut state.copies[block]);
        drop(state);
        match self.reduce(block, &copies) {
            Err(failure) => self.lock().failure = Some(failure),
            Ok((sent, digest)) => {
                let mut state = self.lock();
                state.reduced.push((block, sent));
                if state.reduced.len() == self.plan.blocks(self.plan.me) {
                    state.instants.reduced = Some(Instant::now());
                }
                drop(state);
                self.finish_block(self.plan.me, block, digest);
            }
        }
        self.changed.notify_waiters();
    }

    /// Reduces a block into the output; gives it as it goes on the lanes, and its hash.
    fn reduce(&self, block: usize, copies: &[Option<Bytes>]) -> Result<(Bytes, Digest), Failure> {
        let range = self.plan.block(self.plan.me, block);
        let own = match arithmetic::contribution_codec(&self.plan) {
            Some(_) => self.own_copy(self.plan.me, block)?,
            None if self.plan.gives(self.plan.me, self.plan.me) => self.input.slice(self.plan.in_input(range.clone())),
            None => Bytes::new(),
        };
        let given: Vec<Option<&[u8]>> = (0..self.plan.members.len())
            .map(|member| {
                let gives = self.plan.gives(member, self.plan.me);
                if member == self.plan.me { gives.then_some(&*own) } else { copies[member].as_deref() }
            })
            .collect();
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
        let mut state = self.lock();
        if state.digests[owner][block].replace(digest).is_none() {
            state.missing -= 1;
        }
    }

    /// BLAKE3 over the hashes of all blocks in order.
    fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for digest in self.lock().digests.iter().flatten().flatten() {
            hasher.update(digest);
        }
        *hasher.finalize().as_bytes()
    }

    /// Waits until everything has come.
    async fn complete(&self, patience: Duration) -> Result<(), Failure> {
        let ended = self.wait_for(|state| match &state.failure {
            Some(failure) => Some(Err(failure.clone())),
            None => (state.missing == 0).then_some(Ok(())),
        });
        let mut ended = std::pin::pin!(ended);
        loop {
            let silence = self.lock().progress.elapsed();
            let left = patience.saturating_sub(silence);
            if left.is_zero() {
                let Some(culprit) = self.awaited() else { continue };
                let detail = format!("no block for {} ms", silence.as_millis());
                return Err(Failure { reason: AbortReason::NoProgress, culprit, detail });
            }
            if let Ok(result) = tokio::time::timeout(left, &mut ended).await {
                return result;
            }
        }
    }

    /// Slot of a member whose blocks have not all come.
    fn awaited(&self) -> Option<u32> {
        let state = self.lock();
        // Results wait for everybody's copies, so a missing copy is the nearer cause.
        let gives = |from: &usize| self.plan.gives(*from, self.plan.me);
        let copy = |from: &usize| gives(from) && state.copies.iter().any(|block| block.get(*from).is_some_and(Option::is_none));
        let result = |owner: &usize| state.digests[*owner].iter().any(Option::is_none);
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
    let codec = match kind {
        Kind::Contribution => arithmetic::contribution_codec(plan),
        Kind::Result => arithmetic::codec(plan),
        Kind::Digest => return 32,
    };
    codec.map_or(length, |codec| codec.encoded_len(length / 4))
}
