//! The hub as `Single` arbiter of its runs: the pure state machine, and a grant that is stored before it is answered.
//!
//! Beats change memory alone, and wait for nobody. A grant is decided on a copy, stored by compare-and-swap, and only then
//! known here; where it cannot be stored, or somebody else was before, it is none, and what is stored is read before the next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_collective::arbiter::{self, Answers, HUB, Service, Single};
use atoll_collective::identity::PeerName;
use atoll_proto::v1::arbiter_server::Arbiter;
use atoll_proto::v1::{BeatReply, BeatRequest, Beginning, EpochRecord, EpochRequest, Member, Occurrence, Ruling, TermRequest};
use prost::Message;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::record::{self, Known, RecordError};
use super::runs::{Run, Runs, run_of};
use super::store::{StoreError, Version};
use super::{ARBITER, Attempt, Metrics, Setup};
use crate::directory::{Heard, Served};

/// How long the API server may take to read or write a record.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has been granted of one attempt of a run.
pub(super) struct Grants {
    attempt: Attempt,
    setup: Setup,
    metrics: Metrics,
    started: Instant,
    liveness: u64,
    me: Member,
    /// Before what is stored has been read: none.
    hub: Mutex<Option<arbiter::Hub>>,
    stored: tokio::sync::Mutex<Stored>,
}

/// What is stored, as far as this process knows.
#[derive(Default)]
struct Stored {
    known: Known,
    version: Option<Version>,
    /// Whether that is what was read or written last.
    certain: bool,
    /// What stands there is not the operator's, and that was told.
    foreign: bool,
}

impl Grants {
    pub(super) fn new(runs: &Runs, attempt: Attempt, served: &Served, started: Instant) -> Self {
        let now = runs.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let incarnation = now.as_millis() as u64;
        let me = Member { slot: HUB, worker: ARBITER.into(), incarnation, island: served.island.clone(), ..Member::default() };
        let (setup, metrics) = (runs.setup.clone(), runs.metrics.clone());
        let liveness = served.settings.liveness_milliseconds;
        Self { attempt, setup, metrics, started, liveness, me, hub: Mutex::default(), stored: tokio::sync::Mutex::default() }
    }

    /// The newest granted record, and from what the attempt began.
    pub(super) async fn known(&self) -> Result<Known, Status> {
        let stored = self.read().await?;
        Ok(Known { record: self.record(), beginning: stored.known.beginning.clone() })
    }

    /// The newest granted record that it knows; the empty one before what is stored has been read.
    pub(super) fn record(&self) -> EpochRecord {
        self.lock().as_ref().map(|hub| hub.record().clone()).unwrap_or_default()
    }

    /// Has the attempt begin from `found`, unless that is decided: then it stays with that. Returns what is decided.
    pub(super) async fn begin(&self, found: Beginning) -> Result<Beginning, Status> {
        let mut stored = self.certain().await?;
        if let Some(decided) = &stored.known.beginning {
            return Ok(decided.clone());
        }
        let next = Known { beginning: Some(found.clone()), record: self.record() };
        self.swap(&mut stored, next).await?;
        self.tell();
        self.setup.directory.hear(&self.attempt.key, self.attempt.attempt, |heard| {
            heard.beginning_failure = None;
            heard.beginning.replace(found.clone()).as_ref() != Some(&found)
        });
        Ok(found)
    }

    async fn beat(&self, request: &BeatRequest) -> Result<BeatReply, Status> {
        if self.lock().is_none() {
            drop(self.read().await?);
        }
        let now = self.now();
        let reply = self.lock().as_mut().map(|hub| hub.beat(request, now));
        let (record, instant) = (self.record(), Instant::now().into_std());
        self.setup.directory.hear(&self.attempt.key, self.attempt.attempt, |heard| {
            let first = request.member.as_ref().is_some_and(|member| heard.beats.insert(member.slot, instant).is_none());
            renew(heard, record) || first
        });
        reply.ok_or_else(unread)
    }

    /// What `ask` is answered, once it is stored where it grants something.
    async fn grant(&self, kind: &str, ask: impl FnOnce(&mut arbiter::Hub, u64) -> Ruling) -> Result<Ruling, Status> {
        let mut stored = self.certain().await?;
        let asked = self.lock().clone();
        let mut hub = asked.ok_or_else(unread)?;
        let ruling = ask(&mut hub, self.now());
        if ruling.granted && *hub.record() != stored.known.record {
            let next = Known { record: hub.record().clone(), beginning: stored.known.beginning.clone() };
            self.swap(&mut stored, next).await?;
            self.metrics.grants.with_label_values(&[kind]).inc();
        }
        self.learn(hub.record());
        self.tell();
        Ok(ruling)
    }

    /// What `ask` is answered by the hub as a voter, which remembers it in memory alone.
    async fn vote(&self, ask: impl FnOnce(&mut arbiter::Hub, u64) -> Ruling) -> Result<Ruling, Status> {
        drop(self.read().await?);
        let now = self.now();
        let ruling = self.lock().as_mut().map(|hub| ask(hub, now));
        self.tell();
        ruling.ok_or_else(unread)
    }

    /// What is stored, read once.
    async fn read(&self) -> Result<tokio::sync::MutexGuard<'_, Stored>, Status> {
        let mut stored = self.stored.lock().await;
        if self.lock().is_none() {
            self.load(&mut stored).await?;
        }
        Ok(stored)
    }

    /// What is stored, read again where somebody else may have written since.
    async fn certain(&self) -> Result<tokio::sync::MutexGuard<'_, Stored>, Status> {
        let mut stored = self.stored.lock().await;
        if !stored.certain {
            self.load(&mut stored).await?;
        }
        Ok(stored)
    }

    async fn load(&self, stored: &mut Stored) -> Result<(), Status> {
        let loading = tokio::time::timeout(PATIENCE, self.setup.store.load(&self.attempt));
        let found = loading.await.unwrap_or_else(|_| Err(late())).map_err(|error| self.failed(&error))?;
        let (bytes, version) = found.unzip();
        let opened = bytes.map(|bytes| record::open(&self.setup.master, &self.attempt, &bytes)).transpose();
        let read = opened.map_err(|error| self.refused(stored, &error))?.flatten();
        if let Some(known) = read {
            stored.known = known;
        } else if self.lock().is_some() {
            // What was there is gone: it is written again with the next grant.
            stored.known.record = EpochRecord::default();
        }
        (stored.version, stored.certain) = (version, true);
        self.learn(&stored.known.record);
        self.tell();
        let beginning = stored.known.beginning.clone();
        self.setup.directory.hear(&self.attempt.key, self.attempt.attempt, |heard| {
            let new = beginning.is_some() && heard.beginning != beginning;
            heard.beginning = beginning.or_else(|| heard.beginning.take());
            new
        });
        Ok(())
    }

    async fn swap(&self, stored: &mut Stored, next: Known) -> Result<(), Status> {
        let bytes = record::close(&self.setup.master, &self.attempt, &next);
        if bytes.len() > record::MOST {
            return Err(Status::resource_exhausted(format!("a record has {} bytes at most", record::MOST)));
        }
        // Not certain until it is answered: the request may be given up before.
        stored.certain = false;
        let swapping = self.setup.store.swap(&self.attempt, stored.version.clone(), bytes);
        let swapped = tokio::time::timeout(PATIENCE, swapping).await.unwrap_or_else(|_| Err(late()));
        let version = swapped.map_err(|error| self.failed(&error))?;
        *stored = Stored { known: next, version: Some(version), certain: true, foreign: false };
        Ok(())
    }

    /// Takes a record that was granted; its coordinator counts as heard from now on.
    fn learn(&self, record: &EpochRecord) {
        let now = self.now();
        let mut hub = self.lock();
        let first = hub.is_none();
        let hub = hub.get_or_insert_with(|| {
            let mut single = Single::new(self.liveness);
            single.learn(record);
            arbiter::Hub::new(self.me.clone(), single, self.liveness)
        });
        if first || arbiter::is_newer(record, hub.record()) {
            let (member, record) = (record.coordinator.clone(), Some(record.clone()));
            hub.beat(&BeatRequest { member, record, ..BeatRequest::default() }, now);
        }
    }

    /// Tells the controllers of the newest record.
    fn tell(&self) {
        let record = self.record();
        self.setup.directory.hear(&self.attempt.key, self.attempt.attempt, |heard| renew(heard, record));
    }

    fn failed(&self, error: &StoreError) -> Status {
        match error {
            StoreError::Conflict => self.metrics.conflicts.inc(),
            StoreError::Unavailable(_) => self.metrics.failures.inc(),
        }
        Status::unavailable(error.to_string())
    }

    fn refused(&self, stored: &mut Stored, error: &RecordError) -> Status {
        self.metrics.failures.inc();
        if *error == RecordError::Foreign && !std::mem::replace(&mut stored.foreign, true) {
            tracing::error!(namespace = self.attempt.key.namespace, run = self.attempt.key.name, %error, "a run is not served");
            let event = "RecordNotOurs".to_owned();
            let occurrence = Occurrence { event, detail: error.to_string(), ..Occurrence::default() };
            self.setup.directory.hear(&self.attempt.key, self.attempt.attempt, |heard| {
                heard.occurrences.push_back(occurrence);
                true
            });
        }
        Status::unavailable(error.to_string())
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Option<arbiter::Hub>> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a newer record; whether it is.
fn renew(heard: &mut Heard, record: EpochRecord) -> bool {
    let newer = arbiter::is_newer(&record, &heard.record);
    if newer {
        heard.record = record;
    }
    newer
}

fn unread() -> Status {
    Status::unavailable("what is stored of the run has not been read yet")
}

fn late() -> StoreError {
    StoreError::Unavailable(format!("no answer after {} s", PATIENCE.as_secs()))
}

/// The arbiter of whichever run asks.
pub(super) struct Arbitration;

/// One that asks its run.
struct Asked {
    run: Arc<Run>,
    name: Option<PeerName>,
}

impl Asked {
    fn admit(&self, member: Option<&Member>, record: Option<&EpochRecord>) -> Result<(), Status> {
        let member = member.ok_or_else(|| Status::invalid_argument("it does not say who asks"))?;
        if record.is_some_and(|record| record.encoded_len() > record::MOST) {
            return Err(Status::invalid_argument(format!("a record has {} bytes at most", record::MOST)));
        }
        self.run.admit(self.name.as_ref(), member)
    }
}

#[tonic::async_trait]
impl Answers for Asked {
    async fn beat(&self, request: BeatRequest) -> Result<BeatReply, Status> {
        self.admit(request.member.as_ref(), request.record.as_ref())?;
        self.run.grants.beat(&request).await
    }

    async fn request_term(&self, request: TermRequest) -> Result<Ruling, Status> {
        self.admit(request.candidate.as_ref(), request.after.as_ref())?;
        let ask = |hub: &mut arbiter::Hub, now| hub.request_term(&request, now);
        if request.ballot.is_some() { self.run.grants.vote(ask).await } else { self.run.grants.grant("term", ask).await }
    }

    async fn grant_epoch(&self, request: EpochRequest) -> Result<Ruling, Status> {
        let coordinator = request.proposed.as_ref().and_then(|proposed| proposed.coordinator.as_ref());
        let asker = if request.ballot.is_some() { request.proposer.as_ref() } else { coordinator };
        self.admit(asker, request.proposed.as_ref())?;
        let ask = |hub: &mut arbiter::Hub, now| hub.grant_epoch(&request, now);
        if request.ballot.is_some() { self.run.grants.vote(ask).await } else { self.run.grants.grant("epoch", ask).await }
    }
}

fn service<T>(request: &Request<T>) -> Result<Service<Asked>, Status> {
    let run = run_of(request)?;
    let name = request.extensions().get::<Option<PeerName>>().cloned().flatten();
    Ok(Service::new(run.wire.clone(), Asked { run, name }))
}

#[tonic::async_trait]
impl Arbiter for Arbitration {
    async fn beat(&self, request: Request<BeatRequest>) -> Result<Response<BeatReply>, Status> {
        service(&request)?.beat(request).await
    }

    async fn request_term(&self, request: Request<TermRequest>) -> Result<Response<Ruling>, Status> {
        service(&request)?.request_term(request).await
    }

    async fn grant_epoch(&self, request: Request<EpochRequest>) -> Result<Response<Ruling>, Status> {
        service(&request)?.grant_epoch(request).await
    }
}

#[cfg(test)]
#[path = "tests/grants.rs"]
mod tests;
