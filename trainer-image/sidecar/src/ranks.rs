//! The ranks of one worker: their contributions are added in rank order in shared memory, before the network or without it.

use std::ops::Range;

use atoll_collective::exchange::Plan;
use atoll_collective::peer::Failure;
use atoll_collective::reduce;
use atoll_collective::v1::{AbortReason, DataType, Operation, OperationKind};

use crate::core::Given;
use crate::regions::Part;

/// Bytes that one thread reduces at a time: they stay in its cache.
const BLOCK: usize = 1 << 16;
/// Bytes from which on several threads work.
const LARGE: usize = 1 << 18;

/// Whether several ranks can take part in it as one worker.
pub(crate) fn can(operation: &Operation) -> bool {
    match operation.kind() {
        OperationKind::AllReduce => operation.data_type() == DataType::F32,
        OperationKind::Broadcast | OperationKind::Barrier => true,
        _ => false,
    }
}

/// Puts the worker's contribution into rank 0's output; the result into all outputs, where no other worker takes part.
pub(crate) async fn prepare(plan: Plan, given: Vec<Given>, alone: bool) -> Result<(), Failure> {
    let large = given.first().and_then(|given| given.input.as_ref()).is_some_and(|input| input.len() >= LARGE);
    if !large {
        return prepare_now(&plan, &given, alone);
    }
    let slot = plan.members[plan.me].slot;
    let working = tokio::task::spawn_blocking(move || prepare_now(&plan, &given, alone));
    let lost = |error: tokio::task::JoinError| failure(slot, AbortReason::Unspecified, error.to_string());
    working.await.map_err(lost)?
}

fn prepare_now(plan: &Plan, given: &[Given], alone: bool) -> Result<(), Failure> {
    let slot = plan.members[plan.me].slot;
    let mismatch = |detail: &str| failure(slot, AbortReason::Mismatch, detail.to_owned());
    let outputs: Vec<Part> = given.iter().filter_map(|given| given.output.clone()).collect();
    if plan.operation.kind() == OperationKind::Barrier {
        return Ok(());
    }
    if outputs.len() != given.len() || outputs.iter().any(|output| output.len() != plan.result_bytes()) {
        return Err(mismatch("a rank has no output, or one of another length"));
    }
    let inputs: Vec<Part> = given.iter().filter_map(|given| given.input.clone()).collect();
    if plan.operation.kind() == OperationKind::Broadcast {
        return match inputs.first() {
            Some(input) if outputs[0].copy_from(input) => {
                if alone {
                    spread(&outputs);
                }
                Ok(())
            }
            None => Ok(()),
            Some(_) => Err(mismatch("rank 0 gives something of another length")),
        };
    }
    if inputs.len() != given.len() || inputs.iter().any(|input| input.len() != plan.result_bytes()) {
        return Err(mismatch("a rank gives nothing, or something of another length"));
    }
    let factors: Vec<u32> = given.iter().map(|given| given.weight).collect();
    let divisor = if alone { plan.divisor } else { 0 };
    let outputs = if alone { &outputs[..] } else { &outputs[..1] };
    let wrong = in_parallel(plan.result_bytes(), |range| reduce_range(&inputs, &factors, divisor, outputs, range));
    wrong.map_or(Ok(()), |(reason, detail)| Err(failure(slot, reason, detail)))
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

/// Adds the inputs in rank order over one range of bytes. What cannot be added is named.
fn reduce_range(
    inputs: &[Part],
    factors: &[u32],
    divisor: u64,
    outputs: &[Part],
    range: Range<usize>,
) -> Option<(AbortReason, String)> {
    let mut start = range.start;
    while start < range.end {
        let block = start..(start + BLOCK).min(range.end);
        let mut first = outputs.first()?.part(block.clone())?;
        let Some(sum) = first.values_mut() else {
            return Some((AbortReason::Mismatch, "an output is not aligned to its elements".to_owned()));
        };
        sum.fill(0.0);
        for (rank, (input, factor)) in inputs.iter().zip(factors).enumerate() {
            let input = input.part(block.clone())?;
            if let Err(bad) = reduce::add(sum, input.as_ref(), *factor) {
                let detail = format!("element {} of rank {rank} is NaN or infinite", start / 4 + bad.position);
                return Some((AbortReason::NotFinite, detail));
            }
        }
        if let Err(bad) = reduce::mean(sum, divisor.max(1)) {
            let detail = format!("the sum of element {} leaves the range of its type", start / 4 + bad.position);
            return Some((AbortReason::Overflow, detail));
        }
        for other in outputs.iter().skip(1).filter_map(|output| output.part(block.clone())) {
            other.copy_from(&first);
        }
        start = block.end;
    }
    None
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

fn failure(slot: u32, reason: AbortReason, detail: String) -> Failure {
    Failure { reason, culprit: slot, detail }
}
