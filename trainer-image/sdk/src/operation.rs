//! What a trainer asks its worker to do together with others.

use std::time::Duration;

use atoll_proto::v1::{self, AbortReason, Codec, CommitRecord, DataType, OperationKind, Reduction};

use crate::Part;

/// One collective operation. Workers that ask for the same, by tag and order within the round, take part in it together.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    pub(crate) kind: OperationKind,
    pub(crate) tag: String,
    pub(crate) slots: Vec<u32>,
    pub(crate) root: u32,
    pub(crate) data_type: DataType,
    pub(crate) reduction: Reduction,
    pub(crate) codec: Codec,
    pub(crate) group_size: u32,
    pub(crate) elements: Option<u64>,
    pub(crate) input: Option<Part>,
    pub(crate) output: Option<Part>,
    pub(crate) residual: Option<Part>,
    pub(crate) weight: u32,
    pub(crate) deadline: Duration,
}

impl Operation {
    fn new(kind: OperationKind, input: Option<Part>, output: Option<Part>) -> Self {
        Self {
            kind,
            tag: String::new(),
            slots: Vec::new(),
            root: 0,
            data_type: DataType::F32,
            reduction: Reduction::Mean,
            codec: Codec::None,
            group_size: 0,
            elements: None,
            input,
            output,
            residual: None,
            weight: 1,
            deadline: Duration::from_mins(10),
        }
    }

    /// Everybody gets the mean of all inputs.
    #[must_use]
    pub fn all_reduce(input: Part, output: Part) -> Self {
        Self::new(OperationKind::AllReduce, Some(input), Some(output))
    }

    /// `root` gets the mean of all inputs; its output is as long as an input, the others need none.
    #[must_use]
    pub fn reduce(root: u32, input: Part, output: Option<Part>) -> Self {
        Self { root, ..Self::new(OperationKind::Reduce, Some(input), output) }
    }

    /// Everybody gets all inputs, in slot order; they may differ in length. The output is as long as all together, or longer.
    #[must_use]
    pub fn all_gather(input: Part, output: Part) -> Self {
        Self::new(OperationKind::AllGather, Some(input), Some(output))
    }

    /// Everybody gets `root`'s input, which the others leave out.
    #[must_use]
    pub fn broadcast(root: u32, input: Option<Part>, output: Part) -> Self {
        Self { root, ..Self::new(OperationKind::Broadcast, input, Some(output)) }
    }

    /// The worker of slot `from` gives `input` to the worker of slot `to`; both ask for it, each with its part.
    #[must_use]
    pub fn send(from: u32, to: u32, part: Part, receives: bool) -> Self {
        let (input, output) = if receives { (None, Some(part)) } else { (Some(part), None) };
        let slots = vec![from.min(to), from.max(to)];
        Self { root: from, slots, ..Self::new(OperationKind::Send, input, output) }
    }

    /// Ends when everybody has come.
    #[must_use]
    pub fn barrier() -> Self {
        Self::new(OperationKind::Barrier, None, None)
    }

    /// Tells operations apart that are in flight at once; at most 64 bytes. Empty unless set.
    #[must_use]
    pub fn tag(self, tag: &str) -> Self {
        Self { tag: tag.to_owned(), ..self }
    }

    /// Adds, and does not divide.
    #[must_use]
    pub fn sum(self) -> Self {
        Self { reduction: Reduction::Sum, ..self }
    }

    /// Of what elements; f32 unless set. `I64` has sums alone, `U8` operations that add nothing.
    #[must_use]
    pub fn of(self, data_type: DataType) -> Self {
        Self { data_type, ..self }
    }

    /// How f32 contributions and sums are coded on the way; with [`Operation::of_dense`], what form the gathered payloads have.
    #[must_use]
    pub fn coded(self, codec: Codec) -> Self {
        Self { codec, ..self }
    }

    /// Gathers payloads of (index, value) pairs out of dense vectors of so many elements, 1 to 2^32; [`Operation::coded`] says in
    /// which form. Every worker judges each of them before it votes: one that does not decode, or has a value that is not finite,
    /// is refused, and who gave it is left out.
    #[must_use]
    pub fn of_dense(self, elements: u64) -> Self {
        Self { data_type: DataType::U8, elements: Some(elements), ..self }
    }

    /// Keeps what coding loses in `residual`, f32 and as long as the input, and adds it the next time; zero at first. It is written
    /// once the operation is committed. Refused for several ranks of a worker, and with [`Operation::groups_of`] more than one: there
    /// sums are coded, and no contribution.
    #[must_use]
    pub fn with_feedback(self, residual: Part) -> Self {
        Self { residual: Some(residual), ..self }
    }

    /// Members next to each other whose contributions are added before they are coded; [`Operation::with_feedback`] is not for them.
    #[must_use]
    pub fn groups_of(self, group_size: u32) -> Self {
        Self { group_size, ..self }
    }

    /// Who takes part, by slot; all members unless set.
    #[must_use]
    pub fn among(self, slots: &[u32]) -> Self {
        let mut slots = slots.to_vec();
        slots.sort_unstable();
        slots.dedup();
        Self { slots, ..self }
    }

    /// Weight of this worker's contribution; 1 unless set.
    #[must_use]
    pub fn weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// Time for all attempts together; 10 minutes unless set.
    #[must_use]
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// As all who take part ask for it, under this name.
    pub(crate) fn wanted(&self, key: v1::OperationKey) -> v1::Operation {
        let size = match self.data_type {
            DataType::F32 => 4,
            DataType::Bf16 => 2,
            DataType::I64 => 8,
            DataType::U8 | DataType::Unspecified => 1,
        };
        let part = self.input.as_ref().or(self.output.as_ref());
        let elements = match self.kind {
            OperationKind::AllGather | OperationKind::Barrier => self.elements.unwrap_or(0),
            _ => self.elements.unwrap_or_else(|| part.map_or(0, |part| part.range.len() as u64 / size)),
        };
        v1::Operation {
            key: Some(key),
            kind: self.kind.into(),
            data_type: self.data_type.into(),
            elements,
            reduction: self.reduction.into(),
            codec: self.codec.into(),
            group_size: self.group_size,
            root: self.root,
            ends_round: false,
        }
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The output holds the result, the same bytes on all who took part.
    Committed {
        /// Slots that took part, ascending.
        slots: Vec<u32>,
        /// What was committed, where it ended a round.
        record: Option<CommitRecord>,
        /// Bytes of the results of the operations that the sidecar committed since its start.
        payload_bytes: u64,
        /// Bytes that its lanes sent since its start.
        wire_bytes: u64,
        /// Messages between it and the coordinator since its start, heartbeats apart.
        control_messages: u64,
    },
    /// No output is valid, inputs are untouched: begin the round again.
    Aborted {
        /// Why. With [`AbortReason::PeerLost`] and this worker as the culprit the others went on without it, and may have counted
        /// its contribution all the same: the next round's state says which.
        reason: AbortReason,
        /// Slot of the worker that caused it, where one did and it is known; this worker's own, where it was left out.
        culprit: Option<u32>,
        /// The facts, for a person.
        detail: String,
    },
    /// Cut off after it was prepared: only the others know. Ask again for the same.
    InDoubt,
}
