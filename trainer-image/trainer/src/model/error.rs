//! What can go wrong with a model.

/// Why a model cannot be built, run or filled.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A size that no model can have.
    #[error("model {field}: {problem}")]
    Config {
        /// Field of [`super::Config`], in camel case.
        field: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// Tokens that are not `batch` sequences of `sequence` tokens, none at all, or longer sequences than the context.
    #[error("{tokens} tokens are not {batch} sequences of {sequence} tokens within a context of {context}")]
    Shape {
        /// Tokens given.
        tokens: usize,
        /// Sequences they should be.
        batch: usize,
        /// Tokens that each should have.
        sequence: usize,
        /// Most tokens that a sequence may have.
        context: usize,
    },
    /// A token that the model does not know.
    #[error("token {token} at position {position} is not among the {vocabulary} tokens of the model")]
    Token {
        /// The token.
        token: u32,
        /// Its place in the batch.
        position: usize,
        /// Tokens that the model knows.
        vocabulary: usize,
    },
    /// A flat vector of another length than the model has parameters.
    #[error("a flat vector of {found} numbers for a model of {expected}")]
    Length {
        /// Parameters of the model.
        expected: usize,
        /// Numbers given.
        found: usize,
    },
    /// A parameter that a loss does not depend on.
    #[error("parameter {parameter} has no gradient")]
    NoGradient {
        /// Its name.
        parameter: String,
    },
    /// No window to evaluate on, or batches of none.
    #[error("nothing to evaluate: no windows, or batches of {batch}")]
    NothingToEvaluate {
        /// Windows in one batch.
        batch: usize,
    },
    /// A window of another length than the first, or too short to predict anything.
    #[error("window {window} has {found} tokens instead of {expected}")]
    Window {
        /// Its place among the windows.
        window: usize,
        /// Tokens of the first window, at least 2.
        expected: usize,
        /// Tokens of this one.
        found: usize,
    },
    /// The threads of a measurement could not be started.
    #[error("cannot start the threads of the measurement")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A tensor operation failed: no room on the device, or a shape that does not fit.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
