//! The ranks of one worker: what they give is put together in rank order in shared memory, before the network or without it.
//!
//! Sums are added in rank order, in f32 for bf16 too, which is rounded once: that is what the worker gives to the others.

use std::ops::Range;

use atoll_collective::exchange::{Output, Plan};
use atoll_collective::peer::Failure;
use atoll_collective::v1::{AbortReason, DataType, Operation, OperationKind};
use atoll_collective::{operation, reduce};
use bytes::Bytes;

use crate::core::Given;
use crate::regions::Part;

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

/// Puts together what the worker gives to others: in rank 0's output where it has one. The result goes into all outputs, where no
/// other worker takes part.
pub(crate) async fn prepare(plan: Plan, given: Vec<Given>, alone: bool) -> Result<Bytes, Failure> {
    let slot = plan.members[plan.me].slot;
    let failure = move |(reason, detail)| Failure { reason, culprit: slot, detail };
    if plan.operation.kind() != OperationKind::Barrier {
        given.iter().filter_map(|given| given.output.as_ref()).try_for_each(|output| plan.check_output(output.len()))?;
    }
    let bytes: usize = given.iter().filter_map(|given| given.input.as_ref()).map(Part::len).sum();
    if bytes < LARGE {
        return prepare_now(&plan, &given, alone).map_err(failure);
    }
    let working = tokio::task::spawn_blocking(move || prepare_now(&plan, &given, alone));
    working.await.unwrap_or_else(|error| Err((AbortReason::Unspecified, error.to_string()))).map_err(failure)
}

fn prepare_now(plan: &Plan, given: &[Given], alone: bool) -> Result<Bytes, Wrong> {
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
        OperationKind::Broadcast | OperationKind::Send => first_input(plan, &inputs, if alone { &outputs } else { &[] }),
        _ if inputs.len() != given.len() => Err(mismatch("a rank gives nothing")),
        OperationKind::AllGather => gather(plan, &inputs, &outputs, alone),
        _ => add_up(plan, given, &inputs, &outputs, alone),
    }
}

/// What rank 0 gives, where the worker gives anything; also in `outputs`.
fn first_input(plan: &Plan, inputs: &[Part], outputs: &[Part]) -> Result<Bytes, Wrong> {
    if !plan.has_all(plan.me) {
        return Ok(Bytes::new());
    }
    let input = inputs.first().filter(|input| input.len() == plan.result_bytes());
    let input = input.ok_or_else(|| mismatch("rank 0 gives nothing, or something of another length"))?;
    for output in outputs {
        output.copy_from(input);
    }
    Ok(input.shared())
}

/// The inputs one after the other, where the result has them.
fn gather(plan: &Plan, inputs: &[Part], outputs: &[Part], alone: bool) -> Result<Bytes, Wrong> {
    let shard = plan.shard(plan.me);
    if inputs.iter().map(Part::len).sum::<usize>() != shard.len() {
        return Err(mismatch("the ranks give something of another length"));
    }
    for output in if alone { outputs } else { &outputs[..1] } {
        let mut start = shard.start;
        for input in inputs {
            // The lengths were checked.
            let _fits = output.write(start, input.as_ref());
            start += input.len();
        }
    }
    Ok(outputs[0].shared_part(shard))
}

/// The sum of the inputs, each multiplied by its rank's weight; the result in all outputs, where the worker is alone.
fn add_up(plan: &Plan, given: &[Given], inputs: &[Part], outputs: &[Part], alone: bool) -> Result<Bytes, Wrong> {
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
    let sum = Sum {
        data_type: plan.operation.data_type(),
        inputs,
        factors: given.iter().map(|given| given.weight).collect(),
        divisor: if alone { plan.divisor.max(1) } else { 1 },
        outputs,
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
}

impl Sum<'_> {
    /// Adds up one range of bytes, which begins at a multiple of [`BLOCK`].
    fn put(&self, range: Range<usize>) -> Result<(), Wrong> {
        let size = operation::size(self.data_type) as usize;
        for start in range.clone().step_by(BLOCK) {
            let block = start..(start + BLOCK).min(range.end);
            match self.data_type {
                DataType::I64 => self.put_counters(block),
                DataType::Bf16 => self.put_halves(block),
                _ => self.put_floats(block),
            }
            .map_err(|wrong| wrong.told(start / size))?;
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
