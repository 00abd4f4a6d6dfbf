//! The tokenizer with one token per character.

use std::path::PathBuf;

use serde_json::json;

use super::documents::Part;
use super::error::DataError;
use super::source::Source;
use super::tokenizer::Encoder;

/// One more than the largest code point.
const CODE_POINTS: usize = char::MAX as usize + 1;

/// Marks a character that does not occur.
const ABSENT: u32 = u32::MAX;

/// What stands between two documents.
const SEPARATOR: char = '\n';

/// Tokens by code point. The table has an entry for every code point there is; only the pages that a text uses take memory.
pub(crate) struct Characters {
    tokens: Vec<u32>,
    vocabulary: u32,
    json: Vec<u8>,
    /// The source, for the error when it changes between the two readings.
    source: PathBuf,
}

impl Characters {
    /// Reads `source` once and numbers its distinct characters in the order of their code points.
    pub(crate) fn of(source: &Source) -> Result<Self, DataError> {
        let mut occurs = vec![false; CODE_POINTS];
        source.read(&mut |part| {
            match part {
                Part::Text(text) => text.chars().for_each(|character| occurs[character as usize] = true),
                Part::Separator => occurs[SEPARATOR as usize] = true,
            }
            Ok(())
        })?;
        let characters: Vec<char> = ('\0'..=char::MAX).filter(|character| occurs[*character as usize]).collect();
        let mut tokens = vec![ABSENT; CODE_POINTS];
        for (token, character) in (0..).zip(&characters) {
            tokens[*character as usize] = token;
        }
        Ok(Self {
            tokens,
            vocabulary: characters.len() as u32,
            json: tokenizer_json(&characters).into_bytes(),
            source: source.path().to_owned(),
        })
    }
}

impl Encoder for Characters {
    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn json(&self) -> &[u8] {
        &self.json
    }

    fn encode(&mut self, part: Part<'_>, tokens: &mut Vec<u32>) -> Result<(), DataError> {
        let start = tokens.len();
        match part {
            Part::Text(text) => tokens.extend(text.chars().map(|character| self.tokens[character as usize])),
            Part::Separator => tokens.push(self.tokens[SEPARATOR as usize]),
        }
        if tokens[start..].contains(&ABSENT) {
            return Err(DataError::Changed { path: self.source.clone() });
        }
        Ok(())
    }

    fn finish(&mut self, _tokens: &mut Vec<u32>) -> Result<(), DataError> {
        Ok(())
    }
}

/// The same tokenizer in Hugging Face's format: every character is a word, and decoding joins them without spaces.
///
/// A character outside the vocabulary is an error there, since the unknown token that the format demands is not in it. The
/// pattern is one that both regular expression engines in use (Oniguruma and `fancy-regex`) read as "any character at all".
fn tokenizer_json(characters: &[char]) -> String {
    let vocabulary: serde_json::Map<_, _> =
        characters.iter().map(char::to_string).zip((0..).map(|token: u32| token.into())).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false},
        "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    format!("{tokenizer:#}\n")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn located(name: &str, content: &str) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), content).unwrap();
        let source = Source::locate(name, folder.path(), "text").unwrap();
        (folder, source)
    }

    fn encode(encoder: &mut Characters, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        encoder.encode(Part::Text(text), &mut tokens).unwrap();
        tokens
    }

    fn loaded(encoder: &Characters) -> tokenizers::Tokenizer {
        tokenizers::Tokenizer::from_bytes(encoder.json()).unwrap()
    }

    #[test]
    fn characters_are_numbered_by_code_point() {
        let (_folder, source) = located("a.txt", "cab €é\n𝄞a");
        let mut encoder = Characters::of(&source).unwrap();
        assert_eq!(encoder.vocabulary(), 8);
        assert_eq!(encode(&mut encoder, "\n abcé€𝄞"), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn the_king_james_text_has_73_characters() {
        let source = Source::locate("builtin:kjv", Path::new(""), "text").unwrap();
        assert_eq!(Characters::of(&source).unwrap().vocabulary(), 73);
    }

    #[test]
    fn documents_are_separated_by_a_newline_even_if_the_text_has_none() {
        let (_folder, source) = located("a.jsonl", "{\"text\": \"b\"}\n{\"text\": \"a\"}\n");
        let mut encoder = Characters::of(&source).unwrap();
        let mut tokens = Vec::new();
        source.read(&mut |part| encoder.encode(part, &mut tokens)).unwrap();
        assert_eq!(tokens, [2, 0, 1]);
    }

    #[test]
    fn a_character_that_appears_between_the_two_readings_is_noticed() {
        let (_folder, source) = located("a.txt", "ab");
        let mut encoder = Characters::of(&source).unwrap();
        let error = encoder.encode(Part::Text("abc"), &mut Vec::new()).unwrap_err();
        assert!(matches!(error, DataError::Changed { path } if path.ends_with("a.txt")));
    }

    #[test]
    fn other_tools_read_the_same_tokens_from_its_file() {
        let text = "  1 In the\tbeginning,\r\n\n\n  (God) created€ \"é\\\" 𝄞\u{a0}\u{2028} \n ";
        let (_folder, source) = located("a.txt", text);
        let mut encoder = Characters::of(&source).unwrap();
        let loaded = loaded(&encoder);
        let tokens = encode(&mut encoder, text);
        assert_eq!(loaded.encode(text, true).unwrap().get_ids(), tokens);
        assert_eq!(loaded.decode(&tokens, true).unwrap(), text);
        assert_eq!(loaded.get_vocab_size(true), encoder.vocabulary() as usize);
        assert!(loaded.encode("Z", true).is_err());
    }

    #[test]
    fn other_tools_read_the_same_tokens_of_the_king_james_text() {
        let source = Source::locate("builtin:kjv", Path::new(""), "text").unwrap();
        let mut encoder = Characters::of(&source).unwrap();
        let loaded = loaded(&encoder);
        let text = String::from_utf8(crate::data::builtin::Builtin::Kjv.text().unwrap()).unwrap();
        for text in [&text[..20_000], &text[text.len() - 20_000..]] {
            let tokens = encode(&mut encoder, text);
            assert_eq!(loaded.encode(text, false).unwrap().get_ids(), tokens);
            assert_eq!(loaded.decode(&tokens, false).unwrap(), text);
        }
    }
}
