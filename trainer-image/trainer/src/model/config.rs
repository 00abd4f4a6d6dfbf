//! Sizes of a model.

use serde::{Deserialize, Serialize};

use super::ModelError;

/// Largest size of any kind: a bound for sizes that come from files, so that products of them cannot overflow.
const LARGEST: usize = 1 << 24;
/// Largest number of layers.
const MOST_LAYERS: usize = 1 << 10;

/// Sizes of a decoder, and the constants of its norms and positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Blocks of attention and feed-forward layer.
    pub layers: usize,
    /// Values of a token between the blocks.
    pub hidden_size: usize,
    /// Attention heads; the size of one, hidden size over heads, is even.
    pub heads: usize,
    /// Values of a token inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Most tokens that a sequence may have.
    pub context_length: usize,
    /// Tokens that exist, padding included.
    pub vocabulary_size: usize,
    /// Added to the mean square in a norm.
    #[serde(default = "rms_epsilon")]
    pub rms_epsilon: f64,
    /// Base of the rotary angles.
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
}

fn rms_epsilon() -> f64 {
    Config::RMS_EPSILON
}

fn rope_theta() -> f64 {
    Config::ROPE_THETA
}

impl Config {
    /// The usual epsilon of a norm.
    pub const RMS_EPSILON: f64 = 1e-5;
    /// The usual base of the rotary angles.
    pub const ROPE_THETA: f64 = 10_000.0;

    /// Values of one attention head.
    #[must_use]
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.heads
    }

    /// Numbers that training changes, the tied embedding counted once.
    #[must_use]
    pub fn parameters(&self) -> usize {
        super::parameters(self).iter().map(super::Parameter::elements).sum()
    }

    /// Refuses sizes that no model can have.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first such field.
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let sizes = [
            ("layers", self.layers, MOST_LAYERS),
            ("hiddenSize", self.hidden_size, LARGEST),
            ("heads", self.heads, LARGEST),
            ("intermediateSize", self.intermediate_size, LARGEST),
            ("contextLength", self.context_length, LARGEST),
            ("vocabularySize", self.vocabulary_size, LARGEST),
        ];
        for (field, size, most) in sizes {
            if !(1..=most).contains(&size) {
                return Err(ModelError::Config { field, problem: format!("{size} is not between 1 and {most}") });
            }
        }
        if !self.hidden_size.is_multiple_of(2 * self.heads) {
            let problem = format!("{} heads do not divide {} values into even heads", self.heads, self.hidden_size);
            return Err(ModelError::Config { field: "heads", problem });
        }
        for (field, value) in [("rmsEpsilon", self.rms_epsilon), ("ropeTheta", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(ModelError::Config { field, problem: format!("{value} is not a positive number") });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::lab;
    use super::*;

    #[test]
    fn the_lab_model_has_115_008_parameters() {
        assert_eq!(lab().parameters(), 115_008);
    }

    #[test]
    fn sizes_that_no_model_can_have_are_named() {
        let field = |change: fn(&mut Config)| {
            let mut config = lab();
            change(&mut config);
            match config.check() {
                Err(ModelError::Config { field, .. }) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(field(|config| config.layers = 0), "layers");
        assert_eq!(field(|config| config.vocabulary_size = usize::MAX), "vocabularySize");
        assert_eq!(field(|config| config.heads = 3), "heads");
        assert_eq!(field(|config| config.heads = 64), "heads");
        assert_eq!(field(|config| config.rms_epsilon = f64::NAN), "rmsEpsilon");
        assert_eq!(field(|config| config.rope_theta = 0.0), "ropeTheta");
        assert!(lab().check().is_ok());
    }
}
