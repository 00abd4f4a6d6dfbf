//! Pods of a tiny run: each a sidecar and a trainer on a loopback address of its own, with a folder that both share.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atoll_crds::spec::TrainingRunSpec;
use atoll_proto::v1::{CheckpointFolder, RunSettings};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::hub::{Place, token};

/// Longest that anything in these runs may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `is` so.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is() {
        assert!(since.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What all pods of a run have in common.
pub(crate) struct Ground {
    folder: tempfile::TempDir,
    /// Third number of their addresses: other tests have others.
    net: u8,
    pub(crate) workers: u32,
}

impl Ground {
    pub(crate) fn new(net: u8, workers: u32, steps: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let words = ["in ", "the ", "beginning ", "was ", "a ", "word ", "and ", "it ", "had ", "shape.\n"];
        let text: String = (0..8_000_usize).map(|index| words[(index * index + index / 7) % words.len()]).collect();
        fs::write(folder.path().join("text.txt"), text).unwrap();
        let llama = json!({"layers": 1, "hiddenSize": 16, "heads": 2, "intermediateSize": 32, "contextLength": 16});
        let spec = json!({
            "model": {"architecture": {"llama": llama}},
            "dataset": {"source": {"uri": "text.txt"}, "tokenizer": {"characters": {}}},
            "optimizer": {"adamW": {"learningRate": 3.0e-3}},
            "method": {"diLoCo": {"innerSteps": 2, "outerLearningRate": 0.7, "outerMomentum": 0.9}},
            "workers": {"min": workers, "target": workers},
            "rounds": {"quorum": {"min": 1}},
            "checkpoint": {"uri": folder.path().join("kept"), "everyRounds": 1_000_000},
            "stop": {"steps": steps},
            "evaluation": {"windows": 4},
        });
        let spec: TrainingRunSpec = serde_json::from_value(spec).unwrap();
        fs::write(folder.path().join("spec.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
        Self { folder, net, workers }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the hub says of the run.
    pub(crate) fn settings(&self) -> RunSettings {
        RunSettings {
            minimum: self.workers,
            target: self.workers,
            quorum: 1,
            join_window_milliseconds: 30_000,
            liveness_milliseconds: 2_000,
            progress_milliseconds: 30_000,
            round_timeout_milliseconds: 600_000,
            drop_stragglers: true,
            checkpoints: Some(CheckpointFolder {
                uri: self.path("kept").display().to_string(),
                every_rounds: Some(1_000_000),
                keep: 3,
                ..CheckpointFolder::default()
            }),
        }
    }

    /// The pods of an attempt, with its hub at `hub`.
    pub(crate) fn pods(&self, attempt: u32, hub: &Place) -> Vec<Pod> {
        fs::write(self.path("hub.pem"), &hub.roots).unwrap();
        (0..self.workers).map(|slot| self.pod(attempt, slot, hub)).collect()
    }

    fn pod(&self, attempt: u32, slot: u32, hub: &Place) -> Pod {
        let folder = self.path(&format!("{attempt}-{slot}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("token"), token(&format!("w{slot}"))).unwrap();
        let environment = [
            ("ATOLL_HUB", hub.address.clone()),
            ("ATOLL_HUB_ROOTS", self.path("hub.pem").display().to_string()),
            ("ATOLL_TOKEN", folder.join("token").display().to_string()),
            ("ATOLL_POD_IP", format!("127.0.{}.{}", self.net, slot + 1)),
            ("ATOLL_SHARED", folder.display().to_string()),
            ("ATOLL_GRACE_SECONDS", "10".to_owned()),
            ("ATOLL_SPEC", self.path("spec.json").display().to_string()),
            ("ATOLL_DATA", self.folder.path().display().to_string()),
            ("ATOLL_SCRATCH", folder.display().to_string()),
            ("RAYON_NUM_THREADS", "1".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let [sidecar, trainer] = [sidecar(), env!("CARGO_BIN_EXE_atoll-trainer").into()];
        let sidecar = start(&sidecar, &folder, "sidecar", &environment);
        let trainer = start(&trainer, &folder, "trainer", &environment);
        Pod { folder, environment, sidecar, trainer }
    }
}

/// Beside the tests, where cargo puts the examples that it builds with them.
fn sidecar() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("examples/pod_sidecar");
    assert!(program.exists(), "{} is built by `cargo test --package atoll-trainer`", program.display());
    program
}

fn start(program: &Path, folder: &Path, role: &str, environment: &[(String, String)]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join(format!("{role}.log"))).unwrap();
    let last_words = folder.join(format!("{role}.last"));
    let mut command = Command::new(program);
    command.envs(environment.iter().cloned()).env("ATOLL_TERMINATION_LOG", last_words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// A sidecar and a trainer.
pub(crate) struct Pod {
    folder: PathBuf,
    environment: Vec<(String, String)>,
    sidecar: Child,
    trainer: Child,
}

impl Pod {
    /// What its processes have logged, for whoever looks into a failed test.
    fn log(&self) -> String {
        ["sidecar.log", "trainer.log"].map(|name| fs::read_to_string(self.folder.join(name)).unwrap_or_default()).join("\n")
    }

    /// Waits until its trainer has ended; the exit code.
    pub(crate) async fn trained(&mut self) -> Option<i32> {
        until(&self.log(), || self.trainer.try_wait().unwrap().is_some()).await;
        self.trainer.wait().unwrap().code()
    }

    /// What the trainer left as its last words.
    pub(crate) fn outcome(&self) -> Value {
        let text = fs::read_to_string(self.folder.join("trainer.last")).unwrap_or_else(|_| panic!("{}", self.log()));
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
    }

    /// Kills the sidecar alone, and starts it again in its place.
    pub(crate) fn restart_sidecar(&mut self) {
        self.sidecar.kill().unwrap();
        self.sidecar.wait().unwrap();
        self.sidecar = start(&sidecar(), &self.folder, "sidecar", &self.environment);
    }

    /// Tells a process to end; the exit code.
    async fn stop(child: &mut Child) -> Option<i32> {
        if child.try_wait().unwrap().is_none() {
            kill_process(Pid::from_child(child), Signal::TERM).unwrap();
        }
        until("a process ends as it is told", || child.try_wait().unwrap().is_some()).await;
        child.wait().unwrap().code()
    }

    /// Ends the sidecar; the exit code.
    pub(crate) async fn stop_sidecar(&mut self) -> Option<i32> {
        Self::stop(&mut self.sidecar).await
    }

    /// Ends the trainer, then the sidecar, as a kubelet does; the exit codes.
    pub(crate) async fn delete(&mut self) -> (Option<i32>, Option<i32>) {
        (Self::stop(&mut self.trainer).await, Self::stop(&mut self.sidecar).await)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for child in [&mut self.sidecar, &mut self.trainer] {
            let _ended_already = child.kill();
            let _status = child.wait();
        }
    }
}
