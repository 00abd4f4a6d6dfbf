//! Asking whoever may grant a term or an epoch: the hub, and the voters of `Peers`. Every answer comes back to the core as an
//! event; no answer means that this sidecar holds.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_collective::arbiter::{HUB, Question};
use atoll_collective::lane::Lanes;
use atoll_collective::v1::arbiter_client::ArbiterClient;
use atoll_collective::v1::{BeatRequest, EpochRecord, Member};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::Channel;

use crate::ARBITER;
use crate::core::Input;

/// How long one question may take, with making the connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// The ways to the hub and to the voters, of one member.
pub(crate) struct Arbiters {
    hub: Option<ArbiterClient<Channel>>,
    /// By slot and incarnation; connections of their own, because bulk data must not delay a vote.
    voters: BTreeMap<(u32, u64), ArbiterClient<Channel>>,
    lanes: Lanes,
    run: String,
    me: Member,
    inbox: mpsc::Sender<Input>,
}

impl Arbiters {
    /// The way to the hub is open from the beginning: `HOST:PORT`.
    pub(crate) fn new(hub: &str, lanes: Lanes, run: String, me: Member, inbox: mpsc::Sender<Input>) -> Self {
        let hub = match lanes.connection(hub, &me.island, ARBITER) {
            Ok(channel) => Some(ArbiterClient::new(channel)),
            Err(error) => {
                tracing::error!(%error, "no hub");
                None
            }
        };
        Self { hub, voters: BTreeMap::new(), lanes, run, me, inbox }
    }

    /// Closes the ways to all but this record's voters.
    pub(crate) fn keep(&mut self, record: &EpochRecord) {
        let voters = &record.members;
        self.voters.retain(|process, _| voters.iter().any(|voter| (voter.slot, voter.incarnation) == *process));
    }

    /// A heartbeat to the hub and to `listeners`, with the newest record; each answers with what it knows.
    pub(crate) fn beat(&mut self, listeners: &[Member], record: &EpochRecord) {
        let beat = BeatRequest { run: self.run.clone(), member: Some(self.me.clone()), record: Some(record.clone()) };
        let voters: Vec<_> = listeners.iter().filter_map(|listener| self.client(listener)).collect();
        for mut client in self.hub.iter().cloned().chain(voters) {
            let request = self.request(beat.clone());
            self.put(async move { client.beat(request).await }, |reply| {
                [Input::Learned(reply.record.unwrap_or_default())].into_iter().chain(reply.hub.map(Input::Hub)).collect()
            });
        }
    }

    /// Asks the hub as `Single`.
    pub(crate) fn ask_single(&self, question: Question) {
        let Some(mut client) = self.hub.clone() else { return };
        match question {
            Question::Term(term) => {
                let request = self.request(term);
                let learned = |ruling: atoll_collective::v1::Ruling| vec![Input::Learned(ruling.record.unwrap_or_default())];
                self.put(async move { client.request_term(request).await }, learned);
            }
            Question::Epoch(epoch) => {
                let request = self.request(epoch);
                self.put(async move { client.grant_epoch(request).await }, |ruling| vec![Input::Ruled(ruling)]);
            }
        }
    }

    /// Asks one voter; the hub where it has the hub's slot.
    pub(crate) fn ask(&mut self, voter: Member, number: u64, question: Question) {
        let Some(mut client) = self.client(&voter) else { return };
        let answered = move |ruling| vec![Input::Answered { question: number, voter, ruling }];
        match question {
            Question::Term(term) => {
                let request = self.request(term);
                self.put(async move { client.request_term(request).await }, answered);
            }
            Question::Epoch(epoch) => {
                let request = self.request(epoch);
                self.put(async move { client.grant_epoch(request).await }, answered);
            }
        }
    }

    fn client(&mut self, voter: &Member) -> Option<ArbiterClient<Channel>> {
        if voter.slot == HUB {
            return self.hub.clone();
        }
        let process = (voter.slot, voter.incarnation);
        if !self.voters.contains_key(&process) {
            match self.lanes.connection_to(voter) {
                Ok(channel) => _ = self.voters.insert(process, ArbiterClient::new(channel)),
                Err(error) => tracing::warn!(%error, voter = voter.worker, "no way to a voter"),
            }
        }
        self.voters.get(&process).cloned()
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        self.lanes.secret().show(request.metadata_mut());
        request
    }

    /// Has a question answered, and brings the answer to the core.
    fn put<T: Send + 'static>(
        &self,
        asking: impl Future<Output = Result<tonic::Response<T>, Status>> + Send + 'static,
        news: impl FnOnce(T) -> Vec<Input> + Send + 'static,
    ) {
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asking).await {
                for input in news(answer.into_inner()) {
                    let _stopping = inbox.send(input).await;
                }
            }
        });
    }
}
