//! What a step of a script does.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::units::{Rate, RoundTrip, UnitError};

/// A worker by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Worker(pub(crate) u32);

impl<'de> Deserialize<'de> for Worker {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let slot = name.strip_prefix('w').and_then(|slot| slot.parse().ok());
        slot.map(Self).ok_or_else(|| D::Error::custom(format!("{name} is no worker")))
    }
}

/// Which of a worker's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Processes {
    Sidecar,
    Trainer,
    Both,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Action {
    Kill { worker: Worker, process: Processes, restart: bool },
    Stop { worker: Worker, process: Processes, seconds: f64 },
    Join { workers: u32 },
    Leave { worker: Worker },
    Partition { workers: Vec<Worker>, seconds: f64 },
    Link(Link),
}

impl Action {
    /// Those that it is about by name.
    pub(crate) fn workers(&self) -> Vec<Worker> {
        match self {
            Self::Kill { worker, .. } | Self::Stop { worker, .. } | Self::Leave { worker } => vec![*worker],
            Self::Partition { workers, .. } => workers.clone(),
            Self::Link(link) => vec![link.worker],
            Self::Join { .. } => Vec::new(),
        }
    }

    /// For a person.
    pub(crate) fn words(&self) -> String {
        let of = |process: Processes, worker: Worker| match process {
            Processes::Sidecar => format!("the sidecar of w{}", worker.0),
            Processes::Trainer => format!("the trainer of w{}", worker.0),
            Processes::Both => format!("w{}", worker.0),
        };
        match self {
            Self::Kill { worker, restart: false, .. } => format!("w{} is killed for good", worker.0),
            Self::Kill { worker, process, .. } => format!("{} is killed", of(*process, *worker)),
            Self::Stop { worker, process, seconds } => format!("{} is stopped for {seconds} s", of(*process, *worker)),
            Self::Join { workers: 1 } => "a worker joins".to_owned(),
            Self::Join { workers } => format!("{workers} workers join"),
            Self::Leave { worker } => format!("w{} leaves", worker.0),
            Self::Partition { workers, seconds } => {
                let names = workers.iter().map(|worker| format!("w{}", worker.0)).collect::<Vec<_>>().join(", ");
                format!("{names}: cut off for {seconds} s")
            }
            Self::Link(link) => {
                let rate = link.rate.as_deref().unwrap_or("any rate");
                let round_trip =
                    link.round_trip.as_deref().map_or_else(String::new, |time| format!(" and a round trip of {time}"));
                format!("the link of w{} has {rate}{round_trip}", link.worker.0)
            }
        }
    }
}

/// What becomes of the link of a worker.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Link {
    pub(crate) worker: Worker,
    rate: Option<String>,
    round_trip: Option<String>,
}

impl Link {
    pub(crate) fn rate(&self) -> Option<Result<Rate, UnitError>> {
        self.rate.as_deref().map(str::parse)
    }

    pub(crate) fn round_trip(&self) -> Option<Result<RoundTrip, UnitError>> {
        self.round_trip.as_deref().map(str::parse)
    }
}
