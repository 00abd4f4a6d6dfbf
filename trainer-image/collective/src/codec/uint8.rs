//! Block-wise u8: a block's values on an even grid of 256 points over its range.
//!
//! A block is the centre and the step of its grid (f32 each, little-endian), then one byte for each element: the distance
//! from the centre in steps, as two's complement. Where the range has zero in it, zero is a point of the grid, so that what
//! is absent stays absent; elsewhere the grid may lie far from zero, as parameters near one do.

use super::ROUNDING;
use super::range::{Ranges, higher, lower};

/// Bytes of a block before its codes.
pub(super) const HEADER: usize = 8;
/// Values compared side by side: two of the widest registers.
const LANES: usize = 32;

/// The grid's points: `centre + code * step` for codes from -128 to 127, as far as they are finite.
#[derive(Clone, Copy)]
struct Grid {
    centre: f32,
    step: f32,
}

impl Grid {
    const LOWEST: f32 = -128.0;
    const HIGHEST: f32 = 127.0;
    /// Steps from the lowest point to the highest.
    const STEPS: f32 = 255.0;
    /// So that no multiple of the step leaves the range of f32.
    const LARGEST_STEP: f32 = f32::MAX / 128.0;

    /// No value of the range is farther than half a step from a point, but for the rounding of the points themselves.
    #[inline(always)]
    fn over(low: f32, high: f32) -> Self {
        // Divided before they are subtracted: the difference of two finite values may be infinite. A step below the normal
        // range would have no reciprocal.
        let step = high / Self::STEPS - low / Self::STEPS;
        let step = step.clamp(f32::MIN_POSITIVE, Self::LARGEST_STEP);
        let centre = if low <= 0.0 && high >= 0.0 {
            let zero = (Self::LOWEST - low / step).round_ties_even().clamp(Self::LOWEST, Self::HIGHEST);
            -(zero * step)
        } else {
            low + (high - low) * 0.5
        };
        Self { centre, step }
    }

    #[inline(always)]
    fn write(self, out: &mut [u8; HEADER]) {
        let (centre, step) = out.split_at_mut(4);
        centre.copy_from_slice(&self.centre.to_le_bytes());
        step.copy_from_slice(&self.step.to_le_bytes());
    }

    /// The grid of a header; none when some point would not be finite.
    #[inline(always)]
    fn read(header: [u8; HEADER]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = header;
        let (centre, step) = (f32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h]));
        (centre.is_finite() && (0.0..=Self::LARGEST_STEP).contains(&step)).then_some(Self { centre, step })
    }

    #[inline(always)]
    fn point(self, code: u8) -> f32 {
        (self.centre + f32::from(code.cast_signed()) * self.step).clamp(f32::MIN, f32::MAX)
    }
}

/// Writes one block; false when a value is not finite.
#[inline(always)]
pub(super) fn encode(values: &[f32], out: &mut [u8]) -> bool {
    let ranges = Ranges::<LANES>::from(f32::INFINITY, f32::NEG_INFINITY).with(values);
    let (low, high) = ranges.whole();
    let grid = Grid::over(low, high);
    let Some((header, codes)) = out.split_first_chunk_mut() else { return values.is_empty() };
    grid.write(header);
    let per_step = 1.0 / grid.step;
    for (value, code) in values.iter().zip(codes) {
        let steps = lower(higher((value - grid.centre) * per_step, Grid::LOWEST), Grid::HIGHEST);
        *code = (steps + ROUNDING).to_bits() as u8;
    }
    ranges.finite()
}

/// Reads one block; false when its grid has points that are not finite.
#[inline(always)]
pub(super) fn decode(bytes: &[u8], values: &mut [f32]) -> bool {
    let Some((header, codes)) = bytes.split_first_chunk() else { return values.is_empty() };
    let Some(grid) = Grid::read(*header) else { return false };
    for (code, value) in codes.iter().zip(values) {
        *value = grid.point(*code);
    }
    true
}
