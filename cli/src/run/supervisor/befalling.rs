//! What a script of chaos wants to befall the run, and what of it ends by itself.

use std::time::{Duration, Instant};

use anyhow::Result;
use atoll_sdk::events::Event;
use rustix::process::Signal;

use super::{End, Supervisor, Worker, name};
use crate::run::chaos::{Action, Link, Processes, Step};
use crate::supervision::child::Role;

/// What is undone, and when.
pub(super) struct Undo {
    at: Instant,
    what: Undone,
}

enum Undone {
    /// A process of a worker, by its incarnation, goes on.
    Stop { slot: u32, role: Role, incarnation: u64 },
    /// A cut heals.
    Cut { number: u64, workers: String },
}

impl Supervisor<'_> {
    /// Takes the steps whose rounds are committed, and undoes what has lasted long enough.
    pub(super) async fn befall(&mut self) -> Result<()> {
        while let Some(step) = self.chaos.next(self.progress.round) {
            self.take(step).await?;
        }
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.undos).into_iter().partition(|undo| undo.at <= now);
        self.undos = later;
        due.into_iter().try_for_each(|undo| self.undo(undo.what))
    }

    /// Says which steps were not taken.
    pub(super) fn log_left(&mut self) -> Result<()> {
        let rounds = self.chaos.left();
        if rounds.is_empty() {
            return Ok(());
        }
        self.log(&Event::now("", "ChaosLeft").with("rounds", rounds))
    }

    async fn take(&mut self, Step { round, action }: Step) -> Result<()> {
        // A run that was resumed may lack those who had joined before.
        if let Some(absent) = action.workers().into_iter().find(|worker| worker.0 as usize >= self.workers.len()) {
            let what = format!("{}: left out, as there is no {}", action.words(), name(absent.0));
            return self.befallen(&what, Some(round));
        }
        self.befallen(&action.words(), Some(round))?;
        match action {
            Action::Kill { worker, process, restart } => {
                if !restart {
                    self.goes(worker.0)?;
                }
                // Who is gone leaves nothing behind.
                self.signal(worker.0, if restart { process } else { Processes::Both }, Signal::KILL);
            }
            Action::Stop { worker, process, seconds } => {
                for (role, incarnation) in self.signal(worker.0, process, Signal::STOP) {
                    self.undo_after(seconds, Undone::Stop { slot: worker.0, role, incarnation });
                }
            }
            Action::Join { workers } => {
                for _ in 0..workers {
                    self.join().await?;
                }
            }
            Action::Leave { worker } => {
                self.goes(worker.0)?;
                self.signal(worker.0, Processes::Trainer, Signal::KILL);
                self.signal(worker.0, Processes::Sidecar, Signal::TERM);
            }
            Action::Partition { workers, seconds } => {
                let slots = workers.iter().map(|worker| worker.0).collect();
                let names = workers.iter().map(|worker| name(worker.0)).collect::<Vec<_>>().join(", ");
                if let Some(network) = &mut self.network {
                    let number = network.cut(slots);
                    self.undo_after(seconds, Undone::Cut { number, workers: names });
                }
            }
            Action::Link(link) => self.shape(&link),
        }
        Ok(())
    }

    fn shape(&self, link: &Link) {
        if let Some(network) = &self.network {
            network.shape(link.worker.0, link.rate().and_then(Result::ok), link.round_trip().and_then(Result::ok));
        }
    }

    fn undo_after(&mut self, seconds: f64, what: Undone) {
        self.undos.push(Undo { at: Instant::now() + Duration::from_secs_f64(seconds), what });
    }

    fn undo(&mut self, what: Undone) -> Result<()> {
        match what {
            Undone::Stop { slot, role, incarnation } => {
                let child = self.workers[slot as usize].child(role).as_ref().filter(|child| child.incarnation == incarnation);
                let Some(child) = child else { return Ok(()) };
                child.signal(Signal::CONT);
                self.befallen(&format!("the {} of {} goes on", role.name(), name(slot)), None)
            }
            Undone::Cut { number, workers } => {
                if let Some(network) = &self.network {
                    network.heal(number);
                }
                self.befallen(&format!("{workers}: cut off no more"), None)
            }
        }
    }

    fn befallen(&mut self, what: &str, round: Option<u64>) -> Result<()> {
        let event = Event::now("", "Chaos").with("what", what);
        self.log(&match round {
            Some(round) => event.round(round),
            None => event,
        })
    }

    /// Signals processes of a worker that run; gives which.
    fn signal(&mut self, slot: u32, processes: Processes, signal: Signal) -> Vec<(Role, u64)> {
        let roles: &[Role] = match processes {
            Processes::Sidecar => &[Role::Sidecar],
            Processes::Trainer => &[Role::Trainer],
            Processes::Both => &[Role::Sidecar, Role::Trainer],
        };
        let worker = &mut self.workers[slot as usize];
        let mut reached = Vec::new();
        for role in roles {
            if let Some(child) = worker.child(*role) {
                child.signal(signal);
                reached.push((*role, child.incarnation));
            }
        }
        reached
    }

    /// A worker is not started again.
    fn goes(&mut self, slot: u32) -> Result<()> {
        self.workers[slot as usize].end = Some(End::Gone);
        self.log(&Event::now(&name(slot), "WorkerGone"))
    }

    async fn join(&mut self) -> Result<()> {
        let slot = self.workers.len() as u32;
        self.workers.push(Worker::default());
        self.log(&Event::now(&name(slot), "WorkerAdded"))?;
        self.start(slot, Role::Sidecar).await?;
        self.start(slot, Role::Trainer).await
    }
}
