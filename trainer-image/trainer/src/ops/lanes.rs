//! Sums, maxima and exponentials of slices, in an order that vector units and every machine share.
//!
//! A plain sum of floats must be added from left to right, one at a time. Here element `i` goes to lane `i % 16` and the
//! lanes are added in order at the end: as fixed an order, and sixteen additions at once.

use std::f32::consts::LOG2_E;

const LANES: usize = 16;

/// Adding and subtracting it rounds a float of moderate size to an integer, which then stands in its lowest bits.
const ROUND: f32 = 12_582_912.0;

fn fold(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += term(value);
    }
    lanes.iter().sum()
}

/// Sum of the squares.
pub(super) fn sum_of_squares(values: &[f32]) -> f32 {
    fold(values, |value| value * value)
}

/// Sum of `exp(value - shift)`.
pub(super) fn sum_of_exponentials(values: &[f32], shift: f32) -> f32 {
    fold(values, |value| exponential(value - shift))
}

/// Replaces every value by `exp(value - shift)` and returns their sum.
pub(super) fn exponentials(values: &mut [f32], shift: f32) -> f32 {
    for value in values.iter_mut() {
        *value = exponential(*value - shift);
    }
    fold(values, |value| value)
}

/// Sum of the products of pairs.
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (left_whole, left_rest) = left.as_chunks::<LANES>();
    let (right_whole, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left_whole.iter().zip(right_whole) {
        for ((lane, left), right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += left * right;
        }
    }
    for ((lane, left), right) in lanes.iter_mut().zip(left_rest).zip(right_rest) {
        *lane += left * right;
    }
    lanes.iter().sum()
}

/// The largest value; not-a-number is passed over, nothing at all gives the least finite float.
pub(super) fn maximum(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::MIN; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, value);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::MIN, larger)
}

/// The exponential function within 2 units in the last place, without a branch or a call, so that loops of it vectorise.
///
/// Arguments below -87 or above 88 count as those; not-a-number stays not-a-number. The polynomial is that of the Cephes
/// library, `expf`.
#[inline]
#[allow(clippy::manual_clamp)] // the comparisons let not-a-number through
pub(super) fn exponential(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let rounded = x * LOG2_E + ROUND;
    let power = rounded - ROUND;
    let r = x - power * 0.693_359_4 + power * 2.121_944_4e-4;
    let polynomial = 1.987_569_1e-4 * r + 1.398_2e-3;
    let polynomial = polynomial * r + 8.333_452e-3;
    let polynomial = polynomial * r + 4.166_579_6e-2;
    let polynomial = polynomial * r + 1.666_666_5e-1;
    let polynomial = polynomial * r + 0.5;
    let two_to_the_power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    (polynomial * r * r + r + 1.0) * two_to_the_power
}

/// The logistic function `1 / (1 + exp(-x))`.
#[inline]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exponential(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_two_units_in_the_last_place() {
        for step in -86_000..88_000 {
            let x = step as f32 / 1000.0;
            let exact = libm::exp(f64::from(x));
            let error = (f64::from(exponential(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}) is off by {error}");
        }
        assert_eq!(exponential(0.0).to_bits(), 1.0_f32.to_bits());
    }

    #[test]
    fn not_a_number_is_never_hidden() {
        for bits in [0x7fc0_0000, 0x7fc0_01ff, 0xffc0_0081] {
            assert!(exponential(f32::from_bits(bits)).is_nan());
        }
        assert!(sum_of_exponentials(&[0.0, f32::NAN], 0.0).is_nan());
        assert!(exponential(f32::INFINITY - f32::INFINITY).is_nan());
    }

    #[test]
    fn remainders_that_do_not_fill_the_lanes_count() {
        for length in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..length).map(|i| i as f32 - 3.0).collect();
            let exact: f32 = values.iter().map(|v| v * v).sum();
            assert!((sum_of_squares(&values) - exact).abs() < 1e-2);
            assert!((dot(&values, &values) - exact).abs() < 1e-2);
            let largest = values.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(maximum(&values).to_bits(), largest.to_bits());
        }
    }
}
