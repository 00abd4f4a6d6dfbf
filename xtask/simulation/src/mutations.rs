//! Whether each safety rule is needed: without it some schedule must go wrong. A rule that nobody misses is an error, of the
//! schedules or of the rule.

use atoll_collective::rules::Rules;
use rayon::prelude::*;

use crate::{Schedule, arbiters, run};

/// Schedules that are tried for a rule, of each kind, before it is called unneeded.
const MOST: u64 = 4_000;
/// Schedules that are tried at once.
const STRIDE: u64 = 32;

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A run: [`Schedule::of`] a seed.
    Run,
    /// The arbiters alone.
    Arbiters,
}

/// A schedule that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What is simulated.
    pub kind: Kind,
    /// The schedule's seed.
    pub seed: u64,
    /// What goes wrong.
    pub wrong: String,
}

/// Where each rule was missed last: tried before anything else.
const KNOWN: &[(&str, Kind, u64)] = &[
    ("epochs_follow", Kind::Arbiters, 541),
    ("one_arbiter", Kind::Arbiters, 0),
    ("majority", Kind::Arbiters, 20),
    ("last_record_names_voters", Kind::Arbiters, 5),
    ("voters_are_processes", Kind::Arbiters, 1_414),
    ("promises_bind", Kind::Arbiters, 5),
    ("accepted_is_adopted", Kind::Run, 7),
    ("ballots_differ", Kind::Arbiters, 1_776),
    ("unanimous", Kind::Run, 1),
    ("votes_of_this_epoch", Kind::Run, 13),
    ("survivors_agree", Kind::Run, 82),
    ("stored_before_told", Kind::Run, 1_833),
    ("history_is_known", Kind::Run, 5),
    ("dealt_samples_count", Kind::Run, 13),
    ("contributors_have_no_vote", Kind::Run, 34),
    ("contributors_accuse_nobody", Kind::Run, 24),
    ("contributors_give_no_state", Kind::Run, 4),
    ("terms_fence", Kind::Run, 222),
    ("prepared_waits", Kind::Run, 432),
    ("commits_what_is_prepared", Kind::Run, 6),
    ("names_are_used_once", Kind::Run, 19),
    ("starts_answer_arrivals", Kind::Run, 5),
];

/// The first schedule found that goes wrong without `rule`; none where there is no such rule, or nobody misses it.
#[must_use]
pub fn missed(rule: &str) -> Option<Failure> {
    let rules = Rules::without(rule)?;
    let known = KNOWN.iter().filter(|(name, ..)| *name == rule).find_map(|(_, kind, seed)| tried(*kind, *seed, rules));
    known.or_else(|| {
        (0..MOST).step_by(STRIDE as usize).find_map(|from| {
            let both = (from..from + STRIDE).into_par_iter().flat_map_iter(|seed| [(Kind::Arbiters, seed), (Kind::Run, seed)]);
            both.find_map_first(|(kind, seed)| tried(kind, seed, rules))
        })
    })
}

/// How one schedule goes wrong, if it does.
#[must_use]
pub fn tried(kind: Kind, seed: u64, rules: Rules) -> Option<Failure> {
    let wrong = match kind {
        Kind::Run => run(seed, &Schedule::of(seed), rules).wrong,
        Kind::Arbiters => arbiters::run(seed, rules).err(),
    };
    wrong.map(|wrong| Failure { kind, seed, wrong })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_known_schedule_that_goes_wrong_without_it_alone() {
        let known: Vec<&str> = KNOWN.iter().map(|(rule, ..)| *rule).collect();
        assert_eq!(known, Rules::NAMES);
        for (rule, kind, seed) in KNOWN {
            assert_eq!(tried(*kind, *seed, Rules::default()), None, "{rule}: {seed}");
            assert!(tried(*kind, *seed, Rules::without(rule).unwrap()).is_some(), "{rule}: {seed}");
        }
    }
}
