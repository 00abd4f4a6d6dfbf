//! The trainer's session with its sidecar, as blocking calls.
//!
//! A thread of its own sends the heartbeats, so that a long step is not taken for a lost trainer. When the sidecar is lost,
//! the session waits for the next one, passes the regions again, and the worker rejoins with its state.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use atoll_proto::PROTOCOL;
use atoll_proto::v1::sidecar_client::SidecarClient;
use atoll_proto::v1::{
    self, AttachRequest, BeginRoundRequest, CommitRecord, DataType, FinishRequest, Member, OperateReply, OperateRequest,
    OperationKey, OperationKind, PulseRequest, Reduction, SampleRange, Slice, StateTensor, operate_reply,
};
use hyper_util::rt::TokioIo;
use tokio_stream::wrappers::IntervalStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::{Codec, ElementType, Kept, Operation, Outcome, Region, SdkError, State, passing};

/// Pause between two heartbeats.
const PULSE: Duration = Duration::from_millis(200);
/// Pause between two attempts to reach the sidecar.
const RETRY: Duration = Duration::from_millis(20);
/// Pause between two questions whether the sidecar is still there, while it has a call to answer.
const ASKED: Duration = Duration::from_secs(1);

/// How to find the sidecar.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the run.
    pub run: String,
    /// Path of the sidecar's socket; the region socket is beside it, with `.regions` at the end.
    pub socket: PathBuf,
    /// Counts the starts of this trainer.
    pub incarnation: u64,
    /// Which of the trainer's processes this is.
    pub rank: u32,
    /// How many it has: 1, or one per GPU.
    pub ranks: u32,
    /// How long to wait for a sidecar that is not there, or stands still.
    pub patience: Duration,
}

impl Options {
    /// A region's name among all regions of the trainer.
    fn named(&self, region: &str) -> String {
        format!("{}/{}/{region}", self.incarnation, self.rank)
    }
}

/// Part of a region, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Name given to [`Session::share`].
    pub region: String,
    /// Bytes from the region's start.
    pub range: Range<usize>,
}

/// A round that begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// Its number, from 1; committed rounds so far plus one.
    pub round: u64,
    /// Positions of the permutation to train on.
    pub samples: Vec<SampleRange>,
    /// The state was overwritten, or is of another round than was asked for: load it.
    pub synchronised: bool,
    /// Version of the membership.
    pub epoch: u64,
    /// Workers in it, in slot order.
    pub members: Vec<Member>,
    /// Slot of this worker.
    pub slot: u32,
    /// The others had begun it before this worker came: it knows other members than they do, and makes no groups.
    pub late: bool,
}

/// What a worker gives to a round.
#[derive(Debug, Clone)]
pub struct Contribution {
    /// The round.
    pub round: u64,
    /// The vector, f32; never written by the sidecar.
    pub input: Part,
    /// Where the mean goes, as long as the input.
    pub output: Part,
    /// Weight in the mean; 0 takes part without being counted.
    pub weight: u32,
    /// Samples behind it: of those that were dealt, ascending and disjoint.
    pub samples: Vec<SampleRange>,
    /// Mean training loss over them, nats per token; one that is not finite is refused.
    pub loss: f64,
    /// Time for all attempts together.
    pub deadline: Duration,
    /// How the vector is coded on its way.
    pub coding: Coding,
}

/// How a vector is coded where it crosses a lane; as it is unless set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coding {
    /// The same on all workers.
    pub codec: Codec,
    /// Workers next to each other whose vectors are added before they are coded; 0 and 1: none.
    pub group_size: u32,
    /// What coding lost in earlier rounds, f32, as long as the input: added to it, and replaced by what is lost in this one.
    pub residual: Option<Part>,
}

/// An operation in flight.
#[derive(Debug)]
pub struct Pending {
    request: OperateRequest,
    running: Option<tokio::task::JoinHandle<Result<tonic::Response<OperateReply>, Status>>>,
}

struct Link {
    client: SidecarClient<Channel>,
    slot: u32,
    pulse: tokio::task::JoinHandle<()>,
}

/// A trainer's session with its sidecar.
pub struct Session {
    options: Options,
    runtime: tokio::runtime::Runtime,
    regions: BTreeMap<String, Region>,
    link: Option<Link>,
    committed: Option<CommitRecord>,
    round: u64,
    /// Operations of the round so far, by tag and slots.
    sequences: BTreeMap<(String, Vec<u32>), u64>,
}

impl Session {
    /// A session that will connect when it is first used.
    ///
    /// # Errors
    /// [`SdkError::Runtime`] when no thread can be started.
    pub fn new(options: Options) -> Result<Self, SdkError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("atoll-sdk")
            .enable_all()
            .build()
            .map_err(SdkError::Runtime)?;
        Ok(Self { options, runtime, regions: BTreeMap::new(), link: None, committed: None, round: 0, sequences: BTreeMap::new() })
    }

    /// Makes a region of `length` bytes that both sides know by `name`.
    ///
    /// # Errors
    /// [`SdkError::Region`] where memory is short.
    pub fn share(&mut self, name: &str, length: u64) -> Result<Region, SdkError> {
        let region = Region::create(name, length)?;
        self.regions.insert(name.to_owned(), region.clone());
        self.link = None;
        Ok(region)
    }

    /// The state that the trainer holds is that after `committed`, the last round of a checkpoint.
    pub fn resume(&mut self, committed: CommitRecord) {
        self.committed = Some(committed);
    }

    /// Waits for `round` to begin, from a state in which every round before it is; `samples` is how many to be dealt at
    /// most. While it waits, the state may be overwritten; it holds the round's when the call returns.
    ///
    /// # Errors
    /// [`SdkError::Again`] when the worker was left out meanwhile: call again, with the state as it is then, whole or not.
    /// [`SdkError::NoSidecar`] and [`SdkError::Refused`] when there is no way to go on.
    pub fn begin_round(&mut self, round: u64, state: &State, samples: u64) -> Result<Round, SdkError> {
        self.arrive(round, state, samples, false)
    }

    /// After the last round, before [`Session::finish`]: has a checkpoint made of the state, where the run keeps any.
    ///
    /// # Errors
    /// As [`Session::begin_round`].
    pub fn keep_last(&mut self, round: u64, state: &State) -> Result<Round, SdkError> {
        self.arrive(round, state, 0, true)
    }

    fn arrive(&mut self, round: u64, state: &State, samples: u64, last: bool) -> Result<Round, SdkError> {
        self.connect()?;
        let request = BeginRoundRequest {
            incarnation: self.options.incarnation,
            round,
            state: state.tensors.iter().map(|(key, element_type, part)| self.tensor(key, *element_type, part)).collect(),
            strategy: state.strategy.into(),
            samples_wanted: samples,
            committed: self.committed.clone(),
            rank: self.options.rank,
            kept: state.kept.as_ref().map(|kept| self.kept(kept)),
            last,
        };
        let reply = self.call(async |client| client.begin_round(request).await)?;
        self.round = reply.round;
        self.sequences.clear();
        Ok(Round {
            round: reply.round,
            samples: reply.samples,
            synchronised: reply.synchronised,
            epoch: reply.epoch,
            members: reply.members,
            slot: self.link.as_ref().map_or(0, |link| link.slot),
            late: reply.late,
        })
    }

    /// Ends the round: reduces a vector over its members and waits for the outcome.
    ///
    /// # Errors
    /// [`SdkError::Again`] when the sidecar is lost or the trainer was taken for lost: begin the round again. Inputs are untouched.
    pub fn all_reduce(&mut self, contribution: &Contribution) -> Result<Outcome, SdkError> {
        let round = contribution.round;
        let operation = v1::Operation {
            key: Some(OperationKey { round, ..OperationKey::default() }),
            kind: OperationKind::AllReduce.into(),
            data_type: DataType::F32.into(),
            elements: contribution.input.range.len() as u64 / 4,
            reduction: Reduction::Mean.into(),
            codec: contribution.coding.codec.into(),
            group_size: contribution.coding.group_size,
            ends_round: true,
            ..v1::Operation::default()
        };
        let request = OperateRequest {
            incarnation: self.options.incarnation,
            rank: self.options.rank,
            operation: Some(operation),
            input: Some(self.slice(&contribution.input)),
            output: Some(self.slice(&contribution.output)),
            weight: contribution.weight,
            samples: contribution.samples.clone(),
            loss: contribution.loss,
            deadline_milliseconds: contribution.deadline.as_millis() as u64,
            residual: contribution.coding.residual.as_ref().map(|part| self.slice(part)),
        };
        self.wait(&mut Pending { request, running: None })
    }

    /// Starts an operation of the round. Many may be in flight at once; the workers of a round start those of one tag in the
    /// same order.
    ///
    /// # Errors
    /// [`SdkError::Again`] when the sidecar is lost.
    pub fn start(&mut self, operation: &Operation) -> Result<Pending, SdkError> {
        let sequence = self.sequences.entry((operation.tag.clone(), operation.slots.clone())).or_default();
        let (tag, slots, round) = (operation.tag.clone(), operation.slots.clone(), self.round);
        // The operation that ends the round is the first one without tag and slots.
        let unnamed = u64::from(tag.is_empty() && slots.is_empty());
        let key = OperationKey { round, tag, sequence: *sequence + unnamed, started: 0, slots };
        *sequence += 1;
        let request = OperateRequest {
            incarnation: self.options.incarnation,
            rank: self.options.rank,
            operation: Some(operation.wanted(key)),
            input: operation.input.as_ref().map(|part| self.slice(part)),
            output: operation.output.as_ref().map(|part| self.slice(part)),
            weight: operation.weight,
            samples: Vec::new(),
            loss: 0.0,
            deadline_milliseconds: operation.deadline.as_millis() as u64,
            residual: operation.residual.as_ref().map(|part| self.slice(part)),
        };
        let mut pending = Pending { request, running: None };
        self.ask(&mut pending)?;
        Ok(pending)
    }

    /// Waits until an operation has ended. One that is in doubt is asked for again by waiting again.
    ///
    /// # Errors
    /// [`SdkError::Again`] when the sidecar is lost or the trainer was taken for lost: begin the round again. Inputs are untouched.
    pub fn wait(&mut self, pending: &mut Pending) -> Result<Outcome, SdkError> {
        if pending.running.is_none() {
            self.ask(pending)?;
        }
        let Some(running) = pending.running.take() else { return Err(SdkError::Again("the sidecar was lost".into())) };
        let ended = self.runtime.block_on(running).unwrap_or_else(|error| Err(Status::unavailable(error.to_string())));
        match self.taken(ended)?.outcome {
            Some(operate_reply::Outcome::Committed(committed)) => {
                let commit = committed.commit.unwrap_or_default();
                if commit.record.is_some() {
                    self.committed.clone_from(&commit.record);
                }
                Ok(Outcome::Committed {
                    slots: commit.slots,
                    record: commit.record,
                    payload_bytes: committed.payload_bytes,
                    wire_bytes: committed.wire_bytes,
                    control_messages: committed.control_messages,
                })
            }
            Some(operate_reply::Outcome::InDoubt(_)) => Ok(Outcome::InDoubt),
            Some(operate_reply::Outcome::Aborted(aborted)) => {
                Ok(Outcome::Aborted { reason: aborted.reason(), culprit: aborted.culprit, detail: aborted.detail })
            }
            None => Err(SdkError::Again("the sidecar gave no outcome".into())),
        }
    }

    /// Starts an operation and waits until it has ended.
    ///
    /// # Errors
    /// As [`Session::wait`].
    pub fn operate(&mut self, operation: &Operation) -> Result<Outcome, SdkError> {
        let mut pending = self.start(operation)?;
        self.wait(&mut pending)
    }

    fn ask(&mut self, pending: &mut Pending) -> Result<(), SdkError> {
        let Some(link) = &self.link else { return Err(SdkError::Again("the sidecar was lost".into())) };
        let (mut client, request) = (link.client.clone(), pending.request.clone());
        pending.running = Some(self.runtime.spawn(async move { client.operate(request).await }));
        Ok(())
    }

    /// Tells the sidecar that the last round is done.
    ///
    /// # Errors
    /// [`SdkError::Again`] when the sidecar is lost; nothing else depends on it.
    pub fn finish(&mut self) -> Result<(), SdkError> {
        let request = FinishRequest { incarnation: self.options.incarnation, rank: self.options.rank };
        self.call(async |client| client.finish(request).await).map(|_| ())
    }

    fn tensor(&self, key: &str, element_type: ElementType, part: &Part) -> StateTensor {
        StateTensor { key: key.to_owned(), element_type: element_type.into(), slice: Some(self.slice(part)) }
    }

    fn kept(&self, kept: &Kept) -> v1::Kept {
        let private = kept.private.iter().map(|(key, element_type, part)| self.tensor(key, *element_type, part));
        let files = kept.files.iter().map(|(key, part)| self.tensor(key, ElementType::U8, part));
        v1::Kept {
            private: private.collect(),
            private_steps: kept.private_steps,
            files: files.collect(),
            steps: kept.steps,
            tokens_per_sample: kept.tokens_per_sample,
            steps_after: kept.steps_after,
        }
    }

    fn slice(&self, part: &Part) -> Slice {
        Slice { region: self.options.named(&part.region), offset: part.range.start as u64, length: part.range.len() as u64 }
    }

    /// One call; a broken connection means that the worker has to begin again, on the next one.
    fn call<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut SidecarClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, SdkError> {
        let Some(link) = &mut self.link else { return Err(SdkError::Again("the sidecar was lost".into())) };
        let ended = self.runtime.block_on(call(&mut link.client));
        self.taken(ended)
    }

    fn taken<T>(&mut self, ended: Result<tonic::Response<T>, Status>) -> Result<T, SdkError> {
        match ended {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) if status.code() == Code::Aborted => Err(SdkError::Again(status.message().to_owned())),
            Err(status) if matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied | Code::FailedPrecondition) => {
                Err(SdkError::Refused(status.message().to_owned()))
            }
            Err(status) => {
                self.link = None;
                Err(SdkError::Again(format!("the sidecar was lost: {}", status.message())))
            }
        }
    }

    fn connect(&mut self) -> Result<(), SdkError> {
        if self.link.as_ref().is_some_and(|link| !link.pulse.is_finished()) {
            return Ok(());
        }
        let since = Instant::now();
        loop {
            let detail = match self.try_connect() {
                Ok(link) => {
                    self.link = Some(link);
                    return Ok(());
                }
                Err(refused @ SdkError::Refused(_)) => return Err(refused),
                Err(error) => error.to_string(),
            };
            if since.elapsed() > self.options.patience {
                let socket = self.options.socket.display().to_string();
                return Err(SdkError::NoSidecar { socket, seconds: since.elapsed().as_secs(), detail });
            }
            std::thread::sleep(RETRY);
        }
    }

    fn try_connect(&self) -> Result<Link, SdkError> {
        let failed = |source| SdkError::Passing { name: "socket".into(), source };
        let mut socket = UnixStream::connect(passing::regions_socket(&self.options.socket)).map_err(failed)?;
        socket.set_read_timeout(Some(self.options.patience)).map_err(failed)?;
        for (name, region) in &self.regions {
            passing::pass(&mut socket, &self.options.named(name), region)?;
        }
        self.runtime.block_on(attach(&self.options))
    }
}

async fn attach(options: &Options) -> Result<Link, SdkError> {
    let again = |error: tonic::transport::Error| SdkError::Again(error.to_string());
    let path = options.socket.clone();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is not used: the connector knows the socket. Others may keep a call waiting for as long as they like, a sidecar that
    // stands still for no longer than the trainer's patience.
    let endpoint = Endpoint::from_static("http://sidecar").http2_keep_alive_interval(ASKED).keep_alive_timeout(options.patience);
    let channel = endpoint.connect_with_connector(connector).await.map_err(again)?;
    let mut client = SidecarClient::new(channel);
    let request = AttachRequest {
        run: options.run.clone(),
        incarnation: options.incarnation,
        protocol_low: *PROTOCOL.start(),
        protocol_high: *PROTOCOL.end(),
        rank: options.rank,
        ranks: options.ranks,
    };
    let attached = client.attach(request).await.map_err(|status| match status.code() {
        Code::FailedPrecondition | Code::InvalidArgument => SdkError::Refused(status.message().to_owned()),
        _ => SdkError::Again(status.message().to_owned()),
    })?;
    let mut pulses = client.clone();
    let beats = heartbeats(options.incarnation, options.rank);
    let pulse = tokio::spawn(async move {
        // Its end, for whatever reason, is seen by the next call.
        let _ended = pulses.pulse(beats).await;
    });
    Ok(Link { client, slot: attached.into_inner().slot, pulse })
}

fn heartbeats(incarnation: u64, rank: u32) -> impl Stream<Item = PulseRequest> {
    IntervalStream::new(tokio::time::interval(PULSE)).map(move |_| PulseRequest { incarnation, rank })
}

/// Nobody is heard on a connection that is not used any more.
impl Drop for Link {
    fn drop(&mut self) {
        self.pulse.abort();
    }
}
