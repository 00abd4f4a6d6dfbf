//! What a codec loses of a vector, as one number.

use super::Codec;

impl Codec {
    /// The relative error of coding `values + residual`: the norm of what is lost over the norm of what was coded. 0 where all
    /// is zero; none where something is not finite.
    ///
    /// # Panics
    /// When `values` and `residual` differ in length.
    #[must_use]
    pub fn relative_error(self, values: &[f32], residual: Option<&[f32]>) -> Option<f64> {
        let sums: Vec<f32> = match residual {
            Some(residual) => {
                assert_eq!(residual.len(), values.len());
                values.iter().zip(residual).map(|(value, residual)| value + residual).collect()
            }
            None => values.to_vec(),
        };
        let mut coded = vec![0; self.encoded_len(sums.len())];
        let mut decoded = vec![0.0; sums.len()];
        self.encode(&sums, &mut coded).ok()?;
        self.decode(&coded, &mut decoded).ok()?;
        let square = |value: f64| value * value;
        let whole: f64 = sums.iter().map(|sum| square(f64::from(*sum))).sum();
        let lost: f64 = sums.iter().zip(&decoded).map(|(sum, decoded)| square(f64::from(*sum) - f64::from(*decoded))).sum();
        Some(if whole > 0.0 { (lost / whole).sqrt() } else { 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(elements: usize) -> Vec<f32> {
        (0..elements).map(|element| (element as f32 * 0.37).sin() * 3.0).collect()
    }

    #[test]
    fn finer_codecs_lose_less() {
        let values = wave(5000);
        let lost = |codec: Codec| codec.relative_error(&values, None).unwrap();
        assert!(lost(Codec::F32) == 0.0);
        assert!(lost(Codec::Bf16) < 1.0 / 256.0 && lost(Codec::UInt8) < 0.01 && lost(Codec::UInt4) < 0.1);
        assert!(lost(Codec::UInt8) > 0.0 && lost(Codec::UInt4) > lost(Codec::UInt8));
    }

    #[test]
    fn the_residual_is_part_of_what_is_coded() {
        let values = wave(2000);
        let residual: Vec<f32> = values.iter().map(|value| -value).collect();
        assert_eq!(Codec::UInt8.relative_error(&values, Some(&residual)), Some(0.0), "nothing is left to lose");
    }

    #[test]
    fn what_cannot_be_coded_has_no_error() {
        assert_eq!(Codec::UInt8.relative_error(&[1.0, f32::NAN], None), None);
        assert_eq!(Codec::UInt4.relative_error(&[], None), Some(0.0));
    }
}
