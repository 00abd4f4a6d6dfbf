//! Sums and means, as functions of the contributions in slot order alone.
//!
//! A mean is `sum(weight_i * x_i) / sum(weight_i)` element by element in f32, added in slot order, so that every path and
//! every peer gives the same bits. Nothing is fused and nothing is reordered. Contributions are read once, from the
//! little-endian bytes in which they came.

use crate::bfloat16;
use crate::finite::{self, NotFinite, Watch};
use crate::v1::DataType;
use crate::vectorised::vectorised;

/// A sum of counters left the range of i64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sum of element {position} leaves the range of 64-bit integers")]
pub struct Overflow {
    /// The first such element.
    pub position: usize,
}

/// Adds `weight * value` to `sum` for each f32 of `bytes`. Weight 0 adds nothing, but its values are judged too.
///
/// # Errors
/// [`NotFinite`] names the first value that is NaN or infinite; `sum` is then spoilt.
///
/// # Panics
/// When the lengths differ.
pub fn add(sum: &mut [f32], bytes: &[u8], weight: u32) -> Result<(), NotFinite> {
    assert_eq!(bytes.len(), sum.len() * 4);
    if fast::add(sum, bytes, weight) { Ok(()) } else { Err(NotFinite::first(floats(bytes))) }
}

/// Adds `weight * value` to `sum` for each bfloat16 of `bytes`, as [`add`] does.
///
/// # Errors
/// [`NotFinite`] names the first value that is NaN or infinite; `sum` is then spoilt.
///
/// # Panics
/// When the lengths differ.
pub fn add_bf16(sum: &mut [f32], bytes: &[u8], weight: u32) -> Result<(), NotFinite> {
    assert_eq!(bytes.len(), sum.len() * 2);
    if fast::add_bf16(sum, bytes, weight) { Ok(()) } else { Err(NotFinite::first(halves(bytes))) }
}

/// Divides a sum by the total weight, in place. The plain sum is the mean of total weight 1.
///
/// # Errors
/// [`NotFinite`] names the first element whose sum left the range of f32, or the first of all when the total is zero.
pub fn mean(sum: &mut [f32], total: u64) -> Result<(), NotFinite> {
    if fast::mean(sum, total as f32) { Ok(()) } else { Err(NotFinite::first(sum.iter().copied())) }
}

/// Writes the mean as f32, little-endian: the bits of [`mean`].
///
/// # Errors
/// As [`mean`]; `out` is then spoilt.
///
/// # Panics
/// When the lengths differ.
pub fn mean_to_bytes(sum: &[f32], total: u64, out: &mut [u8]) -> Result<(), NotFinite> {
    assert_eq!(out.len(), sum.len() * 4);
    if fast::mean_to_bytes(sum, total as f32, out) { Ok(()) } else { Err(NotFinite::first(floats(out))) }
}

/// Writes the mean as bfloat16, little-endian: the bits of [`mean`], rounded once, ties to even.
///
/// # Errors
/// As [`mean`]; `out` is then spoilt.
///
/// # Panics
/// When the lengths differ.
pub fn mean_to_bf16(sum: &[f32], total: u64, out: &mut [u8]) -> Result<(), NotFinite> {
    assert_eq!(out.len(), sum.len() * 2);
    let total = total as f32;
    if fast::mean_to_bf16(sum, total, out) { Ok(()) } else { Err(NotFinite::first(sum.iter().map(|value| value / total))) }
}

/// Adds the i64 counters of `bytes` to `sum`. Counters have no mean and no weights.
///
/// # Errors
/// [`Overflow`] names the first element whose sum leaves the range; `sum` is then spoilt.
///
/// # Panics
/// When the lengths differ.
pub fn add_counters(sum: &mut [i64], bytes: &[u8]) -> Result<(), Overflow> {
    assert_eq!(bytes.len(), sum.len() * 8);
    if fast::add_counters(sum, bytes) {
        return Ok(());
    }
    // Sums wrap, so that subtracting gives back what was there before.
    let fits = |(sum, value): &(&i64, i64)| sum.wrapping_sub(*value).checked_add(*value).is_some();
    Err(Overflow { position: sum.iter().zip(counters(bytes)).take_while(fits).count() })
}

/// Writes counters, little-endian.
///
/// # Panics
/// When the lengths differ.
pub fn counters_to_bytes(sum: &[i64], out: &mut [u8]) {
    assert_eq!(out.len(), sum.len() * 8);
    for (out, sum) in out.as_chunks_mut().0.iter_mut().zip(sum) {
        *out = sum.to_le_bytes();
    }
}

/// Judges values that are carried and not added; counters and bytes may be anything.
///
/// # Errors
/// [`NotFinite`] names the first value that is NaN or infinite.
pub fn judge(data_type: DataType, bytes: &[u8]) -> Result<(), NotFinite> {
    match data_type {
        DataType::F32 => finite::judge(floats(bytes)),
        DataType::Bf16 => finite::judge(halves(bytes)),
        _ => Ok(()),
    }
}

#[inline(always)]
pub(crate) fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + Clone {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

#[inline(always)]
pub(crate) fn halves(bytes: &[u8]) -> impl Iterator<Item = f32> + Clone {
    bytes.as_chunks().0.iter().map(|bytes| bfloat16::widen(u16::from_le_bytes(*bytes)))
}

#[inline(always)]
fn counters(bytes: &[u8]) -> impl Iterator<Item = i64> {
    bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes))
}

mod fast {
    use super::{plain, vectorised};

    vectorised! {
        pub(super) fn add(sum: &mut [f32], bytes: &[u8], weight: u32) -> bool = plain::add;
        pub(super) fn add_bf16(sum: &mut [f32], bytes: &[u8], weight: u32) -> bool = plain::add_bf16;
        pub(super) fn mean(sum: &mut [f32], total: f32) -> bool = plain::mean;
        pub(super) fn mean_to_bytes(sum: &[f32], total: f32, out: &mut [u8]) -> bool = plain::mean_to_bytes;
        pub(super) fn mean_to_bf16(sum: &[f32], total: f32, out: &mut [u8]) -> bool = plain::mean_to_bf16;
        pub(super) fn add_counters(sum: &mut [i64], bytes: &[u8]) -> bool = plain::add_counters;
    }
}

/// The loops. Those of floats return whether all values were finite, the last whether nothing overflowed.
mod plain {
    use super::{Watch, bfloat16, counters, floats, halves};

    #[inline(always)]
    pub(super) fn add(sum: &mut [f32], bytes: &[u8], weight: u32) -> bool {
        add_weighted(sum, floats(bytes), weight)
    }

    #[inline(always)]
    pub(super) fn add_bf16(sum: &mut [f32], bytes: &[u8], weight: u32) -> bool {
        add_weighted(sum, halves(bytes), weight)
    }

    #[inline(always)]
    fn add_weighted(sum: &mut [f32], values: impl Iterator<Item = f32>, weight: u32) -> bool {
        match weight {
            0 => {
                let mut watch = Watch::default();
                values.for_each(|value| watch.see(value));
                watch.all_finite()
            }
            // The same bits as multiplying by one, and the usual case.
            1 => add_each(sum, values, |value| value),
            _ => {
                let weight = weight as f32;
                add_each(sum, values, |value| weight * value)
            }
        }
    }

    #[inline(always)]
    fn add_each(sum: &mut [f32], values: impl Iterator<Item = f32>, term: impl Fn(f32) -> f32) -> bool {
        let mut watch = Watch::default();
        for (sum, value) in sum.iter_mut().zip(values) {
            watch.see(value);
            *sum += term(value);
        }
        watch.all_finite()
    }

    #[inline(always)]
    pub(super) fn mean(sum: &mut [f32], total: f32) -> bool {
        match exact_reciprocal(total) {
            Some(factor) => each(sum.iter_mut(), |sum| **sum * factor, |sum, mean| *sum = mean),
            None => each(sum.iter_mut(), |sum| **sum / total, |sum, mean| *sum = mean),
        }
    }

    #[inline(always)]
    pub(super) fn mean_to_bytes(sum: &[f32], total: f32, out: &mut [u8]) -> bool {
        let pairs = sum.iter().zip(out.as_chunks_mut().0);
        match exact_reciprocal(total) {
            Some(factor) => each(pairs, |(sum, _)| **sum * factor, |(_, out), mean| *out = mean.to_le_bytes()),
            None => each(pairs, |(sum, _)| **sum / total, |(_, out), mean| *out = mean.to_le_bytes()),
        }
    }

    #[inline(always)]
    pub(super) fn mean_to_bf16(sum: &[f32], total: f32, out: &mut [u8]) -> bool {
        let pairs = sum.iter().zip(out.as_chunks_mut().0);
        match exact_reciprocal(total) {
            Some(factor) => each(pairs, |(sum, _)| **sum * factor, |(_, out), mean| *out = bfloat16::narrow(mean).to_le_bytes()),
            None => each(pairs, |(sum, _)| **sum / total, |(_, out), mean| *out = bfloat16::narrow(mean).to_le_bytes()),
        }
    }

    /// Multiplying by the reciprocal of a power of two gives the bits of the division, several times faster.
    #[inline(always)]
    fn exact_reciprocal(total: f32) -> Option<f32> {
        let mantissa = total.to_bits() & 0x007f_ffff;
        (total >= 1.0 && mantissa == 0).then(|| 1.0 / total)
    }

    #[inline(always)]
    fn each<T>(items: impl Iterator<Item = T>, mean: impl Fn(&T) -> f32, put: impl Fn(T, f32)) -> bool {
        let mut watch = Watch::default();
        for item in items {
            let mean = mean(&item);
            watch.see(mean);
            put(item, mean);
        }
        watch.all_finite()
    }

    #[inline(always)]
    pub(super) fn add_counters(sum: &mut [i64], bytes: &[u8]) -> bool {
        let mut signs = 0;
        for (sum, value) in sum.iter_mut().zip(counters(bytes)) {
            let result = sum.wrapping_add(value);
            // Overflow: both terms have the sign that the result has not.
            signs |= (*sum ^ result) & (value ^ result);
            *sum = result;
        }
        signs >= 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// The bits, one NaN for all: which one an operation gives is not defined, and none is ever a result.
    fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
        values.into_iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
    }

    #[test]
    fn a_mean_counts_each_contribution_by_its_weight() {
        let mut sum = vec![0.0; 2];
        add(&mut sum, &bytes(&[1.0, 2.0]), 1).unwrap();
        add(&mut sum, &bytes(&[9.0, 9.0]), 0).unwrap();
        add(&mut sum, &bytes(&[4.0, 8.0]), 2).unwrap();
        let mut out = [0; 8];
        mean_to_bytes(&sum, 3, &mut out).unwrap();
        assert_eq!(out[..], bytes(&[3.0, 6.0]));
        mean(&mut sum, 3).unwrap();
        assert_eq!(sum, [3.0, 6.0]);
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found_at_any_weight() {
        for weight in [0, 1, 2] {
            let mut values = vec![0.5; 10_000];
            values[9_000] = f32::INFINITY;
            values[4_097] = f32::NAN;
            let refused = add(&mut vec![0.0; values.len()], &bytes(&values), weight);
            assert_eq!(refused, Err(NotFinite { position: 4_097 }));
        }
    }

    #[test]
    fn a_sum_that_leaves_the_range_is_no_mean() {
        let mut sum = vec![0.0; 3];
        for _ in 0..2 {
            add(&mut sum, &bytes(&[1.0, f32::MAX, 1.0]), 1).unwrap();
        }
        assert_eq!(mean_to_bytes(&sum, 2, &mut [0; 12]), Err(NotFinite { position: 1 }));
        assert_eq!(mean_to_bf16(&sum, 2, &mut [0; 6]), Err(NotFinite { position: 1 }));
        assert_eq!(mean(&mut sum, 2), Err(NotFinite { position: 1 }));
        assert_eq!(mean(&mut [0.0], 0), Err(NotFinite { position: 0 }));
    }

    #[test]
    fn a_mean_of_bfloat16_is_rounded_once() {
        // In bfloat16 256 + 1 is 256 again; the three of them in f32 make 258, whose third is 86.
        let mut sum = vec![0.0];
        for value in [256.0, 1.0, 1.0] {
            add_bf16(&mut sum, &bfloat16::narrow(value).to_le_bytes(), 1).unwrap();
        }
        let mut out = [0; 2];
        mean_to_bf16(&sum, 3, &mut out).unwrap();
        assert_eq!(out, bfloat16::narrow(86.0).to_le_bytes());
        let infinity = 0x7f80_u16.to_le_bytes();
        assert_eq!(add_bf16(&mut sum, &infinity, 1), Err(NotFinite { position: 0 }));
    }

    #[test]
    fn counters_that_overflow_are_named() {
        let as_bytes = |values: [i64; 3]| values.map(i64::to_le_bytes).as_flattened().to_vec();
        let mut sum = vec![1, i64::MAX - 1, i64::MIN];
        add_counters(&mut sum, &as_bytes([-5, 1, 0])).unwrap();
        assert_eq!(sum, [-4, i64::MAX, i64::MIN]);
        assert_eq!(add_counters(&mut sum.clone(), &as_bytes([0, 1, -1])), Err(Overflow { position: 1 }));
        assert_eq!(add_counters(&mut sum.clone(), &as_bytes([0, -1, -1])), Err(Overflow { position: 2 }));
        let mut out = [0; 24];
        counters_to_bytes(&sum, &mut out);
        assert_eq!(out[..], as_bytes([-4, i64::MAX, i64::MIN]));
    }

    /// Any bit pattern, the rare ones as often as the others.
    fn any_float() -> impl Strategy<Value = f32> {
        prop_oneof![
            any::<u32>().prop_map(f32::from_bits),
            prop::sample::select(vec![0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, f32::NAN, f32::INFINITY]),
            -1.0f32..1.0,
        ]
    }

    proptest! {
        #[test]
        fn every_processor_gives_the_bits_of_the_plain_loops(
            pairs in prop::collection::vec((any_float(), any_float()), 0..300),
            weight in prop_oneof![0u32..5, any::<u32>()],
            total in prop_oneof![1u64..9, any::<u64>()],
        ) {
            let (sum, values): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let values = bytes(&values);
            let total = total as f32;

            let (mut fast_sum, mut plain_sum) = (sum.clone(), sum.clone());
            prop_assert_eq!(fast::add(&mut fast_sum, &values, weight), plain::add(&mut plain_sum, &values, weight));
            prop_assert_eq!(bits(fast_sum), bits(plain_sum));

            let half = &values[..sum.len() * 2];
            let (mut fast_sum, mut plain_sum) = (sum.clone(), sum.clone());
            prop_assert_eq!(fast::add_bf16(&mut fast_sum, half, weight), plain::add_bf16(&mut plain_sum, half, weight));
            prop_assert_eq!(bits(fast_sum), bits(plain_sum));

            let (mut fast_out, mut plain_out) = (vec![0; sum.len() * 4], vec![0; sum.len() * 4]);
            prop_assert_eq!(fast::mean_to_bytes(&sum, total, &mut fast_out), plain::mean_to_bytes(&sum, total, &mut plain_out));
            prop_assert_eq!(bits(floats(&fast_out)), bits(floats(&plain_out)));
            let (mut fast_out, mut plain_out) = (vec![0; sum.len() * 2], vec![0; sum.len() * 2]);
            prop_assert_eq!(fast::mean_to_bf16(&sum, total, &mut fast_out), plain::mean_to_bf16(&sum, total, &mut plain_out));
            prop_assert_eq!(bits(halves(&fast_out)), bits(halves(&plain_out)));
        }

        #[test]
        fn a_mean_is_the_division_for_every_total(sum in prop::collection::vec(any_float(), 0..50), power in 0u32..64, other: u64) {
            for total in [1 << power, other.max(1)] {
                let mut means = sum.clone();
                let finite = mean(&mut means, total);
                let divided: Vec<_> = sum.iter().map(|sum| sum / total as f32).collect();
                prop_assert_eq!(finite.is_ok(), divided.iter().all(|mean| mean.is_finite()));
                prop_assert_eq!(bits(means), bits(divided));
            }
        }

        #[test]
        fn counters_are_summed_or_refused_as_checked_addition_does(
            pairs in prop::collection::vec((any::<i64>(), any::<i64>()), 0..50),
        ) {
            let (mut sum, values): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
            let values: Vec<u8> = values.into_iter().flat_map(i64::to_le_bytes).collect();
            let wanted: Option<Vec<_>> = pairs.iter().map(|(sum, value)| sum.checked_add(*value)).collect();
            let overflow = pairs.iter().position(|(sum, value)| sum.checked_add(*value).is_none());
            prop_assert_eq!(add_counters(&mut sum, &values).err(), overflow.map(|position| Overflow { position }));
            prop_assert!(wanted.is_none_or(|wanted| wanted == sum));
        }
    }
}
