//! Fault-tolerant collectives: who takes part, what was agreed, and the numbers that come out.
//!
//! [`coordinator`], [`peer`] and [`arbiter`] are state machines without clock, network or randomness; the sidecar
//! drives them, and so does the simulation. Time is [`Millis`] since any fixed instant. An operation ends on every
//! surviving peer either committed with bit-identical results or aborted with a reason, inputs untouched.
//!
//! A program of one's own begins with [`lane`] and [`exchange`]: `examples/two_terminals.rs` takes the mean of two vectors in
//! 40 lines. `examples/one_round.rs` has the state machines commit a round, and says what to do for each of their actions.

// The loops under `vectorised!` are compiled for the processor at hand only where they are inlined.
#![allow(clippy::inline_always)]

pub mod admission;
pub mod arbiter;
mod bfloat16;
pub mod chain;
mod clock;
pub mod codec;
pub mod coordinator;
pub mod exchange;
mod finite;
pub mod framing;
mod guests;
pub mod identity;
pub mod lane;
pub mod ledger;
pub mod operation;
pub mod peer;
pub mod protocol;
pub mod reduce;
pub mod relay;
pub mod rules;
pub mod secret;
pub mod shards;
pub mod state;
pub mod transport;
mod vectorised;

pub use atoll_proto::v1;
pub use finite::NotFinite;

/// Milliseconds since an instant that the caller fixes once, by a clock that does not step; where it steps back all the same, the
/// state machines take it for standing still.
pub type Millis = u64;

/// Why something was refused or aborted, for the trainer that asked for it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Refusal {
    /// What kind.
    pub reason: v1::AbortReason,
    /// Slot of the peer that caused it, where one did and it is known.
    pub culprit: Option<u32>,
    /// The facts.
    pub detail: String,
}

/// Something a person should read in the run's events: who, and why.
// A few at a time, moved once.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Notice {
    /// A new membership was granted.
    Epoch(v1::EpochRecord),
    /// A member is no longer counted.
    Evicted {
        /// Its slot.
        slot: u32,
        /// Its name.
        worker: String,
        /// Why.
        reason: v1::AbortReason,
        /// The facts behind the reason.
        detail: String,
    },
    /// An operation was aborted; unless it has become impossible, it is tried again with the members of the next epoch.
    Aborted {
        /// Its name.
        key: operation::Key,
        /// Why, and who caused it.
        why: Refusal,
    },
    /// A round was committed.
    Committed(v1::CommitRecord),
    /// A member's state was not the round's; it takes it from the others.
    Synchronised {
        /// Its slot.
        slot: u32,
        /// The round whose state it takes.
        round: u64,
        /// It claimed to hold the state of this very round.
        mismatch: bool,
    },
    /// Fewer members than the quorum: the run holds until others come.
    Holding {
        /// Members present.
        members: u32,
        /// Members needed.
        quorum: u32,
    },
    /// Nobody who is here knows the newest committed round: the run holds until one of those comes back who do.
    HistoryMissing {
        /// The newest round that was committed at least.
        round: u64,
        /// Members of the epoch that are not here.
        absent: Vec<v1::Member>,
    },
    /// No member who gives its state holds that of the round: the run waits for one that does.
    StateMissing {
        /// The round that would begin.
        round: u64,
    },
    /// More voters are lost than a majority can spare: the run holds until enough are back, or a human forces a term.
    NoMajority {
        /// Voters that answer.
        reached: u32,
        /// Voters that decide.
        needed: u32,
        /// Those that do not answer.
        absent: Vec<v1::Member>,
    },
    /// The state of so many rounds is being kept.
    CheckpointStarted {
        /// Committed rounds in it.
        rounds: u64,
        /// Slots that write it.
        slots: Vec<u32>,
    },
    /// A checkpoint is there.
    Checkpointed {
        /// Committed rounds in it.
        rounds: u64,
        /// How long it took from the round's start.
        took: Millis,
    },
    /// A checkpoint was given up; training goes on, and the next one comes when it is due.
    CheckpointFailed {
        /// Committed rounds in it.
        rounds: u64,
        /// The facts.
        detail: String,
    },
    /// A checkpoint is due, and the one before it is still being written: it is left out.
    CheckpointLate {
        /// Committed rounds that would have been in it.
        rounds: u64,
        /// Those in the one that is being written.
        writing: u64,
    },
    /// Another sidecar has the coordinator's role, or the arbiter refused this one.
    Deposed,
}
