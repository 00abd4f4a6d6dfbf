//! Work that the core starts and that answers by an event: moving data.

use std::sync::Arc;
use std::time::Duration;

use atoll_collective::exchange::{Exchange, Output, Plan};
use atoll_collective::lane::{Lanes, Operations};
use atoll_collective::operation::Key;
use atoll_collective::peer::Failure;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::core::{Given, Input};
use crate::metrics::{Metrics, Phase};
use crate::ranks;
use crate::regions::Part;

/// Whom to tell how an attempt ended.
pub(crate) struct Moving {
    pub(crate) key: Key,
    /// Term and number.
    pub(crate) attempt: (u64, u64),
    pub(crate) inbox: mpsc::Sender<Input>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) begun: Instant,
}

impl Moving {
    /// Moves the data, and measures how.
    async fn run(&self, exchange: Arc<Exchange>, lanes: Lanes, patience: Duration) -> Result<Vec<u8>, Failure> {
        // While the first frames are on their way.
        let coding = async {
            if let Some(lost) = exchange.coding_error() {
                self.metrics.coded(&exchange.plan().operation, lost);
            }
        };
        let (result, ()) = tokio::join!(biased; Arc::clone(&exchange).run(lanes, patience), coding);
        if result.is_ok() {
            self.measure(&exchange);
        }
        result.map(|hash| hash.to_vec())
    }

    fn measure(&self, exchange: &Exchange) {
        let instants = exchange.instants();
        let reduced = instants.reduced.unwrap_or(self.begun);
        self.metrics.phase(Phase::ReduceScatter, reduced - self.begun);
        self.metrics.phase(Phase::AllGather, reduced.elapsed());
        let lasts = [
            (Phase::ReduceScatter, instants.last(|arrival| arrival.copies)),
            (Phase::AllGather, instants.last(|arrival| arrival.results)),
        ];
        for (phase, last) in lasts {
            let member = |(slot, alone)| Some((exchange.plan().members.iter().find(|member| member.slot == slot)?, alone));
            if let Some((member, alone)) = last.and_then(member) {
                self.metrics.straggler(member, phase, alone);
            }
        }
    }

    async fn ended(self, result: Result<Vec<u8>, Failure>) {
        let _stopping = self.inbox.send(Input::Moved(self.key, self.attempt, result)).await;
    }
}

/// The output of a worker that gets nothing.
struct Nowhere;

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
    let result = moving.run(exchange, lanes, patience).await;
    moving.ended(result).await;
}

/// Puts together what several ranks give, and moves what that makes of the worker where others take part.
pub(crate) async fn reduce_ranks(
    plan: Plan,
    given: Vec<Given>,
    (operations, lanes, patience): (Operations, Lanes, Duration),
    moving: Moving,
) {
    let alone = plan.members.len() == 1;
    let output = given.first().and_then(|given| given.output.clone());
    let ends_round = plan.operation.ends_round;
    let prepared = ranks::prepare(plan.clone(), given, alone).await;
    let result = match (prepared, output) {
        (Err(failure), _) => Err(failure),
        // Nobody else has to agree: a hash is for the chain of rounds alone.
        (Ok(_), Some(output)) if alone && ends_round => Ok(blake3::hash(output.as_ref()).as_bytes().to_vec()),
        (Ok(_), _) if alone => Ok(vec![0; atoll_collective::chain::HASH]),
        (Ok(input), output) => match Exchange::new(plan, input, None, output_of(output)) {
            Err(failure) => Err(failure),
            Ok(exchange) => {
                operations.begin(Arc::clone(&exchange));
                moving.run(exchange, lanes, patience).await
            }
        },
    };
    moving.ended(result).await;
}

/// Where the result goes.
pub(crate) fn output_of(part: Option<Part>) -> Arc<dyn Output> {
    match part {
        Some(part) => Arc::new(part),
        None => Arc::new(Nowhere),
    }
}
