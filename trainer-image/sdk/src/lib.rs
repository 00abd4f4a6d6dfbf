//! What a trainer links to talk to its sidecar: shared regions and collective operations.
//!
//! A [`Session`] begins rounds and reduces vectors; tensors stay in [`Region`]s. Whatever happens to peers, coordinator or
//! sidecar, a call ends with an [`Outcome`] or with [`SdkError::Again`]. After [`Outcome::Aborted`] and after that error the
//! trainer begins the round anew, and is given the round's state where its own is not.

pub mod assignment;
pub mod events;
mod operation;
mod passing;
#[cfg(feature = "process")]
pub mod process;
mod region;
mod session;
mod state;

pub use atoll_proto::v1::{AbortReason, Codec, CommitRecord, DataType, ElementType, Member, SampleRange};
pub use operation::{Operation, Outcome};
pub use passing::{receive, regions_socket};
pub use region::Region;
pub use session::{Coding, Contribution, Options, Part, Pending, Round, Session};
pub use state::{Kept, State};

/// Errors of the sdk.
#[derive(Debug, thiserror::Error)]
pub enum SdkError {
    /// A region cannot be made or mapped.
    #[error("region {name} of {length} bytes: {source}")]
    Region {
        /// Its name.
        name: String,
        /// Bytes asked for.
        length: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// A region that another process made was not taken from memory as a whole: whoever used the rest could be killed for it.
    #[error("region {name}: {present} of its {length} bytes are in memory; take all of them with fallocate before it is passed")]
    Sparse {
        /// Its name.
        name: String,
        /// Its length in bytes.
        length: u64,
        /// Bytes that are there.
        present: u64,
    },
    /// A region cannot be handed over.
    #[error("passing region {name} to the sidecar: {source}")]
    Passing {
        /// Its name.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The sidecar cannot be reached.
    #[error("no sidecar at {socket} for {seconds} s: {detail}")]
    NoSidecar {
        /// Path of its socket.
        socket: String,
        /// How long it was tried.
        seconds: u64,
        /// The last error.
        detail: String,
    },
    /// The sidecar speaks no protocol version that this trainer speaks, or belongs to another run.
    #[error("the sidecar refuses this trainer: {0}")]
    Refused(String),
    /// The sidecar was lost, or the worker is no longer in the round: begin it again.
    #[error("the round has to be begun again: {0}")]
    Again(String),
    /// The runtime of the sdk's own thread could not be started.
    #[error("the sdk's thread could not be started: {0}")]
    Runtime(#[source] std::io::Error),
}
