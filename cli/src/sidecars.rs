//! `atoll sidecars`: the sidecars of a run whose trainers are started by hand, in whatever language they are written.
//!
//! This process is their arbiter and supervisor. Where their sockets are goes to standard output, what happens to standard
//! error. A sidecar that is killed is started again, as trainers have to expect it; all end with this process.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atoll_collective::coordinator::{IN_FLIGHT, Settings};
use atoll_collective::lane::Bounds;
use atoll_sdk::regions_socket;
use atoll_sidecar::ARBITER;
use clap::Args;
use rustix::process::Signal;
use tokio::sync::mpsc;

use crate::supervision::arbiter::{ArbiterService, Serving};
use crate::supervision::authority::{Authority, ISLAND};
use crate::supervision::child::{Child, Role, Told, What, own};
use crate::supervision::interrupts::Interrupts;
use crate::supervision::processors::Processors;
use crate::supervision::sockets::Sockets;
use crate::supervision::{loopback, token};
use crate::{Ending, print, say};

/// Silence after which a worker is lost: as in a cluster, because nobody knows what else a trainer started by hand waits for.
const LIVENESS: Duration = Duration::from_secs(10);
/// How long a peer may deliver nothing within an operation.
const PROGRESS: Duration = Duration::from_secs(30);
/// How long a sidecar may take to listen.
const LISTENING: Duration = Duration::from_secs(20);
/// Pause between two looks at the sockets.
const LOOK: Duration = Duration::from_millis(5);
/// How long sidecars may take to end in good order.
const ENDING: Duration = Duration::from_secs(1);

/// Arguments of `atoll sidecars`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many: so many trainers take part in the first round, and those that are left in later ones
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Name of the run, by which trainers attach
    #[arg(long, value_name = "NAME", default_value = "try")]
    run: String,
    /// Folder for the sockets; a temporary one if not given
    #[arg(long, value_name = "DIR")]
    socket_dir: Option<PathBuf>,
}

pub(crate) fn sidecars(arguments: &Arguments) -> Ending {
    let sockets = match Sockets::new(arguments.socket_dir.as_deref(), arguments.workers) {
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

async fn supervise(arguments: &Arguments, sockets: Sockets) -> Result<Ending> {
    let mut interrupts = Interrupts::new()?;
    let mut sidecars = Sidecars::new(&arguments.run, arguments.workers, sockets).await?;
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
    /// By slot; none once it has ended.
    children: Vec<Option<Child>>,
    teller: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
}

fn name(slot: u32) -> String {
    format!("w{slot}")
}

fn settings(run: &str, workers: u32) -> Settings {
    Settings {
        run: run.to_owned(),
        minimum: workers as usize,
        target: workers as usize,
        quorum: 1,
        join_window: 0,
        liveness: LIVENESS.as_millis() as u64,
        // A person may stop a trainer and look at it.
        round_timeout: u64::MAX,
        drop_stragglers: false,
        in_flight: IN_FLIGHT,
    }
}

impl Sidecars {
    async fn new(run: &str, workers: u32, sockets: Sockets) -> Result<Self> {
        let settings = settings(run, workers);
        let token = token()?;
        let arbiter = ArbiterService::new(run, settings.liveness);
        let authority = Authority::new(run)?;
        let serving = arbiter.serve(loopback(0), &token, Some(&authority.identity(ARBITER)?)).await?;
        let children = (0..workers).map(|_| None).collect();
        let (teller, told) = mpsc::channel(4096);
        Ok(Self { settings, sockets, token, authority, arbiter, serving, children, teller, told })
    }

    fn config(&self, slot: u32, incarnation: u64) -> Result<atoll_sidecar::Config> {
        Ok(atoll_sidecar::Config {
            worker: name(slot),
            slot,
            incarnation,
            listen: loopback(0),
            announce: None,
            arbiter: self.serving.address().to_owned(),
            socket: self.sockets.socket(slot),
            temporary_folder: self.sockets.temporary_folder(),
            settings: self.settings.clone(),
            progress: PROGRESS,
            bounds: Bounds::default(),
            token: self.token.clone(),
            island: ISLAND.to_owned(),
            identity: Some(self.authority.identity(&name(slot))?),
            metrics: Some(loopback(0)),
            record: None,
        })
    }

    fn slots(&self) -> std::ops::Range<u32> {
        0..self.children.len() as u32
    }

    /// Starts all, says where they listen, and keeps them running.
    async fn serve(&mut self) -> Result<Ending> {
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
            let told = self.told.recv().await.context("no sidecar is left")?;
            self.hear(told).await?;
        }
    }

    async fn start(&mut self, slot: u32, incarnation: u64) -> Result<()> {
        let failed = || format!("cannot start the sidecar of {}", name(slot));
        let log = File::from(std::io::stderr().as_fd().try_clone_to_owned().with_context(failed)?);
        let processors = Processors { threads: 1, pinned: Vec::new() };
        let (who, config) = ((slot, Role::Sidecar, incarnation), self.config(slot, incarnation)?);
        let child = Child::start(who, &own("sidecar")?, config, log, &processors, self.teller.clone()).await;
        self.children[slot as usize] = Some(child.with_context(failed)?);
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

    /// Passes on what a sidecar said; one that was killed is started again, one that gave up says why on standard error.
    async fn hear(&mut self, told: Told) -> Result<()> {
        let Told { slot, incarnation, what, .. } = told;
        match what {
            What::Event(event) => say(&serde_json::to_string(&event)?),
            What::Ended(status) => {
                self.children[slot as usize] = None;
                self.arbiter.ended(slot, incarnation);
                let status = status.with_context(|| format!("the sidecar of {} is lost", name(slot)))?;
                ensure!(status.code().is_none(), "the sidecar of {} ended with {status}", name(slot));
                self.start(slot, incarnation + 1).await?;
                say(&format!("the sidecar of {} ended with {status} and was started again", name(slot)));
            }
        }
        Ok(())
    }

    /// Ends every sidecar; each removes its sockets.
    async fn stop(&mut self) {
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
