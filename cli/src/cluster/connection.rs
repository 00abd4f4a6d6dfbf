//! The way to a cluster: the kubeconfig, and the objects of a run behind it.

use std::path::PathBuf;
use std::time::Duration;

use atoll_crds::island::TrainingIsland;
use atoll_crds::spec::TrainingRun;
use atoll_crds::status::TrainingRunStatus;
use clap::Args;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, Object};
use kube::{Api, Client, Config, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failures::{explain, no_cluster, not_installed};
use crate::Ending;

/// Label with the name of the run, on everything that is made for it.
const RUN: &str = "atoll.dev/run";
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Objects in one answer.
const PAGE: u32 = 500;

/// A run as the API server has it; the spec may be newer than this program.
pub(super) type Run = Object<Value, TrainingRunStatus>;

/// Where the run is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reach {
    /// Namespace, instead of that of the kubeconfig's context
    #[arg(short, long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// Context, instead of the kubeconfig's present one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Kubeconfig, instead of $KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// One namespace of a cluster.
#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    pub(super) namespace: String,
    server: String,
}

impl Connection {
    /// Reads the kubeconfig; nothing is asked yet.
    ///
    /// # Errors
    /// Bad input where the kubeconfig cannot be used.
    pub(super) async fn new(reach: &Reach) -> Result<Self, Ending> {
        let read = match &reach.kubeconfig {
            Some(file) => Kubeconfig::read_from(file),
            None => Kubeconfig::read(),
        };
        let kubeconfig = read.map_err(|error| no_cluster(&error))?;
        let options = KubeConfigOptions { context: reach.context.clone(), ..KubeConfigOptions::default() };
        let known: Vec<_> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
        if let Some(wanted) = reach.context.as_ref().filter(|wanted| !known.contains(wanted)) {
            return Err(Ending::BadInput(format!("the kubeconfig has no context {wanted}; it has: {}", list(&known))));
        }
        let loaded = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut config = loaded.map_err(|error| no_cluster(&error))?;
        config.connect_timeout = Some(CONNECT);
        config.default_retry = false;
        let namespace = reach.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| explain(&error, "use the kubeconfig", &server))?;
        Ok(Self { client, namespace, server })
    }

    fn runs(&self) -> Api<Run> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind())
    }

    /// The runs of the namespace, or of all.
    pub(super) async fn list_runs(&self, everywhere: bool) -> Result<Vec<Run>, Ending> {
        let runs = if everywhere { Api::all_with(self.client.clone(), &kind()) } else { self.runs() };
        match pages(&runs, ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Err(not_installed(&self.server)),
            listed => listed.map_err(|error| self.explain(&error, "list the runs")),
        }
    }

    /// One run; where there is none of this name, bad input that names those there are.
    pub(super) async fn run(&self, name: &str) -> Result<Run, Ending> {
        match self.runs().get(name).await {
            Ok(run) => Ok(run),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(self.unknown(name).await),
            Err(error) => Err(self.explain(&error, &format!("read the run {name}"))),
        }
    }

    async fn unknown(&self, name: &str) -> Ending {
        let known = match self.list_runs(false).await {
            Ok(runs) => runs.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
            Err(ending @ Ending::Failed(_)) if ending.message().contains("not installed") => return ending,
            Err(_) => return Ending::BadInput(format!("there is no run {name} in the namespace {}", self.namespace)),
        };
        let there = if known.is_empty() { "there is none".to_owned() } else { format!("there are: {}", list(&known)) };
        Ending::BadInput(format!("there is no run {name} in the namespace {}; {there}", self.namespace))
    }

    /// Changes a run by a merge patch.
    pub(super) async fn patch(&self, name: &str, patch: &Value, doing: &str) -> Result<Run, Ending> {
        let changed = self.runs().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        changed.map_err(|error| self.explain(&error, &format!("{doing} the run {name}")))
    }

    /// The pods of a run.
    pub(super) async fn pods(&self, run: &str) -> Result<Vec<Pod>, Ending> {
        self.belonging(run, "list the pods").await
    }

    /// The islands of a run.
    pub(super) async fn islands(&self, run: &str) -> Result<Vec<TrainingIsland>, Ending> {
        self.belonging(run, "list the islands").await
    }

    async fn belonging<K>(&self, run: &str, doing: &str) -> Result<Vec<K>, Ending>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let objects = Api::<K>::namespaced(self.client.clone(), &self.namespace);
        let listed = pages(&objects, ListParams::default().labels(&format!("{RUN}={run}"))).await;
        listed.map_err(|error| self.explain(&error, doing))
    }

    /// All events of the namespace.
    pub(super) async fn events(&self) -> Result<Vec<Event>, Ending> {
        let events = Api::<Event>::namespaced(self.client.clone(), &self.namespace);
        pages(&events, ListParams::default()).await.map_err(|error| self.explain(&error, "list the events"))
    }

    /// The logs of pods.
    pub(super) fn pod_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What the API server answers under `path`, which begins after the namespace's name.
    pub(super) async fn text(&self, group: &str, path: &str) -> Result<String, kube::Error> {
        let uri = format!("{group}/namespaces/{}/{path}", self.namespace);
        let request = http::Request::get(uri).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request_text(request).await
    }

    /// Selects in [`Connection::text`] what belongs to a run, as it stands in an address.
    pub(super) fn selector(run: &str) -> String {
        format!("labelSelector=atoll.dev%2Frun%3D{run}")
    }

    /// An error of the API server, for people; `doing` is what was tried, as in "list the pods".
    pub(super) fn explain(&self, error: &kube::Error, doing: &str) -> Ending {
        explain(error, &format!("{doing} in the namespace {}", self.namespace), &self.server)
    }
}

fn kind() -> ApiResource {
    ApiResource::erase::<TrainingRun>(&())
}

/// Names for people, the first twenty of them.
pub(super) fn list(names: &[String]) -> String {
    let most = 20;
    let more = if names.len() > most { format!(" and {} more", names.len() - most) } else { String::new() };
    names.iter().take(most).cloned().collect::<Vec<_>>().join(", ") + &more
}

async fn pages<K: Clone + DeserializeOwned + std::fmt::Debug>(
    objects: &Api<K>,
    parameters: ListParams,
) -> Result<Vec<K>, kube::Error> {
    let mut found = Vec::new();
    let mut parameters = parameters.limit(PAGE);
    loop {
        let page = objects.list(&parameters).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(found),
        }
    }
}
