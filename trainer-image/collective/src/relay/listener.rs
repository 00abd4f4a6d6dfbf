//! A peer that is reached through a relay: stays registered, and answers who dials.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::client::{answer, register};
use super::{Pass, Refusal, RelayError};
use crate::identity::PeerName;

/// Diallers that are answered at the same time, and answered ones that nobody has taken yet.
const ANSWERING: usize = 64;
/// The time to reach the relay, and the relay's to answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Accepts connections that come through a relay.
#[derive(Debug)]
pub struct Listener<S> {
    answered: mpsc::Receiver<Result<S, RelayError>>,
    /// Ends with the listener.
    _registering: JoinSet<()>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Listener<S> {
    /// Registers the owner of `pass` with the relay to which `open` opens connections, and does it again, after a pause that
    /// grows to four seconds, whenever the registration is lost.
    #[must_use]
    pub fn new<O, F>(open: O, pass: Pass) -> Self
    where
        O: Fn() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
    {
        let (sender, answered) = mpsc::channel(ANSWERING);
        let mut registering = JoinSet::new();
        registering.spawn(stay_registered(open, pass, sender));
        Self { answered, _registering: registering }
    }

    /// The next connection that was dialled. An error is the last there is: a later process has registered under the same name.
    pub async fn accept(&mut self) -> Option<Result<S, RelayError>> {
        self.answered.recv().await
    }
}

async fn stay_registered<S, O, F>(open: O, pass: Pass, answered: mpsc::Sender<Result<S, RelayError>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    O: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let mut failures = 0;
    loop {
        match registered(&open, &pass, &answered, &mut failures).await {
            RelayError::Refused(Refusal::Replaced) => {
                let _nobody_accepts = answered.send(Err(Refusal::Replaced.into())).await;
                return;
            }
            error => tracing::debug!(%error, "not registered with the relay"),
        }
        sleep(pause(failures, &pass.peer)).await;
        failures = failures.saturating_add(1);
    }
}

/// Registers once, and answers until the registration ends.
async fn registered<S, O, F>(
    open: &O,
    pass: &Pass,
    answered: &mpsc::Sender<Result<S, RelayError>>,
    failures: &mut u32,
) -> RelayError
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    O: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let registering = async { register(open().await?, pass).await };
    let mut registration = match timeout(DEADLINE, registering).await.unwrap_or(Err(RelayError::Silent)) {
        Ok(registration) => registration,
        Err(error) => return error,
    };
    *failures = 0;
    let places = Arc::new(Semaphore::new(ANSWERING));
    loop {
        let number = match registration.dialled().await {
            Ok(number) => number,
            Err(error) => return error,
        };
        // Beyond that, a dialler is left to its deadline.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        tokio::spawn(meet(open.clone(), pass.clone(), number, answered.clone(), place));
    }
}

async fn meet<S, O, F>(
    open: O,
    pass: Pass,
    number: u64,
    answered: mpsc::Sender<Result<S, RelayError>>,
    _place: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    O: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let meeting = async { answer(open().await?, &pass, number).await };
    match timeout(DEADLINE, meeting).await.unwrap_or(Err(RelayError::Silent)) {
        Ok(stream) => {
            let _nobody_accepts = answered.send(Ok(stream)).await;
        }
        Err(error) => tracing::debug!(%error, "a dialler was not met"),
    }
}

/// The pause after so many failures in a row: from 250 ms to 4 s, of which each peer takes its own share between a half and all,
/// so that not all come back at once.
fn pause(failures: u32, peer: &PeerName) -> Duration {
    let longest = Duration::from_millis(250 << failures.min(4));
    let seed = blake3::hash(format!("{peer} {failures}").as_bytes());
    longest / 2 + longest / 2 * u32::from(seed.as_bytes()[0]) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_four_seconds_and_differ_between_peers() {
        let peers: Vec<PeerName> = (0..20).map(|peer| PeerName::new("kjv", "west", &peer.to_string()).unwrap()).collect();
        for (failures, longest) in [(0, 250), (1, 500), (4, 4000), (5, 4000), (u32::MAX, 4000)] {
            let pauses: Vec<u128> = peers.iter().map(|peer| pause(failures, peer).as_millis()).collect();
            assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)), "{pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }
}
