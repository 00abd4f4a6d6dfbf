//! Every order of events of one round, within bounds: three peers, a coordinator that may be replaced, and a few faults, through
//! the shipped state machines.
//!
//! Time is abstract: it passes in strides that are longer than the liveness time, and only when nothing is on the way between
//! those who hear each other. Whoever is isolated may be late by any number of strides. Bounds are the faults and the strides;
//! within them every order is visited, unless the time is over first.

mod shared;
mod state;

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_collective::rules::Rules;
use stateright::{Checker, HasDiscoveries, Model, Property};

use state::{Ended, State, Step, WORKERS};

/// How far the model goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Crashes, isolations, broken sessions and doubled questions, in all.
    pub faults: u32,
    /// Strides of time.
    pub strides: u32,
    /// When to stop, whether all was visited or not.
    pub time: Duration,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visited {
    /// Different states.
    pub states: usize,
    /// Steps of the longest way to one.
    pub depth: usize,
    /// Every state within the bounds was visited.
    pub all: bool,
    /// Promises that are broken, each with the steps that lead there.
    pub broken: Vec<(&'static str, String)>,
    /// What should happen in some order and does not: the model would be too narrow.
    pub never: Vec<&'static str>,
}

struct Round {
    rules: Rules,
    bounds: Bounds,
}

const PROMISES: [&str; 4] = [
    "a round is committed once",
    "what a trainer was told is aborted is counted nowhere",
    "one coordinator commits in a term",
    "whoever is counted in a commit holds its result",
];
const EVENTS: [&str; 4] = [
    "all commit in the first term",
    "a round is committed in the second term",
    "a call in doubt is committed",
    "a call ends without result",
];

impl Model for Round {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self.rules)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let more = state.faults < self.bounds.faults;
        let time = state.waits < self.bounds.strides;
        steps.extend(state.steps().into_iter().filter(|step| (more || !step.is_fault()) && (time || *step != Step::Wait)));
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        Some(state.after(&step))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(PROMISES[0], |_, state: &State| state.records.len() <= 1),
            Property::always(PROMISES[1], |_, state: &State| {
                let counted: BTreeSet<u32> = state.records.values().flatten().copied().collect();
                state.endings().all(|(slot, ended)| *ended != Ended::Aborted || !counted.contains(&slot))
            }),
            Property::always(PROMISES[2], |_, state: &State| {
                let terms: BTreeSet<u64> = state.commits.iter().map(|(term, ..)| *term).collect();
                let pairs: BTreeSet<(u64, u32)> = state.commits.iter().map(|(term, slot, _)| (*term, *slot)).collect();
                terms.len() == pairs.len()
            }),
            Property::always(PROMISES[3], |_, state: &State| !state.not_held),
            Property::sometimes(EVENTS[0], |_, state: &State| {
                let all = state.endings().filter(|(_, ended)| matches!(ended, Ended::Committed(_))).count();
                all == WORKERS as usize && state.commits.iter().any(|(term, ..)| *term == 1)
            }),
            Property::sometimes(EVENTS[1], |_, state: &State| state.commits.iter().any(|(term, ..)| *term == 2)),
            Property::sometimes(EVENTS[2], |_, state: &State| state.doubt_resolved()),
            Property::sometimes(EVENTS[3], |_, state: &State| state.endings().any(|(_, ended)| *ended == Ended::Aborted)),
        ]
    }
}

/// Visits all orders within `bounds`, keeping `rules`, on `threads` threads; stops at the first promise that is broken.
#[must_use]
pub fn visit(rules: Rules, bounds: Bounds, threads: usize) -> Visited {
    let failures = HasDiscoveries::AnyFailures;
    let checker = Round { rules, bounds }.checker().threads(threads).finish_when(failures).timeout(bounds.time);
    let checker = checker.spawn_bfs();
    let started = std::time::Instant::now();
    let checker = checker.join();
    let found = checker.discoveries();
    let broken = PROMISES
        .iter()
        .filter_map(|promise| {
            let steps = found.get(promise)?.clone().into_actions();
            Some((*promise, format!("{steps:?}")))
        })
        .collect();
    Visited {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        all: started.elapsed() < bounds.time,
        broken,
        never: EVENTS.iter().copied().filter(|event| !found.contains_key(event)).collect(),
    }
}
