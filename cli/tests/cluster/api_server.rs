//! A small API server: one object per path, answers that a test sets, and what it was asked.

use std::convert::Infallible;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// What is answered to requests whose line begins so; the longest that fits counts.
#[derive(Debug, Clone)]
struct Answer {
    begins: String,
    status: u16,
    body: String,
}

#[derive(Debug, Default)]
struct State {
    answers: Vec<Answer>,
    asked: Vec<(String, String)>,
    /// Answers that take effect once something was patched.
    after_patch: Vec<Answer>,
}

/// An API server, and a kubeconfig that leads to it.
pub(crate) struct ApiServer {
    _runtime: Runtime,
    state: Arc<Mutex<State>>,
    folder: TempDir,
}

/// Where runs of the namespace are.
pub(crate) const RUNS: &str = "/apis/atoll.dev/v1alpha1/namespaces/research/trainingruns";
/// Where its islands are.
pub(crate) const ISLANDS: &str = "/apis/atoll.dev/v1alpha1/namespaces/research/trainingislands";
/// Where its pods are.
pub(crate) const PODS: &str = "/api/v1/namespaces/research/pods";

impl ApiServer {
    /// One with the run `kjv`, its island and one pod.
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        runtime.spawn(serve(listener, state.clone()));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config"), kubeconfig(&format!("http://{address}"))).unwrap();
        let server = Self { _runtime: runtime, state, folder };
        server.answer(&format!("GET {RUNS}/kjv"), 200, &run(&running()));
        server.answer(&format!("GET {RUNS}?"), 200, &list(&[run(&running())]));
        server.answer(&format!("PATCH {RUNS}/kjv"), 200, &run(&running()));
        server.answer(&format!("GET {PODS}?"), 200, &list(&[pod()]));
        server.answer(&format!("GET {ISLANDS}?"), 200, &list(&[]));
        server.answer("GET /api/v1/namespaces/research/events?", 200, &list(&[event()]));
        server
    }

    /// Sets an answer.
    pub(crate) fn answer(&self, begins: &str, status: u16, body: &Value) {
        self.answer_text(begins, status, &body.to_string());
    }

    /// Sets an answer that is no JSON.
    pub(crate) fn answer_text(&self, begins: &str, status: u16, body: &str) {
        let answer = Answer { begins: begins.to_owned(), status, body: body.to_owned() };
        let mut state = self.state.lock().unwrap();
        state.answers.retain(|known| known.begins != begins);
        state.answers.push(answer);
    }

    /// Sets an answer for the time after the first patch.
    pub(crate) fn answer_after_patch(&self, begins: &str, body: &Value) {
        let answer = Answer { begins: begins.to_owned(), status: 200, body: body.to_string() };
        self.state.lock().unwrap().after_patch.push(answer);
    }

    /// Bodies of the patches that were sent.
    pub(crate) fn patches(&self) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        let patches = state.asked.iter().filter(|(line, _)| line.starts_with("PATCH"));
        patches.map(|(_, body)| serde_json::from_str(body).unwrap()).collect()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `atoll` with the kubeconfig.
    pub(crate) fn atoll(&self, arguments: &[&str]) -> Output {
        let mut command = command(self.folder());
        command.args(arguments).output().unwrap()
    }

    /// What `atoll` prints, where it ends well.
    pub(crate) fn prints(&self, arguments: &[&str]) -> String {
        let output = self.atoll(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `atoll` says, where it ends with this code.
    pub(crate) fn says(&self, arguments: &[&str], code: i32) -> String {
        let output = self.atoll(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    }
}

/// `atoll`, with the kubeconfig in `folder`.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
    command.env("KUBECONFIG", folder.join("config")).env("HOME", folder).stdin(Stdio::null());
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(proxy);
    }
    command
}

/// A kubeconfig that leads to `server`.
pub(crate) fn kubeconfig(server: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "me", "namespace": "research" } }],
        "clusters": [{ "name": "lab", "cluster": { "server": server } }],
        "users": [{ "name": "me", "user": {} }],
    })
    .to_string()
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((connection, _)) = listener.accept().await {
        let state = state.clone();
        let service = service_fn(move |request| answered(request, state.clone()));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service));
    }
}

async fn answered(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri());
    let is_patch = request.method() == "PATCH";
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut state = state.lock().unwrap();
    state.asked.push((line.clone(), String::from_utf8_lossy(&body).into_owned()));
    let fitting = state.answers.iter().filter(|answer| line.starts_with(&answer.begins));
    let answer = fitting.max_by_key(|answer| answer.begins.len()).cloned();
    if is_patch {
        let later = std::mem::take(&mut state.after_patch);
        state.answers.retain(|known| later.iter().all(|later| later.begins != known.begins));
        state.answers.extend(later);
    }
    let answer = answer.unwrap_or(Answer { begins: String::new(), status: 404, body: "404 page not found\n".into() });
    Ok(Response::builder().status(answer.status).body(Full::from(answer.body)).unwrap())
}

/// What the API server says when it refuses.
pub(crate) fn refusal(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message })
}

/// A list as the API server gives it.
pub(crate) fn list(items: &[Value]) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "1" }, "items": items })
}

/// The run `kjv` with a status.
pub(crate) fn run(status: &Value) -> Value {
    json!({
        "apiVersion": "atoll.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": { "name": "kjv", "namespace": "research", "generation": 1, "creationTimestamp": "2026-11-28T12:00:00Z" },
        "spec": { "workers": { "target": 1 }, "stop": { "steps": 100 }, "checkpoint": { "uri": "s3://models/kjv" } },
        "status": status,
    })
}

/// A condition.
pub(crate) fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-28T12:00:05Z",
    })
}

/// The status of a run that trains.
pub(crate) fn running() -> Value {
    json!({
        "observedGeneration": 1,
        "phase": "Running",
        "attempt": 1,
        "conditions": [condition("Progressing", "True", "Training", "")],
        "workers": { "desired": 1, "ready": 1, "training": 1, "summary": "1/1" },
        "progress": { "coordinator": "w0", "round": 3, "step": 60, "tokens": 15_360, "lossText": "2.5000", "percent": 60 },
        "lastCheckpoint": { "place": "e1-r2", "round": 2 },
    })
}

fn pod() -> Value {
    let container = |name: &str| json!({ "name": name, "restartCount": 0, "ready": true, "image": "", "imageID": "", "state": { "running": {} } });
    json!({
        "metadata": {
            "name": "kjv-local-0-abcde",
            "namespace": "research",
            "annotations": { "batch.kubernetes.io/job-completion-index": "0" },
            "creationTimestamp": "2026-11-28T12:00:01Z",
        },
        "spec": { "nodeName": "node-1", "containers": [] },
        "status": {
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True" }],
            "initContainerStatuses": [container("sidecar")],
            "containerStatuses": [container("trainer")],
        },
    })
}

fn event() -> Value {
    json!({
        "metadata": { "name": "e", "namespace": "research" },
        "involvedObject": { "kind": "TrainingRun", "name": "kjv" },
        "lastTimestamp": "2026-11-28T12:00:05Z",
        "type": "Normal", "reason": "Admitted", "message": "the runtime was kept", "count": 1,
    })
}
