//! Speed of the product, beside what is measured alternately in the same minutes.

pub(crate) mod checkpoint;
pub(crate) mod collective;
pub(crate) mod state;
pub(crate) mod trainer;

/// The middle value; not a number where there is none, or one of them is not.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    if values.iter().any(|value| value.is_nan()) { f64::NAN } else { values.get(values.len() / 2).copied().unwrap_or(f64::NAN) }
}
