//! A cluster, as a test uses it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use atoll_crds::spec::TrainingRun;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde_json::json;

use crate::wait::{Look, wait};

/// Lines of a log that a failure shows.
const SHOWN: i64 = 15;
/// How long a namespace may take to go.
const GOING: Duration = Duration::from_mins(2);

/// A cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// Namespace of the operator.
    pub(crate) system: String,
}

impl Cluster {
    /// The cluster of this kubeconfig.
    pub(crate) async fn of(kubeconfig: &Path, system: &str) -> Result<Self> {
        let found = Kubeconfig::read_from(kubeconfig).with_context(|| format!("{} cannot be read", kubeconfig.display()))?;
        let config = Config::from_custom_kubeconfig(found, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        client.apiserver_version().await.context("the cluster does not answer")?;
        Ok(Self { client, system: system.to_owned() })
    }

    pub(crate) fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A namespace that admits restricted pods alone.
    pub(crate) async fn make_namespace(&self, name: &str) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = json!({
            "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": "restricted", "atoll.dev/e2e": "true" } },
        });
        namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
        Ok(())
    }

    /// Removes a namespace with its runs, and waits until it is gone.
    pub(crate) async fn remove_namespace(&self, name: &str) -> Result<()> {
        let runs: Api<TrainingRun> = self.api(name);
        // Their pods go at once; in a namespace that goes first, they wait for its controller.
        let _none_there = runs.delete_collection(&DeleteParams::background(), &ListParams::default()).await;
        self.remove_only_namespace(name).await
    }

    /// Removes a namespace, whatever is in it, and waits until it is gone.
    pub(crate) async fn remove_only_namespace(&self, name: &str) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        if let Err(kube::Error::Api(status)) = namespaces.delete(name, &DeleteParams::default()).await {
            return if status.is_not_found() { Ok(()) } else { Err(kube::Error::Api(status).into()) };
        }
        wait(&format!("namespace {name} is gone"), GOING, async || {
            Ok(match namespaces.get_opt(name).await? {
                None => Look::Yes(()),
                Some(found) => {
                    let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
                    let messages: Vec<_> = conditions.into_iter().filter_map(|condition| condition.message).collect();
                    Look::NotYet(messages.join("; "))
                }
            })
        })
        .await
    }

    /// Pods with a label.
    pub(crate) async fn pods(&self, namespace: &str, labels: &str) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = self.api(namespace);
        Ok(pods.list(&ListParams::default().labels(labels)).await?.items)
    }

    /// The pod of the operator that leads.
    pub(crate) async fn leader(&self) -> Result<String> {
        let leases: Api<k8s_openapi::api::coordination::v1::Lease> = self.api(&self.system);
        let lease = leases.list(&ListParams::default()).await?.items.into_iter().find(|lease| {
            lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_deref().is_some_and(|holder| !holder.is_empty()))
        });
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        holder.context("no operator leads")
    }

    /// Deletes a pod; without `grace`, as soon as possible.
    pub(crate) async fn delete_pod(&self, namespace: &str, name: &str, grace: Option<u32>) -> Result<()> {
        let pods: Api<Pod> = self.api(namespace);
        pods.delete(name, &DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() }).await?;
        Ok(())
    }

    /// Changes an object by a merge patch.
    pub(crate) async fn change<K>(&self, namespace: &str, name: &str, patch: serde_json::Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let api: Api<K> = self.api(namespace);
        Ok(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    /// What a person would look at after a failure: events, and the ends of logs.
    pub(crate) async fn show(&self, namespace: &str) -> String {
        let mut lines = Vec::new();
        let events: Api<Event> = self.api(namespace);
        if let Ok(events) = events.list(&ListParams::default()).await {
            for event in events.items.iter().rev().take(40) {
                let object = event.involved_object.name.clone().unwrap_or_default();
                let (reason, message) = (event.reason.clone().unwrap_or_default(), event.message.clone().unwrap_or_default());
                lines.push(format!("  event {object}: {reason}: {message}"));
            }
        }
        let pods: Api<Pod> = self.api(namespace);
        for pod in pods.list(&ListParams::default()).await.map(|pods| pods.items).unwrap_or_default() {
            let name = pod.name_any();
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
            lines.push(format!("  pod {name}: {phase}"));
            for container in ["sidecar", "trainer"] {
                let wanted = LogParams { container: Some(container.to_owned()), tail_lines: Some(SHOWN), ..LogParams::default() };
                let log = pods.logs(&name, &wanted).await.unwrap_or_else(|error| format!("no log: {error}"));
                let shortened = |line: &str| format!("    {container}| {}", line.chars().take(300).collect::<String>());
                lines.extend(log.lines().map(shortened));
            }
        }
        lines.join("\n")
    }
}
