//! The ranks of one worker: what they give is put together in rank order in shared memory, before the network or without it.
//!
//! Sums are added in rank order, in f32 for bf16 too, which is rounded once: that is what the worker gives to the others.

use std::ops::Range;
use std::sync::Arc;

use atoll_collective::exchange::Plan;
use atoll_collective::peer::Failure;
use atoll_collective::v1::{AbortReason, DataType, Operation, OperationKind};
use atoll_collective::{operation, reduce};
use bytes::Bytes;

use crate::core::Given;
use crate::regions::Part;
use crate::turn::Turn;

/// Bytes that one thread reduces at a time: they stay in its cache.
const BLOCK: usize = 1 << 16;
/// Bytes from which on several threads work.
const LARGE: usize = 1 << 18;

/// What cannot be put together, and why.
type Wrong = (AbortReason, String);

/// Whether several ranks can take part in it as one worker: payloads of several ranks are no payload.
pub(crate) fn can(operation: &Operation) -> bool {
    operation::pairs(operation).is_none()
}

/// Whether what one worker's ranks give makes the result already: it is alone, and nothing is coded.
pub(crate) fn are_all(operation: &Operation, workers: usize) -> bool {
    workers == 1 && operation::codec(operation).is_none()
}

/// Puts together what the worker gives to others: in rank 0's output where it has one. The result goes into all outputs, where
/// these ranks are `alone`, as [`are_all`] says. Nothing more is written once `turn` was ended.
pub(crate) async fn prepare(plan: Plan, given: Vec<Given>, alone: bool, turn: Arc<Turn>) -> Result<Bytes, Failure> {
    let slot = plan.members[plan.me].slot;
    let failure = move |(reason, detail)| Failure { reason, culprit: slot, detail };
    if plan.operation.kind() != OperationKind::Barrier {
        given.iter().filter_map(|given| given.output.as_ref()).try_for_each(|output| plan.check_output(output.len()))?;
    }
    let bytes: usize = given.iter().filter_map(|given| given.input.as_ref()).map(Part::len).sum();
    if bytes < LARGE {
        return prepare_now(&plan, &given, alone, &turn).map_err(failure);
    }
    let working = tokio::task::spawn_blocking(move || prepare_now(&plan, &given, alone, &turn));
    working.await.unwrap_or_else(|error| Err((AbortReason::Unspecified, error.to_string()))).map_err(failure)
}

fn prepare_now(plan: &Plan, given: &[Given], alone: bool, turn: &Turn) -> Result<Bytes, Wrong> {
    let kind = plan.operation.kind();
    if kind == OperationKind::Barrier {
        return Ok(Bytes::new());
    }
    let outputs: Vec<Part> = given.iter().filter_map(|given| given.output.clone()).collect();
    let unlike = |output: &Part| output.len() != outputs[0].len();
    if plan.wants(plan.me) && (outputs.len() != given.len() || outputs.iter().any(unlike)) {
        return Err(mismatch("a rank has no output, or one of another length"));
    }
    let inputs: Vec<Part> = given.iter().filter_map(|given| given.input.clone()).collect();
    match kind {
        OperationKind::Broadcast | OperationKind::Send => first_input(plan, &inputs, if alone { &outputs } else { &[] }, turn),
        _ if inputs.len() != given.len() => Err(mismatch("a rank gives nothing")),
        OperationKind::AllGather => gather(plan, &inputs, if alone { &outputs } else { &outputs[..1] }, turn),
        _ => add_up(plan, given, (&inputs, &outputs), alone, turn),
    }
}

/// What rank 0 gives, where the worker gives anything; also in `outputs`.
fn first_input(plan: &Plan, inputs: &[Part], outputs: &[Part], turn: &Turn) -> Result<Bytes, Wrong> {
    if !plan.has_all(plan.me) {
        return Ok(Bytes::new());
    }
    let input = inputs.first().filter(|input| input.len() == plan.result_bytes());
    let input = input.ok_or_else(|| mismatch("rank 0 gives nothing, or something of another length"))?;
    judge(plan, std::slice::from_ref(input))?;
    for output in outputs {
        copy(input, output, 0, turn)?;
    }
    Ok(input.shared())
}

/// The inputs one after the other, where the result has them.
fn gather(plan: &Plan, inputs: &[Part], outputs: &[Part], turn: &Turn) -> Result<Bytes, Wrong> {
    let shard = plan.shard(plan.me);
    if inputs.iter().map(Part::len).sum::<usize>() != shard.len() {
        return Err(mismatch("the ranks give something of another length"));
    }
    judge(plan, inputs)?;
    for output in outputs {
        let mut start = shard.start;
        for input in inputs {
            copy(input, output, start, turn)?;
            start += input.len();
        }
    }
    Ok(outputs[0].shared_part(shard))
}

/// Names the rank that gives a value that is not finite: an exchange could name the worker alone.
fn judge(plan: &Plan, inputs: &[Part]) -> Result<(), Wrong> {
    for (rank, input) in inputs.iter().enumerate() {
        reduce::judge(plan.operation.data_type(), input.as_ref())
            .map_err(|found| Unsummed::NotFinite { rank, element: found.position }.told(0))?;
    }
    Ok(())
}

/// Copies `input` into `output`, from the byte `start` of it on.
fn copy(input: &Part, output: &Part, start: usize, turn: &Turn) -> Result<(), Wrong> {
    for (index, block) in input.as_ref().chunks(BLOCK).enumerate() {
        // The lengths were checked.
        let _fits = turn.piece(|| output.write(start + index * BLOCK, block)).ok_or_else(ended)?;
    }
    Ok(())
}

/// The sum of the inputs, each multiplied by its rank's weight; the result in all outputs, where the worker is alone.
fn add_up(plan: &Plan, given: &[Given], (inputs, outputs): (&[Part], &[Part]), alone: bool, turn: &Turn) -> Result<Bytes, Wrong> {
    if inputs.iter().any(|input| input.len() != plan.result_bytes()) {
        return Err(mismatch("a rank gives something of another length"));
    }
    let scratch;
    let outputs = match outputs {
        [] => {
            scratch = [Part::scratch(plan.result_bytes()).map_err(|error| mismatch(&error.to_string()))?];
            &scratch[..]
        }
        outputs if alone => outputs,
        outputs => &outputs[..1],
    };
    // By agreement, since nobody has a weight: as a worker of one rank counts then, so do the ranks of this one.
    let alike = plan.weight > 0 && given.iter().all(|given| given.weight == 0);
    let ranks = if alike && plan.divisor > 0 { given.len() as u64 } else { 1 };
    let sum = Sum {
        data_type: plan.operation.data_type(),
        inputs,
        factors: given.iter().map(|given| if alike { 1 } else { given.weight }).collect(),
        divisor: ranks * if alone { plan.divisor.max(1) } else { 1 },
        outputs,
        turn,
    };
    match in_parallel(plan.result_bytes(), |range| sum.put(range).err()) {
        Some(wrong) => Err(wrong),
        None => Ok(outputs[0].shared()),
    }
}

/// Copies rank 0's output to the others.
pub(crate) fn spread(outputs: &[Part]) {
    let Some((first, others)) = outputs.split_first() else { return };
    in_parallel(first.len(), |range| {
        for other in others {
            if let Some((from, to)) = first.part(range.clone()).zip(other.part(range.clone())) {
                to.copy_from(&from);
            }
        }
        None::<()>
    });
}

/// A sum in rank order, and where it goes.
struct Sum<'a> {
    data_type: DataType,
    /// By rank, all of one length.
    inputs: &'a [Part],
    factors: Vec<u32>,
    divisor: u64,
    /// As long as an input; at least one.
    outputs: &'a [Part],
    turn: &'a Turn,
}

impl Sum<'_> {
    /// Adds up one range of bytes, which begins at a multiple of [`BLOCK`].
    fn put(&self, range: Range<usize>) -> Result<(), Wrong> {
        let size = operation::size(self.data_type) as usize;
        for start in range.clone().step_by(BLOCK) {
            let block = start..(start + BLOCK).min(range.end);
            let put = || match self.data_type {
                DataType::I64 => self.put_counters(block),
                DataType::Bf16 => self.put_halves(block),
                _ => self.put_floats(block),
            };
            self.turn.piece(put).ok_or_else(ended)?.map_err(|wrong| wrong.told(start / size))?;
        }
        Ok(())
    }

    /// In place: rank 0's output holds the sum.
    fn put_floats(&self, block: Range<usize>) -> Result<(), Unsummed> {
        let mut first = self.outputs[0].part(block.clone()).ok_or(Unsummed::NotAligned)?;
        let sum = first.values_mut().ok_or(Unsummed::NotAligned)?;
        sum.fill(0.0);
        for (rank, input) in self.parts(&block) {
            let added = reduce::add(sum, input.as_ref(), self.factors[rank]);
            added.map_err(|found| Unsummed::NotFinite { rank, element: found.position })?;
        }
        reduce::mean(sum, self.divisor).map_err(|found| Unsummed::Overflow { element: found.position })?;
        for other in self.outputs.iter().skip(1).filter_map(|output| output.part(block.clone())) {
            other.copy_from(&first);
        }
        Ok(())
    }

    fn put_halves(&self, block: Range<usize>) -> Result<(), Unsummed> {
        let (mut sum, mut result) = (vec![0.0; block.len() / 2], vec![0; block.len()]);
        for (rank, input) in self.parts(&block) {
            let added = reduce::add_bf16(&mut sum, input.as_ref(), self.factors[rank]);
            added.map_err(|found| Unsummed::NotFinite { rank, element: found.position })?;
        }
        let rounded = reduce::mean_to_bf16(&sum, self.divisor, &mut result);
        rounded.map_err(|found| Unsummed::Overflow { element: found.position })?;
        self.write(block.start, &result);
        Ok(())
    }

    fn put_counters(&self, block: Range<usize>) -> Result<(), Unsummed> {
        let (mut sum, mut result) = (vec![0; block.len() / 8], vec![0; block.len()]);
        for (_, input) in self.parts(&block) {
            let added = reduce::add_counters(&mut sum, input.as_ref());
            added.map_err(|found| Unsummed::Overflow { element: found.position })?;
        }
        reduce::counters_to_bytes(&sum, &mut result);
        self.write(block.start, &result);
        Ok(())
    }

    /// What each rank gives to a block.
    fn parts(&self, block: &Range<usize>) -> impl Iterator<Item = (usize, Part)> {
        self.inputs.iter().enumerate().filter_map(|(rank, input)| Some((rank, input.part(block.clone())?)))
    }

    fn write(&self, start: usize, result: &[u8]) {
        for output in self.outputs {
            // The lengths were checked.
            let _fits = output.write(start, result);
        }
    }
}

/// Why a block has no sum; elements are counted from the block's start.
enum Unsummed {
    NotAligned,
    NotFinite { rank: usize, element: usize },
    Overflow { element: usize },
}

impl Unsummed {
    /// With the block's first element.
    fn told(self, first: usize) -> Wrong {
        match self {
            Self::NotAligned => mismatch("an output is not aligned to its elements"),
            Self::NotFinite { rank, element } => {
                (AbortReason::NotFinite, format!("element {} of rank {rank} is NaN or infinite", first + element))
            }
            Self::Overflow { element } => {
                (AbortReason::Overflow, format!("the sum of element {} leaves the range of its type", first + element))
            }
        }
    }
}

/// Heard by nobody: who ended the turn has taken the attempt for over.
fn ended() -> Wrong {
    (AbortReason::Unspecified, "the attempt has ended".to_owned())
}

fn mismatch(detail: &str) -> Wrong {
    (AbortReason::Mismatch, detail.to_owned())
}

/// Cuts `length` bytes into one range per processor and works on all at once; the first answer counts.
fn in_parallel<T: Send>(length: usize, work: impl Fn(Range<usize>) -> Option<T> + Sync) -> Option<T> {
    let threads = if length < LARGE { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
    let share = length.div_ceil(threads).next_multiple_of(BLOCK);
    let ranges = (0..threads).map(|thread| (thread * share).min(length)..((thread + 1) * share).min(length));
    let mut ranges: Vec<_> = ranges.filter(|range| !range.is_empty()).collect();
    let last = ranges.pop()?;
    std::thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = ranges.into_iter().map(|range| scope.spawn(move || work(range))).collect();
        let own = work(last);
        others.into_iter().find_map(|thread| thread.join().ok().flatten()).or(own)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use atoll_collective::v1::{Begin, Codec, Contribution, EpochRecord, Member, OperationKey, Reduction};

    use super::*;

    /// So many elements of an output that holds no result.
    pub(crate) fn filled(elements: usize) -> Part {
        let part = Part::scratch(4 * elements).unwrap();
        assert!(part.write(0, &vec![0xaa; 4 * elements]));
        part
    }

    fn rank(value: f32, elements: usize, weight: u32) -> Given {
        let input = Part::scratch(4 * elements).unwrap();
        assert!(input.write(0, &value.to_le_bytes().repeat(elements)));
        Given { input: Some(input), output: Some(filled(elements)), residual: None, weight }
    }

    /// Two ranks that give so many elements each: 1 and 2.
    pub(crate) fn two_ranks(elements: usize) -> Vec<Given> {
        vec![rank(1.0, elements, 1), rank(2.0, elements, 1)]
    }

    /// The same with values that no codec holds exactly, and the second with a weight of 2.
    pub(crate) fn uneven_ranks(elements: usize) -> Vec<Given> {
        let given = vec![rank(0.0, elements, 1), rank(0.0, elements, 2)];
        for (own, given) in given.iter().enumerate() {
            let values = (0..elements).map(|element| ((element * 7 + own * 13) % 1009) as f32 * 0.37 - 50.0);
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            assert!(given.input.as_ref().unwrap().write(0, &bytes));
        }
        given
    }

    /// The mean of so many elements of the ranks of one worker, whose weights together are 3.
    pub(crate) fn coded(codec: Codec, elements: usize) -> Plan {
        let mean = Operation { reduction: Reduction::Mean.into(), codec: codec.into(), ..sum(DataType::F32, elements) };
        plan_of(&mean, 3, 0)
    }

    /// A worker of several ranks alone, whose contribution weighs so much by agreement.
    fn plan_of(operation: &Operation, weight: u32, elements: usize) -> Plan {
        let key = Some(OperationKey { round: 1, sequence: 1, ..OperationKey::default() });
        let operation = Some(Operation { key, ..operation.clone() });
        let members = vec![Member { incarnation: 1, ..Member::default() }];
        let record = Some(EpochRecord { term: 1, members, ..EpochRecord::default() });
        let contribution = Contribution { weight, elements: elements as u64, summed: true, ..Contribution::default() };
        let begin = Begin { operation, number: 1, record, contributions: vec![contribution], ..Begin::default() };
        Plan::new(&begin, 0).unwrap()
    }

    fn sum(data_type: DataType, elements: usize) -> Operation {
        Operation {
            kind: OperationKind::AllReduce.into(),
            data_type: data_type.into(),
            reduction: Reduction::Sum.into(),
            elements: elements as u64,
            ..Operation::default()
        }
    }

    /// The sum of so many elements of the ranks of one worker.
    pub(crate) fn plan(elements: usize) -> Plan {
        plan_of(&sum(DataType::F32, elements), 2, 0)
    }

    /// The same in bytes, and in every other way of putting together; gathered elements lie after one another.
    fn plans(elements: usize) -> Vec<Plan> {
        let gather = Operation { kind: OperationKind::AllGather.into(), data_type: DataType::F32.into(), ..Operation::default() };
        vec![
            plan(elements),
            plan_of(&sum(DataType::Bf16, 2 * elements), 2, 0),
            plan_of(&sum(DataType::I64, elements / 2), 2, 0),
            plan_of(&Operation { kind: OperationKind::Broadcast.into(), reduction: 0, ..sum(DataType::F32, elements) }, 2, 0),
            plan_of(&gather, 2, 2 * elements),
        ]
    }

    /// Two ranks with outputs for the result.
    fn ranks_for(plan: &Plan, elements: usize) -> Vec<Given> {
        let output = || Some(filled(plan.result_bytes() / 4));
        two_ranks(elements).into_iter().map(|given| Given { output: output(), ..given }).collect()
    }

    #[test]
    fn a_preparation_whose_turn_has_ended_writes_nothing() {
        let turn = Arc::new(Turn::default());
        Arc::clone(&turn).end();
        for plan in plans(1000) {
            let given = ranks_for(&plan, 1000);
            assert_eq!(prepare_now(&plan, &given, true, &turn).unwrap_err(), ended(), "{:?}", plan.operation);
            let untouched = |given: &Given| given.output.as_ref().unwrap().as_ref().iter().all(|byte| *byte == 0xaa);
            assert!(given.iter().all(untouched), "{:?}", plan.operation);
        }
    }

    #[test]
    fn a_preparation_whose_turn_ends_in_the_middle_writes_nothing_more() {
        const ELEMENTS: usize = 4 << 20;
        for plan in plans(ELEMENTS) {
            let given = ranks_for(&plan, ELEMENTS);
            let output = given[0].output.clone().unwrap();
            let at = |byte: usize| output.as_ref()[byte];
            let turn = Arc::new(Turn::default());
            let working = Arc::clone(&turn);
            let (name, last) = (format!("{:?}", plan.operation), output.len() - 1);
            let alone = plan.operation.kind() == OperationKind::Broadcast;
            let preparing = std::thread::spawn(move || prepare_now(&plan, &given, alone, &working).map(|_| ()));
            while at(0) == 0xaa && !preparing.is_finished() {
                std::thread::yield_now();
            }
            turn.end();
            // The last block is not begun before the one before it is done.
            let not_begun = at(last - BLOCK) == 0xaa;
            let _either = preparing.join().unwrap();
            assert!(!not_begun || at(last) == 0xaa, "{name}");
        }
    }

    #[test]
    fn the_rank_whose_value_is_not_finite_is_named_whatever_is_done_with_it() {
        let floats = |plan: &Plan| plan.operation.data_type() == DataType::F32;
        for plan in plans(1000).into_iter().filter(floats) {
            let given = ranks_for(&plan, 1000);
            let rank = usize::from(plan.operation.kind() != OperationKind::Broadcast);
            assert!(given[rank].input.as_ref().unwrap().write(4 * 700, &f32::NAN.to_le_bytes()));
            let (reason, detail) = prepare_now(&plan, &given, true, &Turn::default()).unwrap_err();
            assert_eq!(reason, AbortReason::NotFinite, "{:?}", plan.operation);
            assert_eq!(detail, format!("element 700 of rank {rank} is NaN or infinite"));
        }
    }

    /// What the first rank's output holds when ranks of these weights, which give 1 and 2, are put together.
    fn first(plan: &Plan, weights: [u32; 2]) -> Vec<u8> {
        let given: Vec<_> = two_ranks(1).into_iter().zip(weights).map(|(given, weight)| Given { weight, ..given }).collect();
        prepare_now(plan, &given, plan.members.len() == 1, &Turn::default()).unwrap();
        given[0].output.as_ref().unwrap().as_ref().to_vec()
    }

    #[test]
    fn where_nobody_has_a_weight_all_ranks_count_alike() {
        let mean = Operation { reduction: Reduction::Mean.into(), ..sum(DataType::F32, 1) };
        // The coordinator gives a weight of 1 to each worker then.
        assert_eq!(first(&plan_of(&mean, 1, 0), [0, 0]), 1.5f32.to_le_bytes());
        assert_eq!(first(&plan_of(&sum(DataType::F32, 1), 1, 0), [0, 0]), 3.0f32.to_le_bytes());
        assert_eq!(first(&plan_of(&mean, 4, 0), [1, 3]), 1.75f32.to_le_bytes());
        // Others have weights.
        assert_eq!(first(&plan_of(&sum(DataType::F32, 1), 0, 0), [0, 0]), 0.0f32.to_le_bytes());
    }
}
