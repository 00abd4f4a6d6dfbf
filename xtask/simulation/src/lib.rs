//! Deterministic simulation: the shipped state machines under seeded schedules of crashes, restarts, stops, partitions,
//! delays, lost and doubled questions, slow workers and joiners, on virtual time, under either arbiter.
//!
//! Trainers hold vectors in regions that they use again for the next call, and moves read them while they last. Asserted by value:
//! every committed operation has one outcome on all who took part, and each of them holds the weighted sum of exactly what the
//! members gave who are counted; an input is as its trainer wrote it until its call ends, and nothing reads it from then on. Rounds
//! form one chain, and so do granted records; a checkpoint that is published is whole, of one state, and of a committed round; no round begins from a half repaired state; one coordinator commits in a term; samples
//! are committed once; what a trainer was told is aborted is counted nowhere; calls return at their deadlines, in doubt only where
//! they hold a result whose outcome has not reached them; and when the faults end, the run does too, and nothing is in doubt.
//!
//! Sessions are ordered streams, as they are over TCP: on one of them nothing is doubled and nothing overtakes. Where one is cut, the
//! last of what was sent is lost, each way; the introduction on the next says again what its peer is in, and comes before or after
//! what is left of the old one, which the sidecar drops by the session's number, as the simulation does. Questions to arbiters
//! are calls of their own: they are lost, doubled and late.

// A check by itself: what is missing here is a mistake of the simulation, and must stop it.
#![allow(clippy::unwrap_used)]

pub mod arbiters;
pub mod model;
pub mod mutations;
mod world;

use atoll_collective::rules::Rules;
use world::World;

/// How many of each fault strike a run.
// Each is a choice of its own.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Sidecars that end, and are started again.
    pub crashes: u32,
    /// Sidecars that are told to stop, and are started again.
    pub leaves: u32,
    /// Trainers that end, and are started again without their state.
    pub trainer_crashes: u32,
    /// Workers that stand still for a while.
    pub stops: u32,
    /// Sessions that break.
    pub cuts: u32,
    /// Workers that cannot reach others, or the arbiter, for a while; one way or both ways.
    pub partitions: u32,
    /// Workers on which everything takes ten times as long from some instant on.
    pub slow: u32,
    /// Partitions with enough workers for a quorum on both sides; the hub is on one of them, or on neither.
    pub splits: u32,
    /// Times that the hub's process ends, and is started again.
    pub hub_crashes: u32,
    /// Faults that wait for their moment: the world's `Moment` lists them.
    pub ambushes: u32,
    /// Workers whose lanes tear in the middle of an operation, while all live.
    pub tears: u32,
    /// Workers that claim other samples than they were dealt.
    pub lies: u32,
    /// Commits that reach a member with another result than was agreed: it gives up whatever it is in.
    pub corruptions: u32,
    /// Words of contributors that are not so: of a result, of a commit that never was, of others, or of a state.
    pub slanders: u32,
    /// Some calls have less time than an operation takes.
    pub hasty: bool,
    /// What a coordinator had sent arrives although another was found meanwhile.
    pub late: bool,
    /// Crashes may end so many voters at once that no majority of them is ever back.
    pub ruinous: bool,
}

/// Who grants terms and memberships.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arbitration {
    /// The hub alone.
    #[default]
    Single,
    /// The members, from the first epoch on that names them.
    Peers,
    /// Now the one, now the other: the hub changes its mind while faults strike.
    Changing,
}

/// What a run goes through.
// Each is a choice of its own.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Workers in all.
    pub workers: u32,
    /// Those of them that come later.
    pub joiners: u32,
    /// No clock but the protocol's own ends a wait: neither an operation's deadline nor a round's.
    pub patient: bool,
    /// Trainers take part in several operations at once before the one that ends a round.
    pub operations: bool,
    /// In every other round trainers use a name again that is committed. Where nobody knows that any more, they wait in vain, until
    /// their deadline.
    pub careless: bool,
    /// Trainers start with states of their own: the first round elects one.
    pub unlike: bool,
    /// The last worker takes states and never gives its own.
    pub receiver: bool,
    /// Which workers are contributors: a bit for each slot.
    pub contributors: u32,
    /// The state is kept with every round, as far as the last checkpoint has ended.
    pub checkpoints: bool,
    /// Crashes strike whoever has the coordinator's role.
    pub against_the_coordinator: bool,
    /// What strikes it.
    pub faults: Faults,
    /// Who grants terms and memberships.
    pub arbitration: Arbitration,
    /// Every event and every action is printed.
    pub traced: bool,
}

impl Schedule {
    /// Nothing goes wrong.
    #[must_use]
    pub fn quiet(workers: u32) -> Self {
        Self {
            workers,
            joiners: 0,
            patient: false,
            operations: false,
            careless: false,
            unlike: false,
            receiver: false,
            contributors: 0,
            checkpoints: false,
            against_the_coordinator: false,
            faults: Faults::default(),
            arbitration: Arbitration::Single,
            traced: false,
        }
    }

    /// The schedule of a seed: all kinds in turn, the first half of each fourteen under one arbiter, the second under another.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let kinds = [
            Faults { crashes: 3, trainer_crashes: 2, stops: 2, cuts: 3, hub_crashes: 1, leaves: 2, ..Faults::default() },
            Faults { crashes: 4, ..Faults::default() },
            Faults { partitions: 4, crashes: 1, hub_crashes: 1, ..Faults::default() },
            Faults { crashes: 1, trainer_crashes: 1, leaves: 1, stops: 1, cuts: 1, partitions: 2, slow: 1, ..Faults::default() },
            Faults { splits: 2, stops: 2, cuts: 2, partitions: 1, crashes: (seed / 14 % 2) as u32, ..Faults::default() },
            Faults { ambushes: 6, crashes: 1, hasty: true, late: true, ..Faults::default() },
            Faults {
                tears: 4,
                lies: 2,
                corruptions: u32::from(seed % 3 != 1),
                slow: 1,
                cuts: 2,
                partitions: 2,
                late: true,
                ..Faults::default()
            },
        ];
        let kind = (seed % kinds.len() as u64) as usize;
        let mixed = seed % 5 == 4;
        let faults = Faults { ruinous: seed / 14 % 8 == 5, slanders: if mixed { 6 } else { 0 }, ..kinds[kind] };
        let workers = 3 + (seed / 2 % 3) as u32;
        let workers = if faults.splits > 0 { workers.max(4) } else { workers };
        // One contributor, or two: at the lowest slot, in the middle, or at the highest that is there from the start.
        let places = [0b1, 0b10, 0b11, 1 << (workers - 1), 0b100, 0b101];
        let contributors: u32 = if mixed { places[(seed / 5 % 6) as usize] } else { 0 };
        Self {
            workers: workers + contributors.count_ones(),
            contributors,
            joiners: if faults.ambushes > 0 { 1 } else { (seed / 3 % 2) as u32 },
            patient: seed.is_multiple_of(2),
            operations: seed % 3 == 1,
            careless: seed % 24 == 19,
            unlike: seed / 3 % 4 == 1,
            receiver: seed / 4 % 6 == 1,
            checkpoints: seed % 11 >= 9,
            against_the_coordinator: kind == 1,
            faults,
            arbitration: match (seed / 7 % 2, seed / 14 % 4) {
                (0, _) => Arbitration::Single,
                (_, 3) => Arbitration::Changing,
                _ => Arbitration::Peers,
            },
            traced: false,
        }
    }
}

/// How a simulated run ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ending {
    /// The first thing that went wrong: a rule of the protocol is broken.
    pub wrong: Option<String>,
    /// Nobody finished, because everybody who knew the newest round had died, or never gives its state: no protocol avoids that,
    /// and it is said.
    pub lost: bool,
    /// Nobody finished, because a majority of the voters had died: who is left holds, and it is said.
    pub held: bool,
    /// Workers that finished.
    pub finished: usize,
    /// Committed rounds.
    pub rounds: usize,
    /// Committed operations within rounds.
    pub operations: usize,
    /// Calls that were in doubt at their deadline.
    pub in_doubt: usize,
    /// Evictions that coordinators reported.
    pub evictions: usize,
    /// Terms that were granted.
    pub terms: u64,
    /// Terms and epochs that the members granted among themselves.
    pub by_peers: usize,
    /// The committed rounds, as text.
    pub history: String,
    /// Samples that were dealt and never committed.
    pub holes: usize,
    /// Checkpoints that were published.
    pub checkpoints: usize,
}

/// Runs `schedule` with the faults and delays of `seed`, keeping `rules`.
#[must_use]
pub fn run(seed: u64, schedule: &Schedule, rules: Rules) -> Ending {
    let world = World::run(seed, schedule, rules);
    let states: Vec<_> = world.finished().collect();
    let mut ending = Ending {
        wrong: world.wrong().map(str::to_owned),
        lost: states.is_empty() && (world.all_that_knew_died() || world.only_a_receiver_knows()),
        held: states.is_empty() && world.holds_without_majority(),
        finished: states.len(),
        rounds: world.history().len(),
        operations: world.operations(),
        in_doubt: world.in_doubt(),
        evictions: world.evictions(),
        terms: world.terms(),
        by_peers: world.granted_by_peers(),
        history: format!("{:?}", world.history()),
        holes: world.ledger().holes.len(),
        checkpoints: world.checkpoints(),
    };
    if ending.wrong.is_none() && states.windows(2).any(|pair| pair[0] != pair[1]) {
        ending.wrong = Some("final states differ".to_owned());
    }
    if ending.wrong.is_none() && states.is_empty() && !(ending.lost || ending.held) {
        ending.wrong = Some(format!("the run does not end: {}", world.describe()));
    }
    ending
}
