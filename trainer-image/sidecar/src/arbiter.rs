//! Asking the run's arbiter. Every answer comes back to the core as an event; no answer means that this sidecar holds.

use std::time::Duration;

use atoll_collective::secret::Secret;
use atoll_collective::v1::arbiter_client::ArbiterClient;
use atoll_collective::v1::{BeatRequest, EpochRecord, EpochRequest, Member, TermRequest};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::core::Input;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Questions to the arbiter, by one member.
#[derive(Clone)]
pub(crate) struct Arbiter {
    client: ArbiterClient<Channel>,
    secret: Secret,
    run: String,
    me: Member,
    inbox: mpsc::Sender<Input>,
}

impl Arbiter {
    pub(crate) fn new(channel: Channel, secret: Secret, run: String, me: Member, inbox: mpsc::Sender<Input>) -> Self {
        Self { client: ArbiterClient::new(channel), secret, run, me, inbox }
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(PATIENCE);
        self.secret.show(request.metadata_mut());
        request
    }

    /// A heartbeat; the answer locates the coordinator.
    pub(crate) fn beat(&self) {
        let mut arbiter = self.clone();
        tokio::spawn(async move {
            let (run, member) = (arbiter.run.clone(), Some(arbiter.me.clone()));
            let request = arbiter.request(BeatRequest { run, member, record: None });
            if let Ok(reply) = arbiter.client.beat(request).await {
                let _stopping = arbiter.inbox.send(Input::Located(reply.into_inner().record.unwrap_or_default())).await;
            }
        });
    }

    pub(crate) fn request_term(&self, observed_term: u64) {
        let mut arbiter = self.clone();
        tokio::spawn(async move {
            let candidate = Some(arbiter.me.clone());
            let run = arbiter.run.clone();
            let request = arbiter.request(TermRequest { run, candidate, observed_term, ..TermRequest::default() });
            if let Ok(ruling) = arbiter.client.request_term(request).await {
                let _stopping = arbiter.inbox.send(Input::Located(ruling.into_inner().record.unwrap_or_default())).await;
            }
        });
    }

    pub(crate) fn propose(&self, proposed: EpochRecord) {
        let mut arbiter = self.clone();
        tokio::spawn(async move {
            let run = arbiter.run.clone();
            let request = arbiter.request(EpochRequest { run, proposed: Some(proposed), ..EpochRequest::default() });
            if let Ok(ruling) = arbiter.client.grant_epoch(request).await {
                let _stopping = arbiter.inbox.send(Input::Ruled(ruling.into_inner())).await;
            }
        });
    }
}
