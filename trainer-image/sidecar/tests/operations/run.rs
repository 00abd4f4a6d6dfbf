//! A run of sidecars, each a process of its own, with the ranks of their trainers as threads of this process.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use atoll_collective::coordinator::Settings;
use atoll_collective::lane::{Bounds, Meter};
use atoll_collective::secret::Secret;
use atoll_collective::transport::Transport;
use atoll_collective::v1::arbiter_server::ArbiterServer;
use atoll_sdk::{ElementType, Operation, Options, Outcome, Part, Pending, Region, Session, State};

use crate::hub::Hub;

const RUN: &str = "run";
const TOKEN: &str = "0123456789abcdef";
const INCARNATION: u64 = 7;
const PATIENCE: Duration = Duration::from_mins(1);
/// Bytes of each region of a rank.
const LENGTH: u64 = 4 << 20;
/// Bytes of each rank's state: too many to be copied in passing.
const STATE: usize = 1 << 20;

/// One rank of one worker, in the first round.
pub(crate) struct Rank {
    pub(crate) slot: u32,
    pub(crate) index: u32,
    session: Session,
    input: Region,
    output: Region,
    /// What coding lost: all zero at first.
    pub(crate) residual: Region,
}

impl Rank {
    fn new(socket: PathBuf, slot: u32, (rank, ranks): (u32, u32)) -> Self {
        let options = Options { run: RUN.into(), socket, incarnation: INCARNATION, rank, ranks, patience: PATIENCE };
        let mut session = Session::new(options).unwrap();
        let names = ["state", "input", "output", "residual"];
        let [state, input, output, residual] = names.map(|name| session.share(name, LENGTH).unwrap());
        let own = (slot * ranks + rank) as u8;
        assert!(state.write(0, &vec![own; STATE]));
        let part = Part { region: "state".into(), range: 0..STATE };
        session.begin_round(1, &State::default().with("vector", ElementType::U8, part), 0).unwrap();
        let elected = state.bytes(0..STATE).unwrap().iter().all(|byte| *byte == 0);
        assert!(elected, "rank {rank} of worker {slot} holds the state of the first");
        Self { slot, index: rank, session, input, output, residual }
    }

    /// The part that holds these bytes, to give.
    pub(crate) fn gives(&self, bytes: &[u8]) -> Part {
        assert!(self.input.write(0, bytes));
        Part { region: "input".into(), range: 0..bytes.len() }
    }

    /// Where so many bytes of a result go, which are others now.
    pub(crate) fn gets(&self, length: usize) -> Part {
        assert!(self.output.write(0, &vec![0xaa; length]));
        Part { region: "output".into(), range: 0..length }
    }

    /// Does an operation; the slots that took part, or why it was aborted or refused and by whom.
    pub(crate) fn operate(&mut self, operation: &Operation) -> Result<Vec<u32>, String> {
        self.operate_within(operation, PATIENCE)
    }

    /// The same, within a time of its own.
    pub(crate) fn operate_within(&mut self, operation: &Operation, deadline: Duration) -> Result<Vec<u32>, String> {
        let mut pending = self.session.start(&operation.clone().within(deadline)).unwrap();
        self.wait(&mut pending)
    }

    /// Starts an operation beside others.
    pub(crate) fn start(&mut self, operation: &Operation) -> Pending {
        self.session.start(&operation.clone().within(PATIENCE)).unwrap()
    }

    /// How it ended, as [`Rank::operate`] says it.
    pub(crate) fn wait(&mut self, pending: &mut Pending) -> Result<Vec<u32>, String> {
        match self.session.wait(pending) {
            Ok(Outcome::Committed { slots, .. }) => Ok(slots),
            Ok(Outcome::Aborted { reason, culprit, detail }) => Err(format!("{reason:?} by {culprit:?}: {detail}")),
            Ok(Outcome::InDoubt) => panic!("nobody is cut off"),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the output holds.
    pub(crate) fn got(&self, length: usize) -> &[u8] {
        self.output.bytes(0..length).unwrap()
    }
}

/// The sidecars of a run; they end when it is dropped.
struct Sidecars(Vec<Child>);

impl Drop for Sidecars {
    fn drop(&mut self) {
        for sidecar in &mut self.0 {
            let _ended_already = sidecar.kill();
            let _status = sidecar.wait();
        }
    }
}

/// Starts so many sidecars, and does `work` as every rank of every worker at once.
pub(crate) async fn run(workers: u32, ranks: u32, work: impl Fn(&mut Rank) + Clone + Send + 'static) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let arbiter = listener.local_addr().unwrap().to_string();
    let transport = Transport::new(None, Arc::new(Meter::default()));
    let service = ArbiterServer::with_interceptor(Hub::new(), Secret::new(TOKEN).guard());
    let serving = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(async move { serving.serve_with_incoming(transport.incoming(listener)).await.unwrap() });
    let folder = tempfile::tempdir().unwrap();
    let socket = |slot: u32| folder.path().join(format!("w{slot}.sock"));
    let _sidecars = Sidecars((0..workers).map(|slot| start(slot, workers, socket(slot), &arbiter)).collect());
    let places = (0..workers).flat_map(|slot| (0..ranks).map(move |rank| (slot, rank)));
    let threads: Vec<_> = places
        .map(|(slot, rank)| {
            let (socket, work) = (socket(slot), work.clone());
            tokio::task::spawn_blocking(move || work(&mut Rank::new(socket, slot, (rank, ranks))))
        })
        .collect();
    for thread in threads {
        thread.await.unwrap();
    }
}

fn start(slot: u32, workers: u32, socket: PathBuf, arbiter: &str) -> Child {
    let settings = Settings { quorum: 2, ..Settings::of(RUN, workers as usize) };
    let config = atoll_sidecar::Config {
        worker: format!("w{slot}"),
        slot,
        incarnation: INCARNATION,
        listen: "127.0.0.1:0".parse().unwrap(),
        announce: None,
        arbiter: arbiter.to_owned(),
        socket,
        temporary_folder: None,
        settings,
        progress: Duration::from_secs(30),
        bounds: Bounds::default(),
        token: TOKEN.into(),
        island: "here".into(),
        identity: None,
        metrics: None,
        record: None,
        keeping: None,
        source: None,
        relay: None,
        contributor: false,
    };
    // Beside the tests, where cargo puts the examples that it builds with them.
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("examples/sidecar");
    assert!(program.exists(), "{} is built by `cargo test --package atoll-sidecar`", program.display());
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{}", serde_json::to_string(&config).unwrap()).unwrap();
    child
}
