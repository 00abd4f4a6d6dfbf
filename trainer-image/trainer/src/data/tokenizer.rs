//! How text becomes tokens: by characters, or as a Hugging Face `tokenizer.json` says.

use std::path::PathBuf;

use super::characters::Characters;
use super::documents::Part;
use super::error::DataError;
use super::source::Source;
use super::tokenizer_file::TokenizerFile;

/// The user's choice of tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tokenizer {
    /// One token per character; the vocabulary is the distinct characters of the source, sorted by code point. A newline
    /// separates documents.
    Characters,
    /// The Hugging Face `tokenizer.json` at this path. Documents are separated by its end-of-text token, the first special token
    /// among `<|endoftext|>`, `<|end_of_text|>`, `<|eos|>`, `<eos>` and `</s>`, and by nothing if it has none.
    File(PathBuf),
}

/// Turns a stream of text into tokens.
pub(crate) trait Encoder {
    /// One more than the largest token that can occur.
    fn vocabulary(&self) -> u32;

    /// The tokenizer as a Hugging Face `tokenizer.json`.
    fn json(&self) -> &[u8];

    /// Appends the tokens of `part` to `tokens`; it may keep the end of a text until more of it comes.
    fn encode(&mut self, part: Part<'_>, tokens: &mut Vec<u32>) -> Result<(), DataError>;

    /// Appends the tokens of what was kept.
    fn finish(&mut self, tokens: &mut Vec<u32>) -> Result<(), DataError>;
}

impl Tokenizer {
    /// Makes the encoder for `source`, reading it once where the vocabulary depends on it.
    pub(crate) fn encoder(&self, source: &Source) -> Result<Box<dyn Encoder>, DataError> {
        Ok(match self {
            Self::Characters => Box::new(Characters::of(source)?),
            Self::File(path) => Box::new(TokenizerFile::open(path)?),
        })
    }
}
