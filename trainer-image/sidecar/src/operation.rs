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
use crate::turn::{self, Ended, Turn};

/// An attempt: what moves its data, and whom to tell how it ended.
pub(crate) struct Moving {
    pub(crate) key: Key,
    /// Term and number.
    pub(crate) attempt: (u64, u64),
    pub(crate) inbox: mpsc::Sender<Input>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) begun: Instant,
    pub(crate) operations: Operations,
    pub(crate) lanes: Lanes,
    pub(crate) patience: Duration,
    pub(crate) turn: Arc<Turn>,
    /// Turns of attempts that were ended, and may still write.
    pub(crate) earlier: Vec<Ended>,
}

impl Moving {
    /// Moves the data, and measures how; nothing where the attempt has ended.
    async fn run(&self, exchange: Arc<Exchange>) -> Option<Result<Vec<u8>, Failure>> {
        if !self.operations.begin_reserved(Arc::clone(&exchange)) {
            return None;
        }
        let coded = || {
            if let Some(lost) = exchange.coding_error() {
                self.metrics.coded(&exchange.plan().operation, lost);
            }
        };
        let moved = Arc::clone(&exchange).run(self.lanes.clone(), self.patience);
        let result = if exchange.plan().members.len() == 1 {
            // What its ranks give lies where the result goes.
            coded();
            moved.await
        } else {
            // While the first frames are on their way.
            tokio::join!(biased; moved, async { coded() }).0
        };
        if result.is_ok() {
            self.measure(&exchange);
        }
        Some(result.map(|hash| hash.to_vec()))
    }

    fn measure(&self, exchange: &Exchange) {
        let instants = exchange.instants();
        let reduced = instants.reduced.unwrap_or(self.begun);
        let (scattered, gathered) = (reduced - self.begun, reduced.elapsed());
        self.metrics.phase(Phase::ReduceScatter, scattered);
        self.metrics.phase(Phase::AllGather, gathered);
        tracing::debug!(reduce_scatter = scattered.as_secs_f64(), all_gather = gathered.as_secs_f64(), "moved");
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

/// Where a result goes, as long as the attempt's turn lasts.
struct InTurn {
    part: Part,
    turn: Arc<Turn>,
}

impl Output for InTurn {
    fn write(&self, offset: usize, data: &[u8]) -> bool {
        self.turn.piece(|| self.part.write(offset, data)).unwrap_or(false)
    }

    fn shared(&self, start: usize, end: usize) -> Bytes {
        self.part.shared_part(start..end)
    }

    fn len(&self) -> usize {
        self.part.len()
    }
}

/// Moves the data of one attempt.
pub(crate) async fn exchange(exchange: Arc<Exchange>, moving: Moving) {
    turn::all_over(&moving.earlier).await;
    if let Some(result) = moving.run(exchange).await {
        moving.ended(result).await;
    }
}

/// Puts together what several ranks give, and codes and moves that as any worker's where it is not the result already.
pub(crate) async fn reduce_ranks(plan: Plan, given: Vec<Given>, moving: Moving) {
    turn::all_over(&moving.earlier).await;
    let alone = ranks::are_all(&plan.operation, plan.members.len());
    let output = given.first().and_then(|given| given.output.clone());
    let ends_round = plan.operation.ends_round;
    let prepared = ranks::prepare(plan.clone(), given, alone, Arc::clone(&moving.turn)).await;
    let result = match (prepared, output) {
        (Err(failure), _) => Some(Err(failure)),
        // Nobody else has to agree: a hash is for the chain of rounds alone.
        (Ok(_), Some(output)) if alone && ends_round => Some(Ok(blake3::hash(output.as_ref()).as_bytes().to_vec())),
        (Ok(_), _) if alone => Some(Ok(vec![0; atoll_collective::chain::HASH])),
        (Ok(input), output) => match Exchange::new(plan, input, None, output_of(output, &moving.turn)) {
            Err(failure) => Some(Err(failure)),
            Ok(exchange) => moving.run(exchange).await,
        },
    };
    if let Some(result) = result {
        moving.ended(result).await;
    }
}

/// Where the result goes, as long as `turn` lasts.
pub(crate) fn output_of(part: Option<Part>, turn: &Arc<Turn>) -> Arc<dyn Output> {
    match part {
        Some(part) => Arc::new(InTurn { part, turn: Arc::clone(turn) }),
        None => Arc::new(Nowhere),
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use atoll_collective::exchange::Memory;
    use atoll_collective::lane::Meter;
    use atoll_collective::secret::Secret;
    use atoll_collective::transport::Transport;
    use atoll_collective::v1::Codec;

    use super::*;
    use crate::ranks::tests::{coded, filled, plan, two_ranks, uneven_ranks};

    fn moving(earlier: Vec<Ended>) -> (Moving, mpsc::Receiver<Input>) {
        let (inbox, inputs) = mpsc::channel(1);
        let moving = Moving {
            key: atoll_collective::v1::OperationKey::default().into(),
            attempt: (1, 1),
            inbox,
            metrics: Arc::new(Metrics::new("run", "w0").unwrap()),
            begun: Instant::now(),
            operations: Operations::default(),
            lanes: Lanes::new("run", 0, Secret::new("secret"), Transport::new(None, Arc::new(Meter::default()))),
            patience: Duration::from_secs(1),
            turn: Arc::default(),
            earlier,
        };
        (moving, inputs)
    }

    #[tokio::test]
    async fn what_ranks_give_is_put_together_after_the_last_piece_of_the_attempt_before() {
        let before = Arc::new(Turn::default());
        let given = two_ranks(100);
        let output = given[0].output.clone().unwrap();
        let mut waiting = None;
        let mut inputs = before.piece(|| {
            let (moving, inputs) = moving(vec![Arc::clone(&before).end()]);
            let mut future = Box::pin(reduce_ranks(plan(100), given, moving));
            assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(output.as_ref(), filled(100).as_ref(), "nothing is written");
            waiting = Some(future);
            inputs
        });
        waiting.unwrap().await;
        assert!(matches!(inputs.as_mut().unwrap().recv().await, Some(Input::Moved(_, (1, 1), Ok(_)))));
        assert_ne!(output.as_ref(), filled(100).as_ref());
    }

    /// What a rank gives.
    fn values(given: &Given) -> impl Iterator<Item = f32> {
        given.input.as_ref().unwrap().as_ref().as_chunks().0.iter().copied().map(f32::from_le_bytes)
    }

    #[tokio::test]
    async fn ranks_of_a_worker_alone_get_what_an_exchange_of_one_member_makes_of_their_sum() {
        for codec in [Codec::None, Codec::Bf16, Codec::Uint8, Codec::Uint4] {
            let given = uneven_ranks(5000);
            let plan = coded(codec, 5000);
            let sum = values(&given[0]).zip(values(&given[1])).map(|(first, second)| first + 2.0 * second);
            let sum: Vec<u8> = sum.flat_map(f32::to_le_bytes).collect();
            let exact = Arc::new(Memory::new(sum.len()));
            let one = Exchange::new(plan.clone(), sum.into(), None, Arc::clone(&exact) as Arc<dyn Output>).unwrap();
            let (moved, mut inputs) = moving(Vec::new());
            let hash = one.run(moved.lanes.clone(), moved.patience).await.unwrap();
            moved.operations.reserve(plan.term, plan.number);
            reduce_ranks(plan, given.clone(), moved).await;
            let Some(Input::Moved(_, _, Ok(moved))) = inputs.recv().await else { panic!("{codec:?} is moved") };
            assert!(codec == Codec::None || moved == hash, "the hash of {codec:?}");
            assert!(given[0].output.as_ref().unwrap().as_ref() == exact.to_vec(), "the mean of {codec:?}");
        }
    }

    #[test]
    fn an_output_is_written_as_long_as_the_turn_lasts() {
        let turn = Arc::new(Turn::default());
        let part = filled(2);
        let output = output_of(Some(part.clone()), &turn);
        assert!(output.write(0, &[1; 4]));
        turn.end();
        assert!(!output.write(4, &[1; 4]));
        assert_eq!(part.as_ref(), [1, 1, 1, 1, 0xaa, 0xaa, 0xaa, 0xaa]);
    }
}
