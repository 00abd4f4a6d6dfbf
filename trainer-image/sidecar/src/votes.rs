//! This sidecar as a voter of `Peers`: what others ask it goes to the core, where its vote is.

use atoll_collective::arbiter::Answers;
use atoll_collective::v1::{BeatReply, BeatRequest, EpochRequest, Ruling, TermRequest};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::core::Input;

/// What the core answers to a question.
pub(crate) type Vote<T> = oneshot::Sender<T>;

/// Brings questions to the core.
pub(crate) struct Votes {
    inbox: mpsc::Sender<Input>,
}

impl Votes {
    pub(crate) fn new(inbox: mpsc::Sender<Input>) -> Self {
        Self { inbox }
    }

    async fn ask<T>(&self, question: impl FnOnce(Vote<T>) -> Input + Send) -> Result<T, Status> {
        let (vote, voted) = oneshot::channel();
        let stopping = || Status::unavailable("the sidecar stops");
        self.inbox.send(question(vote)).await.map_err(|_| stopping())?;
        voted.await.map_err(|_| stopping())
    }
}

#[tonic::async_trait]
impl Answers for Votes {
    async fn beat(&self, request: BeatRequest) -> Result<BeatReply, Status> {
        self.ask(|vote| Input::Beat { request, vote }).await
    }

    async fn request_term(&self, request: TermRequest) -> Result<Ruling, Status> {
        self.ask(|vote| Input::Promise { request, vote }).await
    }

    async fn grant_epoch(&self, request: EpochRequest) -> Result<Ruling, Status> {
        self.ask(|vote| Input::Accept { request, vote }).await
    }
}
