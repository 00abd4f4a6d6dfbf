//! What a petition hears, and what it wants done: the words between it and its sidecar.

use crate::Notice;
use crate::v1::{EpochRecord, EpochRequest, Member, Ruling, TermRequest};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The peer has lost the coordinator of this term.
    RequestTerm(u64),
    /// The coordinator asks for this change of membership.
    Propose(EpochRecord),
    /// `Single` answered a [`Question::Epoch`].
    Ruled(Ruling),
    /// A voter answered an [`Action::Ask`].
    Answered {
        /// The number of the question.
        question: u64,
        /// Who was asked.
        voter: Member,
        /// The answer.
        ruling: Ruling,
    },
    /// Somebody told a granted record.
    Learned(EpochRecord),
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask the hub as `Single`.
    AskSingle(Question),
    /// Ask one voter.
    Ask {
        /// Who; the hub where the slot is [`super::HUB`].
        voter: Member,
        /// Comes back with the answer.
        question: u64,
        /// What.
        body: Question,
    },
    /// Tell the peer of the newest record; it may name this sidecar as the coordinator.
    Located(EpochRecord),
    /// Tell the coordinator what became of its proposal.
    Ruled(Ruling),
    /// Tell people.
    Report(Notice),
}

/// A question to an arbiter.
// A few at a time, moved once.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// For the next term; a voter's promise.
    Term(TermRequest),
    /// For a change of membership; a voter's acceptance.
    Epoch(EpochRequest),
}

/// Why a term cannot be forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForceError {
    /// The arbiter in force is `Single`.
    #[error("the run's arbiter is Single: it needs no majority")]
    NotInForce,
    /// The run went on meanwhile.
    #[error("the run is in term {term}: what was to be forced is over")]
    Outdated {
        /// The newest term.
        term: u64,
    },
    /// Nobody is named.
    #[error("no surviving voter is named")]
    NoSurvivor,
    /// One that is named has no vote.
    #[error("slot {slot} in incarnation {incarnation} has no vote")]
    NoVoter {
        /// Its slot.
        slot: u32,
        /// Its incarnation.
        incarnation: u64,
    },
    /// This sidecar may not coordinate.
    #[error("a contributor does not coordinate")]
    Contributor,
}
