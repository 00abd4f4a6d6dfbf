//! The seam to the trainer: gRPC over a Unix socket. Calls wait in the core until the protocol answers them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use atoll_collective::protocol::Versions;
use atoll_collective::v1::sidecar_server::Sidecar;
use atoll_collective::v1::{
    AttachReply, AttachRequest, BeginRoundReply, BeginRoundRequest, FinishReply, FinishRequest, OperateReply, OperateRequest,
    PulseReply, PulseRequest,
};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};

use crate::core::Input;

/// Longest deadline that a trainer may set for one operation.
const LONGEST: Duration = Duration::from_hours(24);

/// The answer to a trainer's call.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, Status>>;

/// A heartbeat of one rank.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulse {
    pub(crate) incarnation: u64,
    pub(crate) rank: u32,
    /// Counts streams of heartbeats: one that was replaced ends later than the next begins.
    pub(crate) stream: u64,
}

/// Serves the trainer.
pub(crate) struct TrainerSeam {
    inbox: mpsc::Sender<Input>,
    run: String,
    streams: AtomicU64,
}

impl TrainerSeam {
    pub(crate) fn new(inbox: mpsc::Sender<Input>, run: String) -> Self {
        Self { inbox, run, streams: AtomicU64::new(0) }
    }

    async fn ask<T>(&self, question: impl FnOnce(Answer<T>) -> Input) -> Result<Response<T>, Status> {
        let (answer, answered) = oneshot::channel();
        let stopping = |()| Status::aborted("the sidecar stops");
        self.inbox.send(question(answer)).await.map_err(|_| stopping(()))?;
        // Dropped without an answer: the worker left the round.
        answered.await.unwrap_or_else(|_| Err(Status::aborted("the trainer was taken for lost"))).map(Response::new)
    }
}

#[tonic::async_trait]
impl Sidecar for TrainerSeam {
    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<AttachReply>, Status> {
        let request = request.into_inner();
        if request.run != self.run {
            return Err(Status::failed_precondition(format!("this sidecar serves run {}, not {}", self.run, request.run)));
        }
        let versions = Versions::OURS.common(Versions::new(request.protocol_low, request.protocol_high));
        let protocol = versions.map_err(|apart| Status::failed_precondition(apart.to_string()))?;
        self.ask(|answer| Input::Attach { request, protocol, answer }).await
    }

    async fn pulse(&self, request: Request<Streaming<PulseRequest>>) -> Result<Response<PulseReply>, Status> {
        let mut pulses = request.into_inner();
        let stream = self.streams.fetch_add(1, Relaxed) + 1;
        let mut last = None;
        while let Ok(Some(PulseRequest { incarnation, rank })) = pulses.message().await {
            let pulse = Pulse { incarnation, rank, stream };
            last = Some(pulse);
            let _stopping = self.inbox.send(Input::Pulse(pulse)).await;
        }
        if let Some(pulse) = last {
            let _stopping = self.inbox.send(Input::PulseEnded(pulse)).await;
        }
        Ok(Response::new(PulseReply {}))
    }

    async fn begin_round(&self, request: Request<BeginRoundRequest>) -> Result<Response<BeginRoundReply>, Status> {
        self.ask(|answer| Input::BeginRound { request: Box::new(request.into_inner()), answer }).await
    }

    async fn operate(&self, request: Request<OperateRequest>) -> Result<Response<OperateReply>, Status> {
        let request = request.into_inner();
        if Duration::from_millis(request.deadline_milliseconds) > LONGEST {
            return Err(Status::invalid_argument("the deadline is longer than a day"));
        }
        self.ask(|answer| Input::Operate { request: Box::new(request), answer }).await
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Result<Response<FinishReply>, Status> {
        let FinishRequest { incarnation, rank } = request.into_inner();
        self.ask(|answer| Input::Finish { incarnation, rank, answer }).await
    }
}
