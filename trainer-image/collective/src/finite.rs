//! Whether values are finite, seen in the same pass that uses them.

/// A value is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("element {position} is not finite")]
pub struct NotFinite {
    /// The first such element.
    pub position: usize,
}

impl NotFinite {
    /// Names the first value that is not finite, in the rare case that one was seen.
    ///
    /// The position is the number of values when all are finite.
    #[cold]
    pub(crate) fn first(values: impl Iterator<Item = f32>) -> Self {
        Self { position: values.take_while(|value| value.is_finite()).count() }
    }
}

/// Judges values that nothing else is done with.
pub(crate) fn judge(values: impl Iterator<Item = f32> + Clone) -> Result<(), NotFinite> {
    let mut watch = Watch::default();
    values.clone().for_each(|value| watch.see(value));
    if watch.all_finite() { Ok(()) } else { Err(NotFinite::first(values)) }
}

/// Watches values go by: three operations each on any processor, none of them a branch.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Watch {
    /// The highest bit is set once a value was not finite.
    seen: u32,
}

impl Watch {
    const HIGHEST: u32 = 1 << 31;
    /// One in the lowest bit of the exponent: it carries into the highest bit when the exponent is all ones.
    const CARRY: u32 = 1 << 23;

    #[inline(always)]
    pub(crate) fn see(&mut self, value: f32) {
        self.seen |= (value.to_bits() & !Self::HIGHEST) + Self::CARRY;
    }

    #[inline(always)]
    pub(crate) fn all_finite(self) -> bool {
        self.seen & Self::HIGHEST == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_nan_and_infinity_are_seen() {
        for finite in [0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::from_bits(1)] {
            let mut watch = Watch::default();
            watch.see(finite);
            assert!(watch.all_finite(), "{finite}");
        }
    }

    proptest! {
        #[test]
        fn every_bit_pattern_is_judged_as_the_standard_library_does(bits: Vec<u32>) {
            let mut watch = Watch::default();
            for bits in &bits {
                watch.see(f32::from_bits(*bits));
            }
            prop_assert_eq!(watch.all_finite(), bits.iter().all(|bits| f32::from_bits(*bits).is_finite()));
        }
    }
}
