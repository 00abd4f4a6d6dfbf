//! The reduction of one block: copies in slot order, by groups, coded where the operation says so, and nothing but them.
//!
//! Without groups every contribution is coded by who gives it; with groups the sums of groups are coded, and contributions
//! are not. The result is coded once more by its owner, who takes what all others decode.

use super::{BLOCK_BYTES, Plan};
use crate::codec::{Codec, CodecError};
use crate::peer::Failure;
use crate::v1::{AbortReason, DataType, Operation};
use crate::{operation, reduce};

/// A block that is reduced.
#[derive(Debug, Default)]
pub(super) struct Reduced {
    /// The result's bytes.
    pub(super) result: Vec<u8>,
    /// The same as it goes on the lanes, where that is coded.
    pub(super) coded: Option<Vec<u8>>,
}

/// The codec of an operation's results; none where they travel as they are.
pub(super) fn codec(plan: &Plan) -> Option<Codec> {
    operation::codec(&plan.operation)
}

/// The codec of contributions: that of results, unless sums of groups are coded instead.
pub(super) fn contribution_codec(plan: &Plan) -> Option<Codec> {
    codec(plan).filter(|_| plan.operation.group_size <= 1)
}

/// Replaces the residual of an operation that was committed: what coding `input` and the old residual has lost.
///
/// # Errors
/// [`CodecError`] where a value is not finite; what was committed had none.
///
/// # Panics
/// When the lengths differ.
pub fn feed_back(operation: &Operation, input: &[u8], residual: &mut [f32]) -> Result<(), CodecError> {
    let Some(codec) = operation::codec(operation).filter(|_| operation.group_size <= 1) else { return Ok(()) };
    assert_eq!(input.len(), residual.len() * 4);
    for (input, residual) in input.chunks(BLOCK_BYTES).zip(residual.chunks_mut(BLOCK_BYTES / 4)) {
        let values = floats(input);
        let mut coded = vec![0; codec.encoded_len(values.len())];
        codec.encode_with_feedback(&values, residual, &mut coded)?;
        codec.residual(&values, &coded, residual)?;
    }
    Ok(())
}

/// Codes this peer's copy of a block. `start` is the block's first byte in the whole result.
///
/// # Errors
/// [`Failure`] names this peer when a value is not finite.
pub(super) fn encode(
    plan: &Plan,
    codec: Codec,
    start: usize,
    values: &[u8],
    residual: Option<&[u8]>,
) -> Result<Vec<u8>, Failure> {
    let values = floats(values);
    let mut coded = vec![0; codec.encoded_len(values.len())];
    let done = match residual {
        Some(residual) => codec.encode_with_feedback(&values, &floats(residual), &mut coded),
        None => codec.encode(&values, &mut coded),
    };
    match done {
        Ok(()) => Ok(coded),
        Err(bad) => Err(not_finite(plan, plan.me, start / 4 + bad.position)),
    }
}

/// Reduces a block. `given` are the copies by member, as they came; `start` is the block's first byte in the whole result,
/// `length` how many the result has.
///
/// # Errors
/// [`Failure`] names the member whose copy cannot be reduced, or says that the sum leaves the range of its type.
pub(super) fn reduce(
    plan: &Plan,
    (start, length): (usize, usize),
    given: &[Option<&[u8]>],
    mut result: Vec<u8>,
) -> Result<Reduced, Failure> {
    result.clear();
    let copies = || given.iter().enumerate().filter_map(|(member, bytes)| Some((member, (*bytes)?)));
    if !plan.adds() {
        if let Some((_, bytes)) = copies().next() {
            result.extend_from_slice(bytes);
        }
        return Ok(Reduced { result, coded: None });
    }
    result.resize(length, 0);
    if plan.operation.data_type() == DataType::I64 {
        let mut sum = vec![0; length / 8];
        for (_, bytes) in copies() {
            reduce::add_counters(&mut sum, bytes).map_err(|found| overflow(plan, start / 8 + found.position))?;
        }
        reduce::counters_to_bytes(&sum, &mut result);
        return Ok(Reduced { result, coded: None });
    }
    let halves = plan.operation.data_type() == DataType::Bf16;
    let size = if halves { 2 } else { 4 };
    let sum = sum_of_groups(plan, start / size, length / size, copies())?;
    let total = plan.divisor.max(1);
    let finite =
        if halves { reduce::mean_to_bf16(&sum, total, &mut result) } else { reduce::mean_to_bytes(&sum, total, &mut result) };
    finite.map_err(|found| overflow(plan, start / size + found.position))?;
    let Some(codec) = codec(plan) else { return Ok(Reduced { result, coded: None }) };
    let coded = encode(plan, codec, start, &result, None)?;
    decode(codec, &coded, &mut result).map_err(|detail| mismatch(plan, plan.me, detail))?;
    Ok(Reduced { result, coded: Some(coded) })
}

/// Sums of groups of neighbours, coded where there are such, added in their order.
fn sum_of_groups<'a>(
    plan: &Plan,
    first: usize,
    elements: usize,
    copies: impl Iterator<Item = (usize, &'a [u8])>,
) -> Result<Vec<f32>, Failure> {
    let group_size = (plan.operation.group_size as usize).max(1);
    let mut sum = vec![0.0; elements];
    let mut group: Option<(usize, Vec<f32>)> = None;
    for (member, bytes) in copies {
        if group_size == 1 {
            add(plan, first, member, bytes, &mut sum)?;
            continue;
        }
        let number = member / group_size;
        if group.as_ref().is_some_and(|(open, _)| *open != number)
            && let Some((_, partial)) = group.take()
        {
            add_group(plan, first, &partial, &mut sum)?;
        }
        let (_, partial) = group.get_or_insert_with(|| (number, vec![0.0; elements]));
        add(plan, first, member, bytes, partial)?;
    }
    if let Some((_, partial)) = group {
        add_group(plan, first, &partial, &mut sum)?;
    }
    Ok(sum)
}

fn add(plan: &Plan, first: usize, member: usize, bytes: &[u8], sum: &mut [f32]) -> Result<(), Failure> {
    let factor = plan.factors[member];
    let bad = |position: usize| not_finite(plan, member, first + position);
    if let Some(codec) = contribution_codec(plan) {
        return codec.accumulate(bytes, factor, sum).map_err(|error| mismatch(plan, member, error.to_string()));
    }
    match plan.operation.data_type() {
        DataType::Bf16 => reduce::add_bf16(sum, bytes, factor),
        _ => reduce::add(sum, bytes, factor),
    }
    .map_err(|found| bad(found.position))
}

fn add_group(plan: &Plan, first: usize, partial: &[f32], sum: &mut [f32]) -> Result<(), Failure> {
    let range = |position: usize| overflow(plan, first + position);
    if let Some(codec) = codec(plan) {
        let mut coded = vec![0; codec.encoded_len(partial.len())];
        codec.encode(partial, &mut coded).map_err(|found| range(found.position))?;
        return codec.accumulate(&coded, 1, sum).map_err(|error| mismatch(plan, plan.me, error.to_string()));
    }
    let bytes: Vec<u8> = partial.iter().flat_map(|value| value.to_le_bytes()).collect();
    reduce::add(sum, &bytes, 1).map_err(|found| range(found.position))
}

/// The values of a coded block, as bytes.
pub(super) fn decode(codec: Codec, coded: &[u8], result: &mut [u8]) -> Result<(), String> {
    let mut values = vec![0.0; result.len() / 4];
    codec.decode(coded, &mut values).map_err(|error| error.to_string())?;
    for (bytes, value) in result.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
    Ok(())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn not_finite(plan: &Plan, member: usize, element: usize) -> Failure {
    let detail = format!("element {element} of its contribution is NaN or infinite");
    Failure { reason: AbortReason::NotFinite, culprit: plan.members[member].slot, detail }
}

fn overflow(plan: &Plan, element: usize) -> Failure {
    let detail = format!("the sum of element {element} leaves the range of its type");
    Failure { reason: AbortReason::Overflow, culprit: plan.members[plan.me].slot, detail }
}

pub(super) fn mismatch(plan: &Plan, member: usize, detail: String) -> Failure {
    Failure { reason: AbortReason::Mismatch, culprit: plan.members[member].slot, detail }
}
