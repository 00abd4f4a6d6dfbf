//! The reduction of one block: copies in slot order, and nothing but them.

use super::Plan;
use crate::peer::Failure;
use crate::reduce;
use crate::v1::AbortReason;

/// Puts the reduced block into `result`. `own` is this peer's copy, where it gives one; `copies` are the others', by member.
/// `start` is the block's first byte in the whole result.
///
/// # Errors
/// [`Failure`] names the member whose copy cannot be reduced.
pub(super) fn reduce(
    plan: &Plan,
    start: usize,
    own: Option<&[u8]>,
    copies: &[Option<Vec<u8>>],
    result: &mut Vec<u8>,
) -> Result<(), Failure> {
    let given = |member: usize| if member == plan.me { own } else { copies[member].as_deref() };
    let members = || (0..plan.members.len()).filter_map(|member| Some((member, given(member)?)));
    result.clear();
    if !plan.adds() {
        if let Some((_, bytes)) = members().next() {
            result.extend_from_slice(bytes);
        }
        return Ok(());
    }
    let length = members().next().map_or(0, |(_, bytes)| bytes.len());
    let mut sum = vec![0.0; length / 4];
    let mut copy = vec![0.0; sum.len()];
    for (member, bytes) in members() {
        for (value, bytes) in copy.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        if let Some(position) = reduce::first_not_finite(&copy) {
            let detail = format!("element {} is {}", start / 4 + position, copy[position]);
            return Err(Failure { reason: AbortReason::NotFinite, culprit: plan.members[member].slot, detail });
        }
        reduce::add(&mut sum, &copy, plan.factors[member]);
    }
    if plan.divisor > 0 {
        reduce::divide(&mut sum, plan.divisor);
    }
    result.extend(sum.iter().flat_map(|value| value.to_le_bytes()));
    Ok(())
}
