//! Asking whoever may grant a term or an epoch: the hub, and the voters of `Peers`. Every answer comes back to the core as an
//! event; no answer means that this sidecar holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use atoll_collective::arbiter::{HUB, Petition, Question};
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

/// A connection for questions. One that is half-open shows it by nothing but silence.
#[derive(Clone)]
struct Way {
    client: ArbiterClient<Channel>,
    /// A question was not answered in time: the next one gets another connection.
    silent: Arc<AtomicBool>,
}

impl Way {
    fn new(channel: Channel) -> Self {
        Self { client: ArbiterClient::new(channel), silent: Arc::default() }
    }
}

/// The ways to the hub and to the voters, of one member.
pub(crate) struct Arbiters {
    /// `HOST:PORT`.
    hub: String,
    /// By slot and incarnation, the hub's among them; connections of their own, because bulk data must not delay a vote.
    ways: BTreeMap<(u32, u64), Way>,
    lanes: Lanes,
    run: String,
    me: Member,
    inbox: mpsc::Sender<Input>,
}

/// The hub is at the same place whichever process it is.
const HUB_PROCESS: (u32, u64) = (HUB, 0);

impl Arbiters {
    /// The hub is at `hub`: `HOST:PORT`.
    pub(crate) fn new(hub: String, lanes: Lanes, run: String, me: Member, inbox: mpsc::Sender<Input>) -> Self {
        Self { hub, ways: BTreeMap::new(), lanes, run, me, inbox }
    }

    /// Closes the ways to all but the hub and this record's voters.
    pub(crate) fn keep(&mut self, record: &EpochRecord) {
        let voters = &record.members;
        let votes = |process: (u32, u64)| voters.iter().any(|voter| (voter.slot, voter.incarnation) == process);
        self.ways.retain(|process, _| *process == HUB_PROCESS || votes(*process));
    }

    /// A heartbeat to the hub and to those who listen to `petition`, with the newest record; each answers with what it knows.
    pub(crate) fn beat(&mut self, petition: &Petition) {
        let (listeners, record) = (petition.listeners(), Some(petition.record().clone()));
        let beat = BeatRequest { run: self.run.clone(), member: Some(self.me.clone()), record, leaves: petition.is_leaving() };
        let voters: Vec<_> = listeners.iter().filter_map(|listener| self.way(listener)).collect();
        for Way { mut client, silent } in self.way_to_hub().into_iter().chain(voters) {
            let request = self.request(beat.clone());
            self.put(silent, async move { client.beat(request).await }, |reply| {
                [Input::Learned(reply.record.unwrap_or_default())].into_iter().chain(reply.hub.map(Input::Hub)).collect()
            });
        }
    }

    /// Asks the hub as `Single`.
    pub(crate) fn ask_single(&mut self, question: Question) {
        let Some(Way { mut client, silent }) = self.way_to_hub() else { return };
        match question {
            Question::Term(term) => {
                let request = self.request(term);
                let learned = |ruling: atoll_collective::v1::Ruling| vec![Input::Learned(ruling.record.unwrap_or_default())];
                self.put(silent, async move { client.request_term(request).await }, learned);
            }
            Question::Epoch(epoch) => {
                let request = self.request(epoch);
                self.put(silent, async move { client.grant_epoch(request).await }, |ruling| vec![Input::Ruled(ruling)]);
            }
        }
    }

    /// Asks one voter; the hub where it has the hub's slot.
    pub(crate) fn ask(&mut self, voter: Member, number: u64, question: Question) {
        let Some(Way { mut client, silent }) = self.way(&voter) else { return };
        let answered = move |ruling| vec![Input::Answered { question: number, voter, ruling }];
        match question {
            Question::Term(term) => {
                let request = self.request(term);
                self.put(silent, async move { client.request_term(request).await }, answered);
            }
            Question::Epoch(epoch) => {
                let request = self.request(epoch);
                self.put(silent, async move { client.grant_epoch(request).await }, answered);
            }
        }
    }

    fn way_to_hub(&mut self) -> Option<Way> {
        let (lanes, hub, island) = (&self.lanes, &self.hub, &self.me.island);
        open(&mut self.ways, HUB_PROCESS, || lanes.connection(hub, island, ARBITER))
    }

    fn way(&mut self, voter: &Member) -> Option<Way> {
        if voter.slot == HUB {
            return self.way_to_hub();
        }
        let lanes = &self.lanes;
        open(&mut self.ways, (voter.slot, voter.incarnation), || lanes.connection_to(voter))
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        self.lanes.secret().show(request.metadata_mut());
        request
    }

    /// Has a question answered, and brings the answer to the core.
    fn put<T: Send + 'static>(
        &self,
        silent: Arc<AtomicBool>,
        asking: impl Future<Output = Result<tonic::Response<T>, Status>> + Send + 'static,
        news: impl FnOnce(T) -> Vec<Input> + Send + 'static,
    ) {
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, asking).await {
                Ok(Ok(answer)) => {
                    for input in news(answer.into_inner()) {
                        let _stopping = inbox.send(input).await;
                    }
                }
                Ok(Err(_)) => {}
                Err(_) => silent.store(true, Relaxed),
            }
        });
    }
}

/// The way to a process: the one that is there, unless it has become silent.
fn open(
    ways: &mut BTreeMap<(u32, u64), Way>,
    process: (u32, u64),
    connect: impl FnOnce() -> Result<Channel, String>,
) -> Option<Way> {
    if let Some(way) = ways.get(&process).filter(|way| !way.silent.load(Relaxed)) {
        return Some(way.clone());
    }
    match connect() {
        Ok(channel) => {
            let way = Way::new(channel);
            ways.insert(process, way.clone());
            Some(way)
        }
        Err(error) => {
            tracing::warn!(%error, "no way to who grants or votes");
            None
        }
    }
}
