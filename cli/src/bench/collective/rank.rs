//! A rank of the benchmark: a process that does operations when it is told to, each begun together with the other ranks.

use std::collections::VecDeque;
use std::io::BufRead;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atoll_sdk::events::Event;
use atoll_sdk::{Operation, Options, Outcome, Part, Pending, Region, Session, State};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::barrier::Meeting;
use super::case::{Codec, ELEMENT};
use super::pattern;
use super::reference::{self, ReferenceRank};
use crate::Ending;
use crate::process::start;

/// Longest that one operation may take.
const DEADLINE: Duration = Duration::from_mins(10);
/// Longest wait for a sidecar that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a rank is started with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
    /// Where the ranks meet before each operation.
    pub(crate) barrier: Meeting,
    pub(crate) work: Work,
}

/// Whose operations it does.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    Atoll(AtollConfig),
    Reference(reference::Config),
}

/// What a rank beside a sidecar needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AtollConfig {
    pub(crate) run: String,
    /// The sidecar's socket.
    pub(crate) socket: PathBuf,
    pub(crate) bytes: u64,
    /// All ranks are beside one sidecar.
    pub(crate) shared: bool,
    pub(crate) codec: Codec,
    pub(crate) tensors: usize,
    pub(crate) concurrent: usize,
}

/// One implementation's part of a rank.
pub(crate) trait Operations {
    /// Makes the next operation possible; not timed.
    fn prepare(&mut self) -> Result<()>;
    /// Does one operation, from the call to its return.
    fn operate(&mut self) -> Result<()>;
    /// Whether the last operation gave the right values.
    fn check(&self) -> Result<()>;
    /// Control messages of this peer since its start.
    fn control_messages(&self) -> u64;
}

/// `atoll rank`.
pub(crate) fn rank() -> Ending {
    let config = match start::<Config>(Signal::KILL) {
        Ok(config) => config,
        Err(ending) => return ending,
    };
    match serve(config) {
        Ok(()) => Ending::Done,
        Err(error) => Ending::failed(&error),
    }
}

fn serve(config: Config) -> Result<()> {
    let barrier = config.barrier.join()?;
    let mut operations: Box<dyn Operations> = match config.work {
        Work::Atoll(work) => Box::new(AtollRank::new(work, config.rank, config.ranks)?),
        Work::Reference(work) => Box::new(ReferenceRank::new(&work, config.rank, config.ranks)?),
    };
    let name = format!("w{}", config.rank);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let count = line.strip_prefix("iterate ").and_then(|count| count.parse().ok());
        let count: usize = count.with_context(|| format!("unknown command {line}"))?;
        let (mut nanoseconds, mut cpu_nanoseconds) = (Vec::with_capacity(count), 0);
        for _ in 0..count {
            operations.prepare()?;
            barrier.wait()?;
            let (cpu, started) = (cpu_time(), Instant::now());
            operations.operate()?;
            nanoseconds.push(started.elapsed().as_nanos() as u64);
            cpu_nanoseconds += cpu_time() - cpu;
        }
        operations.check()?;
        Event::now(&name, "Iterated")
            .with("nanoseconds", nanoseconds)
            .with("cpuNanoseconds", cpu_nanoseconds)
            .with("controlMessages", operations.control_messages())
            .emit();
    }
    Ok(())
}

/// CPU time of this process so far, in nanoseconds.
fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A rank beside its sidecar, or one of several beside it.
struct AtollRank {
    session: Session,
    config: AtollConfig,
    peers: usize,
    rank: usize,
    output: Region,
    begun: bool,
    control_messages: u64,
}

fn part(region: &str, range: std::ops::Range<usize>) -> Part {
    Part { region: region.to_owned(), range }
}

impl AtollRank {
    fn new(config: AtollConfig, rank: usize, peers: usize) -> Result<Self> {
        let (own, ranks) = if config.shared { (rank as u32, peers as u32) } else { (0, 1) };
        let options = Options {
            run: config.run.clone(),
            socket: config.socket.clone(),
            incarnation: 1,
            rank: own,
            ranks,
            patience: PATIENCE,
        };
        let mut session = Session::new(options)?;
        // An empty call has nothing to share, and regions are never empty.
        let length = config.bytes.max(ELEMENT);
        let mut input = session.share("input", length)?;
        let output = session.share("output", length)?;
        let values = input.values_mut(0..length as usize).context("the input is no vector")?;
        pattern::fill(values, rank);
        Ok(Self { session, config, peers, rank, output, begun: false, control_messages: 0 })
    }

    /// All operations belong to one round: nothing is trained between them.
    fn begin(&mut self) -> Result<()> {
        let round = self.session.begin_round(1, &State::default(), 0)?;
        let wanted = if self.config.shared { 1 } else { self.peers };
        ensure!(round.members.len() == wanted, "{} of {wanted} peers take part", round.members.len());
        self.begun = true;
        Ok(())
    }

    /// The operation on one tensor; without bytes, one that moves nothing.
    fn tensor(&self, index: usize) -> Operation {
        if self.config.bytes == 0 {
            return Operation::barrier().within(DEADLINE);
        }
        let length = self.config.bytes as usize / self.config.tensors;
        let range = index * length..(index + 1) * length;
        Operation::all_reduce(part("input", range.clone()), part("output", range))
            .coded(self.config.codec.code())
            .within(DEADLINE)
    }
}

impl AtollRank {
    /// Waits for the operation that was started first.
    fn land(&mut self, flying: &mut VecDeque<Pending>) -> Result<()> {
        let Some(mut first) = flying.pop_front() else { return Ok(()) };
        match self.session.wait(&mut first)? {
            Outcome::Committed { control_messages, .. } => {
                self.control_messages = control_messages;
                Ok(())
            }
            Outcome::Aborted { reason, culprit, detail } => {
                let because = culprit.map_or(String::new(), |slot| format!(" because of peer {slot}"));
                bail!("the operation was aborted{because}: {detail} ({reason:?})")
            }
            Outcome::InDoubt => bail!("rank {} was cut off from the others", self.rank),
        }
    }
}

impl Operations for AtollRank {
    fn prepare(&mut self) -> Result<()> {
        if !self.begun {
            self.begin()?;
        }
        pattern::spoil(&self.output);
        Ok(())
    }

    fn operate(&mut self) -> Result<()> {
        let mut flying = VecDeque::new();
        for index in 0..self.config.tensors {
            if flying.len() == self.config.concurrent {
                self.land(&mut flying)?;
            }
            flying.push_back(self.session.start(&self.tensor(index).tag("bench"))?);
        }
        while !flying.is_empty() {
            self.land(&mut flying)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.config.bytes == 0 {
            return Ok(());
        }
        let result = self.output.values(0..self.output.len()).context("the output is no vector")?;
        pattern::check(result, |value| pattern::mean(value, self.peers), self.config.codec.tolerance())
    }

    fn control_messages(&self) -> u64 {
        self.control_messages
    }
}
