//! Work that the core starts and that answers by an event: moving data, and fetching a state.

use std::sync::Arc;
use std::time::Duration;

use atoll_collective::chain;
use atoll_collective::exchange::{Exchange, Output, Plan};
use atoll_collective::lane::{Lanes, Operations};
use atoll_collective::operation::Key;
use atoll_collective::peer::Failure;
use atoll_collective::v1::{AbortReason, Start};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::core::{Given, Input};
use crate::ranks;
use crate::regions::Part;

/// Whom to tell how an attempt ended.
pub(crate) struct Moving {
    pub(crate) key: Key,
    /// Term and number.
    pub(crate) attempt: (u64, u64),
    pub(crate) inbox: mpsc::Sender<Input>,
}

impl Moving {
    async fn ended(self, result: Result<Vec<u8>, Failure>) {
        let _stopping = self.inbox.send(Input::Moved(self.key, self.attempt, result)).await;
    }
}

/// The output of a worker that gets nothing.
pub(crate) struct Nowhere;

impl Output for Nowhere {
    fn write(&self, _: usize, data: &[u8]) -> bool {
        data.is_empty()
    }

    fn shared(&self, _: usize, _: usize) -> Bytes {
        Bytes::new()
    }

    fn len(&self) -> usize {
        0
    }
}

/// Moves the data of one attempt.
pub(crate) async fn exchange(exchange: Arc<Exchange>, lanes: Lanes, patience: Duration, moving: Moving) {
    let result = exchange.run(lanes, patience).await.map(|hash| hash.to_vec());
    moving.ended(result).await;
}

/// Reduces what several ranks give, and moves the worker's sum where others take part.
pub(crate) async fn reduce_ranks(
    plan: Plan,
    given: Vec<Given>,
    (operations, lanes, patience): (Operations, Lanes, Duration),
    moving: Moving,
) {
    let alone = plan.members.len() == 1;
    let outputs: Vec<Part> = given.iter().filter_map(|given| given.output.clone()).collect();
    let (slot, ends_round) = (plan.members[plan.me].slot, plan.operation.ends_round);
    let prepared = ranks::prepare(plan.clone(), given, alone).await;
    let mismatch = |detail: String| Failure { reason: AbortReason::Mismatch, culprit: slot, detail };
    let result = match (prepared, outputs.first()) {
        (Err(failure), _) => Err(failure),
        // Nobody else has to agree: a hash is for the chain of rounds alone.
        (Ok(()), Some(first)) if alone && ends_round => Ok(blake3::hash(first.as_ref()).as_bytes().to_vec()),
        (Ok(()), _) if alone => Ok(vec![0; atoll_collective::chain::HASH]),
        (Ok(()), first) => {
            let input = first.map(Part::shared).filter(|_| plan.input_bytes() > 0).unwrap_or_default();
            let output: Arc<dyn Output> = match first {
                Some(first) => Arc::new(first.clone()),
                None => Arc::new(Nowhere),
            };
            match Exchange::new(plan, input, None, output) {
                None => Err(mismatch("the contribution does not fit the operation".to_owned())),
                Some(exchange) => {
                    operations.begin(Arc::clone(&exchange));
                    exchange.run(lanes, patience).await.map(|hash| hash.to_vec())
                }
            }
        }
    };
    moving.ended(result).await;
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
        let fetched = lanes.fetch(donor, &start.state_hash, state.len() as u64, patience, take).await;
        match fetched {
            Ok(()) if blake3::hash(state.as_ref()).as_bytes().as_slice() == start.state_hash => return Ok(()),
            Ok(()) => failures.push(format!("{}: its bytes have another hash", donor.worker)),
            Err(error) => failures.push(format!("{}: {error}", donor.worker)),
        }
    }
    Err(format!("no donor could give the state: {}", failures.join("; ")))
}
