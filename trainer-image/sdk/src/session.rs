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
    AllReduceRequest, AttachRequest, BeginRoundRequest, CommitRecord, FinishRequest, PulseRequest, SampleRange, Slice,
    all_reduce_reply,
};
use hyper_util::rt::TokioIo;
use tokio_stream::wrappers::IntervalStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::{Region, SdkError, passing};

/// Pause between two heartbeats.
const PULSE: Duration = Duration::from_millis(200);
/// Pause between two attempts to reach the sidecar.
const RETRY: Duration = Duration::from_millis(20);

/// How to find the sidecar.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the run.
    pub run: String,
    /// Path of the sidecar's socket; the region socket is beside it, with `.regions` at the end.
    pub socket: PathBuf,
    /// Counts the starts of this trainer.
    pub incarnation: u64,
    /// How long to wait for a sidecar that does not answer.
    pub patience: Duration,
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
    /// The state region was overwritten with the round's state: load it.
    pub synchronised: bool,
    /// Version of the membership.
    pub epoch: u64,
    /// Workers in it.
    pub members: u32,
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
    /// Samples behind it.
    pub samples: Vec<SampleRange>,
    /// Mean training loss over them, nats per token.
    pub loss: f64,
    /// Time for all attempts together.
    pub deadline: Duration,
}

/// How a reduction ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The output holds the mean, the same bytes on every member.
    Committed {
        /// What was committed.
        record: CommitRecord,
        /// Bytes that the sidecar was given to reduce since its start.
        payload_bytes: u64,
        /// Bytes that its lanes sent since its start.
        wire_bytes: u64,
        /// Messages between it and the coordinator since its start, heartbeats apart.
        control_messages: u64,
    },
    /// Cut off after it was prepared: only the others know. Ask again with the same contribution.
    InDoubt,
}

struct Link {
    client: SidecarClient<Channel>,
    pulse: tokio::task::JoinHandle<()>,
}

/// A trainer's session with its sidecar.
pub struct Session {
    options: Options,
    runtime: tokio::runtime::Runtime,
    regions: BTreeMap<String, Region>,
    link: Option<Link>,
    committed: Option<CommitRecord>,
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
        Ok(Self { options, runtime, regions: BTreeMap::new(), link: None, committed: None })
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

    /// Waits for `round` to begin, from the state with this BLAKE3 hash; `samples` is how many to be dealt.
    ///
    /// # Errors
    /// [`SdkError::Again`] when the worker was left out meanwhile: call again. [`SdkError::NoSidecar`] and
    /// [`SdkError::Refused`] when there is no way to go on.
    pub fn begin_round(&mut self, round: u64, state: &Part, state_hash: [u8; 32], samples: u64) -> Result<Round, SdkError> {
        self.connect()?;
        let request = BeginRoundRequest {
            incarnation: self.options.incarnation,
            round,
            state: Some(self.slice(state)),
            state_hash: state_hash.to_vec(),
            samples_wanted: samples,
            committed: self.committed.clone(),
        };
        let reply = self.call(async |client| client.begin_round(request).await)?;
        Ok(Round {
            round: reply.round,
            samples: reply.samples,
            synchronised: reply.synchronised,
            epoch: reply.epoch,
            members: reply.members,
        })
    }

    /// Reduces a vector over the round's members and waits for the outcome.
    ///
    /// # Errors
    /// [`SdkError::Again`] when it was aborted or the worker left out: begin a round. Inputs are untouched.
    pub fn all_reduce(&mut self, contribution: &Contribution) -> Result<Outcome, SdkError> {
        let request = AllReduceRequest {
            incarnation: self.options.incarnation,
            round: contribution.round,
            input: Some(self.slice(&contribution.input)),
            output: Some(self.slice(&contribution.output)),
            weight: contribution.weight,
            samples: contribution.samples.clone(),
            loss: contribution.loss,
            deadline_milliseconds: contribution.deadline.as_millis() as u64,
        };
        let reply = self.call(async |client| client.all_reduce(request).await)?;
        match reply.outcome {
            Some(all_reduce_reply::Outcome::Committed(committed)) => {
                let record = committed.record.unwrap_or_default();
                self.committed = Some(record.clone());
                let (payload_bytes, wire_bytes) = (committed.payload_bytes, committed.wire_bytes);
                Ok(Outcome::Committed { record, payload_bytes, wire_bytes, control_messages: committed.control_messages })
            }
            Some(all_reduce_reply::Outcome::InDoubt(_)) => Ok(Outcome::InDoubt),
            Some(all_reduce_reply::Outcome::Aborted(aborted)) => {
                Err(SdkError::Again(format!("{}: {}", aborted.reason().as_str_name(), aborted.detail)))
            }
            None => Err(SdkError::Again("the sidecar gave no outcome".into())),
        }
    }

    /// Tells the sidecar that the last round is done.
    ///
    /// # Errors
    /// [`SdkError::Again`] when the sidecar is lost; nothing else depends on it.
    pub fn finish(&mut self) -> Result<(), SdkError> {
        let request = FinishRequest { incarnation: self.options.incarnation };
        self.call(async |client| client.finish(request).await).map(|_| ())
    }

    fn slice(&self, part: &Part) -> Slice {
        Slice {
            region: format!("{}/{}", self.options.incarnation, part.region),
            offset: part.range.start as u64,
            length: part.range.len() as u64,
        }
    }

    /// One call; a broken connection means that the worker has to begin again, on the next one.
    fn call<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut SidecarClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, SdkError> {
        let Some(link) = &mut self.link else { return Err(SdkError::Again("the sidecar was lost".into())) };
        match self.runtime.block_on(call(&mut link.client)) {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) if status.code() == Code::Aborted => Err(SdkError::Again(status.message().to_owned())),
            Err(status) if matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied) => {
                Err(SdkError::Refused(status.message().to_owned()))
            }
            Err(status) => {
                link.pulse.abort();
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
        let incarnation = self.options.incarnation;
        let failed = |source| SdkError::Passing { name: "socket".into(), source };
        let mut socket = UnixStream::connect(passing::regions_socket(&self.options.socket)).map_err(failed)?;
        socket.set_read_timeout(Some(self.options.patience)).map_err(failed)?;
        for (name, region) in &self.regions {
            passing::pass(&mut socket, &format!("{incarnation}/{name}"), region)?;
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
    // The address is not used: the connector knows the socket.
    let channel = Endpoint::from_static("http://sidecar").connect_with_connector(connector).await.map_err(again)?;
    let mut client = SidecarClient::new(channel);
    let request = AttachRequest {
        run: options.run.clone(),
        incarnation: options.incarnation,
        protocol_low: *PROTOCOL.start(),
        protocol_high: *PROTOCOL.end(),
    };
    client.attach(request).await.map_err(|status| match status.code() {
        Code::FailedPrecondition => SdkError::Refused(status.message().to_owned()),
        _ => SdkError::Again(status.message().to_owned()),
    })?;
    let mut pulses = client.clone();
    let beats = heartbeats(options.incarnation);
    let pulse = tokio::spawn(async move {
        // Its end, for whatever reason, is seen by the next call.
        let _ended = pulses.pulse(beats).await;
    });
    Ok(Link { client, pulse })
}

fn heartbeats(incarnation: u64) -> impl Stream<Item = PulseRequest> {
    IntervalStream::new(tokio::time::interval(PULSE)).map(move |_| PulseRequest { incarnation })
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            link.pulse.abort();
        }
    }
}
