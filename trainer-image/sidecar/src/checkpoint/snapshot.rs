//! A worker's state as it was when a round began: copied, so that the trainer may go on.

use atoll_checkpoint::manifest::ElementType;
use atoll_checkpoint::write::Cut;
use atoll_collective::v1::{self, Kept};
use bytes::BytesMut;

use crate::regions::{Part, Regions};
use crate::report::Stage;
use crate::state::State;

/// What is to be copied.
#[derive(Clone)]
pub(crate) struct Source {
    replicated: Vec<(String, ElementType, Part)>,
    private: Vec<(String, ElementType, Part)>,
    files: Vec<(String, ElementType, Part)>,
    private_steps: u64,
    steps: u64,
    tokens_per_sample: u64,
    steps_after: u64,
}

/// The copy.
pub(crate) struct Snapshot {
    pub(crate) replicated: Vec<Cut>,
    pub(crate) private: Vec<Cut>,
    pub(crate) files: Vec<Cut>,
    pub(crate) private_steps: u64,
    pub(crate) steps: u64,
    pub(crate) tokens_per_sample: u64,
}

impl Source {
    /// What a trainer wants kept; none where a tensor of it is no part of a region of this incarnation.
    pub(crate) fn find(regions: &Regions, incarnation: u64, state: &State, kept: Option<&Kept>) -> Option<Self> {
        let find = |tensors: &[v1::StateTensor]| {
            let one = |tensor: &v1::StateTensor| {
                let part = regions.part(incarnation, tensor.slice.as_ref())?;
                Some((tensor.key.clone(), element_type(tensor.element_type()), part))
            };
            tensors.iter().map(one).collect::<Option<Vec<_>>>()
        };
        let kept = kept.cloned().unwrap_or_default();
        Some(Self {
            replicated: state.parts().map(|(key, kind, part)| (key.clone(), element_type(kind), part.clone())).collect(),
            private: find(&kept.private)?,
            files: find(&kept.files)?,
            private_steps: kept.private_steps,
            steps: kept.steps,
            tokens_per_sample: kept.tokens_per_sample,
            steps_after: kept.steps_after,
        })
    }

    /// Where its trainer stands, which asks for the round `asked`.
    pub(crate) fn stage(&self, asked: u64) -> Stage {
        let Self { steps, steps_after, tokens_per_sample, .. } = *self;
        Stage { asked, steps, steps_after, tokens_per_sample }
    }

    /// Bytes to copy.
    pub(crate) fn len(&self) -> usize {
        self.replicated.iter().chain(&self.private).chain(&self.files).map(|(.., part)| part.len()).sum()
    }

    /// Copies all of it to `room`, at the speed of memory. Nothing of it is written meanwhile.
    pub(crate) fn copy(&self, room: &mut BytesMut) -> Snapshot {
        // That of the last copy again, if that is gone.
        room.reserve(self.len());
        let mut copy = |parts: &[(String, ElementType, Part)]| {
            let one = |(name, element_type, part): &(String, ElementType, Part)| {
                room.extend_from_slice(part.as_ref());
                Cut { name: name.clone(), element_type: *element_type, values: room.split().freeze() }
            };
            parts.iter().map(one).collect()
        };
        Snapshot {
            replicated: copy(&self.replicated),
            private: copy(&self.private),
            files: copy(&self.files),
            private_steps: self.private_steps,
            steps: self.steps,
            tokens_per_sample: self.tokens_per_sample,
        }
    }
}

impl Snapshot {
    /// Bytes of all vectors.
    pub(crate) fn bytes(&self) -> u64 {
        self.replicated.iter().chain(&self.private).chain(&self.files).map(|cut| cut.values.len() as u64).sum()
    }
}

fn element_type(of: v1::ElementType) -> ElementType {
    match of {
        v1::ElementType::U8 | v1::ElementType::Unspecified => ElementType::U8,
        v1::ElementType::I32 => ElementType::I32,
        v1::ElementType::U32 => ElementType::U32,
        v1::ElementType::I64 => ElementType::I64,
        v1::ElementType::U64 => ElementType::U64,
        v1::ElementType::Bf16 => ElementType::Bf16,
        v1::ElementType::F16 => ElementType::F16,
        v1::ElementType::F32 => ElementType::F32,
        v1::ElementType::F64 => ElementType::F64,
    }
}
