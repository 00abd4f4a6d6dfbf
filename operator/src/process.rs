//! The operator's process: it waits to lead, then runs the hub and the controllers until it leads no more.

use std::collections::HashMap;
use std::future::ready;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use atoll_crds::runtime::{ClusterTrainingRuntime, TrainingRuntime};
use atoll_crds::spec::TrainingRun;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::controller::{self, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::admin::Admin;
use crate::build::Surroundings;
use crate::conditions::types;
use crate::controller::{Context, error_policy, forget, reconcile, reference};
use crate::directory::{Directory, RunKey};
use crate::hub::{ConfigMaps, Hub, MasterKey, Setup};
use crate::index::Index;
use crate::lease::Candidate;
use crate::metrics::Metrics;
use crate::names;
use crate::settings::Settings;
use crate::watched::{IslandJob, WorkerPod};

/// Key of the secret in its object.
const KEY: &str = "key";
/// Longest time for an answer of the API server that is no watch.
const ANSWER: Duration = Duration::from_secs(20);
/// How often runs are counted by phase.
const COUNTING: Duration = Duration::from_secs(15);
/// Changes of one run within this time are one.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Runs the operator until it is told to stop.
///
/// # Errors
/// What it cannot do without: the API server, its Secret, its ports; or it leads no more.
pub async fn run(settings: Settings) -> Result<()> {
    let mut config = Config::infer().await.context("no cluster: neither a service account nor a kubeconfig was found")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    let client = Client::try_from(config)?;
    let metrics = Arc::new(Metrics::new()?);
    let admin = Arc::new(Admin { metrics: Arc::clone(&metrics), ready: false.into() });
    let listener = TcpListener::bind(settings.admin_listen).await;
    let listener = listener.with_context(|| format!("cannot listen at {}", settings.admin_listen))?;
    tokio::spawn(Arc::clone(&admin).serve(listener));
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let candidate = Candidate::new(client.clone(), &settings.namespace, &settings.lease, &settings.pod_name);
    admin.ready.store(true, Relaxed);
    let ended = tokio::select! {
        ended = lead(&settings, client, &candidate, metrics) => ended,
        _ = terminated.recv() => Ok(()),
        _ = interrupted.recv() => Ok(()),
    };
    candidate.release().await;
    ended
}

async fn lead(settings: &Settings, client: Client, candidate: &Candidate, metrics: Arc<Metrics>) -> Result<()> {
    tracing::info!(lease = settings.lease, "waiting to lead");
    candidate.lead().await;
    tracing::info!("leads");
    metrics.leads(true);
    let master = master_key(&client, settings).await?;
    let (directory, changes) = Directory::new();
    let hub = Hub::new(Setup {
        master: master.clone(),
        directory: directory.clone(),
        store: Arc::new(ConfigMaps::new(client.clone())),
        issuer: issuer(&client, settings).await?,
        keys: keys(&client),
        time: Arc::new(time_of_day),
    })?;
    hub.metrics().register(metrics.registry())?;
    let listener = TcpListener::bind(settings.hub_listen).await;
    let listener = listener.with_context(|| format!("cannot listen at {}", settings.hub_listen))?;
    let around = Surroundings {
        hub_address: settings.hub_address.clone(),
        hub_roots: master.hub_roots()?,
        namespace: settings.namespace.clone(),
        network_policies: settings.network_policies,
        monitoring_namespace: settings.monitoring_namespace.clone(),
    };
    let controllers = Controllers { client: client.clone(), directory, around, metrics, concurrency: settings.concurrency };
    tokio::select! {
        () = candidate.hold() => bail!("leads no more"),
        ended = hub.serve(listener, std::future::pending()) => ended.context("the hub ended"),
        ended = controllers.run(&settings.watch_namespaces, changes) => ended,
        ended = announce(&client, settings) => ended,
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates and tokens are in the time of the day")]
fn time_of_day() -> SystemTime {
    SystemTime::now()
}

/// The secret that everything follows from; made where it is missing.
async fn master_key(client: &Client, settings: &Settings) -> Result<MasterKey> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let name = &settings.authority_secret;
    let found = secrets.get_opt(name).await.with_context(|| format!("Secret {name} cannot be read"))?;
    let found = match found {
        Some(found) => found,
        None => make_key(&secrets, name).await?,
    };
    let bytes = found.data.as_ref().and_then(|data| data.get(KEY)).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| anyhow!("Secret {name} has no {KEY} of 32 bytes"))?;
    Ok(MasterKey::new(bytes))
}

async fn make_key(secrets: &Api<Secret>, name: &str) -> Result<Secret> {
    let made = Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some([(KEY.to_owned(), ByteString(MasterKey::generate()?.to_vec()))].into()),
        immutable: Some(true),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &made).await {
        // Somebody else made one meanwhile: that one counts.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(secrets.get(name).await?),
        made => made.with_context(|| format!("Secret {name} cannot be made")),
    }
}

async fn text(client: &Client, path: &str) -> Result<String> {
    let request = http::Request::get(path).body(Vec::new())?;
    let answered = tokio::time::timeout(ANSWER, client.request_text(request)).await;
    answered.map_err(|_| anyhow!("the API server does not answer {path}"))?.with_context(|| format!("cannot read {path}"))
}

/// Who issues the tokens of this cluster.
async fn issuer(client: &Client, settings: &Settings) -> Result<String> {
    if let Some(issuer) = &settings.token_issuer {
        return Ok(issuer.clone());
    }
    let help = "give --token-issuer, or let this service account read it (ClusterRole system:service-account-issuer-discovery)";
    let found = text(client, "/.well-known/openid-configuration").await.context(help)?;
    let found: serde_json::Value = serde_json::from_str(&found)?;
    let issuer = found["issuer"].as_str().unwrap_or_default();
    ensure!(!issuer.is_empty(), "the API server names no issuer of tokens");
    Ok(issuer.to_owned())
}

fn keys(client: &Client) -> crate::hub::FetchKeys {
    let client = client.clone();
    Arc::new(move || {
        let client = client.clone();
        async move { text(&client, "/openid/v1/jwks").await.map_err(|error| format!("{error:#}")) }.boxed()
    })
}

/// Leads workers here: while it lives, the addresses of the hub's Service are its own.
async fn announce(client: &Client, settings: &Settings) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &settings.namespace);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": settings.hub_service,
            "labels": {
                "kubernetes.io/service-name": settings.hub_service,
                "endpointslice.kubernetes.io/managed-by": names::MANAGER,
            },
        },
        "addressType": if settings.pod_ip.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [settings.pod_ip.to_string()], "conditions": { "ready": true } }],
        "ports": [{ "name": "hub", "port": settings.hub_listen.port(), "protocol": "TCP" }],
    });
    loop {
        match slices.patch(&settings.hub_service, &PatchParams::apply(names::MANAGER).force(), &Patch::Apply(&slice)).await {
            Ok(_) => return std::future::pending().await,
            Err(error) => tracing::warn!(%error, "the addresses of the hub's Service cannot be set"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

struct Controllers {
    client: Client,
    directory: Directory,
    around: Surroundings,
    metrics: Arc<Metrics>,
    concurrency: u16,
}

impl Controllers {
    /// Controls the runs of these namespaces; of all where none is given.
    async fn run(&self, namespaces: &[String], mut changes: mpsc::UnboundedReceiver<RunKey>) -> Result<()> {
        let scopes: Vec<Option<String>> =
            if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() };
        let mut ways = Vec::new();
        let mut running = Vec::new();
        for scope in scopes {
            let (sender, receiver) = mpsc::unbounded_channel();
            ways.push((scope.clone(), sender));
            running.push(self.control(scope, receiver).boxed());
        }
        let forwarding = async {
            while let Some(key) = changes.recv().await {
                for (scope, way) in &ways {
                    if scope.as_ref().is_none_or(|namespace| *namespace == key.namespace) {
                        let _ending = way.send(key.clone());
                    }
                }
            }
        };
        tokio::select! {
            () = forwarding => bail!("the hub tells no more"),
            (ended, ..) = futures::future::select_all(running) => ended,
        }
    }

    async fn control(&self, scope: Option<String>, changes: mpsc::UnboundedReceiver<RunKey>) -> Result<()> {
        let (jobs, pods) = (Index::<IslandJob>::default(), Index::<WorkerPod>::default());
        let (sender, moved) = mpsc::unbounded_channel();
        let synchronised = [
            follow(self.api(scope.as_deref()), jobs.clone(), sender.clone()),
            follow(self.api(scope.as_deref()), pods.clone(), sender),
        ];
        for synchronised in synchronised {
            synchronised.await.context("a watch ended before it had begun")?;
        }
        let reporter = Reporter { controller: names::MANAGER.to_owned(), instance: None };
        let context = Arc::new(Context {
            client: self.client.clone(),
            recorder: Arc::new(Recorder::new(self.client.clone(), reporter)),
            directory: self.directory.clone(),
            around: self.around.clone(),
            jobs,
            pods,
            metrics: Arc::clone(&self.metrics),
            known: Mutex::new(HashMap::new()),
        });
        let runs: Api<TrainingRun> = self.api(scope.as_deref());
        let watching = watcher::Config::default().any_semantic();
        let controller = Controller::new(runs, watching.clone());
        let counting = count(controller.store(), Arc::clone(&self.metrics));
        let triggers = futures::stream::select(received(moved), received(changes)).map(|key| reference(&key));
        let config = controller::Config::default().concurrency(self.concurrency).debounce(DEBOUNCE);
        let controller = controller.with_config(config).reconcile_on(triggers);
        let runtimes: Api<TrainingRuntime> = self.api(scope.as_deref());
        let waiting = waiting_for(controller.store());
        let mut controller = controller.watches(runtimes, watching.clone(), waiting);
        if scope.is_none() {
            let runtimes: Api<ClusterTrainingRuntime> = Api::all(self.client.clone());
            let waiting = waiting_for(controller.store());
            controller = controller.watches(runtimes, watching, waiting);
        }
        let running = controller.run(reconcile, error_policy, Arc::clone(&context)).for_each(|result| {
            if let Err(controller::Error::ObjectNotFound(gone)) = result {
                forget(&RunKey { namespace: gone.namespace.unwrap_or_default(), name: gone.name }, &context);
            }
            ready(())
        });
        tokio::select! {
            () = running => bail!("the controller ended"),
            () = counting => bail!("counting ended"),
        }
    }

    fn api<K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>>(&self, scope: Option<&str>) -> Api<K> {
        match scope {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}

fn received(mut receiver: mpsc::UnboundedReceiver<RunKey>) -> BoxStream<'static, RunKey> {
    futures::stream::poll_fn(move |context| receiver.poll_recv(context)).boxed()
}

/// Runs that wait for a runtime, when one changes.
fn waiting_for<K: ResourceExt>(runs: Store<TrainingRun>) -> impl Fn(K) -> Vec<ObjectRef<TrainingRun>> + Send + Sync {
    move |runtime| {
        let name = runtime.name_any();
        let waits = |run: &TrainingRun| {
            let admitted = run.status.as_ref().is_some_and(|status| status.runtime_snapshot.is_some());
            !admitted && run.spec.runtime_ref.as_ref().is_some_and(|reference| reference.name == name)
        };
        runs.state_filter(waits).iter().map(|run| ObjectRef::from_obj(&**run)).collect()
    }
}

/// Keeps an index of what is labelled with a run; ready when all that there is was listed.
fn follow<K>(api: Api<K>, index: Index<K>, moved: mpsc::UnboundedSender<RunKey>) -> oneshot::Receiver<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (listed, synchronised) = oneshot::channel();
    let config = watcher::Config::default().any_semantic().labels(names::RUN);
    tokio::spawn(async move {
        let mut listed = Some(listed);
        let events = watcher(api, config).default_backoff().modify(|object| object.managed_fields_mut().clear());
        let mut events = std::pin::pin!(events);
        loop {
            match events.try_next().await {
                Ok(Some(event)) => {
                    let done = matches!(event, watcher::Event::InitDone);
                    for key in index.take(event) {
                        let _ending = moved.send(key);
                    }
                    if done && let Some(listed) = listed.take() {
                        let _ending = listed.send(());
                    }
                }
                Ok(None) => return,
                Err(error) => tracing::warn!(%error, "a watch was interrupted"),
            }
        }
    });
    synchronised
}

async fn count(runs: Store<TrainingRun>, metrics: Arc<Metrics>) {
    loop {
        tokio::time::sleep(COUNTING).await;
        let runs = runs.state();
        metrics.phases(runs.iter().map(|run| run.status.as_ref().map_or("Pending", |status| status.phase.as_str())));
        metrics.stale(runs.iter().filter(|run| is_stale(run)).count());
    }
}

/// A run that goes on, and whose newest checkpoint is not as new as it is to be.
fn is_stale(run: &TrainingRun) -> bool {
    let Some(status) = &run.status else { return false };
    let old = status.condition(types::CHECKPOINT_FRESH).is_some_and(|condition| condition.status == "False");
    status.is(types::PROGRESSING) && old
}
