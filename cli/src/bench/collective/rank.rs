//! A rank of the benchmark: a process that does operations when it is told to, each begun together with the other ranks.

use std::io::BufRead;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atoll_sdk::events::Event;
use atoll_sdk::{Contribution, Options, Outcome, Part, Region, Session};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::barrier::Meeting;
use super::case::{Case, Codec, Path};
use super::pattern;
use super::reference::{self, ReferenceRank};
use crate::Ending;
use crate::process::start;

/// Longest that one operation may take.
const DEADLINE: Duration = Duration::from_mins(10);
/// Longest wait for a sidecar that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of the replicated state: operations move tensors, and no state.
const STATE: u64 = 64;

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

/// Why the engine does not do a case; none when it does.
pub(crate) fn refusal(case: &Case) -> Option<&'static str> {
    match case {
        Case { path: Path::Shm, .. } => Some("--path shm: ranks of one sidecar are not reduced yet; give --path tcp"),
        Case { codec: Codec::Bf16 | Codec::U8 | Codec::U4, .. } => Some("--codec: lanes carry f32 alone yet; give --codec f32"),
        Case { tensors: 2.., .. } => Some("--tensors: one operation at a time yet; give one tensor"),
        Case { tls: true, .. } => Some("--tls on: lanes have no TLS yet; give --tls off"),
        _ => None,
    }
}

/// A rank beside its sidecar.
struct AtollRank {
    session: Session,
    rank: usize,
    ranks: usize,
    input: Region,
    output: Region,
    state: Part,
    state_hash: [u8; 32],
    round: u64,
    control_messages: u64,
}

fn part(region: &str, length: u64) -> Part {
    Part { region: region.to_owned(), range: 0..length as usize }
}

impl AtollRank {
    fn new(config: AtollConfig, rank: usize, ranks: usize) -> Result<Self> {
        let options = Options { run: config.run, socket: config.socket, incarnation: 1, patience: PATIENCE };
        let mut session = Session::new(options)?;
        let state = session.share("state", STATE)?;
        let mut input = session.share("input", config.bytes)?;
        let output = session.share("output", config.bytes)?;
        let values = input.values_mut(0..config.bytes as usize).context("the input is no vector")?;
        pattern::fill(values, rank);
        let state_hash = *blake3::hash(state.bytes(0..STATE as usize).unwrap_or_default()).as_bytes();
        let state = part("state", STATE);
        Ok(Self { session, rank, ranks, input, output, state, state_hash, round: 1, control_messages: 0 })
    }
}

impl Operations for AtollRank {
    fn prepare(&mut self) -> Result<()> {
        pattern::spoil(&self.output);
        let round = self.session.begin_round(self.round, &self.state, self.state_hash, 0)?;
        ensure!(
            round.members as usize == self.ranks,
            "{} of {} peers take part in round {}",
            round.members,
            self.ranks,
            round.round
        );
        self.round = round.round;
        Ok(())
    }

    fn operate(&mut self) -> Result<()> {
        let contribution = Contribution {
            round: self.round,
            input: part("input", self.input.len() as u64),
            output: part("output", self.output.len() as u64),
            weight: 1,
            samples: Vec::new(),
            loss: 0.0,
            deadline: DEADLINE,
        };
        match self.session.all_reduce(&contribution)? {
            Outcome::Committed { control_messages, .. } => self.control_messages = control_messages,
            Outcome::InDoubt => bail!("rank {} was cut off from the others in round {}", self.rank, self.round),
        }
        self.round += 1;
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let result = self.output.values(0..self.output.len()).context("the output is no vector")?;
        pattern::check(result, |value| pattern::mean(value, self.ranks), 0.0)
    }

    fn control_messages(&self) -> u64 {
        self.control_messages
    }
}
