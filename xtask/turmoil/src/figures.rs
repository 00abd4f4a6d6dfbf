//! What one schedule came to, or many together.

use std::fmt;

/// Counts of one schedule, or of many together.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Figures {
    /// Committed rounds.
    pub rounds: usize,
    /// Committed operations within rounds.
    pub operations: usize,
    /// Calls that were told that they are aborted.
    pub aborts: usize,
    /// Calls that were in doubt.
    pub in_doubt: usize,
    /// Members that coordinators have left out.
    pub evictions: usize,
    /// Terms that were granted.
    pub terms: u64,
    /// Runs that hold because all members of the newest epoch have ended, or a majority of its voters: only a person can mend that.
    pub held: usize,
    /// Simulated time.
    pub seconds: f64,
    /// A digest of all that happened: the same for the same seeds.
    pub course: u64,
    /// The first thing that went wrong, with its seed.
    pub wrong: Option<(u64, String)>,
}

impl Figures {
    /// Of both together; of what went wrong, the lowest seed's.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            rounds: self.rounds + other.rounds,
            operations: self.operations + other.operations,
            aborts: self.aborts + other.aborts,
            in_doubt: self.in_doubt + other.in_doubt,
            evictions: self.evictions + other.evictions,
            terms: self.terms + other.terms,
            held: self.held + other.held,
            seconds: self.seconds + other.seconds,
            course: self.course.wrapping_add(other.course),
            wrong: [self.wrong, other.wrong].into_iter().flatten().min_by_key(|(seed, _)| *seed),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, operations, aborts, in_doubt, evictions, terms, held, seconds, course, wrong } = self;
        let wrong = if wrong.is_some() { "a rule was broken" } else { "no rule was broken" };
        write!(
            out,
            "{rounds} rounds and {operations} operations committed, {aborts} aborts, {in_doubt} calls in doubt, {evictions} \
             evictions, {terms} terms, {held} runs held without members or majority, {seconds:.0} simulated s, course {course:016x}, {wrong}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_the_lowest_seed_that_went_wrong_is_named() {
        let figures = |seed: u64, course| Figures { rounds: 2, course, wrong: Some((seed, "x".into())), ..Figures::default() };
        let both = figures(7, u64::MAX).and(figures(3, 2)).and(Figures::default());
        assert_eq!(both, Figures { rounds: 4, course: 1, wrong: Some((3, "x".into())), ..Figures::default() });
        assert!(both.to_string().ends_with("course 0000000000000001, a rule was broken"));
    }
}
