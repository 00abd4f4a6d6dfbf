//! One case from its first run to the run that goes on from what is left.

use std::{
    fs,
    path::Path,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use tokio::runtime::Handle;

use super::{
    case::{Case, Kind, Place},
    ground::{Contents, Ground},
    strike::{After, Done, Moment, Shared, Watch, last_round},
};
use crate::{
    events::{self, Event, Tail},
    process::Seen,
    product::Run,
    random::Random,
    report::Report,
};

/// Longest time for one run.
const LIMIT: Duration = Duration::from_mins(1);
/// How long a run goes that a fault strikes, in seconds as measured; longer where the store is away for some of it.
const SECONDS: (f64, f64) = (2.0, 4.5);
/// Rounds that it has at least.
const LEAST_ROUNDS: u64 = 60;
/// Rounds of the run after it, beyond those that were committed before.
const MORE_ROUNDS: u64 = 12;
/// Checkpoints that a run publishes before it is killed, where the one after it is struck.
const BEFORE_RESUMING: usize = 3;
/// How long a killed process may take to disappear.
const DISAPPEAR: Duration = Duration::from_secs(2);

/// How a run ended, and what is left of it.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) events: Vec<Event>,
    /// What it wrote at its end, where it wrote one.
    pub(super) report: Option<Report>,
    pub(super) said: String,
    /// Processes and, where it ended by itself, files that are there after its end.
    pub(super) left: Vec<String>,
}

/// What became of a case.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) done: Done,
    /// The run that was struck.
    pub(super) struck: Ended,
    /// What was in the store then.
    pub(super) before: Contents,
    /// The run that went on.
    pub(super) resumed: Ended,
    /// What was in the store after it.
    pub(super) after: Contents,
}

/// What all cases of a pass share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    /// Seconds of one round, as measured.
    pub(super) round: f64,
    pub(super) seed: u64,
}

impl Pass {
    /// Rounds of a run that takes so many seconds.
    pub(super) fn rounds(self, seconds: f64) -> u64 {
        LEAST_ROUNDS.max((seconds / self.round.max(1e-3)) as u64)
    }
}

/// Strikes, looks at what is left, and goes on from it.
pub(super) fn perform(case: Case, pass: Pass, runtime: &Handle, folder: &Path) -> Result<Observed> {
    let ground = Arc::new(Ground::with_server(runtime, folder)?);
    let mut random = Random::new(pass.seed);
    let resuming = case.place.is_of_resuming();
    let damages = case.fault.kind() == Kind::Damage;
    let moment = Moment {
        case,
        after: After::Checkpoints(if resuming { 0 } else { 2 + random.below(2) as usize }),
        // What is damaged must not have been read yet.
        passing: if damages && resuming { 0 } else { passing(case.place, &mut random) },
        choice: random.next(),
    };
    let rounds = pass.rounds(if case.fault.kind() == Kind::Store { SECONDS.1 } else { SECONDS.0 });
    if resuming {
        let killed = kill(&ground.run("before", rounds)?, After::Checkpoints(BEFORE_RESUMING))?;
        ensure!(killed.status.code().is_none() && killed.left.is_empty(), "it was not killed as a whole: {:?}", killed.left);
    }
    let run = ground.run("struck", rounds)?;
    let run = if resuming { run.resuming() } else { run };
    let watch = Shared::new(moment, &run.output, &ground);
    watch.arm(&ground);
    let struck = follow(&run, &watch)?;
    if let Some(server) = ground.server() {
        server.pass();
    }
    let done = watch.lock().done.take();
    let done = done.with_context(|| format!("the run ended before it: {}", struck.said))??;
    let (before, resumed, after) = go_on(&ground, &struck.events)?;
    Ok(Observed { done, struck, before, resumed, after })
}

/// How many requests of a kind pass before one is struck: no more than come with every checkpoint.
fn passing(place: Place, random: &mut Random) -> u64 {
    match place {
        Place::BeforeShard | Place::InShard | Place::AfterShard | Place::Checking | Place::Restoring => random.below(4),
        Place::Intent => random.below(3),
        _ => 0,
    }
}

/// Runs until `after` has come, and kills everything.
pub(super) fn kill(run: &Run, after: After) -> Result<Ended> {
    let mut tail = Tail::new(&run.output);
    let (mut events, mut killed) = (Vec::new(), false);
    let mut process = run.start()?;
    let supervisor = Seen::now(process.id()).context("the run has ended already")?;
    let status = process.wait(LIMIT, || {
        events.extend(tail.poll()?);
        if !killed && after.has_come(&events) {
            supervisor.signal(Signal::KILL)?;
            killed = true;
        }
        Ok(())
    })?;
    ended(run, status, events)
}

/// Runs to the end, with `watch` looking at what happens.
pub(super) fn follow(run: &Run, watch: &Shared) -> Result<Ended> {
    let mut process = run.start()?;
    watch.follow(&process);
    let status = process.wait(LIMIT, || watch.lock().look())?;
    let Watch { known, .. } = &mut *watch.lock();
    ended(run, status, std::mem::take(&mut known.events))
}

/// What is left of a run that has ended.
pub(super) fn ended(run: &Run, status: ExitStatus, events: Vec<Event>) -> Result<Ended> {
    let mut left = processes_of(run);
    // Whoever is killed cannot remove its files.
    if status.code().is_some() {
        left.extend(run.temporary_files()?);
    }
    Ok(Ended { status, events, report: Report::read(&run.output).ok(), said: run.said(), left })
}

/// Processes with the run's folder for temporary files in their environment, once they have had the time to end.
fn processes_of(run: &Run) -> Vec<String> {
    let wanted = format!("TMPDIR={}", run.temporary().display());
    let has = |id: &i32| {
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut processes: Vec<Seen> = ids.filter(has).filter_map(Seen::now).collect();
    let since = Instant::now();
    while !processes.is_empty() && since.elapsed() < DISAPPEAR {
        std::thread::sleep(Duration::from_millis(5));
        processes.retain(Seen::is_alive);
    }
    processes.iter().map(|process| format!("process {}", process.id)).collect()
}

/// Checks the store, and runs on from it for some rounds more than were committed.
pub(super) fn go_on(ground: &Ground, events: &[Event]) -> Result<(Contents, Ended, Contents)> {
    let before = ground.contents()?;
    let rounds = last_round(events).max(before.newest().map_or(0, |place| place.round)) + MORE_ROUNDS;
    let run = ground.run("resumed", rounds)?.resuming();
    let mut process = run.start()?;
    let status = process.wait(LIMIT, || Ok(()))?;
    let resumed = ended(&run, status, events::read(&run.output)?)?;
    Ok((before, resumed, ground.contents()?))
}

/// Seconds of a round of an undisturbed run, from its events; and that it keeps checkpoints at all.
pub(super) fn measure(runtime: &Handle, folder: &Path) -> Result<f64> {
    let ground = Ground::with_server(runtime, folder)?;
    let run = ground.run("undisturbed", LEAST_ROUNDS)?;
    run.perform(LIMIT)?;
    let events = events::read(&run.output)?;
    let times: Vec<_> = events.iter().filter(|event| event.is("Committed")).map(|event| event.time).collect();
    let (first, last) = times.first().zip(times.last()).context("no round was committed")?;
    let published = events.iter().filter(|event| event.is("Checkpointed")).count();
    if published < BEFORE_RESUMING || ground.contents()?.newest_whole().is_none() {
        bail!("an undisturbed run published {published} checkpoints only, or none that is whole");
    }
    Ok(last.duration_since(*first).as_secs_f64() / (times.len() - 1).max(1) as f64)
}
