//! Whether a worker's training diverges: its loss is no number, or leaps above what it was.

use std::collections::VecDeque;

use atoll_crds::spec::Divergence;

/// Rounds before a leap can be told from the first, steep part of the curve.
const FEWEST: usize = 3;

/// Watches the losses of one worker's rounds.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    spec: Divergence,
    losses: VecDeque<f64>,
}

/// What was seen: the loss, and what it is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sighting {
    /// Mean loss of the round; not finite where a step of it was not.
    pub(super) loss: f64,
    /// Mean of the rounds before; none where there are too few.
    pub(super) mean: Option<f64>,
}

impl Watch {
    pub(super) fn new(spec: Divergence) -> Self {
        Self { spec, losses: VecDeque::new() }
    }

    pub(super) fn spec(&self) -> &Divergence {
        &self.spec
    }

    /// Takes the loss of a round: whether training diverges. Such a loss is not among those that later ones are held against.
    pub(super) fn take(&mut self, loss: f64) -> Option<Sighting> {
        let enough = self.losses.len() >= FEWEST.min(self.spec.window_rounds as usize);
        let mean = enough.then(|| self.losses.iter().sum::<f64>() / self.losses.len() as f64);
        let leaps = mean.is_some_and(|mean| loss > mean * self.spec.spike_factor);
        if !loss.is_finite() || leaps {
            return Some(Sighting { loss, mean });
        }
        self.losses.push_back(loss);
        if self.losses.len() > self.spec.window_rounds as usize {
            self.losses.pop_front();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use atoll_crds::spec::DivergencePolicy;

    use super::*;

    fn watch() -> Watch {
        Watch::new(Divergence { policy: DivergencePolicy::SkipRound, spike_factor: 1.5, window_rounds: 4 })
    }

    #[test]
    fn a_loss_that_falls_or_wavers_is_no_divergence() {
        let mut watch = watch();
        assert!([9.0, 5.0, 3.0, 2.5, 3.5, 2.4, 3.4, 2.2].iter().all(|loss| watch.take(*loss).is_none()));
    }

    #[test]
    fn a_leap_is_seen_and_does_not_hide_the_next_one() {
        let mut watch = watch();
        assert!([2.0; 3].iter().all(|loss| watch.take(*loss).is_none()));
        for loss in [3.1, 9.0] {
            assert_eq!(watch.take(loss), Some(Sighting { loss, mean: Some(2.0) }));
        }
        assert_eq!(watch.take(2.9), None);
    }

    #[test]
    fn what_is_no_number_is_seen_in_the_first_round() {
        let seen = watch().take(f64::NAN).unwrap();
        assert!(seen.loss.is_nan() && seen.mean.is_none());
        assert!(watch().take(f64::INFINITY).is_some());
        assert_eq!(watch().take(1e9), None, "nothing to hold it against yet");
    }
}
