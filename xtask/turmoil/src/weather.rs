//! Brings a schedule's faults over the simulated network, each in its time.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use turmoil::Sim;

use crate::ground::Ground;
use crate::schedule::{End, Fault, Strike, Whose};

/// Host of the sidecar of a slot.
pub(crate) fn sidecar(slot: u32) -> String {
    format!("w{slot}")
}

/// Host of the trainer of a slot.
pub(crate) fn trainer(slot: u32) -> String {
    format!("t{slot}")
}

const HUB: &str = "hub";

fn host(end: End) -> String {
    match end {
        End::Worker(slot) => sidecar(slot),
        End::Hub => HUB.to_owned(),
    }
}

fn hosts(ends: &[End]) -> Vec<String> {
    ends.iter().copied().map(host).collect()
}

/// The faults that are yet to come, and those that strike.
pub(crate) struct Weather {
    coming: Vec<Strike>,
    present: Vec<Strike>,
}

impl Weather {
    pub(crate) fn new(coming: Vec<Strike>) -> Self {
        Self { coming, present: Vec::new() }
    }

    /// Begins and ends what is due.
    pub(crate) fn change(&mut self, sim: &mut Sim<'_>, ground: &Ground) {
        let now = sim.elapsed().as_millis() as u64;
        for slot in (0..ground.schedule.workers).filter(|slot| ground.has_stopped(*slot)) {
            crash(sim, &sidecar(slot));
            let is_away =
                |strike: &Strike| matches!(strike.fault, Fault::Sidecar { whose: Whose::Of(told), told: true } if told == slot);
            // It took longer to hand over than it was to be away.
            if !self.present.iter().any(is_away) {
                start(sim, &sidecar(slot));
            }
        }
        for strike in self.coming.extract_if(.., |strike| strike.from <= now).collect::<Vec<_>>() {
            ground.book().note(sim.elapsed(), &format!("begins: {:?}", strike.fault));
            let fault = begin(strike.fault, sim, ground);
            self.present.push(Strike { fault, ..strike });
        }
        for strike in self.present.extract_if(.., |strike| strike.until <= now).collect::<Vec<_>>() {
            ground.book().note(sim.elapsed(), &format!("ends: {:?}", strike.fault));
            end(&strike.fault, sim, ground);
        }
    }

    /// Ends everything.
    pub(crate) fn clear(&mut self, sim: &mut Sim<'_>, ground: &Ground) {
        ground.book().note(sim.elapsed(), "nothing is wrong any more");
        for strike in std::mem::take(&mut self.present) {
            end(&strike.fault, sim, ground);
        }
        let all: Vec<_> = (0..ground.schedule.workers).map(sidecar).chain([HUB.to_owned()]).collect();
        for (index, one) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                sim.release(one.as_str(), other.as_str());
            }
        }
    }
}

fn end(fault: &Fault, sim: &mut Sim<'_>, ground: &Ground) {
    match fault {
        Fault::Sidecar { whose: Whose::Of(slot), .. } => start(sim, &sidecar(*slot)),
        Fault::Sidecar { whose: Whose::Coordinator, .. } => {}
        Fault::Trainer(slot) => start(sim, &trainer(*slot)),
        Fault::Hub => {
            if !sim.is_host_running(HUB) {
                ground.restart_hub();
                sim.bounce(HUB);
            }
        }
        Fault::Cut { from, to, both } => each_way(from, to, *both, |from, to| sim.repair_oneway(from, to)),
        Fault::Held { some, others } => each(some, others, |one, other| sim.release(one, other)),
        Fault::Slow(slot) => slow(*slot, sim, ground, false),
    }
}

/// Begins a fault; the coordinator is named from here on.
fn begin(fault: Fault, sim: &mut Sim<'_>, ground: &Ground) -> Fault {
    let fault = match fault {
        Fault::Sidecar { whose: Whose::Coordinator, told } => {
            let slot = ground.hub().record().coordinator.as_ref().map_or(0, |coordinator| coordinator.slot);
            Fault::Sidecar { whose: Whose::Of(slot), told }
        }
        other => other,
    };
    match &fault {
        Fault::Sidecar { whose: Whose::Of(slot), told: true } => ground.worker(*slot).stop.notify_waiters(),
        Fault::Sidecar { whose: Whose::Of(slot), told: false } => {
            crash(sim, &sidecar(*slot));
            if ground.schedule.supervised {
                ground.hub().ended(*slot, ground.worker(*slot).sidecars.load(Relaxed));
            }
        }
        Fault::Sidecar { whose: Whose::Coordinator, .. } => {}
        Fault::Trainer(slot) => crash(sim, &trainer(*slot)),
        Fault::Hub => crash(sim, HUB),
        Fault::Cut { from, to, both } => each_way(from, to, *both, |from, to| sim.partition_oneway(from, to)),
        Fault::Held { some, others } => each(some, others, |one, other| sim.hold(one, other)),
        Fault::Slow(slot) => slow(*slot, sim, ground, true),
    }
    fault
}

/// For each of these ways; for the ways back too, where `both` are meant.
fn each_way(from: &[End], to: &[End], both: bool, what: impl Fn(&str, &str)) {
    each(from, to, |from, to| {
        what(from, to);
        if both {
            what(to, from);
        }
    });
}

fn each(some: &[End], others: &[End], what: impl Fn(&str, &str)) {
    for one in hosts(some) {
        for other in hosts(others) {
            what(&one, &other);
        }
    }
}

fn slow(slot: u32, sim: &Sim<'_>, ground: &Ground, slow: bool) {
    ground.worker(slot).slow.store(slow, Relaxed);
    let latency: Duration = ground.schedule.latency * ground.slowness(slot);
    for other in (0..ground.schedule.workers).filter(|other| *other != slot).map(sidecar).chain([HUB.to_owned()]) {
        sim.set_link_max_message_latency(sidecar(slot), other, latency);
    }
}

fn crash(sim: &mut Sim<'_>, host: &str) {
    if sim.is_host_running(host) {
        sim.crash(host);
    }
}

fn start(sim: &mut Sim<'_>, host: &str) {
    if !sim.is_host_running(host) {
        sim.bounce(host);
    }
}
