//! The windows that a model sees: training samples, and the held-out windows on which it is judged.

use std::num::{NonZeroU32, NonZeroU64};

use super::error::DataError;
use super::store::TokenStore;

/// Where the windows of a text begin; a function of a few numbers, without the text.
///
/// The last part of the tokens is held out and never trained on. Samples lie in the rest as the head of the `data` module says.
/// The held-out windows are spread evenly over the held-out part, the first at its start and the last at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    context_length: NonZeroU32,
    samples: NonZeroU64,
    held_out_start: u64,
    held_out_windows: NonZeroU64,
    /// From the first start of a held-out window to the last.
    held_out_span: u64,
}

impl Split {
    /// Splits `tokens` tokens, of which the last `held_out_fraction` (rounded down to a token) are held out, into windows of
    /// `context_length` targets.
    ///
    /// There are `held_out_windows` held-out windows, or fewer where so many cannot begin at different tokens.
    ///
    /// # Errors
    /// [`DataError::TooShort`] if the training part or the held-out part is shorter than one window and the token after it.
    pub fn new(
        tokens: u64,
        context_length: NonZeroU32,
        held_out_fraction: f64,
        held_out_windows: NonZeroU32,
    ) -> Result<Self, DataError> {
        let needed = u64::from(context_length.get()) + 1;
        let held_out = ((tokens as f64 * held_out_fraction) as u64).min(tokens);
        let training = tokens - held_out;
        let too_short = |part, tokens| DataError::TooShort { part, tokens, needed };
        let samples = (training.saturating_sub(1)) / u64::from(context_length.get());
        let samples = NonZeroU64::new(samples).ok_or_else(|| too_short("training", training))?;
        let held_out_span = held_out.checked_sub(needed).ok_or_else(|| too_short("held-out", held_out))?;
        let held_out_windows = NonZeroU64::from(held_out_windows).min(NonZeroU64::MIN.saturating_add(held_out_span));
        Ok(Self { context_length, samples, held_out_start: training, held_out_windows, held_out_span })
    }

    /// Inputs, and targets, of one window.
    #[must_use]
    pub fn context_length(&self) -> NonZeroU32 {
        self.context_length
    }

    /// Number of training samples: the length of one pass.
    #[must_use]
    pub fn samples(&self) -> NonZeroU64 {
        self.samples
    }

    /// Number of held-out windows.
    #[must_use]
    pub fn held_out_windows(&self) -> NonZeroU64 {
        self.held_out_windows
    }

    fn sample_start(&self, sample: u64) -> u64 {
        assert!(sample < self.samples.get(), "sample {sample} of {}", self.samples);
        sample * u64::from(self.context_length.get())
    }

    fn held_out_window_start(&self, window: u64) -> u64 {
        assert!(window < self.held_out_windows.get(), "held-out window {window} of {}", self.held_out_windows);
        let intervals = u128::from(self.held_out_windows.get() - 1).max(1);
        self.held_out_start + (u128::from(self.held_out_span) * u128::from(window) / intervals) as u64
    }
}

/// The tokens of a run, split into windows.
#[derive(Debug)]
pub struct Corpus {
    store: TokenStore,
    split: Split,
}

impl Corpus {
    /// Splits the tokens of `store` as [`Split::new`] says.
    ///
    /// # Errors
    /// [`DataError::TooShort`] as there.
    pub fn new(
        store: TokenStore,
        context_length: NonZeroU32,
        held_out_fraction: f64,
        held_out_windows: NonZeroU32,
    ) -> Result<Self, DataError> {
        let split = Split::new(store.tokens(), context_length, held_out_fraction, held_out_windows)?;
        Ok(Self { store, split })
    }

    /// The tokens.
    #[must_use]
    pub fn store(&self) -> &TokenStore {
        &self.store
    }

    /// How they are split.
    #[must_use]
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// Appends training sample `sample` to `inputs` and `targets`, a context length of tokens each, so that the samples of a
    /// batch follow each other.
    ///
    /// # Panics
    /// If `sample` is not below [`Split::samples`].
    pub fn sample(&self, sample: u64, inputs: &mut Vec<u32>, targets: &mut Vec<u32>) {
        self.window_at(self.split.sample_start(sample), inputs, targets);
    }

    /// Appends held-out window `window` to `inputs` and `targets`, as [`Corpus::sample`] does.
    ///
    /// # Panics
    /// If `window` is not below [`Split::held_out_windows`].
    pub fn held_out_window(&self, window: u64, inputs: &mut Vec<u32>, targets: &mut Vec<u32>) {
        self.window_at(self.split.held_out_window_start(window), inputs, targets);
    }

    fn window_at(&self, start: u64, inputs: &mut Vec<u32>, targets: &mut Vec<u32>) {
        let length = self.split.context_length.get() as usize;
        self.store.read(start, length, inputs);
        self.store.read(start + 1, length, targets);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::data::{Source, Tokenizer};

    fn split(tokens: u64, context_length: u32, fraction: f64, windows: u32) -> Result<Split, DataError> {
        Split::new(tokens, NonZeroU32::new(context_length).unwrap(), fraction, NonZeroU32::new(windows).unwrap())
    }

    #[test]
    fn targets_follow_inputs_by_one_token() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.txt"), ('a'..='z').collect::<String>()).unwrap();
        let source = Source::locate("a.txt", folder.path(), "text").unwrap();
        let store = TokenStore::prepare(&source, &Tokenizer::Characters, folder.path()).unwrap();
        let corpus = Corpus::new(store, NonZeroU32::new(3).unwrap(), 0.25, NonZeroU32::new(2).unwrap()).unwrap();
        assert_eq!((corpus.split().samples().get(), corpus.split().held_out_windows().get()), (6, 2));
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        corpus.sample(0, &mut inputs, &mut targets);
        corpus.sample(5, &mut inputs, &mut targets);
        assert_eq!(inputs, [0, 1, 2, 15, 16, 17]);
        assert_eq!(targets, [1, 2, 3, 16, 17, 18]);
        inputs.clear();
        corpus.held_out_window(0, &mut inputs, &mut targets);
        corpus.held_out_window(1, &mut inputs, &mut targets);
        assert_eq!(inputs, [20, 21, 22, 22, 23, 24]);
        assert_eq!(targets[6..], [21, 22, 23, 23, 24, 25]);
    }

    #[test]
    fn the_lab_text_has_its_known_numbers() {
        let split = split(4_298_239, 64, 0.05, 256).unwrap();
        assert_eq!((split.samples().get(), split.held_out_windows().get()), (63_801, 256));
    }

    #[test]
    fn data_shorter_than_a_sequence_says_how_much_is_missing() {
        let message = |tokens, fraction| split(tokens, 64, fraction, 4).unwrap_err().to_string();
        assert!(message(60, 0.05).starts_with("the training part has 57 tokens and one sequence needs 65"));
        assert!(message(1000, 0.05).starts_with("the held-out part has 50 tokens and one sequence needs 65"));
        assert!(message(1000, 0.0).starts_with("the held-out part has 0 tokens"));
        assert!(message(1000, 1.0).starts_with("the training part has 0 tokens"));
        assert!(message(1000, f64::NAN).starts_with("the held-out part has 0 tokens"));
        assert!(split(1000, 64, 0.065, 4).is_ok());
    }

    #[test]
    #[should_panic(expected = "sample 10 of 10")]
    fn a_sample_beyond_the_last_is_refused() {
        split(114, 10, 0.1, 1).unwrap().sample_start(10);
    }

    proptest! {
        #[test]
        fn windows_stay_in_their_part(
            tokens in 1u64..100_000,
            context_length in 1u32..300,
            fraction in 0.0f64..1.0,
            windows in 1u32..500,
        ) {
            let Ok(split) = split(tokens, context_length, fraction, windows) else { return Ok(()) };
            let needed = u64::from(context_length) + 1;
            let last_sample = split.sample_start(split.samples().get() - 1);
            prop_assert!(last_sample + needed <= split.held_out_start);
            prop_assert!(last_sample + needed + u64::from(context_length) > split.held_out_start);
            let starts: Vec<_> = (0..split.held_out_windows().get()).map(|window| split.held_out_window_start(window)).collect();
            prop_assert_eq!(starts[0], split.held_out_start);
            prop_assert!(starts.is_sorted_by(|left, right| left < right));
            prop_assert!(starts[starts.len() - 1] + needed <= tokens);
            if starts.len() > 1 {
                prop_assert_eq!(starts[starts.len() - 1] + needed, tokens);
            }
        }
    }
}
