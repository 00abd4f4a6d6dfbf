//! The matrix: which fault strikes whom in which phase, among how many peers.

use std::fmt;

use crate::wire::Sight;

/// What a group of peers is doing when one of them is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// All who take part ask for the operation, and it is begun.
    Vote,
    /// Copies of shards go to their owners.
    ReduceScatter,
    /// Reduced shards go to all.
    AllGather,
    /// Hashes are reported, and the outcome is told.
    Commit,
    /// A joiner takes the state from others.
    StateSync,
    /// A joiner arrives, and is started in a round.
    Join,
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its process is killed.
    Kill,
    /// Its process is stopped, and goes on later.
    Stop,
    /// The connection is closed.
    Close,
    /// The connection stays open and carries nothing any more, in either direction.
    HalfOpen,
    /// All its links carry a tenth, ten times as late.
    Slow,
    /// One bit of what it says arrives changed.
    Corrupt,
}

/// Who is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// A member that is not the coordinator.
    Follower,
    /// The member that has the coordinator's role.
    Coordinator,
    /// Who has just come.
    Joiner,
    /// The member that gives its state to the joiner.
    Donor,
}

/// One cell of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// What happens.
    pub fault: Fault,
    /// When.
    pub phase: Phase,
    /// To whom.
    pub victim: Victim,
    /// Peers, with the joiner.
    pub peers: u32,
}

const PHASES: [Phase; 6] = [Phase::Vote, Phase::ReduceScatter, Phase::AllGather, Phase::Commit, Phase::StateSync, Phase::Join];
const FAULTS: [Fault; 6] = [Fault::Kill, Fault::Stop, Fault::Close, Fault::HalfOpen, Fault::Slow, Fault::Corrupt];

/// The whole matrix for these numbers of peers.
#[must_use]
pub fn matrix(peers: std::ops::RangeInclusive<u32>) -> Vec<Case> {
    let cells = FAULTS.iter().flat_map(|fault| PHASES.iter().map(move |phase| (*fault, *phase)));
    let struck = cells.flat_map(|(fault, phase)| phase.victims().map(|victim| (fault, phase, victim)));
    struck.flat_map(|(fault, phase, victim)| peers.clone().map(move |peers| Case { fault, phase, victim, peers })).collect()
}

impl Phase {
    /// Who can be struck in it.
    fn victims(self) -> [Victim; 2] {
        match self {
            Self::Vote | Self::ReduceScatter | Self::AllGather | Self::Commit => [Victim::Follower, Victim::Coordinator],
            Self::StateSync => [Victim::Joiner, Victim::Donor],
            Self::Join => [Victim::Joiner, Victim::Coordinator],
        }
    }

    /// Whether it needs somebody who comes later than the others.
    #[must_use]
    pub fn has_joiner(self) -> bool {
        matches!(self, Self::StateSync | Self::Join)
    }
}

/// Whose end of a message makes it the one to strike at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Who sends it.
    From,
    /// Who gets it.
    To,
}

impl Case {
    /// The message at which to strike, and which end of it must be the victim's. `choice` picks one where there are several.
    #[must_use]
    pub fn moment(&self, choice: u64) -> (Sight, End) {
        let either = choice.is_multiple_of(2);
        match (self.phase, self.victim) {
            (Phase::Vote, Victim::Coordinator) => (Sight::Begin, End::From),
            (Phase::Vote, _) if either => (Sight::Begin, End::To),
            (Phase::Vote, _) => (Sight::Enter, End::From),
            (Phase::ReduceScatter, _) => (Sight::Contribution, End::From),
            (Phase::AllGather, _) => (Sight::Result, End::From),
            (Phase::Commit, Victim::Coordinator) => (Sight::Commit, End::From),
            (Phase::Commit, _) if either => (Sight::Commit, End::To),
            (Phase::Commit, _) => (Sight::Prepared, End::From),
            (Phase::StateSync, Victim::Donor) => (Sight::State, End::From),
            (Phase::StateSync, _) => (Sight::State, End::To),
            (Phase::Join, Victim::Coordinator) => (Sight::Start, End::From),
            (Phase::Join, _) if either => (Sight::Start, End::To),
            (Phase::Join, _) => (Sight::Arrive, End::From),
        }
    }

    /// Whether the operation that is struck must still count everybody: nobody is lost, only late or to be asked again.
    #[must_use]
    pub fn keeps_everybody(&self) -> bool {
        let on_lanes = matches!(self.phase, Phase::ReduceScatter | Phase::AllGather);
        match self.fault {
            Fault::Slow => !self.phase.has_joiner(),
            Fault::Close | Fault::Corrupt => on_lanes,
            Fault::Kill | Fault::Stop | Fault::HalfOpen => false,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Vote => "vote",
            Self::ReduceScatter => "reduce-scatter",
            Self::AllGather => "all-gather",
            Self::Commit => "commit",
            Self::StateSync => "state sync",
            Self::Join => "join",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Close => "close",
            Self::HalfOpen => "half-open",
            Self::Slow => "slow",
            Self::Corrupt => "corrupt",
        })
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Follower => "follower",
            Self::Coordinator => "coordinator",
            Self::Joiner => "joiner",
            Self::Donor => "donor",
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, phase, victim, peers } = self;
        write!(out, "{fault} {victim} in {phase} of {peers}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_fault_meets_every_phase_among_three_to_five_peers() {
        let cases = matrix(3..=5);
        let names: BTreeSet<String> = cases.iter().map(ToString::to_string).collect();
        assert_eq!((cases.len(), names.len()), (6 * 6 * 2 * 3, 6 * 6 * 2 * 3));
        assert!(names.contains("corrupt donor in state sync of 4"));
    }

    #[test]
    fn the_message_to_strike_at_is_of_the_phase() {
        let case = |phase, victim| Case { fault: Fault::Kill, phase, victim, peers: 3 };
        assert_eq!(case(Phase::Vote, Victim::Follower).moment(0), (Sight::Begin, End::To));
        assert_eq!(case(Phase::Vote, Victim::Follower).moment(1), (Sight::Enter, End::From));
        assert_eq!(case(Phase::Commit, Victim::Coordinator).moment(1), (Sight::Commit, End::From));
        assert_eq!(case(Phase::StateSync, Victim::Donor).moment(0), (Sight::State, End::From));
    }

    #[test]
    fn a_broken_lane_costs_nobody_the_round_and_a_broken_session_may() {
        let case = |fault, phase| Case { fault, phase, victim: Victim::Follower, peers: 3 }.keeps_everybody();
        assert!(case(Fault::Corrupt, Phase::AllGather) && case(Fault::Slow, Phase::Commit));
        assert!(!case(Fault::Close, Phase::Vote) && !case(Fault::Kill, Phase::AllGather));
    }
}
