//! Where the record of a run is stored: one object that is changed by compare-and-swap alone.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Client};

use super::Attempt;
use crate::names;

/// Key in the `ConfigMap`.
const KEY: &str = "record";

/// What names one state of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// Why nothing was read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has written it since.
    #[error("somebody else has written the record since it was read")]
    Conflict,
    /// It cannot be said whether it was written.
    #[error("the record cannot be stored: {0}")]
    Unavailable(String),
}

/// Stores the record of each run.
#[tonic::async_trait]
pub trait RecordStore: Send + Sync + 'static {
    /// What is stored of the run, whichever attempt wrote it.
    async fn load(&self, run: &Attempt) -> Result<Option<(Vec<u8>, Version)>, StoreError>;

    /// Stores `bytes` where what is stored has version `expected`, or where nothing is stored.
    async fn swap(&self, run: &Attempt, expected: Option<Version>, bytes: Vec<u8>) -> Result<Version, StoreError>;
}

/// A `ConfigMap` beside each run, which goes with it.
#[derive(Clone)]
pub struct ConfigMaps {
    client: Client,
}

impl ConfigMaps {
    /// Over the API server of `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn of(&self, run: &Attempt) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &run.key.namespace)
    }
}

#[tonic::async_trait]
impl RecordStore for ConfigMaps {
    async fn load(&self, run: &Attempt) -> Result<Option<(Vec<u8>, Version)>, StoreError> {
        let found = self.of(run).get_opt(&name(run)).await.map_err(|error| failed(&error))?;
        found.map(|found| Ok((content(&found), version(&found)?))).transpose()
    }

    async fn swap(&self, run: &Attempt, expected: Option<Version>, bytes: Vec<u8>) -> Result<Version, StoreError> {
        let (objects, parameters) = (self.of(run), PostParams::default());
        let object = object(run, expected.clone(), bytes);
        let written = match expected {
            None => objects.create(&parameters, &object).await,
            Some(_) => objects.replace(&name(run), &parameters, &object).await,
        };
        version(&written.map_err(|error| failed(&error))?)
    }
}

/// Name of the object of a run.
fn name(run: &Attempt) -> String {
    format!("{}-arbiter", run.key.name)
}

fn object(run: &Attempt, expected: Option<Version>, bytes: Vec<u8>) -> ConfigMap {
    let owner = OwnerReference {
        api_version: "atoll.dev/v1alpha1".into(),
        kind: "TrainingRun".into(),
        name: run.key.name.clone(),
        uid: run.uid.clone(),
        ..OwnerReference::default()
    };
    let labels = [(names::RUN, run.key.name.as_str()), ("app.kubernetes.io/managed-by", names::MANAGER)];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name(run)),
            namespace: Some(run.key.namespace.clone()),
            labels: Some(labels.into()),
            owner_references: Some(vec![owner]),
            resource_version: expected.map(|Version(version)| version),
            ..ObjectMeta::default()
        },
        binary_data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(bytes))])),
        ..ConfigMap::default()
    }
}

/// Empty where the object has no record.
fn content(object: &ConfigMap) -> Vec<u8> {
    let stored = object.binary_data.as_ref().and_then(|stored| stored.get(KEY));
    stored.map(|bytes| bytes.0.clone()).unwrap_or_default()
}

fn version(object: &ConfigMap) -> Result<Version, StoreError> {
    let told = object.metadata.resource_version.clone().map(Version);
    told.ok_or_else(|| StoreError::Unavailable("the API server tells no version of the object".into()))
}

/// An object that is there already, is another, or is gone is a conflict.
fn failed(error: &kube::Error) -> StoreError {
    match error {
        kube::Error::Api(status) if [404, 409].contains(&status.code) && status.reason != "NamespaceTerminating" => {
            StoreError::Conflict
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;
    use crate::directory::RunKey;

    /// In memory, for every run; clones share what is stored, and whether it can be reached.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Memory(Arc<Mutex<Stored>>);

    #[derive(Debug, Default)]
    struct Stored {
        objects: BTreeMap<RunKey, (Vec<u8>, u64)>,
        writes: u64,
        down: bool,
        mute: bool,
    }

    impl Memory {
        pub(crate) fn set_down(&self, down: bool) {
            self.0.lock().unwrap().down = down;
        }

        /// Writes from now on, and does not say so.
        pub(crate) fn set_mute(&self, mute: bool) {
            self.0.lock().unwrap().mute = mute;
        }

        pub(crate) fn writes(&self) -> u64 {
            self.0.lock().unwrap().writes
        }

        /// Writes as somebody who does not ask for the version.
        pub(crate) fn overwrite(&self, key: &RunKey, bytes: Vec<u8>) {
            let mut stored = self.0.lock().unwrap();
            stored.writes += 1;
            let version = stored.writes;
            stored.objects.insert(key.clone(), (bytes, version));
        }

        pub(crate) fn remove(&self, key: &RunKey) {
            self.0.lock().unwrap().objects.remove(key);
        }
    }

    #[tonic::async_trait]
    impl RecordStore for Memory {
        async fn load(&self, run: &Attempt) -> Result<Option<(Vec<u8>, Version)>, StoreError> {
            let stored = self.0.lock().unwrap();
            if stored.down {
                return Err(StoreError::Unavailable("down".into()));
            }
            Ok(stored.objects.get(&run.key).map(|(bytes, version)| (bytes.clone(), Version(version.to_string()))))
        }

        async fn swap(&self, run: &Attempt, expected: Option<Version>, bytes: Vec<u8>) -> Result<Version, StoreError> {
            let mut stored = self.0.lock().unwrap();
            if stored.down {
                return Err(StoreError::Unavailable("down".into()));
            }
            let found = stored.objects.get(&run.key).map(|(_, version)| Version(version.to_string()));
            if found != expected {
                return Err(StoreError::Conflict);
            }
            stored.writes += 1;
            let version = stored.writes;
            stored.objects.insert(run.key.clone(), (bytes, version));
            if stored.mute {
                return Err(StoreError::Unavailable("no answer".into()));
            }
            Ok(Version(version.to_string()))
        }
    }

    fn run() -> Attempt {
        Attempt { key: RunKey { namespace: "research".into(), name: "kjv".into() }, uid: "u".into(), attempt: 1 }
    }

    /// What `ask` gets, and the request that the API server saw, where that answers with `status` and `body`.
    async fn asked<T>(
        status: u16,
        body: serde_json::Value,
        ask: impl AsyncFnOnce(ConfigMaps) -> T,
    ) -> (T, String, serde_json::Value) {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let answers = async {
            let (request, send) = handle.next_request().await.unwrap();
            let line = format!("{} {}", request.method(), request.uri());
            let sent = request.into_body().collect_bytes().await.unwrap();
            send.send_response(Response::builder().status(status).body(Body::from(body.to_string().into_bytes())).unwrap());
            (line, serde_json::from_slice(&sent).unwrap_or_default())
        };
        let store = ConfigMaps::new(Client::new(service, "default"));
        let (answered, (line, sent)) = tokio::join!(ask(store), answers);
        (answered, line, sent)
    }

    fn stored(version: &str) -> serde_json::Value {
        serde_json::json!({"metadata": {"name": "kjv-arbiter", "resourceVersion": version}, "binaryData": {"record": "BwgJ"}})
    }

    fn refusal(code: u16, reason: &str) -> serde_json::Value {
        serde_json::json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "no"})
    }

    #[tokio::test]
    async fn the_first_write_creates_and_the_next_replaces_what_was_read() {
        let (version, line, sent) = asked(201, stored("5"), async |store| store.swap(&run(), None, vec![7, 8, 9]).await).await;
        assert_eq!((version, line.as_str()), (Ok(Version("5".into())), "POST /api/v1/namespaces/research/configmaps?"));
        assert_eq!(sent["binaryData"]["record"], "BwgJ");
        assert_eq!(sent["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(sent["metadata"]["labels"]["atoll.dev/run"], "kjv");
        assert_eq!(sent["metadata"]["resourceVersion"], serde_json::Value::Null);
        let next = async |store: ConfigMaps| store.swap(&run(), Some(Version("5".into())), vec![1]).await;
        let (version, line, sent) = asked(200, stored("6"), next).await;
        assert_eq!(version, Ok(Version("6".into())));
        assert_eq!(line, "PUT /api/v1/namespaces/research/configmaps/kjv-arbiter?");
        assert_eq!(sent["metadata"]["resourceVersion"], "5");
    }

    #[tokio::test]
    async fn what_is_stored_is_read_with_its_version() {
        let load = async |store: ConfigMaps| store.load(&run()).await;
        assert_eq!(asked(200, stored("5"), load).await.0, Ok(Some((vec![7, 8, 9], Version("5".into())))));
        assert_eq!(asked(404, refusal(404, "NotFound"), load).await.0, Ok(None));
        let empty = serde_json::json!({"metadata": {"name": "kjv-arbiter", "resourceVersion": "9"}});
        assert_eq!(asked(200, empty, load).await.0, Ok(Some((Vec::new(), Version("9".into())))), "there, and not a record");
    }

    #[tokio::test]
    async fn a_conflict_is_told_apart_from_trouble() {
        let swap = async |store: ConfigMaps| store.swap(&run(), Some(Version("5".into())), vec![1]).await;
        assert_eq!(asked(409, refusal(409, "Conflict"), swap).await.0, Err(StoreError::Conflict));
        assert_eq!(asked(404, refusal(404, "NotFound"), swap).await.0, Err(StoreError::Conflict));
        assert!(matches!(asked(500, refusal(500, "InternalError"), swap).await.0, Err(StoreError::Unavailable(_))));
        assert!(matches!(asked(403, refusal(403, "Forbidden"), swap).await.0, Err(StoreError::Unavailable(_))));
    }
}
