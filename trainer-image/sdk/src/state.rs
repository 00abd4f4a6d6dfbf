//! The state that all workers share, as a trainer tells its sidecar.

use atoll_proto::v1::StateStrategy;

use crate::{ElementType, Part};

/// Tensors that are the same on all workers when a round begins, and what becomes of them where they are not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    pub(crate) tensors: Vec<(String, ElementType, Part)>,
    pub(crate) strategy: StateStrategy,
}

impl State {
    /// Has one more tensor, whose name is not used yet; the same names, types and lengths on all workers, in any order.
    #[must_use]
    pub fn with(mut self, key: &str, element_type: ElementType, part: Part) -> Self {
        self.tensors.push((key.to_owned(), element_type, part));
        self
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
