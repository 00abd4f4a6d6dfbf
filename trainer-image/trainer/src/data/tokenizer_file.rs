//! The tokenizer that a Hugging Face `tokenizer.json` describes.
//!
//! Text is encoded in stretches of bounded size, cut where the usual tokenizers would begin a new word anyway: before a single
//! space between two words, else after a single newline between two lines, else anywhere. A tokenizer that works across such
//! places gives other tokens there than for the whole text, a few per stretch.

use std::fs;
use std::path::{Path, PathBuf};

use super::documents::Part;
use super::error::DataError;
use super::tokenizer::Encoder;

/// Text is encoded once so many bytes of it have come together.
const STRETCH_BYTES: usize = 128 << 10;

/// What tokenizers call the token at the end of a document, in the order of preference.
const END_OF_TEXT: [&str; 5] = ["<|endoftext|>", "<|end_of_text|>", "<|eos|>", "<eos>", "</s>"];

pub(crate) struct TokenizerFile {
    path: PathBuf,
    json: Vec<u8>,
    tokenizer: tokenizers::Tokenizer,
    vocabulary: u32,
    end_of_text: Option<u32>,
    /// Text that is not encoded yet.
    kept: String,
    stretch_bytes: usize,
}

impl TokenizerFile {
    /// Reads the file at `path`. What it says about truncation and padding is ignored: every text is encoded whole.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let json = fs::read(path).map_err(|error| DataError::reading(path, error))?;
        Self::of(path, json, STRETCH_BYTES)
    }

    fn of(path: &Path, json: Vec<u8>, stretch_bytes: usize) -> Result<Self, DataError> {
        let unusable = |reason: String| DataError::Tokenizer { path: path.to_owned(), reason };
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(&json).map_err(|error| unusable(error.to_string()))?;
        tokenizer.with_truncation(None).map_err(|error| unusable(error.to_string()))?;
        tokenizer.with_padding(None);
        let largest = tokenizer.get_vocab(true).into_values().max();
        let vocabulary =
            largest.and_then(|largest| largest.checked_add(1)).ok_or_else(|| unusable("it has no tokens".to_owned()))?;
        let added = tokenizer.get_added_tokens_decoder();
        let special = |name: &str| added.iter().find(|(_, token)| token.special && token.content == name).map(|(id, _)| *id);
        let end_of_text = END_OF_TEXT.into_iter().find_map(special);
        Ok(Self { path: path.to_owned(), json, tokenizer, vocabulary, end_of_text, kept: String::new(), stretch_bytes })
    }

    /// Encodes the first `bytes` of what is kept.
    fn encode_kept(&mut self, bytes: usize, tokens: &mut Vec<u32>) -> Result<(), DataError> {
        let encoding = self
            .tokenizer
            .encode_fast(&self.kept[..bytes], false)
            .map_err(|error| DataError::Tokenizer { path: self.path.clone(), reason: error.to_string() })?;
        tokens.extend_from_slice(encoding.get_ids());
        self.kept.drain(..bytes);
        Ok(())
    }
}

impl Encoder for TokenizerFile {
    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn json(&self) -> &[u8] {
        &self.json
    }

    fn encode(&mut self, part: Part<'_>, tokens: &mut Vec<u32>) -> Result<(), DataError> {
        match part {
            Part::Text(text) => {
                self.kept.push_str(text);
                while self.kept.len() >= self.stretch_bytes {
                    self.encode_kept(last_cut(&self.kept), tokens)?;
                }
            }
            Part::Separator => {
                self.finish(tokens)?;
                tokens.extend(self.end_of_text);
            }
        }
        Ok(())
    }

    fn finish(&mut self, tokens: &mut Vec<u32>) -> Result<(), DataError> {
        if self.kept.is_empty() {
            return Ok(());
        }
        self.encode_kept(self.kept.len(), tokens)
    }
}

/// The last place where `text` is best cut: not 0 unless it is empty.
fn last_cut(text: &str) -> usize {
    let alone = |mark: char, at: usize| {
        let before = text[..at].chars().next_back();
        let after = text[at + mark.len_utf8()..].chars().next();
        matches!((before, after), (Some(before), Some(after)) if !before.is_whitespace() && !after.is_whitespace())
    };
    let last_alone = |mark| text.rmatch_indices(mark).map(|(at, _)| at).find(|at| alone(mark, *at));
    last_alone(' ').or_else(|| last_alone('\n').map(|newline| newline + 1)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{AddedToken, TokenizerBuilder, TruncationParams};

    use super::*;
    use crate::data::builtin::Builtin;

    /// A byte-level tokenizer in the manner of GPT-2, trained on `text`, with `<|endoftext|>` as token 0.
    fn trained(text: &str) -> Vec<u8> {
        let mut tokenizer = TokenizerBuilder::<BPE, tokenizers::NormalizerWrapper, _, _, _>::default()
            .with_model(BPE::default())
            .with_normalizer(None)
            .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
            .with_post_processor(Some(ByteLevel::default()))
            .with_decoder(Some(ByteLevel::default()))
            .with_truncation(Some(TruncationParams { max_length: 3, ..TruncationParams::default() }))
            .build()
            .unwrap();
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(400)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
            .build();
        tokenizer.train(&mut trainer, text.lines()).unwrap();
        tokenizer.to_string(true).unwrap().into_bytes()
    }

    fn encode(encoder: &mut TokenizerFile, parts: &[Part<'_>]) -> Vec<u32> {
        let mut tokens = Vec::new();
        for part in parts {
            encoder.encode(*part, &mut tokens).unwrap();
        }
        encoder.finish(&mut tokens).unwrap();
        tokens
    }

    #[test]
    fn cutting_the_text_does_not_change_the_tokens() {
        let text = String::from_utf8(Builtin::Kjv.text().unwrap()).unwrap();
        let text = &text[..60_000];
        let json = trained(text);
        let path = Path::new("tokenizer.json");
        let mut whole = TokenizerFile::of(path, json.clone(), usize::MAX).unwrap();
        let expected = encode(&mut whole, &[Part::Text(text)]);
        assert!(expected.len() > text.len() / 4 && expected.len() < text.len() * 3 / 4);
        for stretch_bytes in [200, 1000] {
            let mut cut = TokenizerFile::of(path, json.clone(), stretch_bytes).unwrap();
            let pieces: Vec<_> =
                text.as_bytes().chunks(77).map(|piece| Part::Text(std::str::from_utf8(piece).unwrap())).collect();
            assert_eq!(encode(&mut cut, &pieces), expected);
        }
        assert_eq!(whole.tokenizer.decode(&expected, false).unwrap(), text);
    }

    #[test]
    fn documents_are_separated_by_the_end_of_text() {
        let mut encoder = TokenizerFile::of(Path::new("tokenizer.json"), trained("a b c"), 1000).unwrap();
        let tokens = encode(&mut encoder, &[Part::Text("a"), Part::Separator, Part::Text("b")]);
        assert_eq!(tokens.len(), 3);
        assert_eq!(tokens[1], 0);
    }

    #[test]
    fn the_vocabulary_counts_to_the_largest_token() {
        let json = br#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"a": 3, "b": 70000}, "unk_token": "a"}}"#;
        let mut encoder = TokenizerFile::of(Path::new("tokenizer.json"), json.to_vec(), 1000).unwrap();
        assert_eq!(encoder.vocabulary(), 70_001);
        assert_eq!(encode(&mut encoder, &[Part::Text("b"), Part::Separator, Part::Text("a")]), [70_000, 3]);
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_named() {
        let path = Path::new("my/tokenizer.json");
        let error = TokenizerFile::of(path, b"{}".to_vec(), 1000).err().unwrap();
        assert!(error.to_string().starts_with("my/tokenizer.json: not a usable tokenizer.json: "), "{error}");
        assert!(matches!(TokenizerFile::open(Path::new("nowhere.json")), Err(DataError::Missing { .. })));
    }

    #[test]
    fn cuts_fall_before_words_then_after_lines_then_anywhere() {
        assert_eq!(last_cut("one two  three\nfour"), 3);
        assert_eq!(last_cut("one\ntwo\n\nthree "), 4);
        assert_eq!(last_cut("  a\n\nb"), 6);
        assert_eq!(last_cut("漢字"), 6);
    }
}
