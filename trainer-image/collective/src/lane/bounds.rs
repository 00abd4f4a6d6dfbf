//! How much memory lanes may take: windows, frames and queues of each connection.

/// Bounds of one sidecar's lanes, in bytes where nothing else is said. A sender learns the receiver's windows and keeps to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bounds {
    /// What may be on the way on one lane before it was read; 16 MiB fill a gigabit over 100 ms.
    pub stream_window: u32,
    /// The same for all that a connection carries.
    pub connection_window: u32,
    /// Largest HTTP/2 frame, 16 KiB to 16 MiB.
    pub frame: u32,
    /// Blocks that wait to be sent on one connection, at least 1.
    pub queue: usize,
    /// Connections of one lane, [`Bounds::MOST_CHANNELS`] at most; none: as many as its round trip and bandwidth take.
    pub channels: Option<usize>,
}

impl Bounds {
    /// Most connections of one lane; a receiver admits twice as many of one peer, because those that have ended are noticed late.
    pub const MOST_CHANNELS: usize = 16;
}

impl Default for Bounds {
    fn default() -> Self {
        Self { stream_window: 16 << 20, connection_window: 64 << 20, frame: 1 << 20, queue: 4, channels: None }
    }
}
