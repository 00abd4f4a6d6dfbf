//! Whose state a round begins from, and what becomes of the peers that hold another.
//!
//! Committed rounds count before votes: one peer with the newest state is right against any number that missed a round. Every
//! rule is a function of the peers' words, so that any coordinator elects the same state.

use std::collections::BTreeMap;

use super::manifest::Hash;
use crate::v1::{Arrive, Start, StateStrategy};

/// What one peer says of its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Standing {
    /// The state it holds.
    pub state: Revision,
    /// What it does with it where another is elected.
    pub strategy: StateStrategy,
}

/// A state, and how many committed rounds are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Revision {
    /// Committed rounds in it.
    pub rounds: u64,
    /// Root of its manifest.
    pub root: Hash,
    /// Digest of its keys, element types and lengths.
    pub shape: Hash,
}

impl Standing {
    /// What a peer says as it arrives; none where it says no state. A mixture only receives, whatever its trainer wants.
    #[must_use]
    pub fn of(arrive: &Arrive) -> Option<Self> {
        let state = Revision::new(arrive.round, &arrive.state_root, &arrive.state_shape)?;
        let strategy = if arrive.mixture { StateStrategy::ReceiveOnly } else { arrive.strategy() };
        Some(Self { state, strategy })
    }

    /// Whether it may be elected, and may give its state.
    #[must_use]
    pub fn gives(&self) -> bool {
        self.strategy != StateStrategy::ReceiveOnly
    }
}

impl Revision {
    /// The state that was elected for the round of `start`; none where it names none.
    #[must_use]
    pub fn of(start: &Start) -> Option<Self> {
        Self::new(start.round, &start.state_root, &start.state_shape)
    }

    /// The state in which every round before `round` is.
    fn new(round: u64, root: &[u8], shape: &[u8]) -> Option<Self> {
        Some(Self { rounds: round.checked_sub(1)?, root: root.try_into().ok()?, shape: shape.try_into().ok()? })
    }
}

/// Why a peer can take no part with the state it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It counts rounds that were never committed.
    #[error("its state counts {rounds} rounds, {committed} are committed")]
    Ahead {
        /// Rounds in its state.
        rounds: u64,
        /// Rounds of the run.
        committed: u64,
    },
    /// Its state cannot be repaired from the elected one.
    #[error("its state has other keys, element types or lengths than the elected one")]
    Shape,
    /// It gives its state and takes no other, and another was elected.
    #[error("its state was not elected, and it takes no other")]
    NotElected,
}

/// What becomes of the peers once a state is elected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Slots that hold the state and give it to others, ascending.
    pub donors: Vec<u32>,
    /// Slots that have to take the state before they count, ascending.
    pub repaired: Vec<u32>,
    /// Slots that take no part.
    pub refused: BTreeMap<u32, Refusal>,
}

/// Elects the state of a run with `committed` rounds among `peers`, by slot.
///
/// Candidates are all but those that only receive and those that count more rounds than were committed. Of these, the ones
/// with the most rounds count; of their states, the one that most of them hold; of those, the one of the lowest slot. A root
/// under two shapes is two states. The elected state has fewer than `committed` rounds where nobody holds the newest: the
/// caller decides whether the run waits for those who do. None without a candidate.
#[must_use]
pub fn elect(committed: u64, peers: &BTreeMap<u32, Standing>) -> Option<Revision> {
    let candidate = |standing: &&Standing| standing.gives() && standing.state.rounds <= committed;
    let candidates: Vec<_> = peers.values().filter(candidate).map(|standing| standing.state).collect();
    let newest = candidates.iter().map(|state| state.rounds).max()?;
    let holders: Vec<_> = candidates.into_iter().filter(|state| state.rounds == newest).collect();
    let votes = |state: &&Revision| holders.iter().filter(|held| held == state).count();
    // Of several maxima the last is returned: backwards, that of the lowest slot.
    holders.iter().rev().max_by_key(votes).copied()
}

/// What becomes of each of `peers` when the run, with `committed` rounds, goes on from `elected`.
///
/// Also for peers that arrive after the election. A peer that only receives is no donor even with the elected state, and a peer
/// whose bytes are the elected ones but counts other rounds is repaired: no chunk moves, and it learns the number.
#[must_use]
pub fn judge(committed: u64, elected: &Revision, peers: &BTreeMap<u32, Standing>) -> Verdict {
    let mut verdict = Verdict::default();
    for (slot, standing) in peers {
        let Standing { state, strategy } = standing;
        let refusal = if state.rounds > committed {
            Some(Refusal::Ahead { rounds: state.rounds, committed })
        } else if state.shape != elected.shape {
            Some(Refusal::Shape)
        } else if state != elected && *strategy == StateStrategy::SendOnly {
            Some(Refusal::NotElected)
        } else {
            None
        };
        match refusal {
            Some(refusal) => {
                verdict.refused.insert(*slot, refusal);
            }
            None if state != elected => verdict.repaired.push(*slot),
            None if standing.gives() => verdict.donors.push(*slot),
            None => {}
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use StateStrategy::{Enforce, ReceiveOnly, SendOnly};
    use proptest::prelude::*;

    use super::*;

    /// A peer with `rounds` in the state whose root is `root` repeated, of shape 0.
    fn holds(rounds: u64, root: u8, strategy: StateStrategy) -> Standing {
        Standing { state: Revision { rounds, root: [root; 32], shape: [0; 32] }, strategy }
    }

    fn shaped(shape: u8, standing: Standing) -> Standing {
        Standing { state: Revision { shape: [shape; 32], ..standing.state }, ..standing }
    }

    fn peers(standings: impl IntoIterator<Item = Standing>) -> BTreeMap<u32, Standing> {
        (0..).zip(standings).collect()
    }

    fn elected(committed: u64, standings: &[Standing]) -> Option<(u64, u8)> {
        elect(committed, &peers(standings.iter().copied())).map(|state| (state.rounds, state.root[0]))
    }

    #[test]
    fn the_state_of_the_most_peers_is_elected() {
        assert_eq!(elected(0, &[holds(0, 9, Enforce), holds(0, 1, Enforce), holds(0, 1, Enforce)]), Some((0, 1)));
    }

    #[test]
    fn one_peer_with_the_newest_round_is_right_against_any_number() {
        let mut standings = vec![holds(6, 1, Enforce); 40];
        standings.push(holds(7, 2, Enforce));
        assert_eq!(elected(7, &standings), Some((7, 2)));
    }

    #[test]
    fn where_nobody_holds_the_newest_round_the_newest_known_is_elected() {
        assert_eq!(elected(9, &[holds(3, 1, Enforce), holds(3, 1, Enforce), holds(5, 2, Enforce)]), Some((5, 2)));
    }

    #[test]
    fn of_as_many_votes_the_lowest_slot_decides() {
        let tied = [holds(1, 8, Enforce), holds(1, 2, Enforce), holds(1, 2, Enforce), holds(1, 8, Enforce), holds(0, 5, Enforce)];
        assert_eq!(elected(1, &tied), Some((1, 8)));
    }

    #[test]
    fn rounds_that_were_never_committed_do_not_count() {
        let ahead = [holds(4, 1, Enforce), holds(4, 1, SendOnly), holds(3, 2, Enforce)];
        assert_eq!(elected(3, &ahead), Some((3, 2)));
        let verdict = judge(3, &ahead[2].state, &peers(ahead));
        let refusal = Refusal::Ahead { rounds: 4, committed: 3 };
        assert_eq!(verdict.refused, BTreeMap::from([(0, refusal), (1, refusal)]));
    }

    #[test]
    fn who_only_receives_is_never_elected_and_never_a_donor() {
        assert_eq!(elected(0, &[holds(0, 1, ReceiveOnly), holds(0, 1, ReceiveOnly), holds(0, 2, Enforce)]), Some((0, 2)));
        assert_eq!(elected(0, &[holds(0, 1, ReceiveOnly)]), None);
        let all = peers([holds(0, 1, ReceiveOnly), holds(0, 2, Enforce), holds(0, 2, ReceiveOnly)]);
        let verdict = judge(0, &all[&1].state, &all);
        assert_eq!(verdict, Verdict { donors: vec![1], repaired: vec![0], refused: BTreeMap::new() });
    }

    #[test]
    fn who_only_sends_wins_or_is_refused() {
        let all = peers([holds(0, 1, SendOnly), holds(0, 2, SendOnly), holds(0, 2, Enforce), holds(0, 3, Enforce)]);
        let state = elect(0, &all).unwrap();
        let verdict = judge(0, &state, &all);
        assert_eq!(state.root, [2; 32]);
        assert_eq!((verdict.donors, verdict.repaired), (vec![1, 2], vec![3]));
        assert_eq!(verdict.refused, BTreeMap::from([(0, Refusal::NotElected)]));
    }

    #[test]
    fn a_state_of_another_shape_cannot_be_repaired() {
        let all = peers([holds(2, 1, Enforce), shaped(1, holds(1, 4, Enforce)), shaped(1, holds(0, 4, ReceiveOnly))]);
        let verdict = judge(2, &elect(2, &all).unwrap(), &all);
        assert_eq!(verdict.refused, BTreeMap::from([(1, Refusal::Shape), (2, Refusal::Shape)]));
    }

    #[test]
    fn a_root_under_two_shapes_is_two_states() {
        let lies = [shaped(1, holds(0, 4, Enforce)), holds(0, 4, Enforce), holds(0, 4, Enforce)];
        assert_eq!(elect(0, &peers(lies)).unwrap().shape, [0; 32]);
    }

    #[test]
    fn a_strategy_that_is_not_said_is_enforce() {
        let all = peers([holds(0, 1, StateStrategy::Unspecified), holds(0, 2, StateStrategy::Unspecified)]);
        let verdict = judge(0, &elect(0, &all).unwrap(), &all);
        assert_eq!((verdict.donors, verdict.repaired), (vec![0], vec![1]));
    }

    #[test]
    fn the_same_bytes_under_another_round_are_repaired() {
        let all = peers([holds(5, 1, Enforce), holds(4, 1, Enforce)]);
        assert_eq!(judge(5, &elect(5, &all).unwrap(), &all).repaired, [1]);
    }

    #[test]
    fn a_mixture_only_receives() {
        let arrive = Arrive {
            round: 3,
            state_root: vec![1; 32],
            state_shape: vec![0; 32],
            strategy: SendOnly.into(),
            ..Arrive::default()
        };
        assert_eq!(Standing::of(&arrive), Some(holds(2, 1, SendOnly)));
        assert_eq!(Standing::of(&Arrive { mixture: true, ..arrive }), Some(holds(2, 1, ReceiveOnly)));
    }

    #[test]
    fn what_is_no_state_has_no_standing() {
        let arrive = Arrive { round: 1, state_root: vec![1; 32], state_shape: vec![0; 32], ..Arrive::default() };
        for wrong in [
            Arrive { round: 0, ..arrive.clone() },
            Arrive { state_root: vec![1; 31], ..arrive.clone() },
            Arrive { state_shape: Vec::new(), ..arrive },
        ] {
            assert_eq!(Standing::of(&wrong), None, "{wrong:?}");
        }
    }

    fn any_peers() -> impl Strategy<Value = BTreeMap<u32, Standing>> {
        let strategy = prop::sample::select(vec![Enforce, ReceiveOnly, SendOnly]);
        let standing = (0u64..4, 0u8..3, 0u8..2, strategy);
        let standing = standing.prop_map(|(rounds, root, shape, strategy)| shaped(shape, holds(rounds, root, strategy)));
        prop::collection::btree_map(0u32..64, standing, 0..12)
    }

    proptest! {
        #[test]
        fn everybody_is_judged_once_and_the_elected_state_has_a_donor(all in any_peers(), committed in 0u64..4) {
            let Some(state) = elect(committed, &all) else {
                let may_win = |standing: &Standing| standing.strategy != ReceiveOnly && standing.state.rounds <= committed;
                prop_assert!(!all.values().any(may_win));
                return Ok(());
            };
            let verdict = judge(committed, &state, &all);
            prop_assert!(state.rounds <= committed && !verdict.donors.is_empty());
            for (slot, standing) in &all {
                let holds = standing.state == state;
                let verdicts =
                    [verdict.donors.contains(slot), verdict.repaired.contains(slot), verdict.refused.contains_key(slot)];
                let judged = verdicts.into_iter().filter(|judged| *judged).count();
                prop_assert_eq!(judged, usize::from(!holds || standing.strategy != ReceiveOnly));
                prop_assert!(!verdict.donors.contains(slot) || holds);
                prop_assert!(!verdict.repaired.contains(slot) || (!holds && standing.state.shape == state.shape));
            }
        }
    }
}
