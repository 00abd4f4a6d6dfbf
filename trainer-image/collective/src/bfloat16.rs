//! bfloat16: the upper half of an f32, rounded to nearest even.

/// Largest finite magnitude, as bits.
const LARGEST: u32 = 0x7f7f;
const SIGN: u32 = 0x8000;

/// The nearest bfloat16, ties to even, of a finite value.
///
/// What lies beyond the largest finite bfloat16 (the last 0.2 % of f32's range) becomes that, so that a finite value stays finite.
#[inline(always)]
pub(crate) fn narrow(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
    (rounded & SIGN | (rounded & !SIGN).min(LARGEST)) as u16
}

/// The same value as f32.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_finite_bfloat16_survives() {
        for bits in (0..=u16::MAX).filter(|bits| widen(*bits).is_finite()) {
            assert_eq!(narrow(widen(bits)), bits);
        }
    }

    #[test]
    fn ties_go_to_even_and_the_largest_values_stay_finite() {
        assert_eq!(narrow(1.0 + 1.0 / 256.0), 0x3f80);
        assert_eq!(narrow(1.0 + 3.0 / 256.0), 0x3f82);
        assert_eq!(u32::from(narrow(f32::MAX)), LARGEST);
        assert_eq!(u32::from(narrow(f32::MIN)), SIGN | LARGEST);
    }

    proptest! {
        #[test]
        fn no_bfloat16_is_nearer(value in any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |value| value.is_finite())) {
            let rounded = narrow(value);
            let error = |bits: u16| (f64::from(widen(bits)) - f64::from(value)).abs();
            for neighbour in [rounded.wrapping_sub(1), rounded.wrapping_add(1)] {
                if widen(neighbour).is_finite() {
                    prop_assert!(error(rounded) <= error(neighbour));
                }
            }
        }
    }
}
