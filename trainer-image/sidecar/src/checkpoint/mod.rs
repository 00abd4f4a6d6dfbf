//! Keeping the state: this worker's share of each checkpoint is written beside the training, and the coordinator's sidecar publishes.

mod publisher;
mod snapshot;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};

use atoll_checkpoint::location::LocationError;
use atoll_checkpoint::manifest::Origin;
use atoll_checkpoint::retention::Retention;
use atoll_checkpoint::store::LITTLE;
use atoll_checkpoint::{Location, Store};
use atoll_collective::coordinator::Complete;
use atoll_collective::v1::{Upload, Uploaded};
use bytes::BytesMut;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use crate::Config;
use crate::core::Input;
use crate::report::Reporter;
use publisher::Publisher;
pub(crate) use snapshot::{Snapshot, Source};

/// Where and how a run keeps its checkpoints.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Keeping {
    /// Name of the run in its checkpoints.
    pub run: String,
    /// The folder.
    pub location: Location,
    /// Number of this history of the run in it.
    pub lineage: u64,
    /// What this history goes on from.
    pub from: Option<Origin>,
    /// The run's seed.
    pub seed: u64,
    /// Most checkpoints that stay, the newest.
    pub keep: usize,
    /// Checkpoints of rounds that are a multiple of this stay for ever.
    pub keep_every: Option<u64>,
}

impl Keeping {
    fn retention(&self) -> Retention {
        Retention { keep: self.keep, keep_every: self.keep_every }
    }
}

/// The tasks of a sidecar that reach the store.
pub(crate) struct Keeper {
    store: Store,
    orders: Orders,
    publisher: Arc<AsyncMutex<Publisher>>,
    inbox: mpsc::Sender<Input>,
}

/// What the writer is told.
enum Order {
    /// Write a share of this, and keep it until it is said that the checkpoint has ended.
    Keep(Box<Snapshot>, Upload),
    /// Write another share of it.
    Divide(Upload),
    /// The checkpoint of so many rounds has ended.
    End(u64),
}

impl Keeper {
    /// A keeper of this sidecar's worker; none where its run keeps nothing.
    ///
    /// # Errors
    /// The folder cannot be opened.
    pub(crate) fn of(config: &Config, report: &Reporter, inbox: &mpsc::Sender<Input>) -> Result<Option<Self>, LocationError> {
        let Some(keeping) = &config.keeping else { return Ok(None) };
        let (run, slot, folder) = (&keeping.run, config.slot, keeping.location.open()?);
        let name = format!("{run}-{}-{slot}", keeping.lineage);
        let (orders, taken) = mpsc::unbounded_channel();
        let store = folder.store().clone();
        tokio::spawn(writer::run(folder.clone(), name.clone(), slot, taken, inbox.clone()));
        let publisher = Publisher::new(&name, keeping.clone(), folder, report.clone());
        let orders = Orders { writer: orders, room: Arc::default() };
        Ok(Some(Self { store, orders, publisher: Arc::new(AsyncMutex::new(publisher)), inbox: inbox.clone() }))
    }

    /// Takes what was copied; the trainer goes on.
    pub(crate) fn orders(&self) -> Orders {
        self.orders.clone()
    }

    pub(crate) fn divide(&self, upload: Upload) {
        let _ending = self.orders.writer.send(Order::Divide(upload));
    }

    pub(crate) fn end(&self, rounds: u64) {
        let _ending = self.orders.writer.send(Order::End(rounds));
    }

    /// Publishes a checkpoint, then removes what is kept no longer.
    pub(crate) fn publish(&self, complete: Complete) {
        let (publisher, inbox) = (Arc::clone(&self.publisher), self.inbox.clone());
        tokio::spawn(self.store.together(0, async move {
            let rounds = complete.committed.round;
            let result = publisher.lock().await.publish(complete).await;
            let _ending = inbox.send(Input::Published(rounds, result)).await;
        }));
    }
}

/// A way to the writer.
#[derive(Clone)]
pub(crate) struct Orders {
    writer: mpsc::UnboundedSender<Order>,
    /// Where copies are made: for a small one, memory that is new costs more than to copy.
    room: Arc<Mutex<BytesMut>>,
}

impl Orders {
    /// Copies the state, and has it written.
    pub(crate) fn keep(&self, source: &Source, upload: Upload) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = source.copy(&mut room);
        if snapshot.bytes() > LITTLE {
            // It goes when the copy does.
            *room = BytesMut::new();
        }
        let _ending = self.writer.send(Order::Keep(Box::new(snapshot), upload));
    }
}

fn failed(upload: &Upload, why: String) -> Uploaded {
    let Upload { rounds, division, term, .. } = *upload;
    Uploaded { rounds, division, share: Vec::new(), failure: why, term }
}

/// What a sidecar answers that has no folder, or no state to keep.
pub(crate) fn cannot(upload: &Upload, has_folder: bool) -> Uploaded {
    let why = if has_folder { "its trainer began the round again" } else { "this sidecar was given no folder for checkpoints" };
    failed(upload, why.to_owned())
}
