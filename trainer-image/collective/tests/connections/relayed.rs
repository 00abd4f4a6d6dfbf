//! tonic over mutual TLS through a relay over TCP.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use atoll_collective::admission::accepted;
use atoll_collective::identity::HostIdentity;
use atoll_collective::relay::{Figures, Limits, Tokens, serve as serve_relay};
use atoll_collective::transport::{Address, HostPort, Transport, TransportError, outer, outer_acceptor};
use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::echo::{an_hour, channel, exchange, island, name, plain, secured, serve, tells};

/// Notes all that the relay reads.
struct Overheard<S> {
    stream: S,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.heard.lock().unwrap().extend_from_slice(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn tokens() -> Tokens {
    Tokens::new([7; 32])
}

async fn bound() -> (TcpListener, HostPort) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap().to_string().parse().unwrap();
    (listener, place)
}

fn relay<S>(connections: impl Stream<Item = io::Result<S>> + Send + Unpin + 'static) -> JoinSet<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut serving = JoinSet::new();
    serving.spawn(serve_relay(connections, tokens(), Limits::default(), Figures::default()));
    serving
}

/// Worker 1 registered, worker 0 dials it until it is there.
async fn exchanged(caller: Transport, listener: Transport, place: &HostPort) -> String {
    let caller = caller.through_relays(tokens().pass(&name("0")), None);
    let listener = listener.through_relays(tokens().pass(&name("1")), None);
    let _serving = serve(listener.incoming_through(place.clone()).unwrap());
    let address = Address::Relayed(place.clone());
    registered(&caller, &address).await;
    exchange(channel(&caller, &address, &name("1"))).await.unwrap()
}

async fn registered(caller: &Transport, address: &Address) {
    while let Err(error) = caller.connect(address, &name("1")).await {
        assert!(matches!(error, TransportError::Relay(_)), "{error}");
        tokio::task::yield_now().await;
    }
}

/// What the relay overhears of an exchange of 8 MiB both ways, and for whom the service took the caller.
async fn overheard(caller: Transport, listener: Transport) -> (Vec<u8>, String) {
    let (listening, place) = bound().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&heard);
    let _relay = relay(accepted(listening).map(move |stream| Ok(Overheard { stream: stream?, heard: Arc::clone(&notes) })));
    let peer = exchanged(caller, listener, &place).await;
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    (heard, peer)
}

#[tokio::test]
async fn peers_know_each_other_through_a_relay_that_reads_nothing() {
    let island = island();
    let [caller, listener] = ["0", "1"].map(|worker| secured(&island.peer(worker, an_hour()).unwrap()));
    let (heard, peer) = overheard(caller, listener).await;
    assert_eq!(peer, "0.west.kjv.atoll.internal");
    assert!(!tells(&heard));
    let (heard, peer) = overheard(plain(), plain()).await;
    assert_eq!(peer, "nobody");
    assert!(tells(&heard));
}

#[tokio::test]
async fn the_way_to_the_relay_can_be_tls_too() {
    let (listening, place) = bound().await;
    let identity = HostIdentity::self_signed(place.host(), an_hour()).unwrap();
    let acceptor = outer_acceptor(&identity).unwrap();
    let _relay = relay(accepted(listening).then(move |stream| acceptor.accept(stream.unwrap())).boxed());

    let island = island();
    let [caller, listener] = ["0", "1"].map(|worker| {
        let outer = outer(identity.certificate_chain()).unwrap();
        secured(&island.peer(worker, an_hour()).unwrap()).through_relays(tokens().pass(&name(worker)), Some(outer))
    });
    let _serving = serve(listener.incoming_through(place.clone()).unwrap());
    let address = Address::Relayed(place);
    registered(&caller, &address).await;
    assert_eq!(exchange(channel(&caller, &address, &name("1"))).await, Ok("0.west.kjv.atoll.internal".into()));
}

#[tokio::test]
async fn when_the_relay_is_killed_both_ends_get_an_error() {
    let (listening, place) = bound().await;
    let relay = relay(accepted(listening));
    let island = island();
    let [caller, listener] = ["0", "1"]
        .map(|worker| secured(&island.peer(worker, an_hour()).unwrap()).through_relays(tokens().pass(&name(worker)), None));
    let mut incoming = std::pin::pin!(listener.incoming_through(place.clone()).unwrap());
    let address = Address::Relayed(place);
    let dialled = async {
        loop {
            if let Ok(stream) = caller.connect(&address, &name("1")).await {
                return stream;
            }
        }
    };
    let (mut near, far) = tokio::join!(dialled, incoming.next());
    let mut far = far.unwrap().unwrap();
    drop(relay);
    assert!(near.read_u8().await.is_err());
    assert!(far.read_u8().await.is_err());
}
