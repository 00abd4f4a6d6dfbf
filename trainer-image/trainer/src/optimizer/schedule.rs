//! The learning rate over a run: up in a line, down along a cosine.

/// A linear warm-up and a cosine to a fraction of the peak (Loshchilov and Hutter, arXiv 1608.03983, without restarts).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Learning rate after the warm-up.
    pub peak: f64,
    /// Steps until the peak; 0 starts at it.
    pub warmup_steps: u64,
    /// Step at which the cosine ends.
    pub total_steps: u64,
    /// Learning rate from that step on, as a share of the peak.
    pub final_fraction: f64,
}

impl Schedule {
    /// Learning rate of step `step`, counted from 1: `step / warmup_steps` of the peak at first, the peak at the last step of
    /// the warm-up, the final fraction of it at the last step and beyond.
    #[must_use]
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let (done, all) = (step - self.warmup_steps, self.total_steps.saturating_sub(self.warmup_steps));
        let progress = if done < all { done as f64 / all as f64 } else { 1.0 };
        let share = 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress));
        self.peak * (self.final_fraction + (1.0 - self.final_fraction) * share)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEDULE: Schedule = Schedule { peak: 3e-3, warmup_steps: 50, total_steps: 1000, final_fraction: 0.1 };

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-12
    }

    #[test]
    fn the_rate_rises_to_the_peak_and_falls_to_a_tenth() {
        assert!(close(SCHEDULE.rate(1), 3e-3 / 50.0));
        assert!(close(SCHEDULE.rate(25), 1.5e-3));
        assert!(close(SCHEDULE.rate(50), 3e-3));
        assert!(close(SCHEDULE.rate(525), 3e-3 * 0.55));
        assert!(close(SCHEDULE.rate(1000), 3e-4));
        assert!(close(SCHEDULE.rate(5000), 3e-4));
    }

    #[test]
    fn without_a_warm_up_the_first_step_is_near_the_peak() {
        let schedule = Schedule { warmup_steps: 0, ..SCHEDULE };
        assert!(schedule.rate(1) > 0.999 * schedule.peak && schedule.rate(1) <= schedule.peak);
    }

    proptest! {
        #[test]
        fn the_rate_never_leaves_its_bounds(step in 1u64..4000, warmup in 0u64..2000, total in 0u64..3000) {
            let schedule = Schedule { warmup_steps: warmup, total_steps: total, ..SCHEDULE };
            prop_assert!(schedule.rate(step) > 0.0 && schedule.rate(step) <= schedule.peak * (1.0 + 1e-12));
            if step >= warmup {
                prop_assert!(schedule.rate(step) >= schedule.rate(step + 1));
            }
        }
    }
}
