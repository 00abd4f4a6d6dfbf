//! The supervisor of a run: starts every worker's two processes, starts again what is lost, and ends all of them.

mod befalling;
mod diverging;
mod restoring;
mod saving;
mod starting;

use befalling::Undo;
use diverging::Diverged;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use atoll_collective::coordinator::{Cadence, IN_FLIGHT, Settings};
use atoll_crds::RunFile;
use atoll_crds::spec::{Method, StragglerPolicy};
use atoll_sdk::events::Event;
use atoll_sidecar::ARBITER;
use atoll_trainer::process::Resume;
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::Arguments;
use super::chaos::Chaos;
use super::checkpoints::Checkpoints;
use super::output::Output;
use super::preflight::Ready;
use super::progress::Progress;
use super::report::{Facts, Report, State};
use super::view::{self, View};
use crate::supervision::arbiter::{ArbiterService, Serving, Wanted};
use crate::supervision::authority::Authority;
use crate::supervision::child::{Child, Role, Told, What};
use crate::supervision::interrupts::Interrupts;
use crate::supervision::network::Network;
use crate::supervision::processors::{self, Processors};
use crate::supervision::{loopback, token};

/// `livenessSeconds` of a local run that does not say.
const LIVENESS: Duration = Duration::from_secs(2);
/// Times that one process is started again.
const MOST_RESTARTS: u64 = 20;
/// How long the last workers may take once the first has finished.
const LAST: Duration = Duration::from_secs(30);
/// How long a trainer that waits may take to begin with it.
const ANSWER: Duration = Duration::from_secs(10);
/// How long writing and evaluating the model may take, as long as its trainer lives.
const SAVING: Duration = Duration::from_hours(24);
/// How long processes may take to end in good order.
const ENDING: Duration = Duration::from_secs(1);
/// Pause between two looks at the run.
const LOOK: Duration = Duration::from_millis(100);

/// Runs all of `file`'s training and returns its report.
pub(crate) async fn supervise(
    ready: &Ready,
    file: &RunFile,
    output: &Output,
    arguments: &Arguments,
    interrupts: &mut Interrupts,
) -> Result<Report> {
    let mut supervisor = Supervisor::new(ready, file, output, arguments).await?;
    let outcome = loop {
        let outcome = supervisor.run(interrupts).await;
        supervisor.stop().await;
        supervisor.remove_partial();
        match outcome {
            Ok(outcome) if outcome.state_is_lost => match supervisor.begin_again(&outcome).await {
                Ok(true) => {}
                Ok(false) => break Ok(outcome),
                Err(error) => break Err(error),
            },
            outcome => break outcome,
        }
    };
    // Whatever failed, what was trained is reported.
    let outcome = outcome.unwrap_or_else(|error| Outcome::failed(format!("{error:#}")));
    let ended = Event::now("", "RunEnded").with("state", format!("{:?}", outcome.state));
    let ended = supervisor.log_left().and_then(|()| supervisor.log(&ended));
    if let (Err(error), None) = (ended, &outcome.failure) {
        return Err(error);
    }
    Ok(supervisor.report(outcome))
}

/// How the training ended.
struct Outcome {
    state: State,
    failure: Option<String>,
    held_out_loss: Option<f64>,
    /// Nobody is left who holds the newest state, or nobody wants it: a checkpoint may have a better one.
    state_is_lost: bool,
}

impl Outcome {
    fn of(state: State, held_out_loss: Option<f64>) -> Self {
        Self { state, failure: None, held_out_loss, state_is_lost: false }
    }

    fn failed(failure: impl Into<String>) -> Self {
        Self { failure: Some(failure.into()), ..Self::of(State::Failed, None) }
    }

    fn lost(failure: &str) -> Self {
        Self { state_is_lost: true, ..Self::failed(failure) }
    }
}

/// One worker's processes.
#[derive(Default)]
struct Worker {
    sidecar: Option<Child>,
    trainer: Option<Child>,
    sidecar_starts: u64,
    trainer_starts: u64,
    finished: bool,
    /// Its trainer has begun to evaluate and write the model.
    saving: bool,
    /// It does not go on.
    end: Option<End>,
    /// Its trainer holds the state of the run.
    holds_state: bool,
    /// The last start of its trainer that had a checkpoint to read.
    reads: Option<u64>,
}

/// Why a worker does not go on.
enum End {
    /// It cannot.
    Failed(String),
    /// It left, or was killed for good.
    Gone,
}

impl Worker {
    fn is_gone(&self) -> bool {
        matches!(self.end, Some(End::Gone))
    }

    fn child(&mut self, role: Role) -> &mut Option<Child> {
        match role {
            Role::Sidecar => &mut self.sidecar,
            Role::Trainer => &mut self.trainer,
        }
    }
}

struct Supervisor<'a> {
    ready: &'a Ready,
    file: &'a RunFile,
    output: &'a Output,
    settings: Settings,
    checkpoints: Checkpoints,
    token: String,
    authority: Authority,
    processors: Vec<Processors>,
    wanted: Wanted,
    arbiter: ArbiterService,
    serving: Serving,
    teller: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
    workers: Vec<Worker>,
    events: File,
    progress: Progress,
    view: View,
    started: Instant,
    first_epoch: Option<Instant>,
    last_round: Option<Instant>,
    first_finished: Option<Instant>,
    held_out_loss: Option<f64>,
    saved: bool,
    /// Slots and incarnations of the sidecars that alone may know the newest round, where nobody else does.
    knew_newest: Option<Vec<(u32, u64)>>,
    /// Rounds in the checkpoint that is being written, and who publishes it.
    writing: Option<u64>,
    coordinator: Option<u32>,
    /// A worker's training diverged, and the policy is not to skip its round.
    diverged: Option<Diverged>,
    /// Times that all of it began again from a checkpoint.
    restored: u32,
    /// What is still to befall it, and what ends by itself.
    chaos: Chaos,
    undos: Vec<Undo>,
    /// Between the workers, where it is to be worse than it is.
    network: Option<Network>,
}

fn name(slot: u32) -> String {
    format!("w{slot}")
}

/// The silence after which a worker is lost: more of them on few processors have to wait longer for their turn.
fn crowded(workers: u32) -> Duration {
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    LIVENESS * workers.div_ceil(4 * processors)
}

fn settings(file: &RunFile, resume: Option<&Resume>) -> Settings {
    let (workers, rounds) = (&file.spec.workers, &file.spec.rounds);
    let seconds = |seconds: u32| u64::from(seconds) * 1000;
    Settings {
        run: file.name.clone(),
        minimum: workers.min as usize,
        target: workers.target as usize,
        quorum: rounds.quorum.min as usize,
        join_window: seconds(rounds.join_window_seconds),
        liveness: rounds.liveness_seconds.map_or_else(|| crowded(workers.target).as_millis() as u64, seconds),
        round_timeout: seconds(rounds.round_timeout_seconds),
        drop_stragglers: rounds.straggler_policy == StragglerPolicy::Drop,
        in_flight: IN_FLIGHT,
        checkpoints: file.spec.checkpoint.as_ref().map_or_else(Cadence::default, |checkpoint| Cadence {
            rounds: checkpoint.rounds_between(),
            time: checkpoint.every_seconds.map(seconds),
        }),
        resumed: resume.map(|resume| resume.committed.clone()),
    }
}

impl<'a> Supervisor<'a> {
    async fn new(ready: &'a Ready, file: &'a RunFile, output: &'a Output, arguments: &Arguments) -> Result<Self> {
        let resume = ready.checkpoints.resume.as_ref();
        let settings = settings(file, resume);
        let token = token()?;
        let arbiter = ArbiterService::new(settings.liveness, arguments.arbiter);
        let authority = Authority::new(&file.name)?;
        let serving = arbiter.serve(&file.name, loopback(0), &token, Some(&authority.identity(ARBITER)?)).await?;
        let logs = output.path().join("logs");
        std::fs::create_dir(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        if ready.record {
            let folder = output.recordings();
            std::fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let path = output.path().join("events.jsonl");
        let events = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let workers = &file.spec.workers;
        let (teller, told) = mpsc::channel(4096);
        let mut chaos = ready.chaos.clone();
        chaos.pass(ready.checkpoints.after().0);
        Ok(Self {
            processors: processors::divide(&processors::available(), workers.target as usize, workers.ranks as usize),
            progress: Progress::resumed((0..workers.target).map(name), ready.checkpoints.after()),
            workers: (0..workers.target).map(|_| Worker::default()).collect(),
            view: View::new(arguments.json, file.spec.stop.steps),
            started: Instant::now(),
            first_epoch: None,
            last_round: None,
            first_finished: None,
            held_out_loss: None,
            saved: false,
            knew_newest: None,
            writing: None,
            coordinator: None,
            diverged: None,
            restored: 0,
            network: chaos.shapes_links().then(Network::new),
            chaos,
            undos: Vec::new(),
            checkpoints: ready.checkpoints.clone(),
            ready,
            file,
            output,
            settings,
            token,
            authority,
            wanted: arguments.arbiter,
            arbiter,
            serving,
            teller,
            told,
            events,
        })
    }

    async fn run(&mut self, interrupts: &mut Interrupts) -> Result<Outcome> {
        if self.restored == 0 {
            self.log(&Event::now("", "RunStarted").with("run", self.file.name.as_str()))?;
        }
        self.log_checkpoints()?;
        for slot in 0..self.workers.len() as u32 {
            if self.workers[slot as usize].is_gone() {
                continue;
            }
            self.start(slot, Role::Sidecar).await?;
            self.start(slot, Role::Trainer).await?;
        }
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                Some(told) = self.told.recv() => self.hear(told).await?,
                _ = looks.tick() => self.show(),
                () = interrupts.next() => return Ok(self.interrupted()),
            }
            self.befall().await?;
            if let Some(outcome) = self.verdict() {
                if outcome.state != State::Complete {
                    return Ok(outcome);
                }
                tokio::select! {
                    outcome = self.end() => return outcome,
                    () = interrupts.next() => return Ok(Outcome { state: State::Interrupted, ..outcome }),
                }
            }
        }
    }

    /// The last round of the checkpoint that it goes on from; whoever has no state reads that one.
    fn resumed_round(&self) -> u64 {
        self.settings.resumed.as_ref().map_or(0, |record| record.round)
    }

    /// What is left to do once all have trained to the end.
    async fn end(&mut self) -> Result<Outcome> {
        let outcome = self.save().await?;
        self.last_checkpoint().await?;
        Ok(outcome)
    }

    fn interrupted(&self) -> Outcome {
        Outcome::of(State::Interrupted, self.held_out_loss)
    }

    fn show(&mut self) {
        let elapsed = self.first_epoch.map_or(Duration::ZERO, |first| first.elapsed());
        let line = view::line(&self.progress, self.file.spec.stop.steps, elapsed, self.ready.context_length());
        self.view.show(&self.progress, &line);
    }

    async fn hear(&mut self, told: Told) -> Result<()> {
        let slot = told.slot as usize;
        if self.workers[slot].child(told.role).as_ref().is_none_or(|child| child.incarnation != told.incarnation) {
            return Ok(());
        }
        match told.what {
            What::Event(event) => {
                match event.event.as_str() {
                    "Epoch" => {
                        self.first_epoch = self.first_epoch.or(Some(Instant::now()));
                        self.knew_newest = None;
                    }
                    "Joined" => self.workers[slot].holds_state = true,
                    "SyncEnd" => {
                        self.last_round = Some(Instant::now());
                        self.workers[slot].holds_state = true;
                    }
                    "Finished" => {
                        self.workers[slot].finished = true;
                        self.first_finished = self.first_finished.or(Some(Instant::now()));
                    }
                    "HistoryMissing" => {
                        let absent = event.more.get("absent").cloned().unwrap_or_default();
                        self.knew_newest = serde_json::from_value(absent).ok();
                    }
                    "Evicted" | "Detached" => self.lost_while_saving(&event.worker),
                    "Coordinator" => self.coordinator = Some(told.slot),
                    "Deposed" => self.writing = None,
                    "CheckpointStarted" => self.writing = event.round,
                    "Checkpointed" | "CheckpointFailed" if self.writing == event.round => self.writing = None,
                    "Diverged" => self.diverged = self.diverged.take().or_else(|| Diverged::of(&event)),
                    "Saving" => self.workers[slot].saving = true,
                    "Saved" => {
                        self.saved = true;
                        self.held_out_loss = event.more.get("heldOutLoss").and_then(serde_json::Value::as_f64);
                    }
                    _ => {}
                }
                self.log(&event)
            }
            What::Ended(status) => self.ended(told.slot, told.role, told.incarnation, status).await,
        }
    }

    /// A process has ended on its own: it is started again, unless it said that it cannot go on.
    async fn ended(
        &mut self,
        slot: u32,
        role: Role,
        incarnation: u64,
        status: std::io::Result<std::process::ExitStatus>,
    ) -> Result<()> {
        let worker = &mut self.workers[slot as usize];
        let pid = worker.child(role).take().map_or(0, |child| child.pid);
        if role == Role::Sidecar {
            self.arbiter.ended(slot, incarnation);
            self.publishes_no_more(slot)?;
        }
        let status_text = status.as_ref().map_or_else(ToString::to_string, ToString::to_string);
        let event = Event::now(&name(slot), "ProcessEnded")
            .with("process", role.name())
            .with("pid", pid)
            .with("reason", status_text.clone());
        self.log(&event)?;
        let worker = &mut self.workers[slot as usize];
        if worker.finished && role == Role::Trainer {
            return Ok(());
        }
        if worker.is_gone() {
            worker.holds_state &= role == Role::Sidecar;
            return Ok(());
        }
        // A sidecar that somebody told to stop ends well, and is needed all the same.
        let told_to_stop = |status: std::process::ExitStatus| role == Role::Sidecar && status.success();
        let gave_up = status.is_ok_and(|status| status.code().is_some() && !told_to_stop(status));
        let reads = role == Role::Trainer && worker.reads == Some(incarnation) && !worker.holds_state;
        if role == Role::Trainer {
            worker.holds_state = false;
        }
        // A checkpoint may be collected while somebody still reads it: there is a newer state by then, and others give it.
        let finds_another = reads && self.workers.iter().any(|worker| worker.holds_state);
        let worker = &self.workers[slot as usize];
        if worker.end.is_some() || (gave_up && !finds_another) || incarnation > MOST_RESTARTS {
            let detail = format!("its {} ended: {status_text}: {}", role.name(), self.last_words(slot, role));
            self.workers[slot as usize].end = Some(End::Failed(detail.clone()));
            return self.log(&Event::now(&name(slot), "WorkerFailed").with("process", role.name()).with("reason", detail));
        }
        self.start(slot, role).await?;
        self.log(&Event::now(&name(slot), "ProcessRestarted").with("process", role.name()))
    }

    /// Whether the training is over, and how.
    fn verdict(&self) -> Option<Outcome> {
        if let Some(diverged) = &self.diverged {
            return Some(diverged.outcome());
        }
        let record = self.arbiter.record();
        let able = self.workers.iter().filter(|worker| worker.end.is_none()).count();
        if let Some(first) = self.first_finished {
            let waited_for = |(slot, worker): (usize, &Worker)| {
                let member = record
                    .members
                    .iter()
                    .any(|member| member.slot as usize == slot && member.incarnation == worker.sidecar_starts);
                member && !worker.finished && worker.end.is_none()
            };
            let all = !self.workers.iter().enumerate().any(waited_for);
            return (all || first.elapsed() > LAST).then_some(Outcome::of(State::Complete, None));
        }
        let trained = self.progress.step >= self.file.spec.stop.steps;
        if (able < self.settings.quorum && !trained) || (record.epoch == 0 && able < self.settings.minimum) {
            let failed = |(slot, worker): (usize, &Worker)| match &worker.end {
                Some(End::Failed(why)) => Some(format!("{}: {why}", name(slot as u32))),
                Some(End::Gone) => Some(format!("{} is gone", name(slot as u32))),
                None => None,
            };
            let last = self.workers.iter().enumerate().filter_map(failed).next_back().unwrap_or_default();
            return Some(Outcome::failed(format!("{able} of {} workers can go on; {last}", self.workers.len())));
        }
        if self.progress.round > self.resumed_round() && !self.workers.iter().any(|worker| worker.holds_state) {
            return Some(Outcome::lost("the trainers of all workers were lost at once, and with them the newest state"));
        }
        let lost = |slot: u32, incarnation: u64| {
            self.workers.get(slot as usize).is_none_or(|worker| worker.is_gone() || worker.sidecar_starts != incarnation)
        };
        let nobody_knows = self.knew_newest.as_ref().is_some_and(|absent| absent.iter().all(|(slot, start)| lost(*slot, *start)));
        let all_lost = !record.members.is_empty() && record.members.iter().all(|member| lost(member.slot, member.incarnation));
        if nobody_knows || all_lost {
            return Some(Outcome::lost(
                "the sidecars of all that knew the newest round were lost at once, and with them the round",
            ));
        }
        None
    }

    /// What a sidecar that has ended was to publish, nobody else does.
    fn publishes_no_more(&mut self, slot: u32) -> Result<()> {
        let Some(round) = self.writing.take_if(|_| self.coordinator == Some(slot)) else { return Ok(()) };
        let failed = Event::now("", "CheckpointFailed").round(round);
        self.log(&failed.with("reason", format!("the sidecar of {} ended, which coordinated it", name(slot))))
    }

    /// A trainer that writes the model and has gone silent does not write it any more.
    fn lost_while_saving(&mut self, worker: &str) {
        let lost = self.workers.iter_mut().enumerate().find(|(slot, found)| name(*slot as u32) == worker && found.saving);
        if let Some((_, worker)) = lost {
            worker.saving = false;
            if let Some(trainer) = &worker.trainer {
                trainer.signal(Signal::KILL);
            }
        }
    }

    /// Ends every process: trainers have nothing left to do, sidecars remove their sockets.
    async fn stop(&mut self) {
        self.view.end();
        for worker in &self.workers {
            if let Some(trainer) = &worker.trainer {
                trainer.signal(Signal::KILL);
            }
            if let Some(sidecar) = &worker.sidecar {
                sidecar.signal(Signal::TERM);
            }
        }
        for last in [false, true] {
            let until = tokio::time::Instant::now() + ENDING;
            while self.workers.iter().any(|worker| worker.sidecar.is_some() || worker.trainer.is_some()) {
                let Ok(Some(told)) = tokio::time::timeout_at(until, self.told.recv()).await else { break };
                if matches!(told.what, What::Ended(_)) {
                    *self.workers[told.slot as usize].child(told.role) = None;
                }
            }
            // A stopped process hears nothing but this.
            for sidecar in self.workers.iter().filter_map(|worker| worker.sidecar.as_ref()).filter(|_| !last) {
                sidecar.signal(Signal::KILL);
            }
        }
        self.ready.sockets.clear(self.workers.len() as u32);
    }

    fn log(&mut self, event: &Event) -> Result<()> {
        self.progress.take(event);
        self.view.tell(event);
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.events
            .write_all(&line)
            .with_context(|| format!("cannot write {}", self.output.path().join("events.jsonl").display()))
    }

    fn report(&self, outcome: Outcome) -> Report {
        let method = match &self.file.spec.method {
            Method::DataParallel {} => "dataParallel",
            Method::DiLoCo(_) => "diLoCo",
            Method::FedAvg(_) => "fedAvg",
        };
        let training =
            self.first_epoch.zip(self.last_round).map_or(Duration::ZERO, |(first, last)| last.saturating_duration_since(first));
        let facts = Facts {
            run: self.file.name.clone(),
            method: method.to_owned(),
            state: outcome.state,
            failure: outcome.failure,
            held_out_loss: outcome.held_out_loss,
            wall_seconds: self.started.elapsed().as_secs_f64(),
            training_seconds: training.as_secs_f64(),
            context_length: self.ready.context_length(),
            tokens_before: [self.ready.checkpoints.tokens(), self.checkpoints.tokens()],
            threads: self.processors.first().map_or(1, |share| share.threads),
        };
        Report::new(facts, &self.progress)
    }
}
