//! The state that all workers share, as a trainer tells its sidecar.

use atoll_proto::v1::StateStrategy;

use crate::{ElementType, Part};

/// Tensors that are the same on all workers when a round begins, and what becomes of them where they are not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    pub(crate) tensors: Vec<(String, ElementType, Part)>,
    pub(crate) strategy: StateStrategy,
    pub(crate) kept: Option<Kept>,
}

/// What checkpoints keep beside the state. None of it is written while [`Session::begin_round`](crate::Session::begin_round) waits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// The worker's own tensors, which other workers have other values of.
    pub private: Vec<(String, ElementType, Part)>,
    /// Inner steps that they have seen.
    pub private_steps: u64,
    /// What the state is of, as files: the same bytes on all workers.
    pub files: Vec<(String, Part)>,
    /// Inner steps of each worker in all committed rounds.
    pub steps: u64,
    /// Tokens of one sample.
    pub tokens_per_sample: u64,
    /// Inner steps of each worker once the round that is asked for is committed; 0 where that is not said.
    pub steps_after: u64,
}

impl State {
    /// Has one more tensor, whose name is not used yet; the same names, types and lengths on all workers, in any order.
    #[must_use]
    pub fn with(mut self, key: &str, element_type: ElementType, part: Part) -> Self {
        self.tensors.push((key.to_owned(), element_type, part));
        self
    }

    /// Has this kept beside it in checkpoints.
    #[must_use]
    pub fn keeping(self, kept: Kept) -> Self {
        Self { kept: Some(kept), ..self }
    }

    /// Takes the others' state where it differs, and is neither elected nor given to others.
    #[must_use]
    pub fn receive_only(self) -> Self {
        Self { strategy: StateStrategy::ReceiveOnly, ..self }
    }

    /// Is never overwritten: the worker is refused where another state is elected.
    #[must_use]
    pub fn send_only(self) -> Self {
        Self { strategy: StateStrategy::SendOnly, ..self }
    }
}
