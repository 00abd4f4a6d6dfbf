//! Speed of the loops that touch every value, in GB/s of f32 (4 bytes an element, whatever the coded size), one thread.
//!
//! `cargo run --release -p atoll-collective --example kernel_speed`. Each figure is the best of many repetitions, on blocks of
//! 256 KiB that stay in the cache and on 32 MiB that do not; copying is the yardstick.

use std::hint::black_box;
use std::time::{Duration, Instant};

use atoll_collective::codec::Codec;
use atoll_collective::reduce;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Time spent on each figure.
const PATIENCE: Duration = Duration::from_millis(400);

fn main() {
    for kib in [256, 32 << 10] {
        println!("{kib} KiB of f32");
        measure(kib * 256);
    }
}

fn measure(elements: usize) {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let values: Vec<f32> = (0..elements).map(|_| (random.next_u32() as f32 / u32::MAX as f32 - 0.5) * 1e-3).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut sum = vec![0.0; elements];
    let mut out = vec![0; elements * 4];
    let speed = |name: &str, work: &mut dyn FnMut()| println!("  {name:<34} {:6.1} GB/s", best(elements, work));

    speed("copy", &mut || black_box(&mut out).copy_from_slice(black_box(&bytes)));
    for weight in [1, 3] {
        sum.fill(0.0);
        let name = format!("add f32, weight {weight}");
        speed(&name, &mut || reduce::add(black_box(&mut sum), &bytes, weight).expect("finite"));
    }
    for total in [4, 3] {
        sum.fill(1.0);
        let name = format!("mean of {total} to f32");
        speed(&name, &mut || reduce::mean_to_bytes(black_box(&sum), total, &mut out).expect("finite"));
    }
    let half = &bytes[..elements * 2];
    let half: Vec<u8> = half.as_chunks::<2>().0.iter().flat_map(|[low, _]| [*low, 0x3a]).collect();
    sum.fill(0.0);
    speed("add bf16", &mut || reduce::add_bf16(black_box(&mut sum), &half, 1).expect("finite"));
    sum.fill(1.0);
    speed("mean of 4 to bf16", &mut || reduce::mean_to_bf16(black_box(&sum), 4, &mut out[..elements * 2]).expect("finite"));
    let mut counters = vec![0; elements / 2];
    let ones = 1_i64.to_le_bytes().repeat(elements / 2);
    speed("add i64", &mut || reduce::add_counters(black_box(&mut counters), &ones).expect("small"));

    for codec in [Codec::F32, Codec::Bf16, Codec::UInt8, Codec::UInt4] {
        let mut coded = vec![0; codec.encoded_len(elements)];
        let mut residual = vec![0.0; elements];
        speed(&format!("{codec:?} encode"), &mut || codec.encode(black_box(&values), &mut coded).expect("finite"));
        speed(&format!("{codec:?} encode with feedback"), &mut || {
            codec.encode_with_feedback(black_box(&values), &residual, &mut coded).expect("finite");
        });
        speed(&format!("{codec:?} decode"), &mut || codec.decode(black_box(&coded), &mut sum).expect("sound"));
        sum.fill(0.0);
        speed(&format!("{codec:?} accumulate"), &mut || codec.accumulate(black_box(&coded), 1, &mut sum).expect("sound"));
        speed(&format!("{codec:?} residual"), &mut || {
            codec.residual(black_box(&values), &coded, &mut residual).expect("sound");
        });
    }
}

/// Gigabytes of f32 a second in the fastest repetition.
fn best(elements: usize, work: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    let mut fastest = Duration::MAX;
    while start.elapsed() < PATIENCE {
        let before = Instant::now();
        work();
        fastest = fastest.min(before.elapsed());
    }
    elements as f64 * 4e-9 / fastest.as_secs_f64()
}
