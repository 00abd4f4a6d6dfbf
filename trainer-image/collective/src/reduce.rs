//! The weighted mean, as a function of the contributions in slot order alone.
//!
//! `sum(weight_i * x_i) / sum(weight_i)` element by element in f32, added in slot order, so that every path and every peer
//! gives the same bits. Nothing is fused and nothing is reordered.

/// Adds `weight * input` to `sum`.
///
/// # Panics
/// When the lengths differ.
pub fn add(sum: &mut [f32], input: &[f32], weight: u32) {
    assert_eq!(sum.len(), input.len());
    match weight {
        0 => {}
        // The same bits as multiplying by one, and the usual case.
        1 => sum.iter_mut().zip(input).for_each(|(sum, value)| *sum += value),
        _ => {
            let weight = weight as f32;
            sum.iter_mut().zip(input).for_each(|(sum, value)| *sum += weight * value);
        }
    }
}

/// Divides a sum by the total weight.
pub fn divide(sum: &mut [f32], total: u64) {
    let total = total as f32;
    for value in sum {
        *value /= total;
    }
}

/// Position of the first NaN or infinity.
#[must_use]
pub fn first_not_finite(values: &[f32]) -> Option<usize> {
    // Summing exponents' all-ones patterns by blocks lets the usual case vectorise.
    values.chunks(4096).enumerate().find_map(|(chunk, values)| {
        let bad = values.iter().fold(false, |bad, value| bad | !value.is_finite());
        bad.then(|| chunk * 4096 + values.iter().position(|value| !value.is_finite()).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_counts_each_contribution_by_its_weight() {
        let mut sum = vec![0.0; 2];
        add(&mut sum, &[1.0, 2.0], 1);
        add(&mut sum, &[9.0, 9.0], 0);
        add(&mut sum, &[4.0, 8.0], 2);
        divide(&mut sum, 3);
        assert_eq!(sum, [3.0, 6.0]);
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found() {
        let mut values = vec![0.5; 10_000];
        assert_eq!(first_not_finite(&values), None);
        values[9_000] = f32::INFINITY;
        values[4_097] = f32::NAN;
        assert_eq!(first_not_finite(&values), Some(4_097));
    }
}
