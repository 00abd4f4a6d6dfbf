//! Who is struck, how, and when.

use std::fmt;

use rustix::process::Signal;

use crate::random::Random;

/// One of the two processes of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    Sidecar,
    Trainer,
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blow {
    /// It ends at once.
    Kill,
    /// It stays, but does nothing more.
    Stop,
}

/// Which worker it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The one whose sidecar has the coordinator's role.
    Coordinator,
    /// Any other.
    Other,
}

/// A combination that every pass goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) victim: Victim,
    pub(super) blow: Blow,
    pub(super) role: Role,
}

/// Every combination.
pub(super) const CASES: [Case; 8] = [
    Case { victim: Victim::Sidecar, blow: Blow::Kill, role: Role::Other },
    Case { victim: Victim::Sidecar, blow: Blow::Kill, role: Role::Coordinator },
    Case { victim: Victim::Sidecar, blow: Blow::Stop, role: Role::Other },
    Case { victim: Victim::Sidecar, blow: Blow::Stop, role: Role::Coordinator },
    Case { victim: Victim::Trainer, blow: Blow::Kill, role: Role::Other },
    Case { victim: Victim::Trainer, blow: Blow::Kill, role: Role::Coordinator },
    Case { victim: Victim::Trainer, blow: Blow::Stop, role: Role::Other },
    Case { victim: Victim::Trainer, blow: Blow::Stop, role: Role::Coordinator },
];

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Length {
    pub(super) steps: u64,
    pub(super) rounds: u64,
}

/// Moment of a run at which a case is tried, counted in the events that the run writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instant {
    pub(super) case: Case,
    pub(super) round: u64,
    /// Events of this round that are waited for; they spread over training, moving data, and committing.
    pub(super) events: u64,
    /// Chooses among the other workers.
    pub(super) choice: u64,
}

impl Instant {
    /// An instant in the middle of a run: not in the first two rounds, and some rounds before the end.
    pub(super) fn draw(case: Case, length: Length, random: &mut Random) -> Self {
        let rounds = length.rounds * 2 / 3 - 2;
        Self { case, round: 3 + random.below(rounds), events: 1 + random.below(9), choice: random.next() }
    }
}

impl Victim {
    /// As events call it.
    pub(super) fn process(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Trainer => "trainer",
        }
    }
}

impl Blow {
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::Kill => Signal::KILL,
            Self::Stop => Signal::STOP,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blow = match self.blow {
            Blow::Kill => "kill",
            Blow::Stop => "stop",
        };
        let role = match self.role {
            Role::Coordinator => "the coordinator's",
            Role::Other => "another",
        };
        write!(out, "{blow} {role} {}", self.victim.process())
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} in round {} after {} events", self.case, self.round, self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_instants_in_the_middle_of_the_run() {
        let length = Length { steps: 300, rounds: 15 };
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| Instant::draw(CASES[0], length, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let rounds: Vec<u64> = draw(7).iter().map(|instant| instant.round).collect();
        assert_eq!((rounds.iter().min(), rounds.iter().max()), (Some(&3), Some(&10)));
    }

    #[test]
    fn every_case_is_there_once() {
        for (index, case) in CASES.iter().enumerate() {
            assert!(!CASES[..index].contains(case), "{case} is there twice");
        }
    }
}
