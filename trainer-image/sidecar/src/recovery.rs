//! A human's word to this sidecar, over its Unix socket: what was lost is lost for ever.

use atoll_collective::v1::recovery_server::Recovery;
use atoll_collective::v1::{ForceReply, ForceRequest, StandRequest, Standing};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use crate::core::Input;
use crate::trainer::Answer;

/// Brings what a human says to the core.
pub(crate) struct HumanWord {
    inbox: mpsc::Sender<Input>,
}

impl HumanWord {
    pub(crate) fn new(inbox: mpsc::Sender<Input>) -> Self {
        Self { inbox }
    }

    async fn ask<T>(&self, question: impl FnOnce(Answer<T>) -> Input) -> Result<Response<T>, Status> {
        let (answer, answered) = oneshot::channel();
        let stopping = || Status::aborted("the sidecar stops");
        self.inbox.send(question(answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?.map(Response::new)
    }
}

#[tonic::async_trait]
impl Recovery for HumanWord {
    async fn stand(&self, _request: Request<StandRequest>) -> Result<Response<Standing>, Status> {
        self.ask(|answer| Input::Stand { answer }).await
    }

    async fn force(&self, request: Request<ForceRequest>) -> Result<Response<ForceReply>, Status> {
        self.ask(|answer| Input::Force { request: request.into_inner(), answer }).await
    }
}
