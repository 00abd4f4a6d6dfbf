//! One pass over all blocks of a vector, for each of the things that are done with coded values.

use super::Codec;
use crate::vectorised::vectorised;

vectorised! {
    /// Writes `values`; false when one is not finite.
    pub(super) fn encode(codec: Codec, values: &[f32], out: &mut [u8]) -> bool = plain::encode;

    /// Writes `values + residual`; false when one is not finite.
    pub(super) fn encode_with_feedback(codec: Codec, values: &[f32], residual: &[f32], out: &mut [u8]) -> bool
        = plain::encode_with_feedback;

    /// Replaces `residual` by `values + residual - decoded`, or names the first block that does not decode and changes nothing.
    pub(super) fn residual(codec: Codec, values: &[f32], encoded: &[u8], residual: &mut [f32]) -> Result<(), usize>
        = plain::residual;

    /// Reads all values, or names the first block that does not decode.
    pub(super) fn decode(codec: Codec, bytes: &[u8], values: &mut [f32]) -> Result<(), usize> = plain::decode;

    /// Adds all values times `weight`, or names the first block that does not decode.
    pub(super) fn accumulate(codec: Codec, bytes: &[u8], weight: u32, sum: &mut [f32]) -> Result<(), usize>
        = plain::accumulate;
}

/// The same for any processor. Loops rather than closures: a closure is not sure to be inlined.
mod plain {
    use super::super::{BLOCK, Codec, uint4, uint8};
    use crate::bfloat16;
    use crate::finite::Watch;
    use crate::reduce::{floats, halves};

    #[inline(always)]
    pub(super) fn encode(codec: Codec, values: &[f32], out: &mut [u8]) -> bool {
        let mut finite = true;
        for (values, out) in values.chunks(BLOCK).zip(out.chunks_mut(codec.encoded_len(BLOCK))) {
            finite &= encode_block(codec, values, out);
        }
        finite
    }

    #[inline(always)]
    pub(super) fn encode_with_feedback(codec: Codec, values: &[f32], residual: &[f32], out: &mut [u8]) -> bool {
        let mut finite = true;
        let mut sums = [0.0; BLOCK];
        let blocks = values.chunks(BLOCK).zip(residual.chunks(BLOCK));
        for ((values, residual), out) in blocks.zip(out.chunks_mut(codec.encoded_len(BLOCK))) {
            let sums = &mut sums[..values.len()];
            for ((sum, value), residual) in sums.iter_mut().zip(values).zip(residual) {
                *sum = value + residual;
            }
            finite &= encode_block(codec, sums, out);
        }
        finite
    }

    #[inline(always)]
    pub(super) fn residual(codec: Codec, values: &[f32], encoded: &[u8], residual: &mut [f32]) -> Result<(), usize> {
        let mut decoded = [0.0; BLOCK];
        let coded = || encoded.chunks(codec.encoded_len(BLOCK));
        // Nothing is changed before every block is known to decode.
        for (block, (values, bytes)) in values.chunks(BLOCK).zip(coded()).enumerate() {
            if !decode_block(codec, bytes, &mut decoded[..values.len()]) {
                return Err(block);
            }
        }
        for ((values, residual), bytes) in values.chunks(BLOCK).zip(residual.chunks_mut(BLOCK)).zip(coded()) {
            let decoded = &mut decoded[..values.len()];
            decode_block(codec, bytes, decoded);
            for ((residual, value), decoded) in residual.iter_mut().zip(values).zip(decoded) {
                *residual = value + *residual - *decoded;
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn decode(codec: Codec, bytes: &[u8], values: &mut [f32]) -> Result<(), usize> {
        for (block, (values, bytes)) in values.chunks_mut(BLOCK).zip(bytes.chunks(codec.encoded_len(BLOCK))).enumerate() {
            if !decode_block(codec, bytes, values) {
                return Err(block);
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn accumulate(codec: Codec, bytes: &[u8], weight: u32, sum: &mut [f32]) -> Result<(), usize> {
        let mut decoded = [0.0; BLOCK];
        let factor = weight as f32;
        for (block, (sum, bytes)) in sum.chunks_mut(BLOCK).zip(bytes.chunks(codec.encoded_len(BLOCK))).enumerate() {
            let decoded = &mut decoded[..sum.len()];
            if !decode_block(codec, bytes, decoded) {
                return Err(block);
            }
            for (sum, value) in sum.iter_mut().zip(decoded) {
                // Not by multiplying: nothing is added by weight 0, not even a zero to a zero with a sign.
                if weight > 0 {
                    *sum += factor * *value;
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn encode_block(codec: Codec, values: &[f32], out: &mut [u8]) -> bool {
        match codec {
            Codec::F32 => exact(values, out.as_chunks_mut().0, f32::to_le_bytes),
            Codec::Bf16 => exact(values, out.as_chunks_mut().0, |value| bfloat16::narrow(value).to_le_bytes()),
            Codec::UInt8 => uint8::encode(values, out),
            Codec::UInt4 => uint4::encode(values, out),
        }
    }

    #[inline(always)]
    fn decode_block(codec: Codec, bytes: &[u8], values: &mut [f32]) -> bool {
        match codec {
            Codec::F32 => read(floats(bytes), values),
            Codec::Bf16 => read(halves(bytes), values),
            Codec::UInt8 => uint8::decode(bytes, values),
            Codec::UInt4 => uint4::decode(bytes, values),
        }
    }

    #[inline(always)]
    fn exact<const BYTES: usize>(values: &[f32], out: &mut [[u8; BYTES]], bytes: impl Fn(f32) -> [u8; BYTES]) -> bool {
        let mut watch = Watch::default();
        for (value, out) in values.iter().zip(out) {
            watch.see(*value);
            *out = bytes(*value);
        }
        watch.all_finite()
    }

    #[inline(always)]
    fn read(coded: impl Iterator<Item = f32>, values: &mut [f32]) -> bool {
        let mut watch = Watch::default();
        for (coded, value) in coded.zip(values) {
            watch.see(coded);
            *value = coded;
        }
        watch.all_finite()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::tests::vectors;

    proptest! {
        #[test]
        fn every_processor_gives_the_bits_of_the_plain_loops(values in vectors(), shift in 0usize..2000, weight in 0u32..4) {
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            let halves: Vec<_> = values.iter().map(|value| value * 0.5).collect();
            let mut other = halves.clone();
            other.rotate_left(shift.min(values.len()));
            for codec in [Codec::F32, Codec::Bf16, Codec::UInt8, Codec::UInt4] {
                let (mut fast, mut slow) = (vec![0; codec.encoded_len(values.len())], vec![0; codec.encoded_len(values.len())]);
                prop_assert!(encode(codec, &values, &mut fast) && plain::encode(codec, &values, &mut slow));
                prop_assert_eq!(&fast, &slow);

                let (mut fast_sum, mut slow_sum) = (other.clone(), other.clone());
                prop_assert_eq!(accumulate(codec, &fast, weight, &mut fast_sum), Ok(()));
                prop_assert_eq!(plain::accumulate(codec, &fast, weight, &mut slow_sum), Ok(()));
                prop_assert_eq!(bits(&fast_sum), bits(&slow_sum));
                prop_assert_eq!(decode(codec, &fast, &mut fast_sum), Ok(()));
                prop_assert_eq!(plain::decode(codec, &fast, &mut slow_sum), Ok(()));
                prop_assert_eq!(bits(&fast_sum), bits(&slow_sum));

                prop_assert!(encode_with_feedback(codec, &halves, &other, &mut fast));
                prop_assert!(plain::encode_with_feedback(codec, &halves, &other, &mut slow));
                prop_assert_eq!(&fast, &slow);
                let (mut fast_rest, mut slow_rest) = (other.clone(), other.clone());
                prop_assert_eq!(residual(codec, &halves, &fast, &mut fast_rest), Ok(()));
                prop_assert_eq!(plain::residual(codec, &halves, &fast, &mut slow_rest), Ok(()));
                prop_assert_eq!(bits(&fast_rest), bits(&slow_rest));
            }
        }
    }
}
