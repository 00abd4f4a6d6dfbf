//! The controller of runs: observes, has a plan made, applies it, and says what came of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_crds::runtime::{ClusterTrainingRuntime, Runtime, TrainingRuntime};
use atoll_crds::spec::{RuntimeKind, TrainingRun};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::{Api, Client, ResourceExt};

use crate::apply::Writer;
use crate::build::{Snapshot, Surroundings};
use crate::conditions::{Conditions, reasons, types};
use crate::directory::{Directory, RunKey, Served, Worker};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::names;
use crate::plan::{self, Memory, Observed, Plan, RuntimeFound};
use crate::run_settings::run_settings;
use crate::watched::{IslandJob, WorkerPod};

/// First and longest pause after an error.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// What all reconciliations share.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) directory: Directory,
    pub(crate) around: Surroundings,
    pub(crate) jobs: Index<IslandJob>,
    pub(crate) pods: Index<WorkerPod>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) known: Mutex<HashMap<RunKey, Known>>,
}

/// What is remembered of a run; a restart loses it.
#[derive(Default)]
pub(crate) struct Known {
    uid: String,
    memory: Memory,
    /// The run as the operator wrote it last: the watch may bring it later.
    newest: Option<Arc<TrainingRun>>,
    failures: u32,
    /// Nothing is tried again before, as long as the spec is that of this generation.
    pause: Option<(Option<i64>, Instant)>,
}

impl Known {
    /// How long nothing is tried yet.
    fn pauses(&self, generation: Option<i64>) -> Option<Duration> {
        let (_, until) = self.pause.filter(|(of, _)| *of == generation)?;
        until.checked_duration_since(Instant::now())
    }
}

/// Why a run was not brought to what it is to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The API server refused something, or could not be asked.
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl Context {
    fn known(&self) -> MutexGuard<'_, HashMap<RunKey, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run as it was just written, if it was.
    fn remember(&self, key: &RunKey, written: Option<TrainingRun>) {
        if let (Some(written), Some(known)) = (written, self.known().get_mut(key)) {
            known.newest = Some(Arc::new(written));
        }
    }

    /// The run as it is known newest.
    fn newest(&self, key: &RunKey, run: Arc<TrainingRun>) -> Arc<TrainingRun> {
        let version = |run: &TrainingRun| run.resource_version().and_then(|version| version.parse::<u64>().ok());
        let mut known = self.known();
        let entry = known.entry(key.clone()).or_default();
        let uid = run.uid().unwrap_or_default();
        if entry.uid != uid {
            *entry = Known { uid, ..Known::default() };
        }
        match entry.newest.take() {
            Some(ours) if version(&ours) > version(&run) => {
                entry.newest = Some(Arc::clone(&ours));
                ours
            }
            _ => run,
        }
    }
}

fn key_of(run: &TrainingRun) -> RunKey {
    RunKey { namespace: run.namespace().unwrap_or_default(), name: run.name_any() }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the only clock of the controller: conditions and deadlines are in the time of the day"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

/// Brings one run to what it is to be.
pub(crate) async fn reconcile(run: Arc<TrainingRun>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let started = Instant::now();
    let key = key_of(&run);
    let run = context.newest(&key, run);
    if let Some(pause) = context.known().get(&key).and_then(|known| known.pauses(run.metadata.generation)) {
        return Ok(Action::requeue(pause));
    }
    let result = reconcile_run(&key, &run, &context).await;
    context.metrics.reconciled(started.elapsed(), result.as_ref().err());
    if result.is_ok()
        && let Some(known) = context.known().get_mut(&key)
    {
        (known.failures, known.pause) = (0, None);
    }
    result
}

async fn reconcile_run(key: &RunKey, run: &Arc<TrainingRun>, context: &Arc<Context>) -> Result<Action, ReconcileError> {
    if plan::is_others(run) {
        context.directory.forget(key);
        return Ok(Action::await_change());
    }
    let job = context.jobs.of(key).into_iter().find(|job| job.name_any() == names::job(&key.name));
    let pods = context.pods.of(key);
    let heard = context.directory.take(key).unwrap_or_default();
    let silence = heard.beats.iter().map(|(slot, heard)| (*slot, heard.elapsed().as_secs())).collect();
    let memory = context.known().get(key).map(|known| known.memory.clone()).unwrap_or_default();
    let runtime = runtime(run, job.is_some(), &context.client).await?;
    let observed =
        Observed { run, job: job.as_deref(), pods: &pods, heard, silence, runtime, around: &context.around, memory, now: now() };
    let plan = plan::plan(&observed);
    serve(key, run, &plan, &pods, &context.directory);
    if let Some(known) = context.known().get_mut(key) {
        known.memory = plan.memory.clone();
    }
    let written = apply(key, run, &plan, context).await;
    if let Err(error) = &written {
        refused(run, error, key, context).await?;
    }
    written?;
    Ok(plan.again.map_or_else(Action::await_change, Action::requeue))
}

/// Carries out a plan, and remembers the run as it was written.
async fn apply(key: &RunKey, run: &Arc<TrainingRun>, plan: &Plan, context: &Context) -> kube::Result<()> {
    let writer = writer(key, context);
    writer.prepare(run, plan).await?;
    context.remember(key, writer.status(run, plan).await?);
    writer.carry_out(run, plan).await?;
    writer.tell(run, &plan.events).await;
    Ok(())
}

fn writer(key: &RunKey, context: &Context) -> Writer {
    Writer { client: context.client.clone(), recorder: Arc::clone(&context.recorder), namespace: key.namespace.clone() }
}

/// What the API server refuses is a condition of the run, for whoever looks at it.
async fn refused(run: &TrainingRun, error: &kube::Error, key: &RunKey, context: &Context) -> kube::Result<()> {
    let (reason, message) = match error {
        // Whoever changed it has it reconciled again.
        kube::Error::Api(status) if status.is_conflict() || status.is_not_found() => return Ok(()),
        // It goes with its namespace.
        kube::Error::Api(status) if status.message.contains("being terminated") => return Ok(()),
        kube::Error::Api(status) if status.code < 500 => (reasons::REFUSED, status.message.clone()),
        _ => return Ok(()),
    };
    let mut refused = Plan { status: run.status.clone().unwrap_or_default(), ..Plan::default() };
    let mut conditions = Conditions::new(refused.status.conditions.clone(), run.metadata.generation, now());
    conditions.set(types::PLACED, false, reason, message.clone());
    refused.status.conditions = conditions.into_list();
    if refused.status.phase.is_empty() {
        "Pending".clone_into(&mut refused.status.phase);
    }
    let writer = writer(key, context);
    let before = run.status.as_ref().and_then(|status| status.condition(types::PLACED));
    if before.is_none_or(|condition| condition.message != message) {
        writer.tell(run, &[plan::Note { warning: true, reason: reason.to_owned(), message }]).await;
    }
    context.remember(key, writer.status(run, &refused).await?);
    Ok(())
}

/// Has the hub serve the run, or serve it no more.
fn serve(key: &RunKey, run: &TrainingRun, plan: &Plan, pods: &[Arc<WorkerPod>], directory: &Directory) {
    let Some(served) = plan.served else { return directory.forget(key) };
    let worker = |pod: &Arc<WorkerPod>| {
        let worker = Worker { slot: pod.index()?, pod: pod.name_any() };
        (!pod.has_ended()).then_some((pod.uid()?, worker))
    };
    let pods: BTreeMap<String, Worker> = pods.iter().filter_map(worker).collect();
    directory.serve(
        key,
        Served {
            uid: run.uid().unwrap_or_default(),
            attempt: served.attempt,
            settings: run_settings(&run.spec),
            island: names::LOCAL_ISLAND.to_owned(),
            pods,
            keep_round: served.keep_round,
        },
    );
}

/// The runtime of a run, where it may be needed.
async fn runtime(run: &TrainingRun, has_job: bool, client: &Client) -> kube::Result<RuntimeFound> {
    let is = |kind| run.status.as_ref().is_some_and(|status| status.is(kind));
    let over = is(types::COMPLETE) || is(types::FAILED);
    if has_job || over || run.spec.suspend || run.metadata.deletion_timestamp.is_some() {
        return Ok(RuntimeFound::Unneeded);
    }
    if let Some(name) = run.status.as_ref().and_then(|status| status.runtime_snapshot.as_ref()) {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &run.namespace().unwrap_or_default());
        if let Some(map) = maps.get_opt(name).await? {
            return Ok(found(Snapshot::kept(run, &map.data.unwrap_or_default())));
        }
    }
    let Some(reference) = &run.spec.runtime_ref else {
        return Ok(RuntimeFound::Missing("the run names no runtime: give spec.runtimeRef".to_owned()));
    };
    let name = &reference.name;
    let runtime: Option<Runtime> = match reference.kind {
        RuntimeKind::ClusterTrainingRuntime => {
            let runtimes: Api<ClusterTrainingRuntime> = Api::all(client.clone());
            read(runtimes.get_opt(name).await)?.map(|found| found.spec.runtime)
        }
        RuntimeKind::TrainingRuntime => {
            let runtimes: Api<TrainingRuntime> = Api::namespaced(client.clone(), &run.namespace().unwrap_or_default());
            read(runtimes.get_opt(name).await)?.map(|found| found.spec.runtime)
        }
    };
    let kind = match reference.kind {
        RuntimeKind::ClusterTrainingRuntime => "ClusterTrainingRuntime",
        RuntimeKind::TrainingRuntime => "TrainingRuntime",
    };
    Ok(runtime.map_or_else(
        || RuntimeFound::Missing(format!("there is no {kind} called {name}")),
        |runtime| found(Snapshot::new(run, runtime)),
    ))
}

/// Where the cluster's kind cannot be read, as in an install for some namespaces alone, there is none.
fn read<K>(result: kube::Result<Option<K>>) -> kube::Result<Option<K>> {
    match result {
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(None),
        result => result,
    }
}

fn found(snapshot: Result<Snapshot, crate::build::SnapshotError>) -> RuntimeFound {
    match snapshot {
        Ok(snapshot) => RuntimeFound::Known(Box::new(snapshot)),
        Err(error) => RuntimeFound::Invalid(error.to_string()),
    }
}

/// When to try again: later after each failure of the same run.
#[expect(clippy::needless_pass_by_value, reason = "as the controller calls it")]
pub(crate) fn error_policy(run: Arc<TrainingRun>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let mut known = context.known();
    let entry = known.entry(key_of(&run)).or_default();
    entry.failures = entry.failures.saturating_add(1);
    let pause = (BACK_OFF.0 * 2_u32.saturating_pow(entry.failures.min(16) - 1)).min(BACK_OFF.1);
    // What was refused is refused again, whatever the operator itself has written since.
    if matches!(error, ReconcileError::Api(kube::Error::Api(status)) if status.code < 500 && !status.is_conflict()) {
        entry.pause = Some((run.metadata.generation, Instant::now() + pause));
    }
    tracing::warn!(run = run.name_any(), namespace = run.namespace(), %error, "not reconciled; again in {pause:?}");
    Action::requeue(pause)
}

/// A run that is gone needs nothing more.
pub(crate) fn forget(key: &RunKey, context: &Context) {
    context.known().remove(key);
    context.directory.forget(key);
}

/// The object of a run, for whoever is to reconcile it.
pub(crate) fn reference(key: &RunKey) -> kube::runtime::reflector::ObjectRef<TrainingRun> {
    kube::runtime::reflector::ObjectRef::new(&key.name).within(&key.namespace)
}
