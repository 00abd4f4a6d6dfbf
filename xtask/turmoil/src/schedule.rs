//! What a run goes through: its shape by seed, and the faults that strike it.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Faults begin before this.
const STRIKES_UNTIL: u64 = 8_000;
/// Nothing is wrong any more from here on, or from the end of the last fault: everybody has come, and done rounds.
const CALM: u64 = 5_000;

/// A run without its faults.
// Each is a choice of its own.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Workers in all, 3 or 4; 4 where one contributes.
    pub workers: u32,
    /// The last of them comes later.
    pub joiner: bool,
    /// The worker that is a contributor: it takes part, and is trusted with nothing.
    pub contributor: Option<u32>,
    /// Mutual TLS between all.
    pub tls: bool,
    /// The members grant terms and memberships, not the hub alone.
    pub peers: bool,
    /// Two operations at once in each round before the one that ends it.
    pub operations: bool,
    /// The hub is told when a sidecar's process has ended.
    pub supervised: bool,
    /// Late members are left out.
    pub drop_stragglers: bool,
    /// Elements of what is reduced.
    pub elements: usize,
    /// Longest time that a message takes.
    pub latency: Duration,
    /// A worker whose trainer gives something else than it says: only comparing by value can notice that.
    pub liar: Option<u32>,
    /// Two workers and two others cannot reach each other for a while, and all reach the hub; where there are four.
    pub split: bool,
    /// How many other faults strike it.
    pub faults: u32,
}

impl Schedule {
    /// The schedule of a seed: all kinds in turn.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let contributes = seed % 6 == 2;
        Self {
            workers: if contributes { 4 } else { 3 + (seed % 2) as u32 },
            contributor: contributes.then_some((seed / 6 % 3) as u32),
            joiner: seed % 3 == 1,
            tls: seed % 4 == 3,
            peers: seed / 2 % 2 == 1,
            operations: seed % 5 < 3,
            supervised: seed / 3 % 2 == 1,
            drop_stragglers: seed / 4 % 2 == 1,
            elements: [3, 5_000, 20_000][(seed / 5 % 3) as usize],
            latency: Duration::from_millis([4, 20, 60][(seed / 2 % 3) as usize]),
            liar: None,
            split: seed % 8 == 5,
            faults: 3 + (seed / 7 % 3) as u32,
        }
    }
}

/// Whose sidecar ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Of(u32),
    /// Of whoever has the coordinator's role then.
    Coordinator,
}

/// One end of a way that is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Worker(u32),
    Hub,
}

/// What goes wrong for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A sidecar ends, at once or because it is told to, and is started again in the end.
    Sidecar { whose: Whose, told: bool },
    /// A trainer ends, and is started again with nothing.
    Trainer(u32),
    /// The hub ends, and is started again with what it has stored.
    Hub,
    /// Messages from some to others are lost; those the other way as well, if it is both ways.
    Cut { from: Vec<End>, to: Vec<End>, both: bool },
    /// Messages between some and others wait for the end.
    Held { some: Vec<End>, others: Vec<End> },
    /// Everything of a worker takes ten times as long.
    Slow(u32),
}

/// A fault and its time, in milliseconds from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Strike {
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) fault: Fault,
}

/// Random numbers of one seed.
struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn slot(&mut self, schedule: &Schedule) -> u32 {
        self.below(u64::from(schedule.workers)) as u32
    }
}

/// The faults of a seed.
pub(crate) fn strikes(seed: u64, schedule: &Schedule) -> Vec<Strike> {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
    let mut ends = Ends { voters: 0, trainers: 0 };
    let split = schedule.split.then(|| {
        let from = 1_000 + dice.below(3_000);
        let (one, other) = halves(&mut dice, schedule, Hub::Between);
        Strike { from, until: from + 7_000, fault: Fault::Cut { from: one, to: other, both: true } }
    });
    let others = (0..schedule.faults)
        .map(|_| {
            let from = dice.below(STRIKES_UNTIL);
            let fault = fault(&mut dice, schedule, &mut ends);
            let lasts = match fault {
                Fault::Sidecar { .. } | Fault::Trainer(_) | Fault::Hub => 20 + dice.below(2_000),
                _ => 100 + dice.below(3_500),
            };
            Strike { from, until: from + lasts, fault }
        })
        .collect::<Vec<_>>();
    split.into_iter().chain(others).collect()
}

/// From when on nothing is wrong any more.
pub(crate) fn healed(strikes: &[Strike]) -> Duration {
    Duration::from_millis(strikes.iter().map(|strike| strike.until).fold(CALM, u64::max))
}

/// Processes that end: no protocol goes on when a majority of voters has forgotten what it promised, or when nobody is left
/// who holds the state. Schedules in which that can happen are the other simulation's.
struct Ends {
    voters: u32,
    trainers: u32,
}

fn fault(dice: &mut Dice, schedule: &Schedule, ends: &mut Ends) -> Fault {
    let slot = dice.slot(schedule);
    let vote_is_left = !schedule.peers || ends.voters == 0;
    match dice.below(12) {
        0..=2 if vote_is_left => {
            ends.voters += 1;
            let whose = if dice.below(2) == 0 { Whose::Coordinator } else { Whose::Of(slot) };
            Fault::Sidecar { whose, told: dice.below(4) == 0 }
        }
        3 if ends.trainers == 0 => {
            ends.trainers += 1;
            Fault::Trainer(slot)
        }
        4 if vote_is_left => {
            ends.voters += 1;
            Fault::Hub
        }
        5 | 6 => Fault::Cut { from: vec![End::Worker(slot)], to: others(schedule, slot, true), both: dice.below(2) == 0 },
        7 => Fault::Cut { from: others(schedule, slot, dice.below(2) == 0), to: vec![End::Worker(slot)], both: false },
        8 => {
            let hub = [Hub::WithFirst, Hub::WithOthers, Hub::Between][dice.below(3) as usize];
            let (some, others) = halves(dice, schedule, hub);
            Fault::Cut { from: some, to: others, both: true }
        }
        9 => Fault::Held { some: vec![End::Worker(slot)], others: others(schedule, slot, true) },
        10 => Fault::Slow(slot),
        _ => {
            let other = (slot + 1 + dice.below(u64::from(schedule.workers) - 1) as u32) % schedule.workers;
            Fault::Cut { from: vec![End::Worker(slot)], to: vec![End::Worker(other)], both: dice.below(2) == 0 }
        }
    }
}

/// All workers but one, and the hub.
fn others(schedule: &Schedule, slot: u32, hub: bool) -> Vec<End> {
    let workers = (0..schedule.workers).filter(|other| *other != slot).map(End::Worker);
    workers.chain(hub.then_some(End::Hub)).collect()
}

/// Where the hub is when the workers are in two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hub {
    WithFirst,
    WithOthers,
    Between,
}

/// Two groups of workers, with two in each where there are four.
fn halves(dice: &mut Dice, schedule: &Schedule, hub: Hub) -> (Vec<End>, Vec<End>) {
    let first = dice.slot(schedule);
    let mut slots: Vec<_> = (0..schedule.workers).map(|step| End::Worker((first + step) % schedule.workers)).collect();
    let mut rest = slots.split_off(2);
    match hub {
        Hub::WithFirst => slots.push(End::Hub),
        Hub::WithOthers => rest.push(End::Hub),
        Hub::Between => {}
    }
    (slots, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_strikes_some_schedule_and_ends_soon() {
        let all: Vec<_> = (0..200).flat_map(|seed| strikes(seed, &Schedule::of(seed))).collect();
        assert!(all.iter().all(|strike| strike.from < strike.until && strike.until < 12_000));
        assert_eq!((healed(&all[..0]), healed(&all) > healed(&all[..1])), (Duration::from_secs(5), true));
        let kinds: [fn(&Fault) -> bool; 9] = [
            |fault| matches!(fault, Fault::Sidecar { whose: Whose::Coordinator, told: false }),
            |fault| matches!(fault, Fault::Sidecar { whose: Whose::Of(_), told: true }),
            |fault| matches!(fault, Fault::Trainer(_)),
            |fault| matches!(fault, Fault::Hub),
            |fault| matches!(fault, Fault::Cut { both: false, .. }),
            |fault| matches!(fault, Fault::Cut { both: true, .. }),
            |fault| matches!(fault, Fault::Cut { from, to, .. } if from.len() >= 2 && to.len() >= 2),
            |fault| matches!(fault, Fault::Held { .. }),
            |fault| matches!(fault, Fault::Slow(_)),
        ];
        assert!(kinds.iter().all(|kind| all.iter().any(|strike| kind(&strike.fault))));
    }

    #[test]
    fn nobody_is_cut_from_itself_and_voters_keep_a_majority() {
        for seed in 0..200 {
            let schedule = Schedule::of(seed);
            let strikes = strikes(seed, &schedule);
            for strike in &strikes {
                if let Fault::Cut { from: some, to: others, .. } | Fault::Held { some, others } = &strike.fault {
                    assert!(some.iter().all(|end| !others.contains(end)), "seed {seed}: {strike:?}");
                }
            }
            let forgetful = strikes.iter().filter(|strike| matches!(strike.fault, Fault::Sidecar { .. } | Fault::Hub)).count();
            assert!(!schedule.peers || forgetful <= 1, "seed {seed}");
        }
    }
}
