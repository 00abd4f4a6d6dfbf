//! Every order of events of one round, within bounds, through the shipped state machines: three workers, two terms, and a few
//! faults.
//!
//! A state is that of three peers, the coordinators beside them, the `Single` arbiter, the sessions with what is on the way in
//! them, and what trainers were told. What happens next is the next message of any session, or its end; any question to the
//! arbiter, or answer; any end of data movement; any clock that can run out; and any fault, while there are fewer than the
//! bound.
//!
//! # Bounds
//! Three workers, two terms, one round; it begins when all three have entered the operation that ends the round. A peer dials no
//! third time while the coordinator's worker has not noticed the end of two connections. Left to the schedules: how a run begins,
//! joins, processes that start again, the `Peers` arbiter, and signs of life that say what a peer has learned.
//!
//! # What makes it small, and why nothing is lost
//! - Time: see [`clocks`]. The silence of one that has ended is the end of its sessions: both have the same consequences.
//! - An epoch changes neither who coordinates nor the term: of the arbiter's record, only a new term is news for a peer.
//! - What two equal machines do about equal events is the same: it is computed once, explanations for people left out.
//! - What has no choice left and touches nothing else happens at once: questions that the arbiter refuses because a newer term
//!   was granted (its answer is that term, of which everybody hears anyhow, sooner or later), introductions to a coordinator
//!   that has lost its role, and messages to a peer whose call has ended without result, about which it does nothing. Whether
//!   the arbiter refuses and the peer does nothing, the shipped code is asked.
//! - Attempts at which nobody moves data any more, and outputs of calls that have ended, are forgotten.

mod clocks;
mod machines;
mod network;
mod shared;
mod state;
mod steps;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use atoll_collective::chain;
use atoll_collective::rules::Rules;
use stateright::{Checker, HasDiscoveries, Model, Property};

use machines::{Ended, Machines, WORKERS};
use state::{State, Step};
use words::words;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visited {
    /// Different states.
    pub states: usize,
    /// Steps to the farthest of them.
    pub depth: usize,
    /// Promises that are broken, each with the steps that lead there.
    pub broken: Vec<(&'static str, Vec<String>)>,
    /// What should happen in some order and does not: the model would be too narrow.
    pub never: Vec<&'static str>,
}

struct Round {
    machines: Machines,
    faults: u32,
}

type Holds = fn(&Round, &State) -> bool;

/// What holds in every state.
const PROMISES: [(&str, Holds); 6] = [
    ("a round is committed once, with one result", |_, state| {
        let rounds: BTreeSet<u64> = state.rounds.iter().map(|record| record.round).collect();
        rounds.len() == state.rounds.len()
    }),
    ("a result is of exactly those who are counted", |_, state| {
        state.rounds.iter().all(|record| record.contributions.iter().map(|given| given.slot as u8).eq(record.result_hash.clone()))
    }),
    ("committed rounds form one chain", |_, state| {
        let hashes: BTreeMap<u64, Vec<u8>> = state.rounds.iter().map(|record| (record.round, chain::hash(record))).collect();
        let before = |round: u64| if round == 1 { Some(Vec::new()) } else { hashes.get(&(round - 1)).cloned() };
        state.rounds.iter().all(|record| before(record.round).as_ref() == Some(&record.previous))
    }),
    ("what a trainer was told is aborted is counted nowhere", |_, state| {
        let counted = |slot: u32| state.rounds.iter().flat_map(|record| &record.contributions).any(|given| given.slot == slot);
        state.endings().all(|(slot, ended)| *ended != Ended::Aborted || !counted(slot))
    }),
    ("one coordinator commits in a term", |_, state| {
        let terms: BTreeSet<u64> = state.committers.iter().map(|(term, _)| *term).collect();
        terms.len() == state.committers.len()
    }),
    ("who is told that its round is committed holds the result", |_, state| !state.not_held),
];

/// What happens in some state.
const EVENTS: [(&str, Holds); 6] = [
    ("all three commit", |_, state| committed(state) == WORKERS as usize),
    ("two commit after an eviction", |_, state| {
        committed(state) == 2 && state.rounds.iter().any(|record| record.contributions.len() == 2)
    }),
    ("the second coordinator commits", |_, state| state.committers.iter().any(|(term, _)| *term == 2)),
    ("the second coordinator finds a round committed by the first", |_, state| {
        let told = |slot| matches!(state.node(slot).ended, Some(Ended::Committed(_)));
        let first = state.rounds.iter().any(|record| record.term == 1);
        first
            && state.arbiter.record().term == 2
            && state.arbiter.record().epoch > 1
            && state.living().all(|(slot, _)| told(slot))
    }),
    ("a call in doubt is committed", |_, state| {
        state.nodes.iter().any(|node| node.late && matches!(node.ended, Some(Ended::Committed(_))))
    }),
    ("a call ends without result", |_, state| state.endings().any(|(_, ended)| *ended == Ended::Aborted)),
];

fn committed(state: &State) -> usize {
    state.endings().filter(|(_, ended)| matches!(ended, Ended::Committed(_))).count()
}

impl Model for Round {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![steps::first(&self.machines)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        state.steps(steps);
        if state.faults < self.faults {
            state.faults(steps);
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        Some(steps::after(&self.machines, state, &step)).filter(|next| next != state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let promises = PROMISES.map(|(name, holds)| Property::always(name, holds));
        promises.into_iter().chain(EVENTS.map(|(name, holds)| Property::sometimes(name, holds))).collect()
    }
}

/// Visits every order of events with at most so many faults, keeping `rules`; stops at the first promise that is broken.
#[must_use]
pub fn visit(rules: Rules, faults: u32) -> Visited {
    let round = Round { machines: Machines::new(rules), faults };
    // One thread: the depth is that of the shortest way to the farthest state, in every run.
    let checker = round.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let path = |name: &&'static str| {
        let steps = found.get(name)?.clone().into_vec();
        Some((*name, steps.iter().filter_map(|(state, step)| Some(words(state, step.as_ref()?))).collect()))
    };
    Visited {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        broken: PROMISES.iter().filter_map(|(name, _)| path(name)).collect(),
        never: EVENTS.iter().map(|(name, _)| *name).filter(|name| !found.contains_key(name)).collect(),
    }
}
