//! A run of two sidecars, each a process of its own, with trainers in this process that do one round after the other.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use atoll_collective::coordinator::Settings;
use atoll_collective::identity::{Identity, IslandAuthority, RunAuthority, Validity};
use atoll_collective::lane::{Bounds, Meter};
use atoll_collective::secret::Secret;
use atoll_collective::transport::{Security, Transport};
use atoll_collective::v1::arbiter_server::ArbiterServer;
use atoll_collective::v1::{EpochRecord, Member};
use atoll_sdk::{Coding, Contribution, ElementType, Options, Outcome, Part, SdkError, Session, State};

use crate::hub::Hub;

pub(crate) const RUN: &str = "run";
pub(crate) const ISLAND: &str = "here";
pub(crate) const TOKEN: &str = "0123456789abcdef";
/// Of the trainers, and of the sidecars.
pub(crate) const INCARNATION: u64 = 7;
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Elements of what the trainers reduce; their regions have just as many.
pub(crate) const ELEMENTS: usize = 1_000;
/// Rounds that have to be done after an attack.
const ROUNDS: u64 = 5;
const LOOK: Duration = Duration::from_millis(5);

#[expect(clippy::disallowed_methods, reason = "a certificate's validity is in the time of the day")]
pub(crate) fn validity() -> Validity {
    Validity { from: SystemTime::now() - Duration::from_mins(1), length: Duration::from_hours(1) }
}

pub(crate) fn authority() -> RunAuthority {
    RunAuthority::new(RUN, validity()).unwrap()
}

/// Two sidecars and their trainers. Ends them when it is dropped.
pub(crate) struct Run {
    island: IslandAuthority,
    hub: Hub,
    folder: tempfile::TempDir,
    sidecars: Vec<Child>,
    rounds: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    trainers: Vec<std::thread::JoinHandle<()>>,
    /// The membership with which the rounds began.
    record: EpochRecord,
}

impl Run {
    /// Starts it, and waits until rounds are done.
    pub(crate) async fn start() -> Self {
        let island = authority().island(ISLAND, validity()).unwrap();
        let hub = Hub::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let arbiter = listener.local_addr().unwrap().to_string();
        let security = Security::new(&island.peer(atoll_sidecar::ARBITER, validity()).unwrap()).unwrap();
        let transport = Transport::new(Some(security), Arc::new(Meter::default()));
        let service = ArbiterServer::with_interceptor(hub.clone(), Secret::new(TOKEN).guard());
        let serving = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(async move { serving.serve_with_incoming(transport.incoming(listener)).await.unwrap() });
        let (rounds, over) = (Arc::default(), Arc::default());
        let folder = tempfile::tempdir().unwrap();
        let (sidecars, trainers, record) = (Vec::new(), Vec::new(), EpochRecord::default());
        let mut run = Self { island, hub, folder, sidecars, rounds, over, trainers, record };
        for slot in 0..2 {
            run.sidecars.push(run.start_sidecar(slot, &arbiter));
        }
        for slot in 0..2 {
            let (socket, rounds, over) = (run.socket(slot), Arc::clone(&run.rounds), Arc::clone(&run.over));
            run.trainers.push(std::thread::spawn(move || train(socket, &rounds, &over)));
        }
        run.more_rounds().await;
        run.record = run.hub.0.lock().unwrap().0.record().clone();
        run
    }

    fn start_sidecar(&self, slot: u32, arbiter: &str) -> Child {
        let settings = Settings { quorum: 2, ..Settings::of(RUN, 2) };
        let config = atoll_sidecar::Config {
            worker: format!("w{slot}"),
            slot,
            incarnation: INCARNATION,
            listen: "127.0.0.1:0".parse().unwrap(),
            announce: None,
            arbiter: arbiter.to_owned(),
            socket: self.socket(slot),
            temporary_folder: None,
            settings,
            progress: Duration::from_secs(30),
            bounds: Bounds::default(),
            token: TOKEN.into(),
            island: ISLAND.into(),
            contributor: false,
            identity: Some(self.identity(&format!("w{slot}"))),
            metrics: None,
            record: None,
            keeping: None,
            source: None,
            relay: None,
        };
        // Beside the tests, where cargo puts the examples that it builds with them.
        let own = std::env::current_exe().unwrap();
        let program = own.ancestors().nth(2).unwrap().join("examples/sidecar");
        assert!(program.exists(), "{} is built by `cargo test --package atoll-sidecar`", program.display());
        let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{}", serde_json::to_string(&config).unwrap()).unwrap();
        child
    }

    pub(crate) fn identity(&self, worker: &str) -> Identity {
        self.island.peer(worker, validity()).unwrap()
    }

    pub(crate) fn socket(&self, slot: u32) -> PathBuf {
        self.folder.path().join(format!("w{slot}.sock"))
    }

    /// The worker of a slot, as its sidecar introduced itself.
    pub(crate) fn member(&self, slot: u32) -> Member {
        self.hub.0.lock().unwrap().1.iter().find(|member| member.slot == slot).unwrap().clone()
    }

    /// Whose sidecar has the coordinator's role.
    pub(crate) fn coordinator(&self) -> Member {
        self.record.coordinator.clone().unwrap()
    }

    /// Memory of a sidecar at most so far.
    pub(crate) fn resident_kib(&self, slot: usize) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.sidecars[slot].id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits until the trainers have done some rounds more.
    async fn more_rounds(&self) {
        let wanted = self.rounds.load(SeqCst) + 2 * ROUNDS;
        let done = async {
            while self.rounds.load(SeqCst) < wanted {
                assert!(self.trainers.iter().all(|trainer| !trainer.is_finished()), "a trainer has ended");
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, done).await.expect("rounds are done");
    }

    /// Whoever came meanwhile is gone, and rounds are still done: by the same processes, in the same term.
    pub(crate) async fn goes_on_without_others(&mut self) {
        let record = || self.hub.0.lock().unwrap().0.record().clone();
        let gone = async {
            while record().members != self.record.members {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("whoever came is left out");
        let (now, before) = (record(), self.record.clone());
        assert_eq!((now.term, &now.coordinator), (before.term, &before.coordinator));
        self.record = now;
        self.goes_on_undisturbed().await;
    }

    /// Rounds are still done, by the same processes, in the same epoch and term.
    pub(crate) async fn goes_on_undisturbed(&mut self) {
        self.more_rounds().await;
        assert_eq!(self.hub.0.lock().unwrap().0.record(), &self.record);
        assert!(self.sidecars.iter_mut().all(|sidecar| sidecar.try_wait().unwrap().is_none()), "a sidecar has ended");
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        for sidecar in &mut self.sidecars {
            let _ended_already = sidecar.kill();
            let _status = sidecar.wait();
        }
        for trainer in self.trainers.drain(..) {
            let ended = trainer.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a trainer got a wrong value, or none");
        }
    }
}

/// Does rounds until it is told that it is over; the mean of what both give is checked in each.
fn train(socket: PathBuf, rounds: &AtomicU64, over: &AtomicBool) {
    let options = Options { run: RUN.into(), socket, incarnation: INCARNATION, rank: 0, ranks: 1, patience: PATIENCE };
    let mut session = Session::new(options).unwrap();
    let all = 0..ELEMENTS * 4;
    let mut share = |name| session.share(name, all.len() as u64).unwrap();
    let (_state, mut input, output) = (share("state"), share("input"), share("output"));
    let part = |region: &str| Part { region: region.into(), range: all.clone() };
    let state = State::default().with("vector", ElementType::F32, part("state"));
    for round in 1.. {
        let begun = match session.begin_round(round, &state, 0) {
            Ok(begun) => begun,
            Err(_) if over.load(SeqCst) => return,
            Err(error) => panic!("{error}"),
        };
        let own = begun.slot as f32 + 1.0;
        input.values_mut(all.clone()).unwrap().iter_mut().enumerate().for_each(|(index, value)| *value = own * index as f32);
        let (input, output_part, deadline) = (part("input"), part("output"), PATIENCE);
        let given = Contribution {
            round,
            input,
            output: output_part,
            weight: 1,
            samples: Vec::new(),
            loss: 0.0,
            deadline,
            coding: Coding::default(),
        };
        match session.all_reduce(&given) {
            Ok(Outcome::Committed { .. }) => {}
            Ok(Outcome::Aborted { .. }) | Err(SdkError::Again(_) | SdkError::NoSidecar { .. }) if over.load(SeqCst) => return,
            other => panic!("{other:?}"),
        }
        let mean = output.values(all.clone()).unwrap();
        assert!(mean.iter().enumerate().all(|(index, value)| (value - 1.5 * index as f32).abs() < 0.01));
        rounds.fetch_add(1, SeqCst);
    }
}
