//! A run of real sidecars whose trainers are threads of the test, and what can be asked of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atoll_collective::chain;
use atoll_sdk::{Coding, CommitRecord, Contribution, ElementType, Options, Outcome, Part, Region, SdkError, Session, State};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_mins(2);
/// Pause between two looks at the run.
const LOOK: Duration = Duration::from_millis(5);
/// How long a trainer computes in each round.
const STEP: Duration = Duration::from_millis(5);
/// Name of the run.
const RUN: &str = "laboratory";
/// Elements of the vector that each round reduces.
pub(crate) const ELEMENTS: usize = 4096;
const BYTES: std::ops::Range<usize> = 0..4 * ELEMENTS;

/// A round that one worker saw committed.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) record: CommitRecord,
    /// Slots that took part.
    pub(crate) slots: Vec<u32>,
    result: Vec<f32>,
}

impl Round {
    pub(crate) fn number(&self) -> u64 {
        self.record.round
    }
}

/// What a worker gives: a multiple of 12, so that the mean of two, three or four is exact.
fn given(slot: u32, round: u64, index: usize) -> f32 {
    (12 * ((slot as usize + 1) * (index + 1) + round as usize)) as f32
}

type Rounds = Arc<Mutex<Vec<Round>>>;

/// The sidecars, their trainers, and what they said.
pub(crate) struct Sidecars {
    supervisor: Child,
    folder: tempfile::TempDir,
    said: Arc<Mutex<Vec<String>>>,
    rounds: Rounds,
    stop: Arc<AtomicBool>,
    trainers: Vec<JoinHandle<()>>,
}

impl Sidecars {
    /// Starts so many, whose arbiter shall be `Peers`, and waits until all have reduced together under it.
    pub(crate) fn start(workers: u32, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command.arg("sidecars");
        if !arguments.contains(&"--liveness") {
            command.args(["--liveness", "2"]);
        }
        command.args(["--run", RUN, "--arbiter", "peers", "--workers", &workers.to_string()]);
        command.arg("--socket-dir").arg(folder.path()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut supervisor = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (errors, heard) = (supervisor.stderr.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            BufReader::new(errors).lines().map_while(Result::ok).for_each(|line| heard.lock().unwrap().push(line));
        });
        let sockets = BufReader::new(supervisor.stdout.take().unwrap()).lines().take(workers as usize);
        assert_eq!(sockets.map_while(Result::ok).count(), workers as usize, "{:?}", said.lock().unwrap());
        let (rounds, stop) = (Rounds::default(), Arc::new(AtomicBool::new(false)));
        let trainers = (0..workers).map(|slot| {
            let (socket, rounds, stop) = (folder.path().join(format!("w{slot}.sock")), Arc::clone(&rounds), Arc::clone(&stop));
            std::thread::spawn(move || train(slot, socket, &rounds, &stop))
        });
        let trainers = trainers.collect();
        let sidecars = Self { supervisor, folder, said, rounds, stop, trainers };
        sidecars.event(|event| event["event"] == "Epoch" && event["arbiter"] == "Peers");
        sidecars.round_of(&(0..workers).collect::<Vec<_>>(), 0);
        sidecars
    }

    pub(crate) fn socket(&self, slot: u32) -> PathBuf {
        self.folder.path().join(format!("w{slot}.sock"))
    }

    /// Lines of standard error so far.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Events so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.said().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an event.
    pub(crate) fn event(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until(|| self.events().into_iter().find(&wanted))
    }

    /// Waits until something is found.
    pub(crate) fn until<T>(&self, found: impl Fn() -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(since.elapsed() < PATIENCE, "it never came; newest round {:?}; {:#?}", self.newest(), self.said());
            std::thread::sleep(LOOK);
        }
    }

    /// Number of the newest round that a worker saw committed.
    pub(crate) fn newest(&self) -> u64 {
        self.rounds.lock().unwrap().iter().map(Round::number).max().unwrap_or(0)
    }

    /// Waits for a round after `after` that satisfies `wanted`.
    pub(crate) fn round(&self, after: u64, wanted: impl Fn(&Round) -> bool) -> Round {
        let fits = |round: &&Round| round.number() > after && wanted(round);
        self.until(|| self.rounds.lock().unwrap().iter().find(fits).cloned())
    }

    /// Waits for a round of exactly these slots after `after`.
    pub(crate) fn round_of(&self, slots: &[u32], after: u64) -> Round {
        self.round(after, |round| round.slots == slots)
    }

    /// Slot of the newest coordinator.
    pub(crate) fn coordinator(&self) -> u32 {
        let took = |event: &Value| event["event"] == "Coordinator";
        let newest = self.events().into_iter().filter(took).max_by_key(|event| event["term"].as_u64()).unwrap();
        newest["worker"].as_str().unwrap()[1..].parse().unwrap()
    }

    /// Process id of a worker's newest sidecar.
    pub(crate) fn pid(&self, slot: u32) -> i32 {
        let worker = format!("w{slot}");
        let started = |event: &&Value| event["event"] == "ProcessStarted" && event["worker"] == worker;
        self.events().iter().rfind(started).unwrap()["pid"].as_i64().unwrap() as i32
    }

    /// Whether others can dial a worker's sidecar: it listens on a port beside that of its metrics.
    pub(crate) fn can_be_dialled(&self, slot: u32) -> bool {
        let told = self.event(|event| event["event"] == "Metrics" && event["worker"] == format!("w{slot}"));
        let metrics = told["url"].as_str().unwrap().to_owned();
        ports(self.pid(slot)).iter().any(|port| !metrics.contains(&format!(":{port}/")))
    }

    /// Number of rounds so far in which a worker took part.
    pub(crate) fn rounds_of(&self, slot: u32) -> u64 {
        let rounds = self.rounds.lock().unwrap();
        let numbers: BTreeSet<u64> = rounds.iter().filter(|round| round.slots.contains(&slot)).map(Round::number).collect();
        numbers.len() as u64
    }

    /// Bytes that a worker's sidecar has sent to its peers, and received from them.
    pub(crate) fn lane_bytes(&self, slot: u32) -> (u64, u64) {
        let told = self.event(|event| event["event"] == "Metrics" && event["worker"] == format!("w{slot}"));
        let url = told["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
        let (address, path) = url.split_once('/').unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let sum = |direction: &str| {
            let counted = |line: &&str| line.starts_with("atoll_lane_bytes_total{") && line.contains(direction);
            text.lines().filter(counted).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
        };
        (sum("\"sent\""), sum("\"received\""))
    }

    /// Sends a signal to these workers' sidecars.
    pub(crate) fn signal(&self, slots: &[u32], signal: Signal) {
        for slot in slots {
            send(self.pid(*slot), signal);
        }
    }

    /// Sends a signal to the process that hosts the hub and starts again what is killed.
    pub(crate) fn signal_hub(&self, signal: Signal) {
        send(self.supervisor.id() as i32, signal);
    }

    /// `atoll recover` with the sockets of these workers.
    pub(crate) fn recover(&self, slots: &[u32]) -> Output {
        let sockets = slots.iter().map(|slot| self.socket(*slot));
        Command::new(env!("CARGO_BIN_EXE_atoll")).arg("recover").args(sockets).stdin(Stdio::null()).output().unwrap()
    }

    /// Ends the run in good order, and returns the lines that it said in the end.
    pub(crate) fn end(mut self) -> Vec<String> {
        self.terminate();
        self.said()
    }

    fn terminate(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.signal_hub(Signal::TERM);
        self.supervisor.wait().unwrap();
        for trainer in self.trainers.drain(..) {
            trainer.join().unwrap();
        }
    }

    /// Every round that anybody saw is the exact mean of those who took part, is the same for all, and follows the one before.
    pub(crate) fn assert_one_history(&self) {
        let mut history: BTreeMap<u64, CommitRecord> = BTreeMap::new();
        for round in self.rounds.lock().unwrap().iter() {
            let number = round.number();
            let known = history.entry(number).or_insert_with(|| round.record.clone());
            assert_eq!(*known, round.record, "two histories in round {number}");
            for (index, value) in round.result.iter().enumerate() {
                let sum: f32 = round.slots.iter().map(|slot| given(*slot, number, index)).sum();
                let mean = sum / round.slots.len() as f32;
                assert_eq!(value.to_bits(), mean.to_bits(), "round {number}, element {index}: {value}, not {mean}");
            }
        }
        for (number, record) in &history {
            // A worker that was away when a round was committed has not seen it.
            if let Some(before) = history.get(&(number - 1)) {
                assert_eq!(record.previous, chain::hash(before), "round {number} does not follow");
            }
        }
    }
}

impl Drop for Sidecars {
    fn drop(&mut self) {
        if self.trainers.is_empty() {
            return;
        }
        // A stopped process hears nothing.
        self.signal_hub(Signal::CONT);
        self.stop.store(true, Ordering::Relaxed);
        self.supervisor.kill().unwrap();
        self.supervisor.wait().unwrap();
    }
}

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// A trainer: in each round it gives its vector, and the mean becomes the state that all share.
fn train(slot: u32, socket: PathBuf, rounds: &Rounds, stop: &AtomicBool) {
    let patience = Duration::from_millis(200);
    let options = Options { run: RUN.into(), socket, incarnation: 1, rank: 0, ranks: 1, patience };
    let mut session = Session::new(options).unwrap();
    let [state, mut input, output] = ["state", "input", "output"].map(|name| session.share(name, BYTES.len() as u64).unwrap());
    let mut next = 1;
    while !stop.load(Ordering::Relaxed) {
        match train_once(&mut session, (slot, next), &mut input) {
            Ok(Some((record, slots))) => {
                next = record.round + 1;
                let mean = output.bytes(BYTES).unwrap();
                assert!(state.write(0, mean));
                let result = output.values(BYTES).unwrap().to_vec();
                rounds.lock().unwrap().push(Round { record, slots, result });
            }
            Ok(None) | Err(SdkError::Again(_) | SdkError::NoSidecar { .. } | SdkError::Passing { .. }) => {}
            Err(error) => panic!("worker {slot}: {error}"),
        }
    }
}

/// What was committed; none where the round was aborted.
fn train_once(
    session: &mut Session,
    (slot, next): (u32, u64),
    input: &mut Region,
) -> Result<Option<(CommitRecord, Vec<u32>)>, SdkError> {
    let part = |region: &str| Part { region: region.to_owned(), range: BYTES };
    let begun = session.begin_round(next, &State::default().with("vector", ElementType::F32, part("state")), 0)?;
    std::thread::sleep(STEP);
    for (index, value) in input.values_mut(BYTES).unwrap().iter_mut().enumerate() {
        *value = given(slot, begun.round, index);
    }
    let (input, output, deadline) = (part("input"), part("output"), PATIENCE);
    let given = Contribution {
        round: begun.round,
        input,
        output,
        weight: 1,
        samples: Vec::new(),
        loss: 0.0,
        deadline,
        coding: Coding::default(),
    };
    loop {
        match session.all_reduce(&given)? {
            Outcome::Committed { slots, record, .. } => return Ok(Some((record.unwrap(), slots))),
            Outcome::Aborted { .. } => return Ok(None),
            Outcome::InDoubt => {}
        }
    }
}

/// TCP ports on which a process listens.
fn ports(pid: i32) -> Vec<u16> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let sockets: Vec<String> =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    // State 0A is LISTEN; the tenth column is the socket, the second the address, in hexadecimal.
    let port = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let listens = *columns.get(3)? == "0A" && sockets.iter().any(|socket| Some(&&**socket) == columns.get(9));
        u16::from_str_radix(columns[1].rsplit(':').next()?, 16).ok().filter(|_| listens)
    };
    tables.iter().flat_map(|table| table.lines()).filter_map(port).collect()
}
