//! `atoll sidecars`: the sidecars of a run whose trainers are started by hand, in whatever language they are written.
//!
//! This process is their arbiter and supervisor. Where their sockets are goes to standard output, what happens to standard
//! error. A sidecar that is killed is started again, as trainers have to expect it; all end with this process.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_collective::coordinator::Settings;
use atoll_collective::identity::PeerName;
use atoll_collective::lane::Bounds;
use atoll_sdk::events::Event;
use atoll_sdk::regions_socket;
use atoll_sidecar::ARBITER;
use clap::Args;
use rustix::process::Signal;
use tokio::sync::mpsc;

use crate::supervision::arbiter::{ArbiterService, Serving, Wanted};
use crate::supervision::authority::{Authority, ISLAND};
use crate::supervision::child::{Child, Role, Told, What, own};
use crate::supervision::interrupts::Interrupts;
use crate::supervision::processors::Processors;
use crate::supervision::relay::Relay;
use crate::supervision::sockets::Sockets;
use crate::supervision::{loopback, token};
use crate::{Ending, print, say};

/// How long a peer may deliver nothing within an operation.
const PROGRESS: Duration = Duration::from_secs(30);
/// How long a sidecar may take to listen.
const LISTENING: Duration = Duration::from_secs(20);
/// Pause between two looks at the sockets.
const LOOK: Duration = Duration::from_millis(5);
/// A sidecar that is killed within this time of its start, so many times one after the other, is not started again.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const MOST_SHORT_LIVES: u32 = 20;
/// How long sidecars may take to end in good order.
const ENDING: Duration = Duration::from_secs(1);

/// Arguments of `atoll sidecars`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many: so many trainers, contributors apart, take part in the first round, and those that are left in later ones
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Name of the run, by which trainers attach
    #[arg(long, value_name = "NAME", default_value = "try")]
    run: String,
    /// Silence after which a worker is lost, in seconds: as in a cluster unless set, because nobody knows what else a trainer
    /// that is started by hand waits for
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    liveness: u64,
    /// Who grants terms and changes of membership
    #[arg(long, value_enum, default_value = "single")]
    arbiter: Wanted,
    /// Workers, by index, that listen on no port and are reached through a relay, as in `--behind-relay 1,2`
    #[arg(long, value_name = "INDEX", value_delimiter = ',')]
    behind_relay: Vec<u32>,
    /// Workers, by index, that contribute and are trusted with nothing, as in `--contributors 3`: they add nothing up, have no
    /// vote, never coordinate and give no state
    #[arg(long, value_name = "INDEX", value_delimiter = ',')]
    contributors: Vec<u32>,
    /// Folder for the sockets; a temporary one if not given
    #[arg(long, value_name = "DIR")]
    socket_dir: Option<PathBuf>,
}

pub(crate) fn sidecars(arguments: &Arguments) -> Ending {
    let sockets = match checked(arguments).and_then(|()| Sockets::new(arguments.socket_dir.as_deref(), arguments.workers)) {
        Ok(sockets) => sockets,
        Err(problem) => return Ending::BadInput(problem),
    };
    // One thread: children ask to be told when the thread that started them ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.context("no runtime").and_then(|runtime| runtime.block_on(supervise(arguments, sockets))) {
        Ok(ending) => ending,
        Err(error) => Ending::failed(&error),
    }
}

/// The run has a name, who is named is one of the workers, and one of them at least is no contributor.
fn checked(arguments: &Arguments) -> Result<(), String> {
    let workers = arguments.workers;
    PeerName::new(&arguments.run, ISLAND, &name(0)).map_err(|error| format!("--run: {error}"))?;
    for (option, slots) in [("--behind-relay", &arguments.behind_relay), ("--contributors", &arguments.contributors)] {
        if let Some(slot) = slots.iter().find(|slot| **slot >= workers) {
            return Err(format!("{option} {slot}: there are {workers} workers; give 0 to {}", workers - 1));
        }
    }
    match trusted(arguments) {
        0 => Err("--contributors: one worker at least must be none".to_owned()),
        _ => Ok(()),
    }
}

/// Workers that are no contributors.
fn trusted(arguments: &Arguments) -> usize {
    (0..arguments.workers).filter(|slot| !arguments.contributors.contains(slot)).count()
}

async fn supervise(arguments: &Arguments, sockets: Sockets) -> Result<Ending> {
    let mut interrupts = Interrupts::new()?;
    let mut sidecars = Sidecars::new(arguments, sockets).await?;
    let ended = tokio::select! {
        ended = sidecars.serve() => ended,
        () = interrupts.next() => Ok(Ending::Interrupted),
    };
    sidecars.stop().await;
    ended
}

struct Sidecars {
    settings: Settings,
    sockets: Sockets,
    token: String,
    authority: Authority,
    arbiter: ArbiterService,
    serving: Serving,
    relay: Option<Relay>,
    /// Slots of those that are reached through it.
    behind: Vec<u32>,
    /// Slots of contributors.
    contributors: Vec<u32>,
    /// By slot; none once it has ended.
    children: Vec<Option<Child>>,
    /// By slot: when it was started last, and how many of its lives were short since the last one that was not.
    lives: Vec<(Instant, u32)>,
    teller: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
}

fn name(slot: u32) -> String {
    format!("w{slot}")
}

fn settings(arguments: &Arguments) -> Settings {
    Settings {
        liveness: arguments.liveness * 1000,
        // A person may stop a trainer and look at it.
        round_timeout: u64::MAX,
        ..Settings::of(&arguments.run, trusted(arguments))
    }
}

impl Sidecars {
    async fn new(arguments: &Arguments, sockets: Sockets) -> Result<Self> {
        let (run, settings) = (&*arguments.run, settings(arguments));
        let token = token()?;
        let arbiter = ArbiterService::new(settings.liveness, arguments.arbiter);
        let authority = Authority::new(run)?;
        let serving = arbiter.serve(run, loopback(0), &token, Some(&authority.identity(ARBITER)?)).await?;
        let (behind, contributors) = (arguments.behind_relay.clone(), arguments.contributors.clone());
        let relay = if behind.is_empty() { None } else { Some(Relay::start().await?) };
        let children = (0..arguments.workers).map(|_| None).collect();
        let lives = vec![(Instant::now(), 0); arguments.workers as usize];
        let (teller, told) = mpsc::channel(4096);
        Ok(Self {
            settings,
            sockets,
            token,
            authority,
            arbiter,
            serving,
            relay,
            behind,
            contributors,
            children,
            lives,
            teller,
            told,
        })
    }

    fn config(&self, slot: u32, incarnation: u64) -> Result<atoll_sidecar::Config> {
        Ok(atoll_sidecar::Config {
            worker: name(slot),
            slot,
            incarnation,
            listen: loopback(0),
            announce: None,
            source: None,
            arbiter: self.serving.address().to_owned(),
            socket: self.sockets.socket(slot),
            temporary_folder: self.sockets.temporary_folder(),
            settings: self.settings.clone(),
            progress: PROGRESS,
            bounds: Bounds::default(),
            token: self.token.clone(),
            island: ISLAND.to_owned(),
            contributor: self.contributors.contains(&slot),
            identity: Some(self.authority.identity(&name(slot))?),
            metrics: Some(loopback(0)),
            record: None,
            keeping: None,
            relay: self.relay_of(slot)?,
        })
    }

    fn relay_of(&self, slot: u32) -> Result<Option<atoll_sidecar::Relay>> {
        let behind = self.behind.contains(&slot);
        self.relay.as_ref().map(|relay| relay.used_by(&self.settings.run, &name(slot), behind)).transpose()
    }

    fn slots(&self) -> std::ops::Range<u32> {
        0..self.children.len() as u32
    }

    /// Starts all, says where they listen, and keeps them running.
    async fn serve(&mut self) -> Result<Ending> {
        if let Some(relay) = &self.relay {
            let behind: Vec<String> = self.behind.iter().copied().map(name).collect();
            let place = format!("process {}, at {}", relay.pid().unwrap_or_default(), relay.address());
            say(&format!("{} are reached through the relay: {place}", behind.join(", ")));
        }
        for slot in self.slots() {
            self.start(slot, 1).await?;
        }
        self.listening().await?;
        let lines: Vec<_> =
            self.slots().map(|slot| format!("{} {}\n", name(slot), self.sockets.socket(slot).display())).collect();
        if let Err(ending) = print(&lines.concat()) {
            return Ok(ending);
        }
        say(&format!("run {}: start a trainer for each of these sockets; Ctrl-C ends their sidecars", self.settings.run));
        loop {
            tokio::select! {
                told = self.told.recv() => self.hear(told.context("no sidecar is left")?).await?,
                status = ended(self.relay.as_mut()) => self.restart_relay(status?).await?,
            }
        }
    }

    async fn start(&mut self, slot: u32, incarnation: u64) -> Result<()> {
        let failed = || format!("cannot start the sidecar of {}", name(slot));
        let log = File::from(std::io::stderr().as_fd().try_clone_to_owned().with_context(failed)?);
        let processors = Processors { threads: 1, pinned: Vec::new() };
        let (who, config) = ((slot, Role::Sidecar, incarnation), self.config(slot, incarnation)?);
        let child = Child::start(who, &own("sidecar")?, config, log, &processors, self.teller.clone()).await;
        let child = child.with_context(failed)?;
        let started = Event::now(&name(slot), "ProcessStarted").with("process", Role::Sidecar.name()).with("pid", child.pid);
        self.children[slot as usize] = Some(child);
        self.lives[slot as usize].0 = Instant::now();
        say(&serde_json::to_string(&started.with("incarnation", incarnation))?);
        Ok(())
    }

    async fn restart_relay(&mut self, status: ExitStatus) -> Result<()> {
        if let Some(relay) = &mut self.relay {
            relay.restart(status).await?;
            say(&format!("the relay ended with {status} and was started again: process {}", relay.pid().unwrap_or_default()));
        }
        Ok(())
    }

    /// Waits until every sidecar listens.
    async fn listening(&mut self) -> Result<()> {
        let until = tokio::time::Instant::now() + LISTENING;
        while !self.slots().all(|slot| UnixStream::connect(regions_socket(&self.sockets.socket(slot))).is_ok()) {
            ensure!(tokio::time::Instant::now() < until, "the sidecars did not begin to listen");
            if let Ok(Some(told)) = tokio::time::timeout(LOOK, self.told.recv()).await {
                self.hear(told).await?;
            }
        }
        Ok(())
    }

    /// Passes on what a sidecar said; one that was killed or told to stop is started again, one that gave up says why on standard error.
    async fn hear(&mut self, told: Told) -> Result<()> {
        let Told { slot, incarnation, what, .. } = told;
        match what {
            What::Event(event) => say(&serde_json::to_string(&event)?),
            What::Ended(status) => {
                self.children[slot as usize] = None;
                self.arbiter.ended(slot, incarnation);
                let status = status.with_context(|| format!("the sidecar of {} is lost", name(slot)))?;
                ensure!(status.success() || status.code().is_none(), "the sidecar of {} ended with {status}", name(slot));
                let (since, short) = &mut self.lives[slot as usize];
                *short = if since.elapsed() < SHORT_LIFE { *short + 1 } else { 0 };
                ensure!(
                    *short < MOST_SHORT_LIVES,
                    "the sidecar of {} ends at once, with {status}, whenever it is started",
                    name(slot)
                );
                self.start(slot, incarnation + 1).await?;
                say(&format!("the sidecar of {} ended with {status} and was started again", name(slot)));
            }
        }
        Ok(())
    }

    /// Ends the relay and every sidecar; each removes its sockets.
    async fn stop(&mut self) {
        if let Some(relay) = &mut self.relay {
            relay.stop(ENDING).await;
        }
        for signal in [Signal::TERM, Signal::KILL] {
            self.children.iter().flatten().for_each(|sidecar| sidecar.signal(signal));
            let until = tokio::time::Instant::now() + ENDING;
            while self.children.iter().any(Option::is_some) {
                let Ok(Some(told)) = tokio::time::timeout_at(until, self.told.recv()).await else { break };
                if matches!(told.what, What::Ended(_)) {
                    self.children[told.slot as usize] = None;
                }
            }
        }
        self.sockets.clear(self.children.len() as u32);
    }
}

/// Waits until the relay ends; without one for ever.
async fn ended(relay: Option<&mut Relay>) -> Result<ExitStatus> {
    match relay {
        Some(relay) => relay.ended().await,
        None => std::future::pending().await,
    }
}
