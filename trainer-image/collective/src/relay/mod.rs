//! A relay: a tunnel for bytes between peers that cannot dial each other, below their TLS.
//!
//! A peer that cannot be dialled keeps one registration with the relay. Who wants it dials the relay; the relay tells a number on
//! the registration, and the peer opens a connection of its own to answer it. From then on bytes are copied both ways, unread,
//! through buffers of fixed size: what the one end is slow to take, the other is slow to send, and no other lane is.

mod client;
mod figures;
mod header;
mod listener;
mod serve;
mod table;

use std::io;
use std::time::Duration;

pub use client::dial;
pub use figures::{Figures, Snapshot};
pub use header::{Header, Pass, Purpose, Role, Token, Tokens};
pub use listener::Listener;
pub use serve::{Limits, serve};

/// The protocol's name in outer TLS (ALPN).
pub const ALPN: &[u8] = b"atoll-relay/1";

/// Bytes of buffer for each direction of a tunnel.
pub const BUFFER: usize = 64 << 10;

/// A registration is kept alive in this interval, which also keeps it open in routers that translate addresses.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A registration on which nothing came for so long is lost.
const SILENCE: Duration = Duration::from_secs(45);

/// First byte of an answer: accepted. On a registration: still here.
const ACCEPTED: u8 = 0;
/// On a registration: somebody dials; eight bytes (big-endian) of number follow.
const DIALLED: u8 = 1;

/// Why the relay closes a connection: the one byte that it sends before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// What came is not a header.
    #[error("what was sent is not a header of the relay")]
    Malformed = 2,
    /// The header is longer than any can be.
    #[error("the header is too long")]
    TooLong = 3,
    /// The relay speaks another version.
    #[error("the relay speaks another version of its protocol")]
    Version = 4,
    /// The token is not the opener's for this purpose.
    #[error("the token is not that of this peer")]
    Token = 5,
    /// Peers of different runs are not connected.
    #[error("the peer that was dialled is of another run")]
    OtherRun = 6,
    /// Nobody of that name is registered.
    #[error("the peer that was dialled is not registered")]
    Unknown = 7,
    /// The peer was told and did not answer in time.
    #[error("the peer that was dialled did not answer in time")]
    Unanswered = 8,
    /// The same peer registered again.
    #[error("a later registration of the same peer took this one's place")]
    Replaced = 9,
    /// Nobody waits under that number, or not for this peer.
    #[error("nobody waits under that number")]
    NobodyWaits = 10,
    /// The run has as many connections as it may.
    #[error("the run has as many connections as it may have")]
    RunFull = 11,
    /// The relay has as many connections as it may.
    #[error("the relay has as many connections as it may have")]
    Full = 12,
    /// The peer is dialled more often than it answers.
    #[error("too many dial that peer at once")]
    Busy = 13,
}

impl Refusal {
    const ALL: [Self; 12] = [
        Self::Malformed,
        Self::TooLong,
        Self::Version,
        Self::Token,
        Self::OtherRun,
        Self::Unknown,
        Self::Unanswered,
        Self::Replaced,
        Self::NobodyWaits,
        Self::RunFull,
        Self::Full,
        Self::Busy,
    ];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| *refusal as u8 == byte)
    }
}

/// Why a relay could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The relay said why.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection with the relay broke.
    #[error("the connection with the relay broke: {0}")]
    Io(#[from] io::Error),
    /// What answers is not a relay, or a later one.
    #[error("the relay's answer {0} is not understood")]
    Answer(u8),
    /// Nothing came any more.
    #[error("nothing came from the other end for {} s", SILENCE.as_secs())]
    Silent,
}
