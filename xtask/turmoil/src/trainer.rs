//! A trainer as a host of the simulated network: it does rounds through its sidecar's real calls, and checks what it is told.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use atoll_collective::operation;
use atoll_collective::v1::operate_reply::Outcome;
use atoll_collective::v1::sidecar_client::SidecarClient;
use atoll_collective::v1::{
    Aborted, AttachRequest, BeginRoundReply, BeginRoundRequest, CommitRecord, Committed, OperateRequest, Operation, OperationKey,
    PulseRequest, Reduction, Slice, StateTensor,
};
use atoll_proto::PROTOCOL;
use atoll_sdk::{ElementType, Region};
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::book::{Entry, first_difference, value, weight, within};
use crate::ground::{Ground, RUN, now};
use crate::processes::{JOINS, TRAINER_PORT, joins_later};

/// Operations at once within a round.
const AT_ONCE: u64 = 2;
/// Elements of the replicated state: the sum of the first of all results.
const STATE: usize = 64;
/// Time that an operation has.
const DEADLINE: Duration = Duration::from_secs(5);
/// How late a call may return: ticks of the sidecar, and of the network between the two processes.
const SLACK: Duration = Duration::from_millis(100);
const PULSE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_millis(20);
/// How long an attempt to reach the sidecar may take.
const CONNECTING: Duration = Duration::from_millis(500);

/// Why a round did not end well.
enum Ended {
    /// It was aborted, or this worker left out: it begins again.
    Again,
    /// The sidecar does not answer any more.
    Lost,
}

/// A vector that is shared with the sidecar.
struct Shared {
    name: String,
    region: Region,
}

/// What is given to an operation, and where its result comes.
struct Vectors {
    input: Shared,
    output: Shared,
}

struct Trainer {
    ground: Arc<Ground>,
    slot: u32,
    incarnation: u64,
    state: Shared,
    /// For the end of a round, and for operations within it.
    ends: Vectors,
    within: Vec<Vectors>,
    /// Rounds in the state, and the newest that it was told of.
    rounds: u64,
    committed: Option<CommitRecord>,
}

/// Heartbeats that end with this.
struct Pulse(JoinHandle<()>);

impl Drop for Pulse {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Client = SidecarClient<Channel>;

/// The trainer of a slot, on its host.
pub(crate) async fn trainer(ground: Arc<Ground>, slot: u32) -> turmoil::Result {
    let incarnation = ground.worker(slot).trainers.fetch_add(1, Relaxed) + 1;
    if incarnation == 1 && joins_later(&ground, slot) {
        sleep(JOINS).await;
    }
    let mut trainer = Trainer::new(ground, slot, incarnation)?;
    loop {
        let Ok((client, _pulse)) = trainer.attach().await else {
            sleep(RETRY).await;
            continue;
        };
        loop {
            match trainer.round(&client).await {
                Ok(()) => {}
                Err(Ended::Again) => sleep(RETRY).await,
                Err(Ended::Lost) => break,
            }
        }
    }
}

impl Trainer {
    fn new(ground: Arc<Ground>, slot: u32, incarnation: u64) -> Result<Self, atoll_sdk::SdkError> {
        let bytes = ground.schedule.elements as u64 * 4;
        let shared = |name: &str, bytes| {
            let name = format!("{incarnation}/0/{name}");
            Region::create(&name, bytes).map(|region| Shared { name, region })
        };
        let vectors = |name: &str| {
            let input = shared(&format!("{name}-input"), bytes)?;
            Ok(Vectors { input, output: shared(&format!("{name}-output"), bytes)? })
        };
        let within = (0..AT_ONCE).map(|index| vectors(&index.to_string())).collect::<Result<_, atoll_sdk::SdkError>>()?;
        let (state, ends) = (shared("state", STATE as u64 * 4)?, vectors("round")?);
        Ok(Self { ground, slot, incarnation, state, ends, within, rounds: 0, committed: None })
    }

    fn note(&self, line: &str) {
        self.ground.note(&format!("t{} {line}", self.slot));
    }

    /// Passes the regions, attaches, and lives for its sidecar from here on.
    async fn attach(&self) -> Result<(Client, Pulse), Box<dyn std::error::Error>> {
        let place = (format!("w{}", self.slot), TRAINER_PORT);
        let connector = tower::service_fn(move |_| {
            let place = place.clone();
            async move { turmoil::net::TcpStream::connect(place).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://sidecar");
        let mut client = SidecarClient::new(timeout(CONNECTING, endpoint.connect_with_connector(connector)).await??);
        let regions = self.ground.worker(self.slot).regions.lock().unwrap().clone();
        let vectors = self.within.iter().chain([&self.ends]).flat_map(|vectors| [&vectors.input, &vectors.output]);
        for shared in vectors.chain([&self.state]) {
            regions.take(shared.name.clone(), shared.region.clone())?;
        }
        let incarnation = self.incarnation;
        let request = AttachRequest {
            run: RUN.into(),
            incarnation,
            protocol_low: *PROTOCOL.start(),
            protocol_high: *PROTOCOL.end(),
            rank: 0,
            ranks: 1,
        };
        timeout(CONNECTING, client.attach(request)).await??;
        let mut pulses = client.clone();
        let times = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(PULSE));
        let beats = times.map(move |_| PulseRequest { incarnation, rank: 0 });
        let pulse = tokio::task::spawn_local(async move {
            let _ended = pulses.pulse(beats).await;
        });
        Ok((client, Pulse(pulse)))
    }

    async fn round(&mut self, client: &Client) -> Result<(), Ended> {
        let begun = self.begin(client).await?;
        let training = 20 + u64::from(self.slot) * 37 % 100 + begun.round * 61 % 150;
        sleep(Duration::from_millis(training) * self.ground.slowness(self.slot)).await;
        if self.ground.schedule.operations {
            let operations = (0..AT_ONCE).map(|sequence| self.operate_within(client, begun.round, sequence));
            futures::future::try_join_all(operations).await?;
        }
        self.end(client, &begun).await
    }

    async fn begin(&mut self, client: &Client) -> Result<BeginRoundReply, Ended> {
        let tensor = StateTensor { key: "sum".into(), element_type: ElementType::F32.into(), slice: Some(slice(&self.state)) };
        let request = BeginRoundRequest {
            incarnation: self.incarnation,
            round: self.rounds + 1,
            state: vec![tensor],
            samples_wanted: 10,
            committed: self.committed.clone(),
            ..BeginRoundRequest::default()
        };
        let begun = client.clone().begin_round(request).await.map_err(|status| ended(&status))?.into_inner();
        let fits = begun.synchronised || begun.round == self.rounds + 1;
        let (slot, rounds) = (self.slot, self.rounds);
        self.ground.book().require(fits, || format!("w{slot} begins round {} with the state of {rounds}", begun.round));
        self.rounds = begun.round - 1;
        self.ground.book().holds(slot, self.rounds, values(&self.state));
        self.note(&format!("begins round {} in epoch {}, synchronised: {}", begun.round, begun.epoch, begun.synchronised));
        Ok(begun)
    }

    /// Ends the round; what is committed is in the state from here on.
    async fn end(&mut self, client: &Client, begun: &BeginRoundReply) -> Result<(), Ended> {
        let (slot, round) = (self.slot, begun.round);
        let entry = self.ground.book().enters(slot, round);
        fill(&self.ends.input, if self.ground.schedule.liar == Some(slot) { entry + 1 } else { entry });
        let operation = Operation {
            reduction: Reduction::Mean.into(),
            ..operation::ends_round(round, 0, self.ground.schedule.elements as u64)
        };
        let given = (weight(slot), entry as f64);
        let request = OperateRequest { samples: begun.samples.clone(), ..self.request(operation, &self.ends, given) };
        let outcome = self.operate(client, request, &format!("round {round} (entry {entry})")).await?;
        let committed = match outcome {
            Ok(committed) => committed,
            Err(aborted) => return Err(self.aborted(entry, &aborted)),
        };
        let record = committed.commit.and_then(|commit| commit.record).unwrap_or_default();
        let output = values(&self.ends.output).to_vec();
        self.ground.book().commits_round(slot, &record, &output);
        let sum: Vec<f32> = values(&self.state).iter().zip(output.iter().cycle()).map(|(state, result)| state + result).collect();
        write(&self.state, &sum);
        self.rounds = record.round;
        self.committed = Some(record);
        self.ground.book().holds(slot, self.rounds, &sum);
        Ok(())
    }

    fn aborted(&self, entry: Entry, aborted: &Aborted) -> Ended {
        let mut book = self.ground.book();
        book.aborts(self.slot, entry, aborted);
        let untouched = first_difference(values(&self.ends.input), |index| value(entry, index)).is_none();
        book.require(untouched, || format!("the input of w{} was written in an operation that was aborted", self.slot));
        Ended::Again
    }

    async fn operate_within(&self, client: &Client, round: u64, sequence: u64) -> Result<(), Ended> {
        let vectors = &self.within[sequence as usize];
        fill(&vectors.input, within(self.slot, round, sequence));
        let key = OperationKey { round, tag: "sum".into(), sequence, ..OperationKey::default() };
        let elements = self.ground.schedule.elements as u64;
        let reduction = Reduction::Sum.into();
        let operation = Operation { key: Some(key), reduction, ends_round: false, ..operation::ends_round(round, 0, elements) };
        let request = self.request(operation, vectors, (1, 0.0));
        let outcome = self.operate(client, request, &format!("operation {sequence} of round {round}")).await?;
        let Ok(committed) = outcome else { return Err(Ended::Again) };
        let commit = committed.commit.unwrap_or_default();
        self.ground.book().commits_operation(self.slot, &commit, values(&vectors.output));
        Ok(())
    }

    fn request(&self, operation: Operation, vectors: &Vectors, (weight, loss): (u32, f64)) -> OperateRequest {
        OperateRequest {
            incarnation: self.incarnation,
            operation: Some(operation),
            input: Some(slice(&vectors.input)),
            output: Some(slice(&vectors.output)),
            weight,
            loss,
            deadline_milliseconds: DEADLINE.as_millis() as u64,
            ..OperateRequest::default()
        }
    }

    /// Asks until it is known what became of an operation: what was committed, or why it was aborted.
    async fn operate(&self, client: &Client, request: OperateRequest, what: &str) -> Result<Result<Committed, Aborted>, Ended> {
        loop {
            let asked = now();
            let reply = client.clone().operate(request.clone()).await;
            let took = now().saturating_sub(asked);
            let in_time = took <= DEADLINE + SLACK;
            self.ground.book().require(in_time, || format!("the call of w{} for {what} took {took:?}", self.slot));
            match reply.map_err(|status| ended(&status))?.into_inner().outcome {
                Some(Outcome::Committed(committed)) => {
                    let commit = committed.commit.as_ref();
                    let (slots, hash) = commit.map(|commit| (&commit.slots, &commit.result_hash)).unzip();
                    let hash = blake3::hash(hash.map_or(&[], Vec::as_slice)).to_hex();
                    self.note(&format!("{what} is committed by {slots:?}: {:.8}", hash.as_str()));
                    return Ok(Ok(committed));
                }
                Some(Outcome::Aborted(aborted)) => {
                    self.note(&format!("{what} is aborted: {:?} by {:?}, {}", aborted.reason(), aborted.culprit, aborted.detail));
                    return Ok(Err(aborted));
                }
                Some(Outcome::InDoubt(_)) => {
                    self.note(&format!("{what} is in doubt"));
                    self.ground.book().in_doubt += 1;
                }
                None => return Err(Ended::Again),
            }
        }
    }
}

/// As the sdk takes it.
fn ended(status: &Status) -> Ended {
    match status.code() {
        Code::Aborted | Code::InvalidArgument | Code::PermissionDenied | Code::FailedPrecondition => Ended::Again,
        _ => Ended::Lost,
    }
}

fn slice(shared: &Shared) -> Slice {
    Slice { region: shared.name.clone(), offset: 0, length: shared.region.len() as u64 }
}

fn values(shared: &Shared) -> &[f32] {
    shared.region.values(0..shared.region.len()).unwrap_or_default()
}

fn write(shared: &Shared, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert!(shared.region.write(0, &bytes));
}

fn fill(shared: &Shared, of: u64) {
    let values: Vec<f32> = (0..shared.region.len() / 4).map(|index| value(of, index)).collect();
    write(shared, &values);
}
