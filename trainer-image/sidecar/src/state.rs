//! The replicated state of one of the trainer's processes: tensors in its regions, hashed, offered to others, and repaired.

use std::io;
use std::time::Duration;

use atoll_collective::chain;
use atoll_collective::lane::{Donors, Lanes};
use atoll_collective::state::manifest::{ElementType, Manifest, ManifestError, Tensor};
use atoll_collective::state::offer::Offer;
use atoll_collective::state::repair::Donor;
use atoll_collective::state::synchronise::{Plan, Synchronisation, Target, synchronise};
use atoll_collective::v1::{EpochRecord, Start, StateTensor};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::core::Input;
use crate::regions::{Part, Regions};
use crate::report::Reporter;

/// Bytes that a repair may have asked for and not yet written.
const IN_FLIGHT: u64 = 64 << 20;

/// The tensors of a state, in ascending order of their keys.
#[derive(Clone)]
pub(crate) struct State {
    tensors: Vec<(String, ElementType, Part)>,
}

impl State {
    /// The tensors that a trainer names; none where one is no part of a region of this incarnation.
    pub(crate) fn find(regions: &Regions, incarnation: u64, named: &[StateTensor]) -> Option<Self> {
        let find = |tensor: &StateTensor| {
            let part = regions.part(incarnation, tensor.slice.as_ref())?;
            Some((tensor.key.clone(), tensor.element_type(), part))
        };
        let mut tensors: Vec<_> = named.iter().map(find).collect::<Option<_>>()?;
        tensors.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        Some(Self { tensors })
    }

    /// Its tensors.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&String, ElementType, &Part)> {
        self.tensors.iter().map(|(key, element_type, part)| (key, *element_type, part))
    }

    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        self.tensors.iter().map(|(.., part)| part.len()).sum()
    }

    /// Hashes all of it, on all processors that this process may use.
    pub(crate) fn manifest(&self) -> Result<Manifest, ManifestError> {
        let tensors = self.tensors.iter();
        let tensors: Vec<_> =
            tensors.map(|(key, element_type, part)| Tensor { key, element_type: *element_type, bytes: part.as_ref() }).collect();
        Manifest::of(&tensors, std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// What others can have of it, as long as its bytes are those of `manifest`.
    pub(crate) fn offer(&self, manifest: Manifest) -> Option<Offer> {
        Offer::new(manifest, self.tensors.iter().map(|(.., part)| part.shared()).collect()).ok()
    }

    /// A repair of it began, perhaps by an earlier process of this sidecar, and has not ended.
    pub(crate) fn is_mixture(&self) -> io::Result<bool> {
        self.tensors.iter().try_fold(false, |mixture, (.., part)| Ok(mixture || !part.is_whole()?))
    }

    /// Marks its regions: what is not whole is not taken for anybody's state, whatever becomes of this process.
    pub(crate) fn mark(&self, whole: bool) -> io::Result<()> {
        self.tensors.iter().try_for_each(|(.., part)| part.mark(whole))
    }

    /// Takes over the bytes of another rank's; false, and nothing is done, where they are not alike.
    pub(crate) fn copy_from(&self, other: &Self) -> bool {
        let pairs = || self.tensors.iter().zip(&other.tensors);
        let alike = pairs().all(|((one, _, mine), (other, _, theirs))| one == other && mine.len() == theirs.len());
        alike && self.tensors.len() == other.tensors.len() && pairs().all(|((.., mine), (.., theirs))| mine.copy_from(theirs))
    }
}

/// A state that is being repaired.
struct Repaired {
    state: State,
    /// Its regions say that it is not whole.
    marked: bool,
}

impl Target for Repaired {
    fn write(&mut self, entry: usize, offset: usize, chunk: &[u8]) -> bool {
        self.marked = self.marked || self.state.mark(false).is_ok();
        self.marked && self.state.tensors.get(entry).is_some_and(|(.., part)| part.write(offset, chunk))
    }
}

/// A repair that the core wants.
pub(crate) struct Repair {
    pub(crate) number: u64,
    pub(crate) report: Reporter,
    pub(crate) start: Start,
    pub(crate) state: State,
    /// What the state is now.
    pub(crate) held: Manifest,
    /// Within it a donor delivers a block, or all it owes.
    pub(crate) patience: Duration,
    /// The newest granted record: who is no longer in it is not waited for.
    pub(crate) record: watch::Receiver<EpochRecord>,
}

impl Repair {
    /// Makes the state that of the round; dropping the task ends it, and nothing is written from there on.
    pub(crate) fn start(self, lanes: Lanes, inbox: mpsc::Sender<Input>) -> JoinHandle<()> {
        tokio::spawn(async move {
            let (number, result) = (self.number, self.perform(&lanes).await);
            let _stopping = inbox.send(Input::Fetched(number, result)).await;
        })
    }

    async fn perform(self, lanes: &Lanes) -> Result<Manifest, String> {
        let record = self.start.record.clone().unwrap_or_default();
        let root = self.start.state_root[..].try_into().map_err(|_| "the round's state has no root".to_owned())?;
        let donors: Vec<_> = self.start.donors.iter().filter_map(|slot| chain::member(&record, *slot)).collect();
        let plan = Plan {
            held: self.held,
            root,
            donors: donors.iter().map(|donor| Donor { slot: donor.slot, bandwidth: None }).collect(),
            patience: self.patience,
            in_flight: IN_FLIGHT,
        };
        let began = Instant::now();
        let mut target = Repaired { state: self.state, marked: false };
        let donors = Donors::new(lanes, donors, record.epoch, self.record);
        let done = synchronise(plan, &donors, &mut target).await;
        self.report.repaired(self.start.round, &done, began.elapsed());
        let Synchronisation { held, blamed, outcome, .. } = done;
        let blamed = || blamed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        outcome.map_err(|error| format!("the state could not be repaired: {error} ({})", blamed()))?;
        Ok(held)
    }
}
