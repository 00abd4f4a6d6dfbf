//! The relay's own rules, over connections in memory and with a clock that stands still until all wait.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_collective::identity::PeerName;
use atoll_collective::relay::{BUFFER, Figures, Limits, Listener, Refusal, RelayError, Tokens, dial, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::echo::name;

/// Bytes that a connection in memory holds in each direction.
const LINK: usize = 8 << 10;

/// A relay, or the next one in its place.
#[derive(Clone)]
struct Relay {
    door: Arc<Mutex<mpsc::UnboundedSender<io::Result<DuplexStream>>>>,
    serving: Arc<Mutex<JoinSet<()>>>,
    opened: Arc<AtomicUsize>,
}

impl Relay {
    fn start(limits: Limits) -> Self {
        let (door, connections) = mpsc::unbounded_channel();
        let mut serving = JoinSet::new();
        serving.spawn(serve(UnboundedReceiverStream::new(connections), tokens(), limits, Figures::default()));
        Self { door: Arc::new(Mutex::new(door)), serving: Arc::new(Mutex::new(serving)), opened: Arc::default() }
    }

    fn replace(&self, limits: Limits) {
        let next = Self::start(limits);
        std::mem::swap(&mut *self.door.lock().unwrap(), &mut *next.door.lock().unwrap());
        std::mem::swap(&mut *self.serving.lock().unwrap(), &mut *next.serving.lock().unwrap());
    }

    fn open(&self) -> DuplexStream {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let (near, far) = duplex(LINK);
        let _dead = self.door.lock().unwrap().send(Ok(far));
        near
    }

    fn listener(&self, worker: &str) -> Listener<DuplexStream> {
        let relay = self.clone();
        Listener::new(move || std::future::ready(Ok(relay.open())), tokens().pass(&name(worker)))
    }

    async fn dial(&self, from: &str, to: &PeerName) -> Result<DuplexStream, RelayError> {
        dial(self.open(), &tokens().pass(&name(from)), to).await
    }

    /// Both ends of a tunnel from `from` to the listener, which is worker `to`.
    async fn tunnel(&self, from: &str, to: &str, listener: &mut Listener<DuplexStream>) -> (DuplexStream, DuplexStream) {
        let to = name(to);
        let dialled = async {
            loop {
                match self.dial(from, &to).await {
                    Err(RelayError::Refused(Refusal::Unknown)) => sleep(Duration::from_millis(10)).await,
                    dialled => return dialled.unwrap(),
                }
            }
        };
        let (near, far) = tokio::join!(dialled, listener.accept());
        (near, far.unwrap().unwrap())
    }
}

fn tokens() -> Tokens {
    Tokens::new([7; 32])
}

/// The header of an outer connection, for the tests that are no proper client.
fn header(key: u8, from: &PeerName, listen: bool) -> Vec<u8> {
    let pass = serde_json::to_value(Tokens::new([key; 32]).pass(from)).unwrap();
    let token: [u8; 32] = serde_json::from_value(pass[if listen { "listen" } else { "dial" }].clone()).unwrap();
    let from = from.to_string();
    let body = [&token[..], &[1, from.len() as u8], from.as_bytes()].concat();
    [b"ATLR\x01", &(body.len() as u16).to_be_bytes()[..], &body].concat()
}

async fn answer(mut stream: DuplexStream, header: &[u8]) -> u8 {
    stream.write_all(header).await.unwrap();
    stream.read_u8().await.unwrap()
}

fn refusal<T>(result: Result<T, RelayError>) -> Option<Refusal> {
    match result.err()? {
        RelayError::Refused(refusal) => Some(refusal),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_one_direction_leaves_the_other_open() {
    let relay = Relay::start(Limits::default());
    let (mut near, mut far) = relay.tunnel("0", "1", &mut relay.listener("1")).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = String::new();
    far.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "question");
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    heard.clear();
    near.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "answer");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_stalls_holds_one_buffer_and_delays_no_other_lane() {
    let relay = Relay::start(Limits::default());
    let mut listener = relay.listener("1");
    let (mut stalled, _never_read) = relay.tunnel("0", "1", &mut listener).await;
    let (mut near, mut far) = relay.tunnel("0", "1", &mut listener).await;
    let taken = Arc::new(Mutex::new(0));
    let count = Arc::clone(&taken);
    let endless = async move {
        loop {
            *count.lock().unwrap() += stalled.write(&[0; 1000]).await.unwrap();
        }
    };
    let sent = vec![1; 16 << 20];
    let other = async {
        let mut received = vec![0; sent.len()];
        let (written, read) = tokio::join!(near.write_all(&sent), far.read_exact(&mut received));
        written.unwrap();
        read.unwrap();
        assert!(sent == received);
    };
    tokio::select! {
        () = endless => {}
        () = other => {}
    }
    let taken = *taken.lock().unwrap();
    assert!((BUFFER..=BUFFER + 2 * LINK).contains(&taken), "the relay took {taken} bytes");
}

#[tokio::test(start_paused = true)]
async fn who_is_not_registered_or_of_another_run_is_not_reached() {
    let relay = Relay::start(Limits::default());
    assert_eq!(refusal(relay.dial("0", &name("1")).await), Some(Refusal::Unknown));
    let other = PeerName::new("other", "west", "1").unwrap();
    assert_eq!(refusal(relay.dial("0", &other).await), Some(Refusal::OtherRun));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_and_a_hostile_header_are_refused_with_one_byte() {
    let relay = Relay::start(Limits::default());
    assert_eq!(answer(relay.open(), &header(7, &name("1"), true)).await, 0);
    for wrong in [header(8, &name("1"), true), header(7, &name("1"), false)] {
        assert_eq!(answer(relay.open(), &wrong).await, Refusal::Token as u8);
    }
    assert_eq!(answer(relay.open(), b"ATLR\x01\xff\xff and more than that").await, Refusal::TooLong as u8);
    assert_eq!(answer(relay.open(), b"ATLR\x02\0\0").await, Refusal::Version as u8);
    assert_eq!(answer(relay.open(), b"GET / HTTP/1.1\r\n\r\n").await, Refusal::Malformed as u8);
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_can_finish_what_it_was_saying() {
    let relay = Relay::start(Limits::default());
    let mut talkative = relay.open();
    talkative.write_all(b"ATLR\x01\xff\xff").await.unwrap();
    assert_eq!(talkative.read_u8().await.unwrap(), Refusal::TooLong as u8);
    talkative.write_all(&[0; 1000]).await.unwrap();
    assert_eq!(talkative.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_given_up() {
    let relay = Relay::start(Limits::default());
    let mut registration = relay.open();
    registration.write_all(&header(7, &name("1"), true)).await.unwrap();
    assert_eq!(registration.read_u8().await.unwrap(), 0);
    assert_eq!(refusal(relay.dial("0", &name("1")).await), Some(Refusal::Unanswered));
}

#[tokio::test(start_paused = true)]
async fn a_silent_registration_is_forgotten() {
    let relay = Relay::start(Limits::default());
    let mut registration = relay.open();
    registration.write_all(&header(7, &name("1"), true)).await.unwrap();
    assert_eq!(registration.read_u8().await.unwrap(), 0);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(refusal(relay.dial("0", &name("1")).await), Some(Refusal::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_registration_lives_as_long_as_its_peer() {
    let relay = Relay::start(Limits::default());
    let mut listener = relay.listener("1");
    relay.tunnel("0", "1", &mut listener).await;
    let opened = relay.opened.load(Ordering::Relaxed);
    sleep(Duration::from_hours(24)).await;
    assert_eq!(relay.opened.load(Ordering::Relaxed), opened, "it was lost and made again");
    let to = name("1");
    let (dialled, accepted) = tokio::join!(relay.dial("0", &to), listener.accept());
    assert!(dialled.is_ok() && accepted.unwrap().is_ok());
    drop(listener);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(refusal(relay.dial("0", &to).await), Some(Refusal::Unknown));
}

#[tokio::test(start_paused = true)]
async fn the_newer_process_takes_over_and_the_older_one_is_told() {
    let relay = Relay::start(Limits::default());
    let mut older = relay.listener("1");
    relay.tunnel("0", "1", &mut older).await;
    let mut newer = relay.listener("1");
    assert_eq!(refusal(older.accept().await.unwrap()), Some(Refusal::Replaced));
    assert!(older.accept().await.is_none());
    relay.tunnel("0", "1", &mut newer).await;
}

#[tokio::test(start_paused = true)]
async fn peers_come_back_when_the_relay_does() {
    let relay = Relay::start(Limits::default());
    let mut listener = relay.listener("1");
    let (mut near, mut far) = relay.tunnel("0", "1", &mut listener).await;
    relay.replace(Limits::default());
    assert_eq!((near.read(&mut [0]).await.unwrap(), far.read(&mut [0]).await.unwrap()), (0, 0));
    relay.tunnel("0", "1", &mut listener).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_has_no_more_connections_than_it_may_and_gets_them_back() {
    let relay = Relay::start(Limits { connections_per_run: 3, ..Limits::default() });
    let mut listener = relay.listener("1");
    let tunnel = relay.tunnel("0", "1", &mut listener).await;
    assert_eq!(refusal(relay.dial("0", &name("1")).await), Some(Refusal::RunFull));
    drop(tunnel);
    sleep(Duration::from_secs(2)).await;
    relay.tunnel("0", "1", &mut listener).await;
}

#[tokio::test(start_paused = true)]
async fn the_relay_has_no_more_connections_than_it_may() {
    let relay = Relay::start(Limits { connections: 0, ..Limits::default() });
    assert_eq!(refusal(relay.dial("0", &name("1")).await), Some(Refusal::Full));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    let relay = Relay::start(Limits::default());
    let (mut near, mut far) = relay.tunnel("0", "1", &mut relay.listener("1")).await;
    for _ in 0..10 {
        sleep(Limits::default().idle / 2).await;
        near.write_u8(1).await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), 1);
    }
    assert_eq!((near.read(&mut [0]).await.unwrap(), far.read(&mut [0]).await.unwrap()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_sends_no_header_is_dropped_and_delays_nobody() {
    let relay = Relay::start(Limits::default());
    let mut silent = relay.open();
    let mut halting = relay.open();
    halting.write_all(b"ATL").await.unwrap();
    relay.tunnel("0", "1", &mut relay.listener("1")).await;
    assert_eq!((silent.read(&mut [0]).await.unwrap(), halting.read(&mut [0]).await.unwrap()), (0, 0));
}
