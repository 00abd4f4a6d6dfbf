//! Admission: those who connect say who they are before anything else, all at the same time, each within a deadline.
//!
//! A stranger who connects and says nothing delays nobody: the number of newcomers is bounded, and when it is reached the one who
//! has been silent longest makes room for the next. What goes wrong with one connection, or with accepting, never ends the
//! listener.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{AbortHandle, Abortable, Aborted, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tokio_stream::wrappers::TcpListenerStream;

use crate::transport::socket;

/// How long nothing is accepted after the system could not accept, for want of file descriptors for example.
const PAUSE: Duration = Duration::from_millis(100);

/// How many newcomers there may be, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The time that each has to say who it is.
    pub deadline: Duration,
    /// Newcomers at the same time.
    pub newcomers: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), newcomers: 256 }
    }
}

/// Counts the connections that were turned away.
#[derive(Debug, Clone, Default)]
pub struct TurnedAway(Arc<AtomicU64>);

impl TurnedAway {
    /// How many, since the start.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn one(&self, reason: impl Display) {
        self.0.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%reason, "a connection was turned away");
    }
}

/// Connections of a listener, which send without waiting for more (`TCP_NODELAY`).
pub fn accepted(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> + Send + Unpin {
    TcpListenerStream::new(listener).map(|accepted| {
        let stream = accepted?;
        socket::prepare(&stream)?;
        Ok(stream)
    })
}

/// Those of `connections` for which `greet` succeeded, in the order in which it did. Ends when `connections` has ended and nobody
/// is being greeted any more.
pub fn admit<S, G, F, T, E>(
    connections: impl Stream<Item = io::Result<S>> + Send + Unpin,
    greet: G,
    patience: Patience,
    turned_away: TurnedAway,
) -> impl Stream<Item = T> + Send
where
    S: Send,
    G: Fn(S) -> F + Send + Sync,
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Display + Send + 'static,
{
    let newcomers =
        Newcomers { patience, turned_away, greetings: FuturesUnordered::new(), oldest_first: BTreeMap::new(), last: 0 };
    let door = Door { connections, newcomers, state: State::Open };
    futures::stream::unfold((door, greet), |(mut door, greet)| async move {
        let admitted = door.next(&greet).await?;
        Some((admitted, (door, greet)))
    })
}

/// What became of one greeting, with its number.
type Greeted<T, E> = (u64, Result<Result<T, E>, Elapsed>);

/// The greetings under way.
struct Newcomers<T, E> {
    patience: Patience,
    turned_away: TurnedAway,
    greetings: FuturesUnordered<Abortable<BoxFuture<'static, Greeted<T, E>>>>,
    oldest_first: BTreeMap<u64, AbortHandle>,
    last: u64,
}

impl<T: Send + 'static, E: Display + Send + 'static> Newcomers<T, E> {
    fn greet(&mut self, greeting: impl Future<Output = Result<T, E>> + Send + 'static) {
        if self.oldest_first.len() >= self.patience.newcomers
            && let Some((_, oldest)) = self.oldest_first.pop_first()
        {
            oldest.abort();
            self.turned_away.one("it was silent while others came");
        }
        self.last += 1;
        let number = self.last;
        let timed = tokio::time::timeout(self.patience.deadline, greeting);
        let (greeting, handle) = futures::future::abortable(timed.map(move |greeted| (number, greeted)).boxed());
        self.greetings.push(greeting);
        self.oldest_first.insert(number, handle);
    }

    fn ended(&mut self, greeting: Result<Greeted<T, E>, Aborted>) -> Option<T> {
        let (number, greeted) = greeting.ok()?;
        self.oldest_first.remove(&number);
        match greeted {
            Ok(Ok(admitted)) => return Some(admitted),
            Ok(Err(error)) => self.turned_away.one(error),
            Err(_) => self.turned_away.one("it did not say in time who it is"),
        }
        None
    }
}

struct Door<C, T, E> {
    connections: C,
    newcomers: Newcomers<T, E>,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Open,
    /// Nothing is accepted before this instant.
    Paused(Instant),
    /// After a pause, before anything was accepted.
    Trying,
    Ended,
}

impl<S, C, T, E> Door<C, T, E>
where
    C: Stream<Item = io::Result<S>> + Unpin,
    T: Send + 'static,
    E: Display + Send + 'static,
{
    async fn next<F>(&mut self, greet: &impl Fn(S) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        loop {
            let state = self.state;
            let pause = async {
                if let State::Paused(until) = state {
                    tokio::time::sleep_until(until).await;
                }
            };
            tokio::select! {
                biased;
                Some(ended) = self.newcomers.greetings.next() => {
                    let Some(admitted) = self.newcomers.ended(ended) else { continue };
                    return Some(admitted);
                }
                connection = self.connections.next(), if matches!(state, State::Open | State::Trying) => match connection {
                    Some(Ok(stream)) => {
                        self.state = State::Open;
                        self.newcomers.greet(greet(stream));
                    }
                    Some(Err(error)) => self.state = after(&error, state),
                    None => self.state = State::Ended,
                },
                () = pause, if matches!(state, State::Paused(_)) => self.state = State::Trying,
                else => return None,
            }
        }
    }
}

/// An error of one connection changes nothing; one of the listener asks for a pause, and is told once.
fn after(error: &io::Error, state: State) -> State {
    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::InvalidInput) {
        return state;
    }
    if matches!(state, State::Open) {
        tracing::warn!(%error, "no connection can be accepted; trying again");
    }
    State::Paused(Instant::now() + PAUSE)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    const PATIENCE: Patience = Patience { deadline: Duration::from_secs(5), newcomers: 3 };

    /// What a newcomer does: how long it is silent, and what it says then.
    type Newcomer = (Duration, Result<&'static str, &'static str>);

    async fn greet((silent, says): Newcomer) -> Result<&'static str, &'static str> {
        tokio::time::sleep(silent).await;
        says
    }

    async fn admitted(connections: Vec<io::Result<Newcomer>>) -> (Vec<&'static str>, u64) {
        let turned_away = TurnedAway::default();
        let admitted = admit(futures::stream::iter(connections), greet, PATIENCE, turned_away.clone()).collect().await;
        (admitted, turned_away.count())
    }

    fn newcomer(seconds: u64, says: Result<&'static str, &'static str>) -> Newcomer {
        (Duration::from_secs(seconds), says)
    }

    #[tokio::test]
    async fn accepted_connections_send_without_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(accepted(listener).next().await.unwrap().unwrap().nodelay().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_newcomer_delays_nobody_and_is_dropped() {
        let newcomers = vec![Ok(newcomer(1_000_000, Ok("silent"))), Ok(newcomer(2, Ok("slow"))), Ok(newcomer(1, Ok("quick")))];
        assert_eq!(admitted(newcomers).await, (vec!["quick", "slow"], 1));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_places_are_taken_the_oldest_makes_room() {
        let newcomers = vec![
            Ok(newcomer(4, Ok("first"))),
            Ok(newcomer(3, Ok("second"))),
            Ok(newcomer(3, Ok("third"))),
            Ok(newcomer(1, Ok("fourth"))),
        ];
        assert_eq!(admitted(newcomers).await, (vec!["fourth", "second", "third"], 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_been_greeted_holds_no_place() {
        let (send, receive) = mpsc::unbounded_channel();
        let mut admitted = std::pin::pin!(admit(UnboundedReceiverStream::new(receive), greet, PATIENCE, TurnedAway::default()));
        send.send(Ok(newcomer(4, Ok("slow")))).unwrap();
        for _ in 0..10 {
            send.send(Ok(newcomer(0, Ok("quick")))).unwrap();
            assert_eq!(admitted.next().await, Some("quick"));
        }
        drop(send);
        assert_eq!(admitted.next().await, Some("slow"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_greeting_is_counted_and_ends_nothing() {
        let newcomers = vec![Ok(newcomer(1, Err("who?"))), Ok(newcomer(2, Ok("friend")))];
        assert_eq!(admitted(newcomers).await, (vec!["friend"], 1));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_of_the_system_end_neither_the_listener_nor_a_greeting() {
        let no_descriptors = || Err(io::Error::from_raw_os_error(24));
        let reset = Err(ErrorKind::ConnectionReset.into());
        let newcomers =
            vec![Ok(newcomer(0, Ok("before"))), no_descriptors(), no_descriptors(), reset, Ok(newcomer(0, Ok("after")))];
        assert_eq!(admitted(newcomers).await, (vec!["before", "after"], 0));
    }
}
