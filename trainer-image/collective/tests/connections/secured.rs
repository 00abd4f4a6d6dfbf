//! tonic over mutual TLS over TCP.

use atoll_collective::identity::{Identity, PeerName};
use atoll_collective::transport::{Address, Transport};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::echo::{PAYLOAD, channel, exchange, island, name, plain, secured, serve};

async fn served(transport: &Transport) -> (Address, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    (address, serve(transport.incoming(listener)))
}

async fn call(caller: &Identity, listener: &Identity, expected: &PeerName) -> Result<String, String> {
    let (address, _serving) = served(&secured(listener)).await;
    exchange(channel(&secured(caller), &address, expected)).await
}

#[tokio::test]
async fn the_service_knows_its_caller() {
    let island = island();
    let [caller, listener] = ["0", "1"].map(|worker| island.peer(worker, crate::echo::an_hour()).unwrap());
    assert_eq!(call(&caller, &listener, &name("1")).await, Ok("0.west.kjv.atoll.internal".into()));
}

#[tokio::test]
async fn plain_connections_carry_the_same() {
    let (address, _serving) = served(&plain()).await;
    assert_eq!(exchange(channel(&plain(), &address, &name("1"))).await, Ok("nobody".into()));
}

#[tokio::test]
async fn a_call_says_in_words_why_there_is_no_connection() {
    let ours = island();
    let [caller, listener] = ["0", "1"].map(|worker| ours.peer(worker, crate::echo::an_hour()).unwrap());
    let refused = call(&caller, &listener, &name("2")).await.unwrap_err();
    assert!(refused.contains("it is 1.west.kjv.atoll.internal, not 2.west.kjv.atoll.internal"), "{refused}");
    let theirs = island().peer("0", crate::echo::an_hour()).unwrap();
    let refused = call(&theirs, &listener, &name("1")).await.unwrap_err();
    assert!(refused.contains("its certificate is not signed by the authorities of this run"), "{refused}");
}

#[tokio::test]
async fn bytes_are_counted_as_the_link_carries_them() {
    let island = island();
    let [caller, listener] = ["0", "1"].map(|worker| secured(&island.peer(worker, crate::echo::an_hour()).unwrap()));
    let (address, serving) = served(&listener).await;
    exchange(channel(&caller, &address, &name("1"))).await.unwrap();
    drop(serving);
    for bytes in [caller.meter().sent(), caller.meter().received(), listener.meter().sent(), listener.meter().received()] {
        let overhead = bytes as f64 / PAYLOAD as f64 - 1.0;
        assert!((0.001..0.02).contains(&overhead), "{overhead}");
    }
}

#[tokio::test]
async fn strangers_who_say_nothing_delay_nobody_and_are_dropped() {
    let island = island();
    let [caller, listener] = ["0", "1"].map(|worker| secured(&island.peer(worker, crate::echo::an_hour()).unwrap()));
    let (address, _serving) = served(&listener).await;
    let mut strangers = Vec::new();
    for _ in 0..260 {
        strangers.push(TcpStream::connect(address.to_string()).await.unwrap());
    }
    exchange(channel(&caller, &address, &name("1"))).await.unwrap();
    assert_eq!(listener.turned_away(), 5);
}
