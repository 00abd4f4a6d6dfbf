//! The vectors of a worker: what all workers share lies in regions that its sidecar maps, the rest is its own.

use atoll_methods::{Method, StateClass, StateVector};
use atoll_sdk::{ElementType, Part, Region, Session};

use super::TrainerError;

/// Name of the region with the replicated state: parameters at the round's start, then the method's replicated vectors.
const STATE: &str = "state";
/// Name of the region with the contribution, then the mean.
const EXCHANGE: &str = "exchange";
/// Bytes of one element.
const ELEMENT: usize = 4;

/// All vectors, each as long as the parameters.
pub(super) struct State {
    parameters: usize,
    replicated: Vec<StateVector>,
    shared: Region,
    exchange: Region,
    /// Private moments of the inner optimiser.
    pub(super) first: Vec<f32>,
    pub(super) second: Vec<f32>,
}

impl State {
    /// State of a worker that trains with `method`; `moments` where the inner optimiser has any.
    pub(super) fn new(session: &mut Session, method: &Method, parameters: usize, moments: bool) -> Result<Self, TrainerError> {
        let kept = |vector: &StateVector| moments || *vector == StateVector::OuterMomentum;
        let replicated: Vec<_> = method.state_of(StateClass::Replicated).filter(kept).collect();
        let private = method.state_of(StateClass::Private).filter(kept).count() > 0;
        let private = if private { parameters } else { 0 };
        let bytes = |vectors: usize| (vectors * parameters * ELEMENT) as u64;
        Ok(Self {
            parameters,
            shared: session.share(STATE, bytes(1 + replicated.len()))?,
            exchange: session.share(EXCHANGE, bytes(2))?,
            replicated,
            first: vec![0.0; private],
            second: vec![0.0; private],
        })
    }

    /// The replicated state, as the session knows it.
    pub(super) fn tensors(&self) -> atoll_sdk::State {
        let length = self.parameters * ELEMENT;
        let names = std::iter::once("parameters").chain(self.replicated.iter().map(StateVector::name));
        names.enumerate().fold(atoll_sdk::State::default(), |state, (index, name)| {
            state.with(name, ElementType::F32, Part { region: STATE.into(), range: index * length..(index + 1) * length })
        })
    }

    /// Contribution and mean, as the session knows them.
    pub(super) fn exchange_parts(&self) -> (Part, Part) {
        let half = self.parameters * ELEMENT;
        let part = |range| Part { region: EXCHANGE.into(), range };
        (part(0..half), part(half..2 * half))
    }

    /// BLAKE3 of the parameters at the round's start.
    pub(super) fn weights_hash(&self) -> String {
        blake3::hash(self.shared.bytes(0..self.parameters * ELEMENT).unwrap_or_default()).to_hex().to_string()
    }

    /// The parameters at the round's start.
    pub(super) fn start(&self) -> Result<&[f32], TrainerError> {
        self.shared.values(0..self.parameters * ELEMENT).ok_or(TrainerError::Region(STATE))
    }

    /// The parameters and the replicated vectors, in the method's order, to change them.
    pub(super) fn replicated(&mut self) -> Result<(&mut [f32], Vec<&mut [f32]>), TrainerError> {
        let end = self.shared.len();
        let values = self.shared.values_mut(0..end).ok_or(TrainerError::Region(STATE))?;
        let (parameters, rest) = values.split_at_mut(self.parameters);
        let vectors: Vec<_> = rest.chunks_mut(self.parameters.max(1)).collect();
        debug_assert_eq!(vectors.len(), self.replicated.len());
        Ok((parameters, vectors))
    }

    /// The contribution, to write it.
    pub(super) fn contribution(&mut self) -> Result<&mut [f32], TrainerError> {
        self.exchange.values_mut(0..self.parameters * ELEMENT).ok_or(TrainerError::Region(EXCHANGE))
    }

    /// The mean, after a commit; a copy of the handle, so that the state can be changed with it.
    pub(super) fn mean(&self) -> Mean {
        Mean { exchange: self.exchange.clone(), parameters: self.parameters }
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
