//! Block-wise u4: groups of 16 values, each on an even grid of 16 points that has zero in it.
//!
//! A block is the unit of its steps (f32, little-endian); one byte for each group (upper half: its step in units, less one;
//! lower half: the code of zero); then the codes, two to the byte. A group is a column of a run, which is 16 rows of 16 values,
//! so that a row meets its 16 scales lane by lane. Of a run the first 128 codes are in the lower halves of bytes.

use super::ROUNDING;
use super::range::{Ranges, higher, lower};

/// Bytes of a block before those of its groups.
pub(super) const HEADER: usize = 4;
/// Values of a row, and so groups of a run; and values of a full group.
///
/// Why 16 values with one byte: on normally distributed values a full block's error (norm of the error over norm of the values)
/// is 7.1 % with a standard deviation of 0.16 %, so that at most 8 % holds for each of thousands of blocks, in 4.53 bits a value.
/// Groups of 32 with a step and a zero of 12 bits together would take 4.41 and have 7.8 % on average. On the heavier tails of
/// Laplace's distribution it is 7.9 %.
const ROW: usize = 16;
/// Values of a run.
const RUN: usize = ROW * 16;
/// Values of a run whose codes are in the lower halves of bytes.
const HALF: usize = RUN / 2;
/// Runs of a full block.
const RUNS: usize = super::BLOCK / RUN;

const HIGHEST_CODE: f32 = 15.0;
/// Units of the largest step.
const MOST_UNITS: f32 = 16.0;
/// So that no step leaves the range of f32.
const LARGEST_UNIT: f32 = f32::MAX / MOST_UNITS;

/// Bytes of the groups of a block.
pub(super) fn groups_len(elements: usize) -> usize {
    elements / RUN * ROW + (elements % RUN).min(ROW)
}

/// Bytes of the codes of a block.
pub(super) fn codes_len(elements: usize) -> usize {
    elements / RUN * HALF + (elements % RUN).min(HALF)
}

/// The ranges of the groups of a run, zero always in them.
type Spans = Ranges<ROW>;

/// The step with which 16 points reach from end to end. Divided before it is subtracted: the difference may be infinite.
#[inline(always)]
fn full_step(low: f32, high: f32) -> f32 {
    high / HIGHEST_CODE - low / HIGHEST_CODE
}

/// The grids of the groups of a run: `(code - zero) * units * unit`, as far as that is finite. Units and zeros are integers.
#[derive(Clone, Copy)]
struct Scales {
    units: [f32; ROW],
    zero: [f32; ROW],
}

impl Scales {
    const LEAST: Self = Self { units: [1.0; ROW], zero: [0.0; ROW] };

    /// The steps nearest to what the spans need, with the spans' middles as near to the grids' as the place of zero allows.
    #[inline(always)]
    fn over(spans: &Spans, unit: f32) -> Self {
        let mut scales = Self::LEAST;
        for lane in 0..ROW {
            let units = (full_step(spans.low[lane], spans.high[lane]) / unit).round_ties_even().clamp(1.0, MOST_UNITS);
            let step = units * unit;
            let zero = (HIGHEST_CODE - spans.low[lane] / step - spans.high[lane] / step) * 0.5;
            scales.units[lane] = units;
            scales.zero[lane] = zero.round_ties_even().clamp(0.0, HIGHEST_CODE);
        }
        scales
    }

    #[inline(always)]
    fn write(&self, groups: &mut [u8]) {
        for ((byte, units), zero) in groups.iter_mut().zip(self.units).zip(self.zero) {
            *byte = (units as u8 - 1) << 4 | zero as u8;
        }
    }

    #[inline(always)]
    fn read(groups: &[u8]) -> Self {
        let mut scales = Self::LEAST;
        for ((byte, units), zero) in groups.iter().zip(&mut scales.units).zip(&mut scales.zero) {
            *units = f32::from((byte >> 4) + 1);
            *zero = f32::from(byte & 15);
        }
        scales
    }

    #[inline(always)]
    fn encode(&self, unit: f32, run: &[f32], codes: &mut [u8]) {
        let per_step = self.units.map(|units| 1.0 / (units * unit));
        let (lower, upper) = run.split_at(run.len().min(HALF));
        self.encode_half::<0>(&per_step, lower, codes);
        self.encode_half::<4>(&per_step, upper, codes);
    }

    #[inline(always)]
    fn encode_half<const SHIFT: u32>(&self, per_step: &[f32; ROW], half: &[f32], codes: &mut [u8]) {
        let (rows, rest) = half.as_chunks::<ROW>();
        let (row_codes, rest_codes) = codes.split_at_mut(rows.len() * ROW);
        for (row, codes) in rows.iter().zip(row_codes.as_chunks_mut::<ROW>().0) {
            self.encode_row::<SHIFT>(per_step, row, codes);
        }
        self.encode_row::<SHIFT>(per_step, rest, rest_codes);
    }

    #[inline(always)]
    fn encode_row<const SHIFT: u32>(&self, per_step: &[f32; ROW], row: &[f32], codes: &mut [u8]) {
        for (((value, per_step), zero), code) in row.iter().zip(per_step).zip(&self.zero).zip(codes) {
            let steps = lower(higher(value * per_step, -zero), HIGHEST_CODE - zero);
            let rounded = (steps + ROUNDING + zero).to_bits() as u8;
            *code = if SHIFT == 0 { rounded } else { *code | rounded << SHIFT };
        }
    }

    #[inline(always)]
    fn decode(&self, unit: f32, codes: &[u8], run: &mut [f32]) {
        let steps = self.units.map(|units| units * unit);
        let (lower, upper) = run.split_at_mut(run.len().min(HALF));
        self.decode_half::<0>(&steps, codes, lower);
        self.decode_half::<4>(&steps, codes, upper);
    }

    #[inline(always)]
    fn decode_half<const SHIFT: u32>(&self, steps: &[f32; ROW], codes: &[u8], half: &mut [f32]) {
        let (rows, rest) = half.as_chunks_mut::<ROW>();
        let (row_codes, rest_codes) = codes.split_at(rows.len() * ROW);
        for (codes, row) in row_codes.as_chunks::<ROW>().0.iter().zip(rows) {
            self.decode_row::<SHIFT>(steps, codes, row);
        }
        self.decode_row::<SHIFT>(steps, rest_codes, rest);
    }

    #[inline(always)]
    fn decode_row<const SHIFT: u32>(&self, steps: &[f32; ROW], codes: &[u8], row: &mut [f32]) {
        for (((code, step), zero), value) in codes.iter().zip(steps).zip(&self.zero).zip(row) {
            *value = ((f32::from(code >> SHIFT & 15) - zero) * step).clamp(f32::MIN, f32::MAX);
        }
    }
}

/// Writes one block; false when a value is not finite.
#[inline(always)]
pub(super) fn encode(values: &[f32], out: &mut [u8]) -> bool {
    let Some((header, out)) = out.split_first_chunk_mut::<HEADER>() else { return values.is_empty() };
    let (groups, codes) = out.split_at_mut(groups_len(values.len()));
    let mut spans = [Spans::from(0.0, 0.0); RUNS];
    let mut widest = 0.0;
    for (run, spans) in values.chunks(RUN).zip(&mut spans) {
        *spans = spans.with(run);
        for lane in 0..ROW {
            widest = higher(full_step(spans.low[lane], spans.high[lane]), widest);
        }
    }
    if !spans.iter().all(Spans::finite) {
        return false;
    }
    // A unit below the normal range would have no reciprocal.
    let unit = (widest / MOST_UNITS).max(f32::MIN_POSITIVE);
    *header = unit.to_le_bytes();
    let coded = groups.chunks_mut(ROW).zip(codes.chunks_mut(HALF));
    for ((run, spans), (groups, codes)) in values.chunks(RUN).zip(&spans).zip(coded) {
        let scales = Scales::over(spans, unit);
        scales.write(groups);
        scales.encode(unit, run, codes);
    }
    true
}

/// Reads one block; false when its steps are not finite, or negative.
#[inline(always)]
pub(super) fn decode(bytes: &[u8], values: &mut [f32]) -> bool {
    let Some((header, bytes)) = bytes.split_first_chunk::<HEADER>() else { return values.is_empty() };
    let unit = f32::from_le_bytes(*header);
    if !(0.0..=LARGEST_UNIT).contains(&unit) {
        return false;
    }
    let (groups, codes) = bytes.split_at(groups_len(values.len()));
    for ((run, groups), codes) in values.chunks_mut(RUN).zip(groups.chunks(ROW)).zip(codes.chunks(HALF)) {
        Scales::read(groups).decode(unit, codes, run);
    }
    true
}
