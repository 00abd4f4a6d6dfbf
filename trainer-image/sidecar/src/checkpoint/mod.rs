//! Keeping the state: this worker's share of each checkpoint is written beside the training, and the coordinator's sidecar publishes.

mod publisher;
mod snapshot;
mod writer;

use std::sync::Arc;

use atoll_checkpoint::Location;
use atoll_checkpoint::location::LocationError;
use atoll_checkpoint::manifest::Origin;
use atoll_checkpoint::retention::Retention;
use atoll_collective::coordinator::Complete;
use atoll_collective::v1::{Upload, Uploaded};
use tokio::sync::{Mutex, mpsc};

use crate::Config;
use crate::core::Input;
use crate::report::Reporter;
use publisher::Publisher;
pub(crate) use snapshot::{Snapshot, Source};

/// Where and how a run keeps its checkpoints.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Keeping {
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
    orders: mpsc::UnboundedSender<Order>,
    publisher: Arc<Mutex<Publisher>>,
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
        let (run, slot, folder) = (&config.settings.run, config.slot, keeping.location.open()?);
        let name = format!("{run}-{}-{slot}", keeping.lineage);
        let (orders, taken) = mpsc::unbounded_channel();
        tokio::spawn(writer::run(folder.clone(), name.clone(), slot, taken, inbox.clone()));
        let publisher = Publisher::new(run, &name, keeping.clone(), folder, report.clone());
        Ok(Some(Self { orders, publisher: Arc::new(Mutex::new(publisher)), inbox: inbox.clone() }))
    }

    /// Takes what was copied; the trainer goes on.
    pub(crate) fn orders(&self) -> Orders {
        Orders(self.orders.clone())
    }

    pub(crate) fn divide(&self, upload: Upload) {
        let _ending = self.orders.send(Order::Divide(upload));
    }

    pub(crate) fn end(&self, rounds: u64) {
        let _ending = self.orders.send(Order::End(rounds));
    }

    /// Publishes a checkpoint, then removes what is kept no longer.
    pub(crate) fn publish(&self, complete: Complete) {
        let (publisher, inbox) = (Arc::clone(&self.publisher), self.inbox.clone());
        tokio::spawn(async move {
            let rounds = complete.committed.round;
            let result = publisher.lock().await.publish(complete).await;
            let _ending = inbox.send(Input::Published(rounds, result)).await;
        });
    }
}

/// A way to the writer.
pub(crate) struct Orders(mpsc::UnboundedSender<Order>);

impl Orders {
    pub(crate) fn keep(&self, snapshot: Snapshot, upload: Upload) {
        let _ending = self.0.send(Order::Keep(Box::new(snapshot), upload));
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
