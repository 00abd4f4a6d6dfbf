//! A training method: the few choices that tell synchronous data parallel, DiLoCo and FedAvg apart.
//!
//! In each of them a round is some inner steps on every worker's own samples, then one mean over all workers of one vector as
//! long as the parameters. They differ in how many steps, in which vector, in who takes the mean, and so in which state all
//! workers share. A new method is a new row of the matches below.

use crate::outer::OuterStep;

/// How workers train together. Rates and shares are as the user wrote them; see [`Method::outer_step`] for what is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Synchronous data parallel: gradients are averaged at every step, so all workers take the same inner step.
    DataParallel,
    /// DiLoCo (arXiv 2311.08105): workers train alone, then an outer Nesterov step takes the mean of what they moved.
    DiLoCo {
        /// Inner steps per round, at least 1; H in the paper.
        inner_steps: u32,
        /// Learning rate of the outer step; .7 in the paper.
        outer_learning_rate: f64,
        /// Momentum of the outer step; .9 in the paper, .5 is better in short runs from scratch.
        outer_momentum: f64,
    },
    /// Federated averaging (arXiv 1602.05629): workers train alone, then all continue from the mean of their parameters.
    FedAvg {
        /// Inner steps per round, at least 1.
        inner_steps: u32,
    },
}

/// The vector that a worker hands to the reduction, one f32 per parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contribution {
    /// The gradient of the mean loss over the worker's batch, before clipping. The mean gradient is clipped and goes to the inner
    /// optimiser.
    Gradient,
    /// [`pseudo_gradient`](crate::pseudo_gradient) of the round. Its mean goes to the [`OuterStep`].
    PseudoGradient,
}

/// A vector of f32, as long as the parameters, that outlives a round. The parameters themselves are replicated in every method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateVector {
    /// Momentum of the outer step, zero before the first round.
    OuterMomentum,
    /// Mean of the gradients in the inner optimiser (AdamW).
    FirstMoment,
    /// Mean of the squared gradients in the inner optimiser (AdamW).
    SecondMoment,
}

impl StateVector {
    /// Its name in the run's state.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::OuterMomentum => "outerMomentum",
            Self::FirstMoment => "firstMoment",
            Self::SecondMoment => "secondMoment",
        }
    }
}

/// Who holds the same values of a [`StateVector`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateClass {
    /// Bit-identical on all workers after every synchronisation; a joiner takes it from any of them.
    Replicated,
    /// Each worker's own. It is never sent in a round and never reset; a joiner starts from zeros or from a donor's copy.
    Private,
}

impl Method {
    /// Inner steps between two synchronisations.
    #[must_use]
    pub fn inner_steps(&self) -> u32 {
        match *self {
            Self::DataParallel => 1,
            Self::DiLoCo { inner_steps, .. } | Self::FedAvg { inner_steps } => inner_steps,
        }
    }

    /// What a worker hands to the reduction at the end of a round.
    #[must_use]
    pub fn contribution(&self) -> Contribution {
        match self {
            Self::DataParallel => Contribution::Gradient,
            Self::DiLoCo { .. } | Self::FedAvg { .. } => Contribution::PseudoGradient,
        }
    }

    /// What takes the mean contribution: the outer step, or `None` for the inner optimiser.
    ///
    /// Its factors are the configured f64 rounded once to the nearest f32, so that every worker multiplies by the same bits.
    #[must_use]
    pub fn outer_step(&self) -> Option<OuterStep> {
        match *self {
            Self::DataParallel => None,
            Self::DiLoCo { outer_learning_rate, outer_momentum, .. } => {
                Some(OuterStep::Nesterov { learning_rate: outer_learning_rate as f32, momentum: outer_momentum as f32 })
            }
            Self::FedAvg { .. } => Some(OuterStep::Average),
        }
    }

    /// The state kept beside the parameters, and who holds the same, in the order in which it is stored and sent.
    #[must_use]
    pub fn state(&self) -> &'static [(StateVector, StateClass)] {
        use StateClass::{Private, Replicated};
        use StateVector::{FirstMoment, OuterMomentum, SecondMoment};
        match self {
            Self::DataParallel => &[(FirstMoment, Replicated), (SecondMoment, Replicated)],
            Self::DiLoCo { .. } => &[(OuterMomentum, Replicated), (FirstMoment, Private), (SecondMoment, Private)],
            Self::FedAvg { .. } => &[(FirstMoment, Private), (SecondMoment, Private)],
        }
    }

    /// The vectors of [`Method::state`] that belong to `class`, in the same order.
    pub fn state_of(&self, class: StateClass) -> impl Iterator<Item = StateVector> + use<> {
        self.state().iter().filter(move |(_, of)| *of == class).map(|(vector, _)| *vector)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outer::pseudo_gradient;

    const DILOCO: Method = Method::DiLoCo { inner_steps: 20, outer_learning_rate: 0.7, outer_momentum: 0.9 };
    const FEDAVG: Method = Method::FedAvg { inner_steps: 20 };

    /// Sum in worker order, then one multiplication, as the reduction does it.
    fn mean(contributions: &[Vec<f32>]) -> Vec<f32> {
        let scale = 1.0 / contributions.len() as f32;
        let element = |i: usize| contributions.iter().map(|contribution| contribution[i]).fold(0.0, |sum, x| sum + x) * scale;
        (0..contributions[0].len()).map(element).collect()
    }

    /// Gradient of the mean squared error of a linear model on one worker's batch of (features, target).
    fn gradient(parameters: &[f32], batch: &[(Vec<f32>, f32)]) -> Vec<f32> {
        let mut gradient = vec![0.0; parameters.len()];
        for (features, target) in batch {
            let error: f32 = features.iter().zip(parameters).map(|(x, w)| x * w).sum::<f32>() - target;
            for (slot, x) in gradient.iter_mut().zip(features) {
                *slot += 2.0 * error * x / batch.len() as f32;
            }
        }
        gradient
    }

    fn descend(parameters: &mut [f32], gradient: &[f32]) {
        for (parameter, gradient) in parameters.iter_mut().zip(gradient) {
            *parameter -= 0.05 * gradient;
        }
    }

    /// One round of plain gradient descent under `method`: `start` becomes the parameters of the next round.
    fn round(method: Method, start: &mut [f32], momentum: &mut [f32], batches: &[Vec<(Vec<f32>, f32)>]) {
        let contributions: Vec<_> = batches
            .iter()
            .map(|batch| match method.contribution() {
                Contribution::Gradient => gradient(start, batch),
                Contribution::PseudoGradient => {
                    let mut now = start.to_vec();
                    for _ in 0..method.inner_steps() {
                        let gradient = gradient(&now, batch);
                        descend(&mut now, &gradient);
                    }
                    let mut delta = vec![0.0; now.len()];
                    pseudo_gradient(start, &now, &mut delta).unwrap();
                    delta
                }
            })
            .collect();
        match method.outer_step() {
            None => descend(start, &mean(&contributions)),
            Some(step) => step.apply(start, momentum, &mean(&contributions)).unwrap(),
        }
    }

    #[test]
    fn methods_differ_in_what_is_replicated_and_what_is_private() {
        use StateVector::{FirstMoment, OuterMomentum, SecondMoment};
        let of = |method: Method, class| method.state_of(class).collect::<Vec<_>>();
        assert_eq!(of(Method::DataParallel, StateClass::Replicated), [FirstMoment, SecondMoment]);
        assert_eq!(of(Method::DataParallel, StateClass::Private), []);
        assert_eq!(of(DILOCO, StateClass::Replicated), [OuterMomentum]);
        assert_eq!(of(DILOCO, StateClass::Private), [FirstMoment, SecondMoment]);
        assert_eq!(of(FEDAVG, StateClass::Replicated), []);
        assert_eq!(of(FEDAVG, StateClass::Private), [FirstMoment, SecondMoment]);
    }

    #[test]
    fn a_round_is_one_step_in_data_parallel_and_as_many_as_configured_elsewhere() {
        assert_eq!([Method::DataParallel, DILOCO, FEDAVG].map(|method| method.inner_steps()), [1, 20, 20]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn one_inner_step_with_outer_rate_one_is_data_parallel_descent(
            start in prop::collection::vec(-1.0f32..1.0, 5),
            batches in prop::collection::vec(prop::collection::vec((prop::collection::vec(-1.0f32..1.0, 5), -1.0f32..1.0), 3), 4),
        ) {
            let plain = Method::DiLoCo { inner_steps: 1, outer_learning_rate: 1.0, outer_momentum: 0.0 };
            let (mut parallel, mut outer, mut averaged) = (start.clone(), start.clone(), start.clone());
            let mut momentum = vec![0.0; start.len()];
            for _ in 0..50 {
                round(Method::DataParallel, &mut parallel, &mut [], &batches);
                round(plain, &mut outer, &mut momentum, &batches);
                round(Method::FedAvg { inner_steps: 1 }, &mut averaged, &mut [], &batches);
            }
            prop_assert!(parallel != start);
            for ((parallel, outer), averaged) in parallel.iter().zip(&outer).zip(&averaged) {
                prop_assert!((parallel - outer).abs() <= 1e-5, "{} and {}", parallel, outer);
                prop_assert!((parallel - averaged).abs() <= 1e-5, "{} and {}", parallel, averaged);
            }
        }

        #[test]
        fn federated_averaging_ends_a_round_at_the_mean_of_the_workers(
            start in prop::collection::vec(-1.0f32..1.0, 3),
            arrived in prop::collection::vec(prop::collection::vec(-1.0f32..1.0, 3), 1..6),
        ) {
            let deltas: Vec<_> = arrived
                .iter()
                .map(|now| {
                    let mut delta = vec![0.0; now.len()];
                    pseudo_gradient(&start, now, &mut delta).unwrap();
                    delta
                })
                .collect();
            let mut next = start;
            FEDAVG.outer_step().unwrap().apply(&mut next, &mut [], &mean(&deltas)).unwrap();
            for (next, mean) in next.iter().zip(mean(&arrived)) {
                prop_assert!((next - mean).abs() <= 1e-5);
            }
        }
    }
}
