//! The second layer of the simulation: whole sidecars as they ship, on turmoil's network and clock.
//!
//! Under test are the sidecar's own tasks and state machines, its sessions, lanes, arbiter's questions and answers over real
//! tonic, h2 and rustls, its repair of states, and its calls for trainers over gRPC. Not under test are what carries bytes
//! below that (TCP of the system, Unix sockets, the passing of descriptors, relays), threads (everything is small enough to
//! be done at once), metrics over HTTP and recordings. Trainers are this crate's own, and so is the shell of the hub.
//!
//! Turmoil loses what is on the way when a way is cut, and never sends it again: a connection over such a way is half open
//! for ever, which is worse than what a network does.
//!
//! Asserted by value, of what trainers are told and hold: committed results are bit for bit those of what the members gave
//! who are counted, and the same everywhere; nothing is committed and aborted; rounds form one chain; inputs are untouched
//! when an operation is aborted; each call returns by its deadline; and once the faults have ended, all workers go on.

// A check by itself: what is missing here is a mistake of the simulation, and must stop it.
#![allow(clippy::unwrap_used)]

mod book;
mod figures;
mod ground;
mod network;
mod processes;
mod schedule;
mod trainer;
mod weather;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use atoll_collective::arbiter::{self, HUB};
use atoll_collective::rules::Rules;
use atoll_collective::v1::{ArbiterKind, Member};

pub use figures::Figures;
use ground::Ground;
pub use schedule::Schedule;
use weather::Weather;

/// Rounds that all have to do once nothing is wrong any more, and the time that they have for it.
const ROUNDS_AFTER: u64 = 3;
const TIME_AFTER: Duration = Duration::from_secs(40);

/// How a simulated run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// What it came to.
    pub figures: Figures,
    /// What happened, a line each; the same for the same seed in a process of its own.
    pub lines: Vec<String>,
}

/// Runs `schedule` with the faults and delays of `seed`, keeping `rules`.
#[must_use]
pub fn run(seed: u64, schedule: &Schedule, rules: Rules) -> Ending {
    let ground = Ground::new(*schedule, rules);
    let mut sim = simulation(seed, &ground);
    let strikes = schedule::strikes(seed, schedule);
    let healed = schedule::healed(&strikes);
    let mut weather = Weather::new(strikes);
    let (mut goal, mut held) = (None, false);
    let wrong = loop {
        if let Err(error) = sim.step() {
            break Some(format!("a process has ended: {error}"));
        }
        let now = sim.elapsed();
        if let Some(wrong) = ground.book().wrong() {
            break Some(wrong.to_owned());
        }
        if ground.hub().record().coordinator.iter().any(|member| member.contributor) {
            break Some("a contributor coordinates".to_owned());
        }
        weather.change(&mut sim, &ground);
        if goal.is_none() && now >= healed {
            weather.clear(&mut sim, &ground);
            goal = Some(ground.book().newest() + ROUNDS_AFTER);
        }
        if goal.is_some_and(|goal| ground.book().all_reached(schedule.workers, goal)) {
            break None;
        }
        if now >= healed + TIME_AFTER {
            held = ground.has_lost_its_members();
        }
        if held {
            break None;
        }
        if now >= healed + TIME_AFTER {
            break Some(format!("the run does not go on: {}", ground.book().standing()));
        }
    };
    let seconds = sim.elapsed().as_secs_f64();
    let terms = ground.hub().record().term;
    let book = ground.book();
    let ((rounds, operations), lines) = (book.committed(), book.lines().to_vec());
    let course = blake3::hash(lines.join("\n").as_bytes());
    let figures = Figures {
        rounds,
        operations,
        aborts: book.aborts,
        in_doubt: book.in_doubt,
        evictions: book.evictions,
        terms,
        held: usize::from(held),
        seconds,
        course: course.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
        wrong: wrong.map(|wrong| (seed, format!("at {seconds:.3} s: {wrong}"))),
    };
    Ending { figures, lines }
}

/// A network with the hub, and for each worker a sidecar and a trainer.
fn simulation(seed: u64, ground: &Arc<Ground>) -> turmoil::Sim<'static> {
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(ground.schedule.latency)
        // In segments; none may be refused for want of room.
        .tcp_capacity(1 << 16)
        .build();
    let hub = Arc::clone(ground);
    sim.host("hub", move || processes::hub(Arc::clone(&hub)));
    for slot in 0..ground.schedule.workers {
        let (sidecar, trainer) = (Arc::clone(ground), Arc::clone(ground));
        sim.host(weather::sidecar(slot), move || processes::sidecar(Arc::clone(&sidecar), slot));
        sim.host(weather::trainer(slot), move || trainer::trainer(Arc::clone(&trainer), slot));
        sim.set_link_latency(weather::sidecar(slot), weather::trainer(slot), Duration::ZERO);
    }
    sim
}

impl Ground {
    /// Whether the newest record names nobody any more who is trusted and lives, or under `Peers` no majority of its voters: nobody else may go
    /// on, and nothing but a person's word helps.
    fn has_lost_its_members(&self) -> bool {
        let (record, hub) = (self.hub().record().clone(), self.hubs.load(Relaxed));
        let lives = |member: &Member| match member.slot {
            HUB => member.incarnation == hub,
            slot => member.incarnation == self.worker(slot).sidecars.load(Relaxed),
        };
        let voters = arbiter::voters(&record);
        let votes = voters.iter().filter(|voter| lives(voter)).count();
        let peers = record.arbiter() == ArbiterKind::Peers;
        let trusted = |member: &&Member| !member.contributor;
        !record.members.iter().filter(trusted).any(lives) || peers && votes < arbiter::majority(voters.len())
    }

    /// Whether the sidecar of a slot has stopped as it was told to; said once.
    fn has_stopped(&self, slot: u32) -> bool {
        self.worker(slot).stopped.swap(false, Relaxed)
    }
}
