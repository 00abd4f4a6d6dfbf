//! The mean of two vectors, in two terminals: `two_terminals SLOT HOST:PORT HOST:PORT`, SLOT 0 in one and 1 in the other.
//! Two fixed members; what votes, and goes on when one is lost, are `peer`, `coordinator` and `arbiter`.
use std::{error::Error, sync::Arc, time::Duration};

use atoll_collective::exchange::{Exchange, Memory, Plan};
use atoll_collective::lane::{LaneService, Lanes, Operations};
use atoll_collective::v1::{Begin, Contribution, EpochRecord, Member};
use atoll_collective::{operation::ends_round, secret::Secret, transport::Transport};
use tokio::{net, sync::watch, time};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [_, slot, first, second] = std::env::args().collect::<Vec<_>>().try_into().map_err(|_| "SLOT HOST:PORT HOST:PORT")?;
    let (slot, patience) = (slot.parse::<u32>()?, Duration::from_secs(30));
    let member = |(slot, address)| Member { slot, address, worker: format!("w{slot}"), island: "i".into(), ..Member::default() };
    let members: Vec<Member> = [(0, first), (1, second)].map(member).to_vec();
    // Serves the lane of the other, and dials its own once the other listens.
    let (secret, transport, operations) = (Secret::new("example"), Transport::new(None, Arc::default()), Operations::default());
    let listener = net::TcpListener::bind(&members.get(slot as usize).ok_or("SLOT is 0 or 1")?.address).await?;
    let (me, offer) = ((slot, 0), watch::channel(None).1);
    let service = LaneService { me, operations: operations.clone(), offer, secret: secret.clone(), patience };
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(transport.incoming(listener)));
    let (lanes, other) = (Lanes::new("example", slot, secret, transport), &members[1 - slot as usize]);
    while net::TcpStream::connect(&other.address).await.is_err() {
        time::sleep(Duration::from_millis(100)).await;
    }
    // What is done, by whom, and with which weights: the same on both.
    let contributions = [0, 1].map(|slot| Contribution { slot, weight: 1, ..Contribution::default() }).to_vec();
    let record = Some(EpochRecord { term: 1, epoch: 1, members: members.clone(), ..EpochRecord::default() });
    let begin = Begin { operation: Some(ends_round(1, 1, 100_000)), number: 1, record, contributions, bandwidths: vec![] };
    let given: Vec<u8> = (0..100_000).flat_map(|index| (((slot + 1) * index) as f32).to_le_bytes()).collect();
    let (plan, mean) = (Plan::new(&begin, slot).ok_or("no such operation")?, Arc::new(Memory::new(given.len())));
    let exchange = Exchange::new(plan, given.into(), None, mean.clone()).map_err(|failure| failure.detail)?;
    operations.begin(exchange.clone());
    let hash = blake3::Hash::from(exchange.run(lanes.clone(), patience).await.map_err(|failure| failure.detail)?);
    println!("last element {:.1}, hash {hash}", f32::from_le_bytes(*mean.to_vec().last_chunk().unwrap_or(&[0; 4])));
    let _ended = time::timeout(Duration::from_secs(1), lanes.lane(other).await?.broken()).await; // what is on its way arrives
    Ok(())
}
