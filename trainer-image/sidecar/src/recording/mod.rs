//! What went into a sidecar's two state machines and what came out of them, one JSON object per line, to be replayed.
//!
//! A file begins with its [`Header`] and the state of each machine, so that it stands for itself; then every event, with its
//! time and the actions that it led to. Control messages only: names, counts and hashes, no tensors and no secrets.

mod history;
mod recorder;
mod replay;

use atoll_collective::Millis;
use atoll_collective::coordinator::{self, Coordinator};
use atoll_collective::peer::{self, Peer};
use serde::{Deserialize, Serialize};

pub use history::{Chapter, History};
pub(crate) use recorder::{Recorder, Told};
pub use replay::{Difference, Malformed, Problem, Replayed, replay};

/// Version of the format; another is not read.
const FORMAT: u32 = 1;

/// Whose recording it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub format: u32,
    /// Version of the sidecar.
    pub version: String,
    /// Name of the run.
    pub run: String,
    /// Name of the worker.
    pub worker: String,
    /// Counts the starts of the sidecar.
    pub incarnation: u64,
    /// When the file was begun, in RFC 3339, UTC.
    pub time: String,
}

/// One event of a state machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Step<E, A> {
    /// Milliseconds since the sidecar's start.
    now: Millis,
    event: E,
    #[serde(default = "Vec::new")]
    actions: Vec<A>,
}

/// One line.
// One at a time.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Recording(Header),
    /// The peer as it is from here on.
    PeerState(Peer),
    /// The coordinator as it is from here on: this sidecar has the role.
    CoordinatorState(Coordinator),
    /// The role was given back.
    CoordinatorEnded,
    Peer(Step<peer::Event, peer::Action>),
    Coordinator(Step<coordinator::Event, coordinator::Action>),
}

/// Which of the two state machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// The worker's side of the protocol.
    Peer,
    /// The coordinator's role.
    Coordinator,
}

impl Machine {
    /// Its name, as at the head of a line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Coordinator => "coordinator",
        }
    }
}
