//! A worker's processes: how each of them is started.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use atoll_collective::lane::Bounds;
use atoll_sdk::events::Event;
use atoll_trainer::process::Job;

use super::{Supervisor, name};
use crate::supervision::authority::ISLAND;
use crate::supervision::child::{self, Child, Role};
use crate::supervision::loopback;
use crate::supervision::network::Network;

impl Supervisor<'_> {
    pub(super) async fn start(&mut self, slot: u32, role: Role) -> Result<()> {
        let incarnation = match role {
            Role::Sidecar => &mut self.workers[slot as usize].sidecar_starts,
            Role::Trainer => &mut self.workers[slot as usize].trainer_starts,
        };
        *incarnation += 1;
        let incarnation = *incarnation;
        let log = File::options().create(true).append(true).open(self.log_path(slot, role));
        let log = log.with_context(|| format!("cannot write {}", self.log_path(slot, role).display()))?;
        let socket = self.ready.sockets.socket(slot);
        let (who, teller) = ((slot, role, incarnation), self.teller.clone());
        // Who joins shares with one of those who were there.
        let processors = self.processors[slot as usize % self.processors.len()].clone();
        let program = child::own(role.name())?;
        let child = match role {
            Role::Sidecar => {
                let config = self.sidecar(slot, incarnation, socket)?;
                Child::start(who, &program, config, log, &processors, teller).await
            }
            Role::Trainer => {
                let job = self.job(slot, incarnation, socket);
                Child::start(who, &program, job, log, &processors, teller).await
            }
        };
        let child = child.with_context(|| format!("cannot start the {} of {}", role.name(), name(slot)))?;
        let event = Event::now(&name(slot), "ProcessStarted")
            .with("process", role.name())
            .with("pid", child.pid)
            .with("incarnation", incarnation);
        *self.workers[slot as usize].child(role) = Some(child);
        self.log(&event)
    }

    fn sidecar(&mut self, slot: u32, incarnation: u64, socket: PathBuf) -> Result<atoll_sidecar::Config> {
        let mut listen = loopback(self.ready.port.map_or(0, |port| port + slot as u16));
        let (mut announce, mut source, mut arbiter) = (None, None, self.serving.address().to_owned());
        if let Some(network) = &mut self.network {
            source = Some(Network::source(slot));
            let (listens, dialled) = network.addresses(slot, self.ready.port.map(|_| listen))?;
            (listen, announce) = (listens, Some(dialled.to_string()));
            arbiter = network.supervisor(slot, arbiter.parse().context("where the supervisor listens")?)?.to_string();
        }
        Ok(atoll_sidecar::Config {
            worker: name(slot),
            slot,
            incarnation,
            listen,
            announce,
            source,
            arbiter,
            socket,
            temporary_folder: self.ready.sockets.temporary_folder(),
            settings: self.settings.clone(),
            progress: Duration::from_secs(u64::from(self.file.spec.rounds.progress_seconds)),
            bounds: Bounds::default(),
            token: self.token.clone(),
            island: ISLAND.to_owned(),
            contributor: false,
            identity: Some(self.authority.identity(&name(slot))?),
            metrics: Some(loopback(0)),
            record: self.ready.record.then(|| self.output.recording(&name(slot), incarnation)),
            relay: None,
            keeping: self.checkpoints.keeping.clone(),
        })
    }

    fn job(&mut self, slot: u32, incarnation: u64, socket: PathBuf) -> Job {
        // Whoever has the newest state gives it; only where nobody has any is it read again.
        let resume = self.checkpoints.resume.clone().filter(|_| !self.workers.iter().any(|worker| worker.holds_state));
        self.workers[slot as usize].reads = resume.is_some().then_some(incarnation);
        Job {
            run: self.file.name.clone(),
            worker: name(slot),
            slot,
            incarnation,
            socket,
            tokens: self.ready.tokens(),
            base: self.ready.base.clone(),
            spec: self.file.spec.clone(),
            after: self.checkpoints.after(),
            resume,
        }
    }

    fn log_path(&self, slot: u32, role: Role) -> PathBuf {
        self.output.path().join("logs").join(format!("{}-{}.log", name(slot), role.name()))
    }

    pub(super) fn last_words(&self, slot: u32, role: Role) -> String {
        let log = File::open(self.log_path(slot, role));
        log.and_then(|log| child::last_words(&log)).unwrap_or_else(|error| format!("its log cannot be read: {error}"))
    }
}
