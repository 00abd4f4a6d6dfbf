//! A small run in a folder of its own, and what can be asked of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that anything in these runs may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// A run file of a tiny model; `METHOD` and `STEPS` are put in.
const RUN: &str = "apiVersion: atoll.dev/v1alpha1
kind: TrainingRun
metadata: {name: tiny}
spec:
  model: {architecture: {llama: {layers: 1, hiddenSize: 16, heads: 2, intermediateSize: 32, contextLength: 16}}}
  dataset: {source: {uri: text.txt}, tokenizer: {characters: {}}}
  optimizer: {adamW: {learningRate: 3.0e-3}}
  method: METHOD
  workers: {min: 2, target: 2}
  rounds: {quorum: {min: 1}, joinWindowSeconds: 10}
  stop: {steps: STEPS}
  evaluation: {windows: 8}
";

pub(crate) struct Laboratory {
    folder: tempfile::TempDir,
}

impl Laboratory {
    /// A folder with a text and a run file.
    pub(crate) fn new(method: &str, steps: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let words = ["in ", "the ", "beginning ", "was ", "a ", "word ", "and ", "it ", "had ", "shape.\n"];
        let text: String = (0..8_000_usize).map(|index| words[(index * index + index / 7) % words.len()]).collect();
        fs::write(folder.path().join("text.txt"), text).unwrap();
        let run = RUN.replace("METHOD", method).replace("STEPS", &steps.to_string());
        fs::write(folder.path().join("run.yaml"), run).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.path().join("out")
    }

    /// `atoll run run.yaml --out out` with more arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command.current_dir(self.path()).args(["run", "run.yaml", "--out", "out"]).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs in the background.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.out().join("report.json")).unwrap()).unwrap()
    }

    /// All whole lines of `events.jsonl` so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.out().join("events.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an event that satisfies `wanted`.
    pub(crate) fn wait_for(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.events().into_iter().find(&wanted) {
                return event;
            }
            assert!(Instant::now() < until, "the event never came; there were {:#?}", self.events());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The newest process id of a worker's sidecar or trainer.
    pub(crate) fn pid(&self, worker: &str, process: &str) -> i32 {
        let event =
            self.wait_for(|event| event["event"] == "ProcessStarted" && event["worker"] == worker && event["process"] == process);
        event["pid"].as_i64().unwrap() as i32
    }

    /// Every process that the run ever started is gone, and so are its sockets.
    pub(crate) fn assert_nothing_is_left(&self) {
        let pids: Vec<_> = self
            .events()
            .iter()
            .filter(|event| event["event"] == "ProcessStarted")
            .map(|event| event["pid"].as_i64().unwrap())
            .collect();
        assert!(!pids.is_empty());
        Self::assert_are_gone(&pids);
        assert!(!self.out().join(".lock").exists() || !self.out().join("report.json").exists());
    }

    /// These processes of a run end, if they have not ended yet.
    pub(crate) fn assert_are_gone(pids: &[i64]) {
        let until = Instant::now() + PATIENCE;
        for &pid in pids {
            // Orphans are reaped by whoever adopts them, in its own time; a zombie is no process any more.
            while alive(pid) {
                assert!(Instant::now() < until, "process {pid} is left");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn alive(pid: i64) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    state.is_some_and(|state| state != "Z") && command.contains("atoll")
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Waits for the end and returns the exit code.
pub(crate) fn code(child: &mut Child) -> Option<i32> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < until, "the run does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}
