//! The processes of one case: sidecars where an implementation has them, and one rank per peer; told, heard, and ended.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use atoll_sdk::events::Event;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::kernel::is_stopped;
use crate::supervision::child::{Child, Role, Told, What, last_words};
use crate::supervision::processors::{self, Processors};
use crate::supervision::{socket_folder, socket_name};

/// Longest silence of a rank that has been told to iterate.
const PATIENCE: Duration = Duration::from_mins(15);
/// Pause between two looks for processes that were stopped.
const WATCH: Duration = Duration::from_secs(1);
/// Looks in a row that find a process stopped, after which it is taken for lost. A slow one is never stopped.
const STOPPED: u32 = 5;
/// How long after a rank its sidecar's end may be heard of.
const CAUSE: Duration = Duration::from_millis(200);
/// How long processes may take to end in good order.
const ENDING: Duration = Duration::from_secs(1);
/// How long a sidecar may take to listen.
const LISTENING: Duration = Duration::from_secs(20);
/// Pause between two looks at their sockets.
const LOOK: Duration = Duration::from_millis(5);

const NOBODY: &str = "no process is left";

/// What a rank says after it has iterated.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Iterated {
    /// Time of each operation, from the call to its return.
    pub(crate) nanoseconds: Vec<u64>,
    /// CPU time of the rank's process within its operations.
    pub(crate) cpu_nanoseconds: u64,
    /// Since the start of its peer; 0 where there is no coordinator.
    pub(crate) control_messages: u64,
}

/// A process, and its log: a file without a name, gone with the two.
struct Logged {
    child: Child,
    log: File,
    /// Looks in a row that found it stopped.
    stopped: u32,
}

/// Who has a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// No rank.
    None,
    /// All ranks together.
    One,
    /// Each rank.
    Each,
}

/// All processes of a case.
pub(crate) struct Processes {
    /// Of the sockets; none where there are no sidecars.
    folder: Option<TempDir>,
    /// By slot; none once it has ended.
    sidecars: Vec<Option<Logged>>,
    ranks: Vec<Option<Logged>>,
    /// Of each rank and of each sidecar; as in a run, they keep to their own where these can be shared evenly.
    processors: [Vec<Processors>; 2],
    teller: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
}

impl Processes {
    /// For so many ranks, and sidecars beside them.
    pub(crate) fn new(ranks: usize, beside: Beside) -> Result<Self> {
        let folder =
            (beside != Beside::None).then(|| socket_folder().context("no folder for sockets can be made")).transpose()?;
        let (teller, told) = mpsc::channel(4096);
        let available = processors::available();
        let each = processors::divide(&available, ranks, 1);
        let sidecars = if beside == Beside::One { processors::divide(&available, 1, ranks) } else { each.clone() };
        let processors = [each, sidecars];
        Ok(Self { folder, sidecars: Vec::new(), ranks: Vec::new(), processors, teller, told })
    }

    /// The folder of the sockets, removed with the last of them where this process cannot do it.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().to_owned())
    }

    /// Path of a sidecar's socket.
    pub(crate) fn socket(&self, slot: usize) -> PathBuf {
        self.folder().unwrap_or_default().join(socket_name(slot as u32))
    }

    /// Starts the next sidecar.
    pub(crate) async fn start_sidecar(&mut self, program: &[OsString], config: atoll_sidecar::Config) -> Result<()> {
        let child = self.start(self.sidecars.len(), Role::Sidecar, program, config).await?;
        self.sidecars.push(Some(child));
        Ok(())
    }

    /// Starts the next rank.
    pub(crate) async fn start_rank(&mut self, program: &[OsString], config: impl Serialize) -> Result<()> {
        let child = self.start(self.ranks.len(), Role::Trainer, program, config).await?;
        self.ranks.push(Some(child));
        Ok(())
    }

    async fn start(&self, slot: usize, role: Role, program: &[OsString], config: impl Serialize) -> Result<Logged> {
        let log = tempfile::tempfile().context("no log can be made")?;
        let processors = &self.processors[usize::from(role == Role::Sidecar)][slot];
        let who = (slot as u32, role, 1);
        let child = Child::start(who, program, config, log.try_clone()?, processors, self.teller.clone()).await;
        let child = child.with_context(|| format!("cannot start the {} of peer {slot}", what(role)))?;
        Ok(Logged { child, log, stopped: 0 })
    }

    /// Waits until every sidecar listens.
    ///
    /// # Errors
    /// When one ends instead, with its last words, or takes too long.
    pub(crate) async fn listening(&mut self) -> Result<()> {
        let until = tokio::time::Instant::now() + LISTENING;
        while !(0..self.sidecars.len()).all(|slot| atoll_sdk::regions_socket(&self.socket(slot)).exists()) {
            ensure!(tokio::time::Instant::now() < until, "the sidecars did not begin to listen");
            if let Ok(told) = tokio::time::timeout(LOOK, self.told.recv()).await {
                self.hear(&told.context(NOBODY)?)?;
            }
        }
        Ok(())
    }

    /// The next event of this name, of whatever process.
    ///
    /// # Errors
    /// When a process ends instead, with its last words, or all are silent for too long.
    pub(crate) async fn event(&mut self, name: &str) -> Result<Event> {
        loop {
            let silent = || format!("no {name} for {} s", PATIENCE.as_secs());
            let told = self.next().await?.with_context(silent)?;
            if let What::Event(event) = told.what
                && event.event == name
            {
                return Ok(*event);
            }
        }
    }

    /// What a process says next; none when all are silent for too long.
    ///
    /// # Errors
    /// When one ends, is stopped, or is lost to the others.
    async fn next(&mut self) -> Result<Option<Told>> {
        let until = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < until {
            let Ok(told) = tokio::time::timeout(WATCH, self.told.recv()).await else {
                self.watch()?;
                continue;
            };
            let told = self.cause(told.context(NOBODY)?).await;
            self.hear(&told)?;
            return Ok(Some(told));
        }
        Ok(None)
    }

    /// What was behind it: a rank whose sidecar ends does so too, and may be the first of the two that is heard of.
    async fn cause(&mut self, told: Told) -> Told {
        if told.role != Role::Trainer || !matches!(told.what, What::Ended(_)) {
            return told;
        }
        let until = tokio::time::Instant::now() + CAUSE;
        while let Ok(Some(other)) = tokio::time::timeout_at(until, self.told.recv()).await {
            if other.role == Role::Sidecar && matches!(other.what, What::Ended(_)) {
                let _less_to_the_point = self.hear(&told);
                return other;
            }
            let _less_to_the_point = self.hear(&other);
        }
        told
    }

    /// Looks for processes that were stopped: the others would wait for them, or go on without.
    fn watch(&mut self) -> Result<()> {
        let sidecars = self.sidecars.iter_mut().enumerate().map(|(slot, process)| (Role::Sidecar, slot, process));
        let ranks = self.ranks.iter_mut().enumerate().map(|(slot, process)| (Role::Trainer, slot, process));
        for (role, slot, process) in sidecars.chain(ranks) {
            let Some(process) = process else { continue };
            process.stopped = if is_stopped(process.child.pid) { process.stopped + 1 } else { 0 };
            ensure!(
                process.stopped < STOPPED,
                "the {} of peer {slot} was stopped by a signal, and not continued within {} s",
                what(role),
                (STOPPED * WATCH).as_secs()
            );
        }
        Ok(())
    }

    /// Takes note of what a process said.
    fn hear(&mut self, told: &Told) -> Result<()> {
        let status = match &told.what {
            What::Event(event) if event.event == "Evicted" => bail!("{}", lost(event)),
            What::Event(_) => return Ok(()),
            What::Ended(status) => status,
        };
        let children = if told.role == Role::Sidecar { &mut self.sidecars } else { &mut self.ranks };
        let status = status.as_ref().map_or_else(ToString::to_string, ToString::to_string);
        let words = children[told.slot as usize].take().map(|ended| last_words(&ended.log)).transpose()?.unwrap_or_default();
        bail!("the {} of peer {} ended with {status}: {words}", what(told.role), told.slot)
    }

    /// Process ids of the sidecars.
    pub(crate) fn sidecars(&self) -> impl Iterator<Item = u32> + '_ {
        self.sidecars.iter().flatten().map(|process| process.child.pid)
    }

    /// Process ids of all.
    pub(crate) fn all(&self) -> impl Iterator<Item = u32> + '_ {
        self.sidecars.iter().chain(&self.ranks).flatten().map(|process| process.child.pid)
    }

    /// Has every rank do `count` operations, and returns what each said, in rank order.
    ///
    /// # Errors
    /// When a process ends or a rank is silent for too long; its last words are in the error.
    pub(crate) async fn iterate(&mut self, count: usize) -> Result<Vec<Iterated>> {
        for rank in self.ranks.iter_mut().flatten() {
            rank.child.tell(&format!("iterate {count}\n")).await.context("a rank hears nothing")?;
        }
        let mut said: Vec<Option<Iterated>> = self.ranks.iter().map(|_| None).collect();
        while said.iter().any(Option::is_none) {
            let silent = || format!("the ranks are silent for {} s", PATIENCE.as_secs());
            let told = self.next().await?.with_context(silent)?;
            if let (Role::Trainer, What::Event(event)) = (told.role, told.what)
                && event.event == "Iterated"
            {
                let iterated: Iterated = serde_json::from_value(event.more.into())
                    .with_context(|| format!("rank {} said what cannot be understood", told.slot))?;
                ensure!(iterated.nanoseconds.len() == count, "rank {} did not do {count} operations", told.slot);
                said[told.slot as usize] = Some(iterated);
            }
        }
        Ok(said.into_iter().flatten().collect())
    }

    /// Ends every process: ranks have nothing left to do, sidecars remove their sockets.
    pub(crate) async fn stop(mut self) {
        self.ranks.iter().flatten().for_each(|rank| rank.child.signal(Signal::KILL));
        self.sidecars.iter().flatten().for_each(|sidecar| sidecar.child.signal(Signal::TERM));
        for _ in 0..2 {
            let until = tokio::time::Instant::now() + ENDING;
            while self.all().next().is_some() {
                let Ok(Some(told)) = tokio::time::timeout_at(until, self.told.recv()).await else { break };
                let _expected = self.hear(&told);
            }
            // A stopped process hears nothing but this.
            self.sidecars.iter().flatten().for_each(|sidecar| sidecar.child.signal(Signal::KILL));
        }
    }
}

/// What a coordinator says of a peer that the others go on without.
fn lost(event: &Event) -> String {
    let said = |field: &str| event.more.get(field).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    format!("peer {} was lost to the others: {} ({})", event.worker.trim_start_matches('w'), said("detail"), said("reason"))
}

fn what(role: Role) -> &'static str {
    match role {
        Role::Sidecar => "sidecar",
        Role::Trainer => "rank",
    }
}
