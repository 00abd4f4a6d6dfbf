//! The receiving side of an exchange: frames that come on lanes, checked before anything is kept.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Digest, Exchange, Finished, State, arithmetic, wire_length};
use crate::framing::{self, FramingError, Kind};
use crate::identity::PeerName;
use crate::peer::Failure;
use crate::v1::AbortReason;

/// A frame that is not part of the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The sender does not take part.
    #[error("the sender does not take part in the operation")]
    Stranger,
    /// The same frame was begun before.
    #[error("block {0} came twice")]
    Twice(u32),
    /// No such block, or not to this peer, or of another length.
    #[error("block {block} of {length} bytes is not part of the operation")]
    NotExpected {
        /// Index of the block.
        block: u32,
        /// Bytes of its payload.
        length: usize,
    },
}

/// Who sends frames: by its own word, and by its certificate where there is one.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The slot that it says it has.
    pub slot: u32,
    /// The name that its connection proved.
    pub name: Option<PeerName>,
}

/// A frame that is coming.
pub struct Incoming {
    exchange: Arc<Exchange>,
    from: usize,
    kind: Kind,
    /// Index among the blocks of all shards; whose shard it is of, and its index there.
    block: usize,
    owner: usize,
    place: usize,
    /// Its bytes are the result's, and go to the output as they come.
    straight: bool,
    length: usize,
    /// Bytes so far.
    came: usize,
    /// What else comes: at once, without a copy, or as far as it has.
    whole: Bytes,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
}

impl Exchange {
    /// Begins to take a frame.
    ///
    /// # Errors
    /// [`Refused`] for frames that are not part of the attempt. Nothing is allocated then.
    pub fn receive(self: &Arc<Self>, sender: &Sender, kind: Kind, block: u32, length: usize) -> Result<Incoming, Refused> {
        let from = self.position(sender).ok_or(Refused::Stranger)?;
        let not_expected = Refused::NotExpected { block, length };
        let (plan, me) = (&self.plan, self.plan.me);
        let (owner, place) = plan.place(block as usize).ok_or(not_expected)?;
        let expected = match kind {
            Kind::Contribution => plan.gives(from, owner) && plan.hop(from, owner) == me && !plan.collects(from, owner),
            Kind::Partial => owner == me && plan.collects(from, me),
            Kind::Result => owner != me && plan.wants(me) && !plan.has_all(me) && plan.supplier(me, owner) == from,
            Kind::Digest => owner == from && !plan.wants(me) && !plan.has_all(me),
        };
        if !expected || wire_length(plan, kind, plan.block(owner, place).len()) != length {
            return Err(not_expected);
        }
        let begun = &mut self.lock().begun[from][block as usize];
        let bit = 1 << kind as u8;
        if std::mem::replace(begun, *begun | bit) & bit != 0 {
            return Err(Refused::Twice(block));
        }
        let straight = kind == Kind::Result && arithmetic::codec(&self.plan).is_none();
        Ok(Incoming {
            exchange: Arc::clone(self),
            from,
            kind,
            block: block as usize,
            owner,
            place,
            straight,
            length,
            came: 0,
            whole: Bytes::new(),
            buffer: Vec::new(),
            hasher: blake3::Hasher::new(),
        })
    }
}

impl Exchange {
    /// Position of the member who sends; none where it does not take part, or its connection proved another name.
    fn position(&self, sender: &Sender) -> Option<usize> {
        let from = self.plan.other(sender.slot)?;
        let member = &self.plan.members[from];
        let is_member = |name: &PeerName| (name.worker(), name.island()) == (&member.worker, &member.island);
        sender.name.as_ref().is_none_or(is_member).then_some(from)
    }

    /// Whether a copy that has come brings its block's sum nearer, whatever comes next of that member. A contributor gives its
    /// copies in order: several that give theirs in orders of their own would have no sum done, and each a block in time.
    fn is_progress(&self, state: &mut State, from: usize, block: usize) -> bool {
        if !self.plan.members[from].contributor {
            return true;
        }
        let is_needed = |block: usize| {
            let owner = self.plan.place(block).map(|(owner, _)| owner);
            owner.is_some_and(|owner| self.plan.needs(self.plan.me, from, owner))
        };
        let lacks = |copies: &[Option<Bytes>]| copies.get(from).is_some_and(Option::is_none);
        let next = &mut state.next[from];
        while state.copies.get(*next).is_some_and(|copies| !lacks(copies) || !is_needed(*next)) {
            *next += 1;
        }
        block <= *next
    }

    /// A lane from a member broke: what has not come on it will not come. A stranger's says nothing.
    pub fn lose(&self, sender: &Sender, detail: &str) {
        let Some(from) = self.position(sender) else { return };
        let mut state = self.lock();
        if self.steps(&state, from).is_some() {
            let failure = Failure { reason: AbortReason::LaneFailed, culprit: sender.slot, detail: detail.to_owned() };
            state.failure.get_or_insert(failure);
            drop(state);
            self.changed.notify_waiters();
        }
    }
}

impl Incoming {
    /// Takes the next bytes. What comes after the attempt has ended is dropped.
    pub fn take(&mut self, bytes: Bytes) {
        let exchange = &self.exchange;
        let state = exchange.lock();
        if state.closed {
            return;
        }
        if self.straight {
            let start = exchange.plan.block(self.owner, self.place).start + self.came;
            // Under the lock: the output is not written after the attempt was closed. Its length was checked at the start.
            let _fits = exchange.output.write(start, &bytes);
            drop(state);
            self.hasher.update(&bytes);
            self.came += bytes.len();
        } else if bytes.len() == self.length {
            self.whole = bytes;
        } else {
            self.buffer.reserve_exact(self.length - self.buffer.len());
            self.buffer.extend_from_slice(&bytes);
        }
    }

    /// All bytes have come. `sum` is what a result's hash must have, where the connection has no TLS.
    ///
    /// # Errors
    /// [`FramingError::Damaged`] for a result with another hash.
    pub fn finish(self, sum: Option<u32>) -> Result<(), FramingError> {
        let Self { exchange, from, kind, block, owner, place, straight, whole, buffer, hasher, .. } = self;
        let payload = if whole.is_empty() { Bytes::from(buffer) } else { whole };
        {
            let mut state = exchange.lock();
            if state.closed {
                return Ok(());
            }
            if kind == Kind::Result || kind == Kind::Digest || exchange.is_progress(&mut state, from, block) {
                state.progress[from] = Instant::now();
            }
            state.instants.came(exchange.plan.members[from].slot, kind);
        }
        match kind {
            Kind::Contribution | Kind::Partial => {
                if let Some(copy) = exchange.lock().copies[block].get_mut(from) {
                    *copy = Some(payload);
                }
                exchange.add_up_if_ready(block);
            }
            Kind::Result if straight => {
                let range = exchange.plan.block(owner, place);
                let digest = *hasher.finalize().as_bytes();
                check(block, &digest, sum)?;
                exchange.finish_block(owner, place, digest);
                exchange.pass_on(block, owner, exchange.output.shared(range.start, range.end));
            }
            Kind::Result => {
                exchange.take_coded((owner, place, block), &payload, sum)?;
                exchange.pass_on(block, owner, payload);
            }
            Kind::Digest => exchange.finish_block(owner, place, Digest::try_from(&*payload).unwrap_or_default()),
        }
        exchange.changed.notify_waiters();
        Ok(())
    }
}

/// That a result's block has the hash that its sum is of.
fn check(block: usize, digest: &Digest, sum: Option<u32>) -> Result<(), FramingError> {
    let damaged = sum.is_some_and(|sum| framing::sum_of_result(digest) != sum);
    if damaged { Err(FramingError::Damaged(block as u32)) } else { Ok(()) }
}

impl Exchange {
    /// A result has come that others of this peer's group have from this peer.
    fn pass_on(&self, block: usize, owner: usize, bytes: Bytes) {
        if self.plan.collects(self.plan.me, owner) {
            self.lock().finished.push(Finished { kind: Kind::Result, block, owner, bytes });
        }
    }

    /// A coded result has come.
    fn take_coded(
        &self,
        (owner, place, block): (usize, usize, usize),
        coded: &[u8],
        sum: Option<u32>,
    ) -> Result<(), FramingError> {
        let range = self.plan.block(owner, place);
        let Some(codec) = arithmetic::codec(&self.plan) else { return Ok(()) };
        let mut result = vec![0; range.len()];
        let decoded = arithmetic::decode(codec, coded, &mut result);
        let digest = *blake3::hash(&result).as_bytes();
        check(block, &digest, sum)?;
        let mut state = self.lock();
        if let Err(detail) = decoded {
            state.failure.get_or_insert(arithmetic::mismatch(&self.plan, owner, detail));
        } else if !state.closed {
            let _fits = self.output.write(range.start, &result);
            state.finish_block(owner, place, digest);
        }
        Ok(())
    }
}
