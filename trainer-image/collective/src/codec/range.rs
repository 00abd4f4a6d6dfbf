//! Ranges of values, found in one pass, in as many lanes as a vector register may have.

use crate::finite::Watch;

/// Ranges of the values that stand `LANES` apart: that of lane i is over values i, i + `LANES`, and so on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranges<const LANES: usize> {
    pub(super) low: [f32; LANES],
    pub(super) high: [f32; LANES],
    watch: [Watch; LANES],
}

impl<const LANES: usize> Ranges<LANES> {
    /// Lanes without values: nothing but `low` to `high`.
    #[inline(always)]
    pub(super) fn from(low: f32, high: f32) -> Self {
        Self { low: [low; LANES], high: [high; LANES], watch: [Watch::default(); LANES] }
    }

    /// Widens them to have `values` in them. Values that are NaN are seen by [`Ranges::finite`] alone.
    #[inline(always)]
    pub(super) fn with(mut self, values: &[f32]) -> Self {
        let (rows, rest) = values.as_chunks::<LANES>();
        for row in rows {
            for (lane, value) in row.iter().enumerate() {
                self.widen(lane, *value);
            }
        }
        for (lane, value) in rest.iter().enumerate() {
            self.widen(lane, *value);
        }
        self
    }

    #[inline(always)]
    fn widen(&mut self, lane: usize, value: f32) {
        self.watch[lane].see(value);
        self.low[lane] = lower(value, self.low[lane]);
        self.high[lane] = higher(value, self.high[lane]);
    }

    /// Whether all values were finite.
    #[inline(always)]
    pub(super) fn finite(&self) -> bool {
        self.watch.iter().all(|watch| watch.all_finite())
    }

    /// Of all lanes together, always folded in the same order: of zeros with both signs the first one stays.
    #[inline(always)]
    pub(super) fn whole(&self) -> (f32, f32) {
        let (mut low, mut high) = (self.low[0], self.high[0]);
        for lane in 1..LANES {
            low = lower(self.low[lane], low);
            high = higher(self.high[lane], high);
        }
        (low, high)
    }
}

/// One instruction, unlike `f32::min`, which has its own way with NaN.
#[inline(always)]
pub(super) fn lower(value: f32, than: f32) -> f32 {
    if value < than { value } else { than }
}

/// The like for the greater one.
#[inline(always)]
pub(super) fn higher(value: f32, than: f32) -> f32 {
    if value > than { value } else { than }
}
