//! The places of a run at which something may go wrong, what may go wrong there, and which pairs of the two are tried.

use std::{collections::BTreeSet, fmt};

/// Where a fault strikes: at a request to the store, or with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A writer says what it will write.
    Intent,
    /// A shard is sent, and nothing of it arrives.
    BeforeShard,
    /// Half of a shard has arrived.
    InShard,
    /// A shard is written, and its writer does not hear of it.
    AfterShard,
    BeforeManifest,
    AfterManifest,
    BeforeLatest,
    AfterLatest,
    /// A checkpoint that is kept no longer is removed.
    RemovingManifest,
    /// A collector says what it will remove.
    Condemning,
    RemovingShard,
    /// The state is copied: right after a checkpoint began.
    Snapshot,
    /// A trainer that was lost takes its state from the others.
    PeerTransfer,
    /// A run looks for the checkpoint that it goes on from.
    Checking,
    /// Trainers read their state of it.
    Restoring,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// SIGKILL for the process whose request it is.
    KillWriter,
    /// SIGKILL for all sidecars and trainers.
    KillWorkers,
    /// SIGKILL for `atoll run`, which takes all with it.
    KillSupervisor,
    /// SIGKILL for the coordinator's sidecar.
    KillCoordinator,
    /// The store answers 500.
    Error,
    /// The store answers 503.
    Busy,
    /// The store takes two seconds.
    Slow,
    /// The store takes no request for some time.
    Refused,
    /// The connection ends in the middle of a body.
    Cut,
    /// One bit of a shard that only the newest manifest names changes; then SIGKILL for all.
    BitFlip,
    /// One bit of a shard that all manifests name changes; then SIGKILL for all.
    BitFlipInAll,
    /// The newest manifest loses its second half; then SIGKILL for all.
    Truncated,
    /// The disk has no room left for some time.
    DiskFull,
    /// The machine loses its power, and what was not on its disk.
    PowerLoss,
}

/// What faults have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Kill,
    Store,
    Damage,
    Disk,
    Power,
}

/// A place and a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) place: Place,
    pub(super) fault: Fault,
}

const PLACES: [Place; 15] = [
    Place::Intent,
    Place::BeforeShard,
    Place::InShard,
    Place::AfterShard,
    Place::BeforeManifest,
    Place::AfterManifest,
    Place::BeforeLatest,
    Place::AfterLatest,
    Place::RemovingManifest,
    Place::Condemning,
    Place::RemovingShard,
    Place::Snapshot,
    Place::PeerTransfer,
    Place::Checking,
    Place::Restoring,
];

const FAULTS: [Fault; 14] = [
    Fault::KillWriter,
    Fault::KillWorkers,
    Fault::KillSupervisor,
    Fault::KillCoordinator,
    Fault::Error,
    Fault::Busy,
    Fault::Slow,
    Fault::Refused,
    Fault::Cut,
    Fault::BitFlip,
    Fault::BitFlipInAll,
    Fault::Truncated,
    Fault::DiskFull,
    Fault::PowerLoss,
];

impl Place {
    /// Whether it is part of a run that goes on from a checkpoint.
    pub(super) fn is_of_resuming(self) -> bool {
        matches!(self, Self::Checking | Self::Restoring)
    }

    /// Whether it is a request, and not an event.
    pub(super) fn is_a_request(self) -> bool {
        !matches!(self, Self::Snapshot | Self::PeerTransfer)
    }

    /// Whether it is a request that changes the store.
    fn writes(self) -> bool {
        self.is_a_request() && !self.is_of_resuming()
    }

    fn has_a_body(self) -> bool {
        use Place::{BeforeLatest, BeforeManifest, Checking, Condemning, InShard, Intent, Restoring};
        matches!(self, Intent | InShard | BeforeManifest | BeforeLatest | Condemning | Checking | Restoring)
    }
}

impl Fault {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::KillWriter | Self::KillWorkers | Self::KillSupervisor | Self::KillCoordinator => Kind::Kill,
            Self::Error | Self::Busy | Self::Slow | Self::Refused | Self::Cut => Kind::Store,
            Self::BitFlip | Self::BitFlipInAll | Self::Truncated => Kind::Damage,
            Self::DiskFull => Kind::Disk,
            Self::PowerLoss => Kind::Power,
        }
    }
}

impl Case {
    /// Whether the fault can happen at the place, and is not the same there as another one.
    fn is_meaningful(self) -> bool {
        let Self { place, fault } = self;
        match fault.kind() {
            // Before a run has begun it is one process.
            Kind::Kill => place != Place::Checking || fault == Fault::KillSupervisor,
            // Nothing comes between a body that was cut and one that is sent again.
            Kind::Store if fault == Fault::Cut => place.has_a_body(),
            Kind::Store => place.is_a_request(),
            // What becomes of it does not depend on where a run was, only on whether it goes on.
            Kind::Damage if fault == Fault::BitFlipInAll => matches!(place, Place::Snapshot | Place::Restoring),
            Kind::Damage => true,
            Kind::Disk => matches!(place, Place::BeforeShard | Place::InShard | Place::BeforeManifest),
            Kind::Power => place.writes(),
        }
    }

    /// Whether the run that is struck must complete by itself.
    pub(super) fn must_survive(self) -> bool {
        match self.fault {
            Fault::KillSupervisor | Fault::BitFlipInAll => false,
            // A newer one that is damaged is passed over before the run begins; once it has begun, what was read is needed.
            Fault::Truncated => self.place.is_of_resuming(),
            Fault::BitFlip => self.place == Place::Checking,
            _ => true,
        }
    }
}

/// All pairs that mean something, by place.
pub(super) fn all() -> Vec<Case> {
    let pairs = PLACES.into_iter().flat_map(|place| FAULTS.map(|fault| Case { place, fault }));
    pairs.filter(|case| case.is_meaningful()).collect()
}

/// For each place and each kind of fault that means something there one pair, so that every fault occurs.
pub(super) fn selected() -> Vec<Case> {
    let mut left = all();
    let mut cases = Vec::new();
    let mut used: Vec<Fault> = Vec::new();
    for place in PLACES {
        let kinds: BTreeSet<Kind> = left.iter().filter(|case| case.place == place).map(|case| case.fault.kind()).collect();
        for kind in kinds {
            let here = left.iter().filter(|case| case.place == place && case.fault.kind() == kind);
            let times = |case: &&Case| used.iter().filter(|fault| **fault == case.fault).count();
            if let Some(least) = here.min_by_key(times) {
                used.push(least.fault);
                cases.push(*least);
            }
        }
        left.retain(|case| case.place != place);
    }
    cases
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Intent => "before an intent",
            Self::BeforeShard => "before a shard",
            Self::InShard => "in a shard",
            Self::AfterShard => "after a shard",
            Self::BeforeManifest => "before the manifest",
            Self::AfterManifest => "after the manifest",
            Self::BeforeLatest => "before LATEST",
            Self::AfterLatest => "after LATEST",
            Self::RemovingManifest => "removing a manifest",
            Self::Condemning => "condemning shards",
            Self::RemovingShard => "removing a shard",
            Self::Snapshot => "in the snapshot",
            Self::PeerTransfer => "in a transfer between peers",
            Self::Checking => "looking for a checkpoint",
            Self::Restoring => "restoring",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::KillWriter => "kill the one who asks",
            Self::KillWorkers => "kill all workers",
            Self::KillSupervisor => "kill everything",
            Self::KillCoordinator => "kill the coordinator's sidecar",
            Self::Error => "answers 500",
            Self::Busy => "answers 503",
            Self::Slow => "answers after 2 s",
            Self::Refused => "no answers for 1.5 s",
            Self::Cut => "connection ends in a body",
            Self::BitFlip => "a bit of its shard flips",
            Self::BitFlipInAll => "a bit of a shard of all flips",
            Self::Truncated => "the newest manifest is cut",
            Self::DiskFull => "the disk is full",
            Self::PowerLoss => "the power is lost",
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selection_has_every_place_every_fault_and_every_kind_at_every_place() {
        let (all, selected) = (all(), selected());
        assert!(selected.iter().all(|case| all.contains(case)) && selected.len() * 2 < all.len(), "{}", selected.len());
        let kinds = |cases: &[Case]| cases.iter().map(|case| (case.place, case.fault.kind())).collect::<BTreeSet<_>>();
        assert_eq!(kinds(&selected), kinds(&all));
        let faults = |cases: &[Case]| cases.iter().map(|case| case.fault).collect::<BTreeSet<_>>();
        assert_eq!(faults(&selected), FAULTS.into());
        assert_eq!(selected.iter().map(|case| case.place).collect::<BTreeSet<_>>(), PLACES.into());
    }

    #[test]
    fn what_cannot_happen_is_no_case() {
        let is = |place, fault| Case { place, fault }.is_meaningful();
        assert!(!is(Place::Snapshot, Fault::Error) && !is(Place::Checking, Fault::KillWorkers));
        assert!(!is(Place::AfterShard, Fault::Cut) && is(Place::InShard, Fault::Cut));
        assert!(!is(Place::Restoring, Fault::PowerLoss) && is(Place::RemovingShard, Fault::PowerLoss));
    }
}
