//! The reduction of one block: copies in slot order, by groups, coded where the operation says so, and nothing but them.
//!
//! Without groups every contribution is coded by who gives it; with groups the sums of groups are coded, and contributions
//! are not. The result is coded once more by its owner, who takes what all others decode.

use std::ops::Range;

use super::{BLOCK_BYTES, Plan};
use crate::codec::{Codec, CodecError};
use crate::peer::Failure;
use crate::v1::{AbortReason, DataType, Operation};
use crate::{operation, reduce};

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

/// Elements that are reduced at a time: they stay in the nearest cache, are whole blocks of every codec, and fill the widest
/// form of the hash.
const STRIP: usize = 4096;

/// What a member gave to a block, as it came.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) bytes: &'a [u8],
    /// It is the sum of its group, and not its own copy.
    pub(super) partial: bool,
}

/// Reduces a block strip by strip, and gives each strip of the result to `put` with its first byte's place in the block.
///
/// `given` is by member; `start` is the block's first byte in the whole result, `length` how many the
/// result has. Returns the result as it goes on the lanes, where that is coded.
///
/// # Errors
/// [`Failure`] names the member whose copy cannot be reduced, or says that the sum leaves the range of its type.
pub(super) fn reduce(
    plan: &Plan,
    (start, length): (usize, usize),
    given: &[Option<Given<'_>>],
    mut put: impl FnMut(usize, &[u8]),
) -> Result<Option<Vec<u8>>, Failure> {
    let size = operation::size(plan.operation.data_type()) as usize;
    if !plan.adds() {
        let only = given.iter().enumerate().find_map(|(member, given)| Some((member, given.as_ref()?)));
        if let Some((member, only)) = only {
            // Its own is judged before.
            if member != plan.me {
                judge(plan, start / size, member, only.bytes)?;
            }
            put(0, only.bytes);
        }
        return Ok(None);
    }
    let mut strip = Strip::new(plan);
    let mut coded = codec(plan).map(|codec| Vec::with_capacity(codec.encoded_len(length / size)));
    for elements in strips(length / size) {
        strip.first = start / size + elements.start;
        strip.result.resize(elements.len() * size, 0);
        strip.reduce(parts(plan, given, &elements))?;
        if let Some(coded) = &mut coded {
            strip.code(coded)?;
        }
        put(elements.start * size, &strip.result);
    }
    Ok(coded)
}

/// Adds up what a group gives to a block, as it goes on to the block's owner; as [`reduce`] otherwise.
pub(super) fn add_up(plan: &Plan, (start, length): (usize, usize), given: &[Option<Given<'_>>]) -> Result<Vec<u8>, Failure> {
    let size = operation::size(plan.operation.data_type()) as usize;
    let mut strip = Strip::new(plan);
    let mut sums = Vec::with_capacity(partial_len(plan, length / size));
    for elements in strips(length / size) {
        strip.first = start / size + elements.start;
        reset(&mut strip.partial, elements.len());
        for (member, given) in parts(plan, given, &elements) {
            add(plan, strip.first, member, given.bytes, &mut strip.partial)?;
        }
        sums.extend(strip.coded_partial()?);
    }
    Ok(sums)
}

/// The strips of a block, by element.
fn strips(elements: usize) -> impl Iterator<Item = Range<usize>> {
    (0..elements).step_by(STRIP).map(move |start| start..(start + STRIP).min(elements))
}

/// What each member gave to a strip.
fn parts<'a>(
    plan: &'a Plan,
    given: &'a [Option<Given<'a>>],
    elements: &'a Range<usize>,
) -> impl Iterator<Item = (usize, Given<'a>)> {
    given.iter().enumerate().filter_map(move |(member, given)| {
        let Given { bytes, partial } = (*given)?;
        let coded = if partial { codec(plan) } else { contribution_codec(plan) };
        let plain = if partial { PARTIAL } else { operation::size(plan.operation.data_type()) as usize };
        let place = |element: usize| coded.map_or(element * plain, |codec| codec.encoded_len(element));
        Some((member, Given { bytes: bytes.get(place(elements.start)..place(elements.end))?, partial }))
    })
}

/// Bytes of one element of a group's sum, where it is not coded: sums of bfloat16 are not rounded on the way.
const PARTIAL: usize = 4;

/// Bytes of a group's sum of so many elements, as it travels.
pub(super) fn partial_len(plan: &Plan, elements: usize) -> usize {
    codec(plan).map_or(elements * PARTIAL, |codec| codec.encoded_len(elements))
}

/// A part of a block that is reduced at once.
struct Strip<'a> {
    plan: &'a Plan,
    /// Its first element in the whole result.
    first: usize,
    /// Its bytes, as many as the result shall have.
    result: Vec<u8>,
    sum: Vec<f32>,
    /// The sum of the group at hand.
    partial: Vec<f32>,
}

impl<'a> Strip<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self { plan, first: 0, result: Vec::new(), sum: Vec::new(), partial: Vec::new() }
    }

    /// Puts the sum or mean of `copies` into the result.
    fn reduce<'c>(&mut self, copies: impl Iterator<Item = (usize, Given<'c>)>) -> Result<(), Failure> {
        let (plan, first) = (self.plan, self.first);
        let total = plan.divisor.max(1);
        let overflow = |position: usize| overflow(plan, first + position);
        match plan.operation.data_type() {
            DataType::I64 => {
                let mut sum = vec![0; self.result.len() / 8];
                for (_, given) in copies {
                    reduce::add_counters(&mut sum, given.bytes).map_err(|found| overflow(found.position))?;
                }
                reduce::counters_to_bytes(&sum, &mut self.result);
                Ok(())
            }
            DataType::Bf16 => {
                self.add_all(2, copies)?;
                reduce::mean_to_bf16(&self.sum, total, &mut self.result).map_err(|found| overflow(found.position))
            }
            _ => {
                self.add_all(4, copies)?;
                reduce::mean_to_bytes(&self.sum, total, &mut self.result).map_err(|found| overflow(found.position))
            }
        }
    }

    /// Adds the copies in their order: those of a group of neighbours among themselves first, where there are groups.
    fn add_all<'c>(&mut self, size: usize, copies: impl Iterator<Item = (usize, Given<'c>)>) -> Result<(), Failure> {
        let elements = self.result.len() / size;
        let group_size = (self.plan.operation.group_size as usize).max(1);
        reset(&mut self.sum, elements);
        let mut open = None;
        for (member, Given { bytes, partial }) in copies {
            if group_size == 1 {
                add(self.plan, self.first, member, bytes, &mut self.sum)?;
                continue;
            }
            if partial {
                self.add_group()?;
                self.add_partial(member, bytes)?;
                continue;
            }
            let group = member / group_size;
            if open.replace(group) != Some(group) {
                self.add_group()?;
                reset(&mut self.partial, elements);
            }
            add(self.plan, self.first, member, bytes, &mut self.partial)?;
        }
        self.add_group()
    }

    /// Adds the sum of the group at hand, as it would travel.
    fn add_group(&mut self) -> Result<(), Failure> {
        if self.partial.is_empty() {
            return Ok(());
        }
        let sum = self.coded_partial()?;
        self.partial.clear();
        self.add_partial(self.plan.me, &sum)
    }

    /// The sum of the group at hand, as it travels.
    fn coded_partial(&self) -> Result<Vec<u8>, Failure> {
        let Some(codec) = codec(self.plan) else {
            return Ok(self.partial.iter().flat_map(|value| value.to_le_bytes()).collect());
        };
        let mut coded = vec![0; codec.encoded_len(self.partial.len())];
        codec.encode(&self.partial, &mut coded).map_err(|found| overflow(self.plan, self.first + found.position))?;
        Ok(coded)
    }

    /// Adds the sum of a group, as `member` of it gave it.
    fn add_partial(&mut self, member: usize, bytes: &[u8]) -> Result<(), Failure> {
        match codec(self.plan) {
            Some(codec) => {
                codec.accumulate(bytes, 1, &mut self.sum).map_err(|error| mismatch(self.plan, member, error.to_string()))
            }
            None => reduce::add(&mut self.sum, bytes, 1).map_err(|found| overflow(self.plan, self.first + found.position)),
        }
    }

    /// Appends the coded result to `coded`, and makes the result what all others decode.
    fn code(&mut self, coded: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(codec) = codec(self.plan) else { return Ok(()) };
        let before = coded.len();
        coded.extend(encode(self.plan, codec, self.first * 4, &self.result, None)?);
        decode(codec, &coded[before..], &mut self.result).map_err(|detail| mismatch(self.plan, self.plan.me, detail))
    }
}

/// Zeros of a length.
fn reset(values: &mut Vec<f32>, length: usize) {
    values.clear();
    values.resize(length, 0.0);
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

/// What another has all shards carry; `first` is its first element.
fn judge(plan: &Plan, first: usize, member: usize, bytes: &[u8]) -> Result<(), Failure> {
    reduce::judge(plan.operation.data_type(), bytes).map_err(|found| not_finite(plan, member, first + found.position))
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

pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    crate::reduce::floats(bytes).collect()
}

pub(super) fn not_finite(plan: &Plan, member: usize, element: usize) -> Failure {
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
