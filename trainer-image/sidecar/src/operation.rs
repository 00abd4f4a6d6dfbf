//! Work that the core starts and that answers by an event: moving data, and fetching a state.

use std::sync::Arc;
use std::time::Duration;

use atoll_collective::chain;
use atoll_collective::exchange::{Exchange, Output};
use atoll_collective::lane::Lanes;
use atoll_collective::v1::Start;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::core::Input;
use crate::regions::Part;

/// Moves the data of one operation in the background.
pub(crate) fn exchange(exchange: Arc<Exchange>, lanes: Lanes, patience: Duration, inbox: mpsc::Sender<Input>) -> JoinHandle<()> {
    let (epoch, _) = exchange.plan().order();
    tokio::spawn(async move {
        let result = exchange.run(lanes, patience).await.map(|hash| hash.to_vec());
        let _stopping = inbox.send(Input::Moved(epoch, result)).await;
    })
}

/// Fetches the round's state into `state`, from the first donor that can give it, and checks its hash.
pub(crate) fn fetch(
    fetch: u64,
    start: Start,
    state: Part,
    lanes: Lanes,
    patience: Duration,
    inbox: mpsc::Sender<Input>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let result = fetch_from_any(&start, &state, &lanes, patience).await;
        let _stopping = inbox.send(Input::Fetched(fetch, result)).await;
    })
}

async fn fetch_from_any(start: &Start, state: &Part, lanes: &Lanes, patience: Duration) -> Result<(), String> {
    let record = start.record.clone().unwrap_or_default();
    let mut failures = Vec::new();
    for donor in start.donors.iter().filter_map(|slot| chain::member(&record, *slot)) {
        let mut offset = 0;
        let take = |piece: &[u8]| {
            let fits = state.write(offset, piece);
            offset += piece.len();
            fits
        };
        let fetched = lanes.fetch(&donor.address, &start.state_hash, state.len() as u64, patience, take).await;
        match fetched {
            Ok(()) if blake3::hash(state.as_ref()).as_bytes().as_slice() == start.state_hash => return Ok(()),
            Ok(()) => failures.push(format!("{}: its bytes have another hash", donor.worker)),
            Err(error) => failures.push(format!("{}: {error}", donor.worker)),
        }
    }
    Err(format!("no donor could give the state: {}", failures.join("; ")))
}
