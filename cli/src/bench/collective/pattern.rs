//! Values whose sums and means are exact in f32, so that a wrong result of a benchmark is an error and no figure.

use anyhow::{Result, ensure};
use atoll_sdk::Region;

/// Values repeat after so many elements, a prime: blocks and shards that are swapped show.
const PERIOD: usize = 251;

/// Fills a rank's input: element `i` is `i mod 251 + rank`.
pub(crate) fn fill(values: &mut [f32], rank: usize) {
    values.iter_mut().enumerate().for_each(|(index, value)| *value = (index % PERIOD + rank) as f32);
}

/// What the mean over the ranks' inputs is where rank 0 has `first`.
pub(crate) fn mean(first: f32, ranks: usize) -> f32 {
    first + (ranks - 1) as f32 / 2.0
}

/// What their sum is.
pub(crate) fn sum(first: f32, ranks: usize) -> f32 {
    ranks as f32 * mean(first, ranks)
}

/// Makes what an earlier operation left unusable where a result begins and ends.
pub(crate) fn spoil(output: &Region) {
    let bad = f32::NAN.to_ne_bytes();
    let _inside = output.write(0, &bad) && output.write(output.len() - bad.len(), &bad);
}

/// Compares a result with `expected` of rank 0's values; `tolerance` is absolute.
///
/// # Errors
/// Names the first element that differs by more.
pub(crate) fn check(result: &[f32], expected: impl Fn(f32) -> f32, tolerance: f32) -> Result<()> {
    let wanted: Vec<f32> = (0..PERIOD).map(|index| expected(index as f32)).collect();
    let wrong = result.iter().zip(wanted.iter().cycle()).position(|(found, wanted)| {
        let difference = (found - wanted).abs();
        difference.is_nan() || difference > tolerance
    });
    ensure!(wrong.is_none(), "element {:?} of the result is wrong: {:?}", wrong, wrong.map(|index| result[index]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_three_inputs_passes_and_one_wrong_bit_does_not() {
        let inputs: Vec<Vec<f32>> = (0..3)
            .map(|rank| {
                let mut values = vec![0.0; 1000];
                fill(&mut values, rank);
                values
            })
            .collect();
        let mut result: Vec<f32> = (0..1000).map(|index| inputs.iter().map(|input| input[index]).sum::<f32>() / 3.0).collect();
        let expected = |first| mean(first, 3);
        check(&result, expected, 0.0).unwrap();
        result[500] = f32::from_bits(result[500].to_bits() ^ 1);
        assert!(check(&result, expected, 0.0).unwrap_err().to_string().contains("500"));
        check(&result, expected, 1e-4).unwrap();
        result[999] = f32::NAN;
        assert!(check(&result, expected, 1e9).is_err());
    }
}
