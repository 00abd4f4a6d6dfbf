//! The vectors of a worker, in regions that its sidecar maps: what all workers share, what they exchange, and what is its own.

use std::ops::Range;

use atoll_methods::{Method, StateClass, StateVector};
use atoll_sdk::{ElementType, Kept, Part, Region, Session};

use super::TrainerError;

/// Name of the region with the replicated state: parameters at the round's start, then the method's replicated vectors.
const STATE: &str = "state";
/// Name of the region with the contribution, then the mean.
const EXCHANGE: &str = "exchange";
/// Name of the region with the worker's own vectors.
const PRIVATE: &str = "private";
/// Name of the region with the files that say what the state is of.
const FILES: &str = "files";
/// Bytes of one element.
const ELEMENT: usize = 4;
/// Name of the parameters in the state.
const PARAMETERS: &str = "parameters";
/// Name of what coding lost and the next round adds.
const RESIDUAL: &str = "residual";

/// Which vectors a worker has, each as long as the parameters, in the order in which they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vectors {
    /// Bit-identical on all workers when a round begins.
    pub replicated: Vec<&'static str>,
    /// Its own.
    pub private: Vec<&'static str>,
}

impl Vectors {
    /// Those of a worker that trains with `method`; `moments` where the inner optimiser has any, `residual` where coding loses some.
    #[must_use]
    pub fn new(method: &Method, moments: bool, residual: bool) -> Self {
        let kept = |vector: &StateVector| moments || *vector == StateVector::OuterMomentum;
        let of = |class| method.state_of(class).filter(kept).map(|vector| vector.name());
        let replicated = std::iter::once(PARAMETERS).chain(of(StateClass::Replicated)).collect();
        let private = of(StateClass::Private).chain(residual.then_some(RESIDUAL)).collect();
        Self { replicated, private }
    }
}

/// All vectors.
pub(super) struct State {
    parameters: usize,
    vectors: Vectors,
    shared: Region,
    exchange: Region,
    private: Option<Region>,
    /// Names of the files, and where they lie.
    parts: Vec<(String, Range<usize>)>,
}

/// Inner steps of each worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    /// In all committed rounds.
    pub(super) done: u64,
    /// Once the next is committed.
    pub(super) after: u64,
}

impl State {
    /// State of a worker with these vectors, and files that say what it is of.
    pub(super) fn new(
        session: &mut Session,
        vectors: Vectors,
        parameters: usize,
        files: &[(&str, &[u8])],
    ) -> Result<Self, TrainerError> {
        let bytes = |vectors: usize| (vectors * parameters * ELEMENT) as u64;
        let own = vectors.private.len();
        let private = if own > 0 { Some(session.share(PRIVATE, bytes(own))?) } else { None };
        let mut end = 0;
        let part = |(name, content): &(&str, &[u8])| {
            let start = end;
            end += content.len();
            ((*name).to_owned(), start..end)
        };
        let parts: Vec<_> = files.iter().map(part).collect();
        let region = session.share(FILES, (end as u64).max(1))?;
        for ((_, range), (_, content)) in parts.iter().zip(files) {
            let _fits = region.write(range.start, content);
        }
        let shared = session.share(STATE, bytes(vectors.replicated.len()))?;
        Ok(Self { parameters, vectors, shared, exchange: session.share(EXCHANGE, bytes(2))?, private, parts })
    }

    fn length(&self) -> usize {
        self.parameters * ELEMENT
    }

    fn part(&self, region: &str, index: usize) -> Part {
        Part { region: region.to_owned(), range: index * self.length()..(index + 1) * self.length() }
    }

    /// The replicated state, as the session knows it, and what checkpoints keep beside it.
    /// Without `private_steps` nothing of its own is kept.
    pub(super) fn tensors(&self, private_steps: Option<u64>, steps: Steps, tokens_per_sample: u64) -> atoll_sdk::State {
        let replicated = self.vectors.replicated.iter().enumerate();
        let state = replicated.fold(atoll_sdk::State::default(), |state, (index, name)| {
            state.with(name, ElementType::F32, self.part(STATE, index))
        });
        let private = self.vectors.private.iter().enumerate().filter(|_| private_steps.is_some());
        let files = self.parts.iter().filter(|(_, range)| !range.is_empty());
        state.keeping(Kept {
            private: private.map(|(index, name)| ((*name).to_owned(), ElementType::F32, self.part(PRIVATE, index))).collect(),
            private_steps: private_steps.unwrap_or(0),
            files: files.map(|(name, range)| (name.clone(), Part { region: FILES.into(), range: range.clone() })).collect(),
            steps: steps.done,
            tokens_per_sample,
            steps_after: steps.after,
        })
    }

    /// Contribution and mean, as the session knows them, and what coding lost.
    pub(super) fn exchange_parts(&self) -> (Part, Part, Option<Part>) {
        let residual = self.vectors.private.iter().position(|name| *name == RESIDUAL);
        (self.part(EXCHANGE, 0), self.part(EXCHANGE, 1), residual.map(|index| self.part(PRIVATE, index)))
    }

    /// BLAKE3 of the parameters at the round's start.
    pub(super) fn weights_hash(&self) -> String {
        blake3::hash(self.shared.bytes(0..self.length()).unwrap_or_default()).to_hex().to_string()
    }

    /// The parameters at the round's start.
    pub(super) fn start(&self) -> Result<&[f32], TrainerError> {
        self.shared.values(0..self.length()).ok_or(TrainerError::Region(STATE))
    }

    /// The parameters and the replicated vectors, in the method's order, to change them.
    pub(super) fn replicated(&mut self) -> Result<(&mut [f32], Vec<&mut [f32]>), TrainerError> {
        let end = self.shared.len();
        let values = self.shared.values_mut(0..end).ok_or(TrainerError::Region(STATE))?;
        let (parameters, rest) = values.split_at_mut(self.parameters);
        Ok((parameters, rest.chunks_mut(self.parameters.max(1)).collect()))
    }

    /// Whether the inner optimiser's moments are the worker's own.
    pub(super) fn has_moments(&self) -> bool {
        self.vectors.private.iter().any(|name| *name != RESIDUAL)
    }

    /// The private moments of the inner optimiser; empty where it has none.
    pub(super) fn moments(&mut self) -> Result<(&mut [f32], &mut [f32]), TrainerError> {
        let (parameters, length) = (self.parameters, self.length());
        if !self.has_moments() {
            return Ok((&mut [], &mut []));
        }
        let region = self.private.as_mut().ok_or(TrainerError::Region(PRIVATE))?;
        let both = region.values_mut(0..2 * length).ok_or(TrainerError::Region(PRIVATE))?;
        Ok(both.split_at_mut(parameters))
    }

    /// The contribution, to write it.
    pub(super) fn contribution(&mut self) -> Result<&mut [f32], TrainerError> {
        let length = self.length();
        self.exchange.values_mut(0..length).ok_or(TrainerError::Region(EXCHANGE))
    }

    /// The mean, after a commit; a copy of the handle, so that the state can be changed with it.
    pub(super) fn mean(&self) -> Mean {
        Mean { exchange: self.exchange.clone(), parameters: self.parameters }
    }

    /// Where a vector of a checkpoint goes: its region and first byte.
    pub(super) fn place(&self, name: &str, private: bool) -> Option<(&Region, usize)> {
        let (names, region) =
            if private { (&self.vectors.private, self.private.as_ref()?) } else { (&self.vectors.replicated, &self.shared) };
        let index = names.iter().position(|known| *known == name)?;
        Some((region, index * self.length()))
    }

    /// Whether a private vector belongs to its worker alone, and is zero for any other.
    pub(super) fn is_residual(name: &str) -> bool {
        name == RESIDUAL
    }
}

/// The result of a committed operation.
pub(super) struct Mean {
    exchange: Region,
    parameters: usize,
}

impl Mean {
    pub(super) fn values(&self) -> Result<&[f32], TrainerError> {
        let half = self.parameters * ELEMENT;
        self.exchange.values(half..2 * half).ok_or(TrainerError::Region(EXCHANGE))
    }
}
