//! The peers' end of outer connections: to dial, to register, to answer.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::header::{Header, Purpose};
use super::{ACCEPTED, DIALLED, Pass, Refusal, RelayError, SILENCE};
use crate::identity::PeerName;

/// Reaches `to` through the relay at the other end of `stream`; what is returned then is a connection with that peer. Its caller
/// sets the deadline.
///
/// # Errors
/// [`RelayError`].
pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(stream: S, pass: &Pass, to: &PeerName) -> Result<S, RelayError> {
    open(stream, pass, Purpose::Dial(to.clone())).await
}

/// Meets the dialler with this number, as [`dial`] does.
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S, pass: &Pass, number: u64) -> Result<S, RelayError> {
    open(stream, pass, Purpose::Answer(number)).await
}

/// Registers the pass's owner on `stream`, which then carries the registration.
pub(super) async fn register<S: AsyncRead + AsyncWrite + Unpin>(stream: S, pass: &Pass) -> Result<Registration<S>, RelayError> {
    Ok(Registration { stream: open(stream, pass, Purpose::Listen).await? })
}

async fn open<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, pass: &Pass, purpose: Purpose) -> Result<S, RelayError> {
    stream.write_all(&Header::new(pass, purpose).encode()).await?;
    stream.flush().await?;
    match stream.read_u8().await? {
        ACCEPTED => Ok(stream),
        other => Err(refused(other)),
    }
}

fn refused(byte: u8) -> RelayError {
    Refusal::of(byte).map_or(RelayError::Answer(byte), RelayError::Refused)
}

/// A peer's registration with a relay.
#[derive(Debug)]
pub(super) struct Registration<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Registration<S> {
    /// The number of the next who dials; keeps the registration alive meanwhile. To be dropped only together with the
    /// registration.
    ///
    /// # Errors
    /// [`RelayError`]: the registration has ended.
    pub(super) async fn dialled(&mut self) -> Result<u64, RelayError> {
        loop {
            match timeout(SILENCE, self.stream.read_u8()).await.map_err(|_| RelayError::Silent)?? {
                ACCEPTED => {
                    self.stream.write_u8(ACCEPTED).await?;
                    self.stream.flush().await?;
                }
                DIALLED => return Ok(timeout(SILENCE, self.stream.read_u64()).await.map_err(|_| RelayError::Silent)??),
                other => return Err(refused(other)),
            }
        }
    }
}
