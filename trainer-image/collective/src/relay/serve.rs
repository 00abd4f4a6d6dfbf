//! The relay itself: reads headers, brings two connections together, and copies what they carry.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};

use super::figures::Figures;
use super::header::{Header, Purpose};
use super::table::Table;
use super::{ACCEPTED, BUFFER, DIALLED, KEEP_ALIVE, Refusal, RelayError, SILENCE, Tokens};
use crate::admission::{self, Patience, TurnedAway};
use crate::identity::PeerName;
use crate::lane::{Meter, Metered};

/// Numbers that wait to be told on one registration.
const UNTOLD: usize = 64;

/// How long a refused connection is kept, and how many bytes are read from it.
const LINGER: Duration = Duration::from_secs(1);
const FAREWELL: u64 = 4096;

/// What a relay bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections that have sent no header yet.
    pub newcomers: Patience,
    /// Connections in all. Two make a tunnel, whose buffers are twice [`BUFFER`].
    pub connections: usize,
    /// Connections of one run.
    pub connections_per_run: usize,
    /// The time in which a peer that is dialled has to answer.
    pub answer: Duration,
    /// A tunnel in which nothing moves for so long is closed, at the latest after twice as long.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            newcomers: Patience::default(),
            connections: 4096,
            connections_per_run: 1024,
            answer: Duration::from_secs(8),
            idle: Duration::from_mins(10),
        }
    }
}

type Numbers = mpsc::Sender<u64>;
type SharedTable<S> = Arc<Mutex<Table<Numbers, oneshot::Sender<Guest<S>>>>>;

/// A connection that is counted as long as it exists.
struct Guest<S> {
    stream: S,
    run: String,
    table: SharedTable<S>,
    figures: Figures,
}

impl<S> Guest<S> {
    fn table(&self) -> MutexGuard<'_, Table<Numbers, oneshot::Sender<Self>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Drop for Guest<S> {
    fn drop(&mut self) {
        self.table().leave(&self.run);
    }
}

/// Serves `connections` until they end, and counts in `figures`; those that are open are closed when the future is dropped.
pub async fn serve<S>(
    connections: impl Stream<Item = io::Result<S>> + Send + Unpin,
    tokens: Tokens,
    limits: Limits,
    figures: Figures,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let table = Arc::new(Mutex::new(Table::new(limits.connections, limits.connections_per_run)));
    let read = |stream| read_header(stream, tokens.clone(), figures.clone());
    let mut newcomers = std::pin::pin!(admission::admit(connections, read, limits.newcomers, TurnedAway::default()));
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            newcomer = newcomers.next() => {
                let Some((stream, header)) = newcomer else { break };
                served.spawn(visit(stream, header, Arc::clone(&table), (limits, figures.clone())));
            }
            Some(_ended) = served.join_next() => {}
        }
    }
    while served.join_next().await.is_some() {}
}

async fn read_header<S>(mut stream: S, tokens: Tokens, figures: Figures) -> Result<(S, Header), RelayError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let checked = Header::read(&mut stream).await.and_then(|header| check(&tokens, header));
    if let Err(RelayError::Refused(refusal)) = checked {
        refuse(&mut stream, refusal, &figures).await;
    }
    checked.map(|header| (stream, header))
}

fn check(tokens: &Tokens, header: Header) -> Result<Header, RelayError> {
    if !tokens.admit(&header) {
        return Err(Refusal::Token.into());
    }
    match &header.purpose {
        Purpose::Dial(to) if to.run() != header.from.run() => Err(Refusal::OtherRun.into()),
        _ => Ok(header),
    }
}

async fn visit<S>(mut stream: S, header: Header, table: SharedTable<S>, (limits, figures): (Limits, Figures))
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Header { from, purpose, .. } = header;
    let entered = table.lock().unwrap_or_else(PoisonError::into_inner).enter(from.run());
    if let Err(refusal) = entered {
        return refuse(&mut stream, refusal, &figures).await;
    }
    let guest = Guest { stream, run: from.run().to_owned(), table, figures };
    match purpose {
        Purpose::Dial(to) => tunnel(guest, &to, limits).await,
        Purpose::Listen => keep_registered(guest, from).await,
        Purpose::Answer(number) => hand_over(guest, &from, number).await,
    }
}

/// Waits until `to` answers, and copies both ways until both have ended.
async fn tunnel<S>(mut dialler: Guest<S>, to: &PeerName, limits: Limits)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (give, met) = oneshot::channel();
    let told = tell(&mut dialler.table(), to, give);
    let number = match told {
        Ok(number) => number,
        Err(refusal) => return refuse_guest(dialler, refusal).await,
    };
    let Ok(Ok(mut answerer)) = timeout(limits.answer, met).await else {
        dialler.table().forget(number);
        return refuse_guest(dialler, Refusal::Unanswered).await;
    };
    let (_open, carried) = (dialler.figures.tunnel(), dialler.figures.carried());
    let copied = async {
        say(&mut answerer.stream, &[ACCEPTED]).await?;
        say(&mut dialler.stream, &[ACCEPTED]).await?;
        splice(&mut Metered::new(&mut dialler.stream, carried), &mut answerer.stream, limits.idle).await
    };
    match copied.await {
        Ok((sent, received)) => tracing::debug!(number, %to, sent, received, "a tunnel ended"),
        Err(error) => tracing::debug!(number, %to, %error, "a tunnel broke"),
    }
}

/// Tells `to` that somebody dials, and under which number.
fn tell<D>(table: &mut Table<Numbers, D>, to: &PeerName, dialler: D) -> Result<u64, Refusal> {
    let (number, numbers) = table.dial(to, dialler)?;
    if numbers.try_send(number).is_err() {
        table.forget(number);
        return Err(Refusal::Busy);
    }
    Ok(number)
}

async fn hand_over<S>(answerer: Guest<S>, from: &PeerName, number: u64)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let dialler = answerer.table().answer(from, number);
    let left_over = match dialler {
        Ok(dialler) => dialler.send(answerer).err(),
        Err(_) => Some(answerer),
    };
    if let Some(answerer) = left_over {
        refuse_guest(answerer, Refusal::NobodyWaits).await;
    }
}

async fn keep_registered<S>(mut guest: Guest<S>, peer: PeerName)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (tell, mut numbers) = mpsc::channel(UNTOLD);
    let registration = guest.table().register(peer.clone(), tell);
    let registered = guest.figures.registered();
    let Err(ended) = tell_numbers(&mut guest.stream, &mut numbers).await;
    guest.table().unregister(&peer, registration);
    drop(registered);
    tracing::debug!(%peer, %ended, "a registration ended");
    if let RelayError::Refused(refusal) = ended {
        refuse_guest(guest, refusal).await;
    }
}

async fn tell_numbers(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    numbers: &mut mpsc::Receiver<u64>,
) -> Result<Infallible, RelayError> {
    let (mut reading, mut writing) = tokio::io::split(stream);
    say(&mut writing, &[ACCEPTED]).await?;
    let mut alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            number = numbers.recv() => {
                // The table holds the sender until a later registration takes its place.
                let number = number.ok_or(Refusal::Replaced)?;
                say(&mut writing, &[&[DIALLED][..], &number.to_be_bytes()].concat()).await?;
            }
            _ = alive.tick() => say(&mut writing, &[ACCEPTED]).await?,
            read = reading.read_u8() => {
                read?;
                heard = Instant::now();
            }
            () = sleep_until(heard + SILENCE) => return Err(RelayError::Silent),
        }
    }
}

/// Copies both ways, and forwards the end of each; returns the bytes of both.
async fn splice<O, A>(one: &mut O, other: &mut A, idle: Duration) -> io::Result<(u64, u64)>
where
    O: AsyncRead + AsyncWrite + Unpin,
    A: AsyncRead + AsyncWrite + Unpin,
{
    let meter = Arc::new(Meter::default());
    let mut one = Metered::new(one, Arc::clone(&meter));
    tokio::select! {
        copied = tokio::io::copy_bidirectional_with_sizes(&mut one, other, BUFFER, BUFFER) => copied,
        () = idle_for(&meter, idle) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Returns when the meter has stood still for so long.
async fn idle_for(meter: &Meter, idle: Duration) {
    let mut before = None;
    loop {
        let now = Some((meter.sent(), meter.received()));
        if now == before {
            return;
        }
        before = now;
        sleep(idle).await;
    }
}

async fn refuse_guest<S>(mut guest: Guest<S>, refusal: Refusal)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    refuse(&mut guest.stream, refusal, &guest.figures).await;
}

/// Says why, and closes. What the other still sends is read first, within a bound, because TCP takes back what was said when it
/// is closed with something unread.
async fn refuse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), refusal: Refusal, figures: &Figures) {
    figures.refused();
    let refused = async {
        say(stream, &[refusal as u8]).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(FAREWELL), &mut tokio::io::sink()).await
    };
    let told = matches!(timeout(LINGER, refused).await, Ok(Ok(_)));
    tracing::debug!(%refusal, told, "refused");
}

/// Says a few bytes; a connection that does not take even those is broken.
async fn say(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let said = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    timeout(SILENCE, said).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}
