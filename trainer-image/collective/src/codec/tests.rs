#![allow(clippy::float_cmp)] // zeros that stay zero are exact

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::*;

const ALL: [Codec; 4] = [Codec::F32, Codec::Bf16, Codec::UInt8, Codec::UInt4];

/// Finite vectors of up to three blocks, made of stretches that have little in common: noise of any size, constants, zeros,
/// denormals, the largest values of both signs, and any finite bits.
pub(super) fn vectors() -> impl Strategy<Value = Vec<f32>> {
    let stretches = prop::collection::vec((0usize..1200, 0u8..7, any::<u64>()), 0..4);
    stretches.prop_map(|stretches| stretches.into_iter().flat_map(|(length, kind, seed)| stretch(length, kind, seed)).collect())
}

fn stretch(length: usize, kind: u8, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (size, shift) = (2f32.powi((random.next_u32() % 240) as i32 - 120), random.next_u32() as f32 / 1e9);
    let mut value = |_| {
        let bits = random.next_u32();
        let noise = bits as f32 / u32::MAX as f32 * 2.0 - 1.0;
        match kind {
            0 => noise * size,
            1 => (noise * 0.01 + shift) * size,
            2 => size,
            3 => 0.0 * noise,
            4 => f32::from_bits(bits & 0x807f_ffff),
            5 => [f32::MAX, f32::MIN][bits as usize & 1],
            _ => f32::from_bits(if bits & 0x7f80_0000 == 0x7f80_0000 { bits & 0xbfff_ffff } else { bits }),
        }
    };
    (0..length).map(&mut value).collect()
}

fn coded(codec: Codec, values: &[f32]) -> Vec<u8> {
    let mut out = vec![0xa5; codec.encoded_len(values.len())];
    codec.encode(values, &mut out).unwrap();
    out
}

fn decoded(codec: Codec, bytes: &[u8], elements: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; elements];
    codec.decode(bytes, &mut values).unwrap();
    values
}

/// The values as they arrive.
fn round_trip(codec: Codec, values: &[f32]) -> Vec<f32> {
    decoded(codec, &coded(codec, values), values.len())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Lowest and highest value of a block.
fn extremes(values: &[f32]) -> (f64, f64) {
    let fold = |start, pick: fn(f64, f64) -> f64| values.iter().map(|value| f64::from(*value)).fold(start, pick);
    (fold(f64::INFINITY, f64::min), fold(f64::NEG_INFINITY, f64::max))
}

fn largest_error(values: &[f32], arrived: &[f32]) -> f64 {
    values.iter().zip(arrived).map(|(value, arrived)| (f64::from(*value) - f64::from(*arrived)).abs()).fold(0.0, f64::max)
}

#[test]
fn lengths_are_those_of_the_format() {
    let lengths = |elements| ALL.map(|codec| codec.encoded_len(elements));
    assert_eq!(lengths(0), [0, 0, 0, 0]);
    assert_eq!(lengths(1), [4, 2, 9, 6]);
    assert_eq!(lengths(1024), [4096, 2048, 1032, 580]);
    assert_eq!(lengths(1024 + 300), [5296, 2648, 1340, 580 + 4 + 32 + 172]);
    assert_eq!(Codec::F32.encoded_len(usize::MAX), usize::MAX);
}

#[test]
fn the_bytes_are_those_of_the_format() {
    assert_eq!(coded(Codec::F32, &[1.0, -2.0]), [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
    assert_eq!(coded(Codec::Bf16, &[1.0, -2.0]), [0x80, 0x3f, 0, 0xc0]);
    // From -64 to 191 in steps of one: the centre is 64, and zero its code -64.
    let centre_and_step = [0, 0, 0x80, 0x42, 0, 0, 0x80, 0x3f];
    assert_eq!(coded(Codec::UInt8, &[-64.0, 0.0, 0.5, 1.5, 191.0]), [&centre_and_step[..], &[128, 192, 192, 194, 127]].concat());
    // Groups of one value each: 15 in one step of 16 units, with zero at code 0, and -7.5 in half of that, with zero at 15.
    let unit = 0.0625_f32.to_le_bytes();
    assert_eq!(coded(Codec::UInt4, &[15.0, -7.5]), [&unit[..], &[0xf0, 0x7f, 15, 0]].concat());
}

#[test]
fn what_is_equal_arrives_unchanged() {
    for value in [0.0, 1.0, -3.7e-5, f32::MAX, f32::MIN, f32::MIN_POSITIVE] {
        assert_eq!(bits(&round_trip(Codec::UInt8, &[value; 1500])), bits(&[value; 1500]), "{value}");
    }
}

#[test]
fn values_far_from_zero_keep_their_differences() {
    let values: Vec<_> = (0..1000).map(|index| 1.0 + index as f32 * 1e-5).collect();
    assert!(largest_error(&values, &round_trip(Codec::UInt8, &values)) < 0.51 * 1e-2 / 255.0);
}

#[test]
fn the_first_value_that_is_not_finite_is_named() {
    for codec in ALL {
        let mut values = vec![0.5; 3000];
        values[2900] = f32::NEG_INFINITY;
        values[2101] = f32::NAN;
        let mut out = vec![0; codec.encoded_len(3000)];
        assert_eq!(codec.encode(&values, &mut out), Err(NotFinite { position: 2101 }), "{codec:?}");
        let residual: Vec<_> = (0..3000).map(|position| if position == 7 { f32::MAX } else { 0.0 }).collect();
        values[7] = f32::MAX;
        let refused = codec.encode_with_feedback(&values, &residual, &mut out);
        assert_eq!(refused, Err(NotFinite { position: 7 }), "{codec:?}");
    }
}

#[test]
fn bytes_of_another_length_are_refused() {
    for codec in ALL {
        let expected = codec.encoded_len(100);
        for found in [0, expected - 1, expected + 1] {
            let refused = Err(CodecError::Length { expected, found });
            assert_eq!(codec.decode(&vec![0; found], &mut [0.0; 100]), refused);
            assert_eq!(codec.accumulate(&vec![0; found], 0, &mut [0.0; 100]), refused);
            assert_eq!(codec.residual(&[0.0; 100], &vec![0; found], &mut [0.0; 100]), refused);
        }
    }
}

#[test]
fn scales_that_give_no_finite_values_are_refused() {
    let refused = |codec: Codec, offset: usize, scale: f32| {
        let mut bytes = coded(codec, &[1.0; 2 * BLOCK]);
        let at = codec.encoded_len(BLOCK) + offset;
        bytes[at..at + 4].copy_from_slice(&scale.to_le_bytes());
        codec.decode(&bytes, &mut [0.0; 2 * BLOCK]) == Err(CodecError::Scale { block: 1 })
            && codec.accumulate(&bytes, 0, &mut [0.0; 2 * BLOCK]) == Err(CodecError::Scale { block: 1 })
    };
    for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(refused(Codec::UInt8, 0, scale) && refused(Codec::UInt8, 4, scale) && refused(Codec::UInt4, 0, scale));
    }
    for step in [-1.0, f32::MAX] {
        assert!(refused(Codec::UInt8, 4, step) && refused(Codec::UInt4, 0, step));
    }
}

#[test]
fn a_residual_is_untouched_when_the_bytes_do_not_decode() {
    for codec in [Codec::UInt8, Codec::UInt4, Codec::F32] {
        let mut bytes = coded(codec, &[1.0; 2000]);
        let last = codec.encoded_len(BLOCK);
        bytes[last..last + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        let mut residual = [0.25; 2000];
        assert!(codec.residual(&[1.0; 2000], &bytes, &mut residual).is_err());
        assert_eq!(residual, [0.25; 2000]);
    }
}

#[test]
fn what_is_too_small_to_send_is_sent_when_it_has_grown() {
    let mut values = vec![0.001; 64];
    (values[0], values[1]) = (1.0, -1.0);
    for codec in [Codec::UInt8, Codec::UInt4] {
        let (mut residual, mut arrived) = (vec![0.0; 64], vec![0.0; 64]);
        let mut out = vec![0; codec.encoded_len(64)];
        for _ in 0..1000 {
            codec.encode_with_feedback(&values, &residual, &mut out).unwrap();
            codec.accumulate(&out, 1, &mut arrived).unwrap();
            codec.residual(&values, &out, &mut residual).unwrap();
        }
        assert_eq!(round_trip(codec, &values)[16], 0.0);
        assert!((arrived[16] - 1.0).abs() < 0.04, "{codec:?}: {}", arrived[16]);
    }
}

proptest! {
    #[test]
    fn no_value_is_farther_than_half_a_step_in_u8(values in vectors()) {
        for (values, arrived) in values.chunks(BLOCK).zip(round_trip(Codec::UInt8, &values).chunks(BLOCK)) {
            let (low, high) = extremes(values);
            let step = ((high - low) / 255.0).max(f64::from(f32::MIN_POSITIVE));
            // The widest ranges need a step that f32 cannot count to 128 in, and are cut by up to one step at the upper end.
            let steps = if high - low > 1.99 * f64::from(f32::MAX) { 1.0 } else { 0.5 };
            let rounding = 4.0 * f64::from(f32::EPSILON) * low.abs().max(high.abs());
            prop_assert!(largest_error(values, arrived) <= steps * step * 1.0001 + rounding);
        }
    }

    #[test]
    fn no_value_is_farther_than_three_quarters_of_the_widest_step_in_u4(values in vectors()) {
        for (values, arrived) in values.chunks(BLOCK).zip(round_trip(Codec::UInt4, &values).chunks(BLOCK)) {
            let (low, high) = extremes(values);
            let step = ((high.max(0.0) - low.min(0.0)) / 15.0).max(16.0 * f64::from(f32::MIN_POSITIVE));
            prop_assert!(largest_error(values, arrived) <= 0.75 * step * 1.0001);
        }
    }

    #[test]
    fn exact_codecs_are_exact(values in vectors()) {
        prop_assert_eq!(bits(&round_trip(Codec::F32, &values)), bits(&values));
        let halves = round_trip(Codec::Bf16, &values);
        prop_assert_eq!(bits(&round_trip(Codec::Bf16, &halves)), bits(&halves));
    }

    #[test]
    fn zero_stays_zero_where_values_lie_on_both_sides(values in vectors(), zeros in prop::collection::vec(any::<prop::sample::Index>(), 9)) {
        let mut values = values;
        if values.is_empty() {
            return Ok(());
        }
        for zero in zeros {
            let zero = zero.index(values.len());
            values[zero] = 0.0;
        }
        for codec in [Codec::UInt8, Codec::UInt4] {
            for (value, arrived) in values.iter().zip(round_trip(codec, &values)) {
                prop_assert!(*value != 0.0 || arrived == 0.0, "{:?}: {}", codec, arrived);
            }
        }
    }

    #[test]
    fn a_vector_cut_at_the_grain_has_the_bytes_of_the_whole(values in vectors(), cut in 0usize..4) {
        for codec in ALL {
            let cut = (cut * 1000 / codec.grain() * codec.grain()).min(values.len());
            let (left, right) = values.split_at(cut);
            prop_assert_eq!([coded(codec, left), coded(codec, right)].concat(), coded(codec, &values));
        }
    }

    #[test]
    fn no_bytes_give_a_value_that_is_not_finite(seed: u64, elements in 0usize..2500, scale in prop_oneof![Just(1.0f32), any::<f32>()]) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for codec in ALL {
            let mut bytes = vec![0; codec.encoded_len(elements)];
            random.fill_bytes(&mut bytes);
            if codec.grain() == BLOCK {
                for block in bytes.chunks_mut(codec.encoded_len(BLOCK)) {
                    let header = block.len().min(8) & !3;
                    block[..header].copy_from_slice(&scale.to_le_bytes().repeat(2)[..header]);
                }
            }
            let mut values = vec![0.0; elements];
            if codec.decode(&bytes, &mut values).is_ok() {
                prop_assert!(values.iter().all(|value| value.is_finite()));
                prop_assert!(codec.accumulate(&bytes, 0, &mut values).is_ok());
            } else {
                prop_assert!(codec.accumulate(&bytes, 0, &mut values).is_err());
            }
        }
    }

    #[test]
    fn accumulating_is_decoding_and_adding(values in vectors(), weight in 0u32..5, start in -1.0f32..1.0) {
        for codec in ALL {
            let bytes = coded(codec, &values);
            let mut sum = vec![start; values.len()];
            codec.accumulate(&bytes, weight, &mut sum).unwrap();
            let add = |value: f32| if weight == 0 { start } else { start + weight as f32 * value };
            let wanted: Vec<_> = decoded(codec, &bytes, values.len()).into_iter().map(add).collect();
            prop_assert_eq!(bits(&sum), bits(&wanted));
        }
    }

    #[test]
    fn the_residual_is_what_did_not_arrive(values in vectors(), seed: u64) {
        let values: Vec<_> = values.into_iter().map(|value| value / 2.0).collect();
        let old: Vec<_> = stretch(values.len(), 0, seed);
        for codec in ALL {
            let mut bytes = vec![0; codec.encoded_len(values.len())];
            codec.encode_with_feedback(&values, &old, &mut bytes).unwrap();
            let sums: Vec<_> = values.iter().zip(&old).map(|(value, old)| value + old).collect();
            prop_assert_eq!(&bytes, &coded(codec, &sums));
            let mut new = old.clone();
            codec.residual(&values, &bytes, &mut new).unwrap();
            let arrived = decoded(codec, &bytes, values.len());
            let wanted: Vec<_> = sums.iter().zip(arrived).map(|(sum, arrived)| sum - arrived).collect();
            prop_assert_eq!(bits(&new), bits(&wanted));
        }
    }
}
