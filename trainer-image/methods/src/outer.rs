//! The outer step: how the mean pseudo-gradient of all workers moves the parameters that they share.
//!
//! Between two synchronisations every worker trains by itself. The difference between where a round began and where a worker
//! arrived points the way a gradient does, so an optimiser can subtract it (DiLoCo, arXiv 2311.08105, algorithm 1).

use crate::error::{MethodError, require_length};

/// Writes the pseudo-gradient `start - now` into `delta`, element by element.
///
/// `start` holds the parameters with which the round began, `now` those after the worker's inner steps.
///
/// # Errors
/// [`MethodError::Length`] if the three slices differ in length.
pub fn pseudo_gradient(start: &[f32], now: &[f32], delta: &mut [f32]) -> Result<(), MethodError> {
    require_length("the parameters after the round", now, start.len())?;
    require_length("the pseudo-gradient", delta, start.len())?;
    for ((delta, start), now) in delta.iter_mut().zip(start).zip(now) {
        *delta = start - now;
    }
    Ok(())
}

/// What every worker does with the mean pseudo-gradient, each for itself and all with the same bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OuterStep {
    /// Gradient descent with learning rate 1 and no momentum: the parameters become the mean of the workers' parameters.
    Average,
    /// Gradient descent with Nesterov momentum in `PyTorch`'s form (dampening 0, no weight decay).
    Nesterov {
        /// Learning rate of the outer step.
        learning_rate: f32,
        /// Share of the momentum that is kept from one round to the next.
        momentum: f32,
    },
}

impl OuterStep {
    /// Moves `parameters`, which hold the start of the round, to the start of the next.
    ///
    /// `momentum` is the vector kept from round to round: zeros before the first step, and empty for [`OuterStep::Average`],
    /// which keeps none. `mean` is the mean pseudo-gradient of the workers that delivered. With rate l and share m, Nesterov's
    /// step is `momentum <- m * momentum + mean`, `parameters <- parameters - l * (mean + m * momentum)`.
    ///
    /// # Errors
    /// [`MethodError::Length`] naming the slice of the wrong length.
    pub fn apply(self, parameters: &mut [f32], momentum: &mut [f32], mean: &[f32]) -> Result<(), MethodError> {
        require_length("the mean pseudo-gradient", mean, parameters.len())?;
        match self {
            Self::Average => {
                require_length("the outer momentum", momentum, 0)?;
                for (parameter, mean) in parameters.iter_mut().zip(mean) {
                    *parameter -= mean;
                }
            }
            Self::Nesterov { learning_rate, momentum: kept } => {
                require_length("the outer momentum", momentum, parameters.len())?;
                for ((parameter, momentum), mean) in parameters.iter_mut().zip(momentum).zip(mean) {
                    *momentum = kept * *momentum + mean;
                    *parameter -= learning_rate * (mean + kept * *momentum);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NESTEROV: OuterStep = OuterStep::Nesterov { learning_rate: 0.7, momentum: 0.9 };

    fn close(left: &[f32], right: &[f32], tolerance: f32) -> bool {
        left.len() == right.len() && left.iter().zip(right).all(|(l, r)| (l - r).abs() <= tolerance)
    }

    #[test]
    fn nesterov_equals_the_published_numbers() {
        let golden: serde_json::Value = serde_json::from_str(include_str!("../tests/golden.json")).unwrap();
        let golden = &golden["outer_nesterov"];
        let vector = |value: &serde_json::Value| -> Vec<f32> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
        };
        let step = OuterStep::Nesterov {
            learning_rate: golden["lr"].as_f64().unwrap() as f32,
            momentum: golden["mu"].as_f64().unwrap() as f32,
        };
        let mut parameters = vector(&golden["theta0"]);
        let mut momentum = vec![0.0; parameters.len()];
        let rounds = golden["deltas"].as_array().unwrap().iter().zip(golden["after"].as_array().unwrap());
        assert_eq!(rounds.len(), 2);
        for (delta, after) in rounds {
            step.apply(&mut parameters, &mut momentum, &vector(delta)).unwrap();
            assert!(close(&parameters, &vector(after), 1e-6), "{parameters:?} is not {after}");
        }
    }

    #[test]
    fn a_slice_of_the_wrong_length_is_named_and_nothing_changes() {
        let mut parameters = [1.0, 2.0];
        assert_eq!(
            NESTEROV.apply(&mut parameters, &mut [0.0], &[0.5, 0.5]),
            Err(MethodError::Length { vector: "the outer momentum", found: 1, expected: 2 })
        );
        assert_eq!(
            OuterStep::Average.apply(&mut parameters, &mut [0.0, 0.0], &[0.5, 0.5]),
            Err(MethodError::Length { vector: "the outer momentum", found: 2, expected: 0 })
        );
        assert_eq!(
            OuterStep::Average.apply(&mut parameters, &mut [], &[0.5]),
            Err(MethodError::Length { vector: "the mean pseudo-gradient", found: 1, expected: 2 })
        );
        assert_eq!(parameters.map(f32::to_bits), [1.0f32, 2.0].map(f32::to_bits));
        assert!(pseudo_gradient(&[1.0], &[1.0, 2.0], &mut [0.0]).is_err());
    }

    proptest! {
        #[test]
        fn the_mean_of_identical_workers_is_where_they_arrived(
            rounds in prop::collection::vec((-10.0f32..10.0, -10.0f32..10.0), 1..50),
        ) {
            let (mut start, now): (Vec<f32>, Vec<f32>) = rounds.into_iter().unzip();
            let mut delta = vec![f32::NAN; start.len()];
            pseudo_gradient(&start, &now, &mut delta).unwrap();
            OuterStep::Average.apply(&mut start, &mut [], &delta).unwrap();
            prop_assert!(close(&start, &now, 4e-6));
        }

        #[test]
        fn without_momentum_and_with_rate_one_nesterov_is_the_average(
            rounds in prop::collection::vec((-10.0f32..10.0, -1.0f32..1.0), 1..50),
        ) {
            let (start, mean): (Vec<f32>, Vec<f32>) = rounds.into_iter().unzip();
            let (mut averaged, mut stepped) = (start.clone(), start);
            let mut momentum = vec![0.0; mean.len()];
            OuterStep::Average.apply(&mut averaged, &mut [], &mean).unwrap();
            let step = OuterStep::Nesterov { learning_rate: 1.0, momentum: 0.0 };
            step.apply(&mut stepped, &mut momentum, &mean).unwrap();
            prop_assert_eq!(averaged, stepped);
            prop_assert_eq!(momentum, mean);
        }

        #[test]
        fn workers_that_did_not_move_leave_the_parameters_bit_for_bit(start in prop::collection::vec(-1e6f32..1e6, 1..50)) {
            let mut delta = vec![f32::NAN; start.len()];
            pseudo_gradient(&start, &start, &mut delta).unwrap();
            let mut parameters = start.clone();
            NESTEROV.apply(&mut parameters, &mut vec![0.0; start.len()], &delta).unwrap();
            prop_assert_eq!(parameters, start);
        }
    }
}
