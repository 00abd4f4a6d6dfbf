//! Deterministic simulation: the shipped state machines under seeded schedules of crashes, stops, partitions and delays.
//!
//! Asserted by value: every committed round has one record on all peers, with the mean of exactly its contributions; rounds
//! form one chain; samples are committed once; and when the faults end, the run does too.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use world::{Faults, World};

/// Seeds to run, or as many as `ATOLL_SEEDS` says; a failing one is named by the panic, and `ATOLL_SEED=n` replays it alone.
fn seeds(count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    number("ATOLL_SEED").map_or_else(|| (0..number("ATOLL_SEEDS").unwrap_or(count)).collect(), |seed| vec![seed])
}

/// Names the seed of a schedule that panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("ATOLL_SEED={} replays it", self.0);
        }
    }
}

#[test]
fn without_faults_every_worker_finishes_with_one_state_and_every_sample_counts() {
    for seed in seeds(20) {
        let _named = Named(seed);
        let world = World::run(seed, 4, &Faults::none());
        let states: Vec<_> = world.finished().collect();
        assert_eq!(states.len(), 4, "seed {seed}");
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}");
        assert_eq!(world.evictions(), 0, "seed {seed}");
        assert!(world.ledger().holes.is_empty(), "seed {seed}");
    }
}

#[test]
fn under_faults_no_result_is_wrong_and_the_run_ends() {
    let mut lost = 0;
    let seeds = seeds(400);
    for &seed in &seeds {
        let _named = Named(seed);
        let faults = Faults { crashes: 3, trainer_crashes: 2, stops: 2, cuts: 3 };
        let world = World::run(seed, 3 + (seed % 3) as u32, &faults);
        let states: Vec<_> = world.finished().collect();
        if states.is_empty() {
            // The one end that no protocol can avoid, and that the supervisor reports: nobody is left who knows the history.
            assert!(world.all_that_knew_died(), "seed {seed}: nobody finished: {}", world.describe());
            lost += 1;
        }
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}: final states differ");
    }
    assert!(lost * 100 <= seeds.len(), "{lost} of {} runs were lost", seeds.len());
}

#[test]
fn a_lost_coordinator_is_replaced_at_any_instant() {
    for seed in seeds(150) {
        let _named = Named(seed);
        let faults = Faults { crashes: 4, trainer_crashes: 0, stops: 0, cuts: 0 };
        let world = World::run_against_the_coordinator(seed, 4, &faults);
        // Who is on its way back when the last round is committed is left out.
        assert!(world.finished().count() >= 1, "seed {seed}: {}", world.describe());
        assert!(world.terms() > 1, "seed {seed}: no coordinator was ever lost");
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let faults = Faults { crashes: 3, trainer_crashes: 1, stops: 1, cuts: 2 };
    let histories: Vec<_> = (0..2).map(|_| format!("{:?}", World::run(7, 4, &faults).history())).collect();
    assert_eq!(histories[0], histories[1]);
}
