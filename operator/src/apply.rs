//! Carrying out a plan: every write of the operator is here.

use std::fmt::Debug;
use std::sync::Arc;

use atoll_crds::island::TrainingIsland;
use atoll_crds::kept::TrainingCheckpoint;
use atoll_crds::spec::TrainingRun;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::build::Object;
use crate::names::{self, FINALIZER, MANAGER};
use crate::plan::{JobChange, Note, Plan};

/// Longest note of an event, in bytes.
const LONGEST_NOTE: usize = 1000;

/// A kind of objects that a namespace has.
trait Kind: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned {}

impl<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned> Kind for K {}

/// Writes for one run.
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) namespace: String,
}

impl Writer {
    /// What is written before the status.
    pub(crate) async fn prepare(&self, run: &TrainingRun, plan: &Plan) -> kube::Result<()> {
        if let Some(wanted) = plan.finalizer {
            self.finalizer(run, wanted).await?;
        }
        for object in &plan.objects {
            self.apply(object).await?;
        }
        Ok(())
    }

    /// Writes the status where it has changed; gives the run as it is then.
    pub(crate) async fn status(&self, run: &TrainingRun, plan: &Plan) -> kube::Result<Option<TrainingRun>> {
        if run.status.as_ref() == Some(&plan.status) {
            return Ok(None);
        }
        let written = self.apply_status(&run.name_any(), &json!(plan.status)).await?;
        if let Some(status) = &plan.island {
            gone_is_fine(self.apply_status::<TrainingIsland>(&names::job(&run.name_any()), status).await)?;
        }
        Ok(Some(written))
    }

    /// What is written after the status.
    pub(crate) async fn carry_out(&self, run: &TrainingRun, plan: &Plan) -> kube::Result<()> {
        match &plan.job {
            Some(JobChange::Create(object)) => self.create_job(object).await?,
            Some(JobChange::Change(patch)) => gone_is_fine(self.change::<Job>(&names::job(&run.name_any()), patch).await)?,
            None => {}
        }
        for (object, status) in &plan.kept {
            self.apply(object).await?;
            self.apply_status::<TrainingCheckpoint>(&object.name, status).await?;
        }
        for name in &plan.removed {
            let checkpoints: Api<TrainingCheckpoint> = self.api();
            gone_is_fine(checkpoints.delete(name, &DeleteParams::default()).await)?;
        }
        for name in &plan.lost_pods {
            let pods: Api<Pod> = self.api();
            // Its Job replaces what has failed, and waits for what goes.
            let failed = json!({ "status": { "phase": "Failed", "reason": "NodeLost", "message": "its node and its sidecar are silent" } });
            gone_is_fine(pods.patch_status(name, &PatchParams::default(), &Patch::Merge(failed)).await)?;
            gone_is_fine(pods.delete(name, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await)?;
        }
        if plan.stuck_pods && self.namespace_goes().await? {
            let jobs: Api<Job> = self.api();
            gone_is_fine(jobs.delete(&names::job(&run.name_any()), &DeleteParams::background()).await)?;
        }
        if plan.suspend {
            self.change::<TrainingRun>(&run.name_any(), &json!({ "spec": { "suspend": true } })).await?;
        }
        if plan.delete {
            self.delete(run).await?;
        }
        Ok(())
    }

    /// Tells people; what cannot be told is no reason to stop.
    pub(crate) async fn tell(&self, run: &TrainingRun, notes: &[Note]) {
        for note in notes {
            let text = note.message[..note.message.floor_char_boundary(LONGEST_NOTE)].to_owned();
            let event = Event {
                type_: if note.warning { EventType::Warning } else { EventType::Normal },
                reason: note.reason.clone(),
                note: Some(text),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, &run.object_ref(&())).await {
                tracing::debug!(%error, reason = note.reason, "an event was not written");
            }
        }
    }

    /// Adds or removes the finalizer, of all that the run has; not where it was changed meanwhile.
    async fn finalizer(&self, run: &TrainingRun, wanted: bool) -> kube::Result<()> {
        let mut finalizers: Vec<String> = run.finalizers().iter().filter(|found| *found != FINALIZER).cloned().collect();
        if wanted {
            finalizers.push(FINALIZER.to_owned());
        }
        let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": run.resource_version() } });
        gone_is_fine(self.change::<TrainingRun>(&run.name_any(), &patch).await)
    }

    /// Whether nothing new can be made in the namespace any more, which only a try shows to who may not read namespaces.
    async fn namespace_goes(&self) -> kube::Result<bool> {
        let maps: Api<ConfigMap> = self.api();
        let map = ConfigMap {
            metadata: ObjectMeta { generate_name: Some("atoll-".to_owned()), ..ObjectMeta::default() },
            ..ConfigMap::default()
        };
        match maps.create(&PostParams { dry_run: true, ..PostParams::default() }, &map).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() && status.message.contains("being terminated") => Ok(true),
            Err(kube::Error::Api(_)) | Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn apply(&self, object: &Object) -> kube::Result<()> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &object.namespace, &object.resource);
        api.patch(&object.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object.value)).await.map(drop)
    }

    /// Applies all that the operator says of an object's status.
    async fn apply_status<K: Kind>(&self, name: &str, status: &Value) -> kube::Result<K> {
        let patch = json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status });
        self.api().patch_status(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&patch)).await
    }

    /// Changes an object by a merge patch.
    async fn change<K: Kind>(&self, name: &str, patch: &Value) -> kube::Result<K> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.api().patch(name, &params, &Patch::Merge(patch)).await
    }

    /// A Job's template cannot be changed once it has run: it is made once, and changed by the few fields that can be.
    async fn create_job(&self, object: &Object) -> kube::Result<()> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &object.namespace, &object.resource);
        let job: DynamicObject = serde_json::from_value(object.value.clone()).map_err(kube::Error::SerdeError)?;
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match api.create(&params, &job).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            result => result.map(drop),
        }
    }

    /// Deletes exactly this run, and not one of the same name that came after it.
    async fn delete(&self, run: &TrainingRun) -> kube::Result<()> {
        let runs: Api<TrainingRun> = self.api();
        let preconditions = Preconditions { uid: run.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        gone_is_fine(runs.delete(&run.name_any(), &params).await)
    }

    fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// What is not there any more needs nothing.
fn gone_is_fine<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => result.map(drop),
    }
}
