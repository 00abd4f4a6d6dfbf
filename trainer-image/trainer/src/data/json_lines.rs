//! JSON-lines files: one JSON object per line, one of its fields the text of a document.

use std::fmt;
use std::io::{BufRead, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::documents::Documents;
use super::error::DataError;
use super::text::{PIECE_BYTES, not_utf8};

/// Longest line that is read, in bytes: a document is held in memory while its JSON is parsed.
const LINE_BYTES: usize = 64 << 20;

/// Hands on the text in `field` of each line of `reader`, a document each. Blank lines are skipped. `path` is for errors.
pub(crate) fn read_json_lines(
    path: &Path,
    mut reader: impl BufRead,
    field: &str,
    documents: &mut Documents<'_>,
) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    let mut offset = 0;
    for line in 1.. {
        bytes.clear();
        let limit = LINE_BYTES as u64 + 1;
        let length =
            reader.by_ref().take(limit).read_until(b'\n', &mut bytes).map_err(|error| DataError::reading(path, error))?;
        if length == 0 {
            break;
        }
        if length > LINE_BYTES {
            return Err(DataError::LineTooLong { path: path.to_owned(), line, limit: LINE_BYTES });
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| not_utf8(path, offset, line, &bytes[..error.valid_up_to()]))?;
        if !text.trim().is_empty() {
            hand_on_in_pieces(&document(path, line, text, field)?, documents)?;
            documents.end();
        }
        offset += length as u64;
    }
    Ok(())
}

/// The text of the document in one line.
fn document(path: &Path, line: u64, json: &str, field: &str) -> Result<String, DataError> {
    let mut parser = serde_json::Deserializer::from_str(json);
    let found = Field(field).deserialize(&mut parser).and_then(|found| parser.end().map(|()| found));
    match found {
        Ok(Some(Value::String(text))) => Ok(text),
        Ok(Some(_)) => Err(DataError::FieldNotText { path: path.to_owned(), line, field: field.to_owned() }),
        Ok(None) => Err(DataError::FieldMissing { path: path.to_owned(), line, field: field.to_owned() }),
        Err(error) => {
            // The parser counts lines inside this one line; ours is the file's.
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            Err(DataError::Json { path: path.to_owned(), line, column: error.column(), message })
        }
    }
}

fn hand_on_in_pieces(mut text: &str, documents: &mut Documents<'_>) -> Result<(), DataError> {
    while !text.is_empty() {
        let (piece, rest) = text.split_at(text.floor_char_boundary(PIECE_BYTES));
        documents.text(piece)?;
        text = rest;
    }
    Ok(())
}

/// Parses an object and keeps one field of it; the last one counts where a name occurs twice.
struct Field<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::documents::Part;

    fn read(bytes: &[u8], field: &str) -> Result<Vec<String>, DataError> {
        let mut parts = vec![String::new()];
        let mut take = |part: Part<'_>| {
            match part {
                Part::Text(piece) => parts.last_mut().unwrap().push_str(piece),
                Part::Separator => parts.push(String::new()),
            }
            Ok(())
        };
        read_json_lines(Path::new("a.jsonl"), bytes, field, &mut Documents::new(&mut take))?;
        Ok(parts)
    }

    #[test]
    fn each_line_is_a_document() {
        let lines = "{\"id\": {\"text\": 1}, \"text\": \"one\\ntwo \u{20ac}\"}\r\n\n{\"text\": \"\"}\n{\"text\": \"x\", \"text\": \"three\"}";
        assert_eq!(read(lines.as_bytes(), "text").unwrap(), ["one\ntwo €", "three"]);
        assert_eq!(read(b"{\"body\": \"a\"}\n", "body").unwrap(), ["a"]);
    }

    #[test]
    fn a_broken_line_is_placed_by_line_and_column() {
        let broken = |bytes: &[u8]| match read(bytes, "text") {
            Err(DataError::Json { line, column, message, .. }) => (line, column, message),
            other => panic!("{other:?}"),
        };
        assert_eq!(broken(b"{\"text\": \"a\"}\n{\"text\": }\n"), (2, 10, "expected value".to_owned()));
        assert_eq!(broken(b"[1]"), (1, 0, "invalid type: sequence, expected a JSON object".to_owned()));
        assert_eq!(broken(b"{\"text\": \"a\"} {}\n"), (1, 15, "trailing characters".to_owned()));
    }

    #[test]
    fn a_line_without_the_text_is_named() {
        let line = b"{\"text\": \"a\"}\n{\"body\": 3}";
        assert!(matches!(read(line, "text"), Err(DataError::FieldMissing { line: 2, field, .. }) if field == "text"));
        assert!(matches!(read(&line[14..], "body"), Err(DataError::FieldNotText { line: 1, field, .. }) if field == "body"));
    }

    #[test]
    fn a_wrong_byte_is_placed_by_offset_and_line() {
        let error = read(b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}", "text").unwrap_err();
        assert!(matches!(error, DataError::NotUtf8 { offset: 24, line: 2, .. }), "{error:?}");
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused() {
        let error = read(&vec![b' '; LINE_BYTES + 1], "text").unwrap_err();
        assert!(matches!(error, DataError::LineTooLong { line: 1, .. }), "{error:?}");
    }

    #[test]
    fn a_long_document_comes_in_pieces() {
        let json = serde_json::json!({"text": "é".repeat(PIECE_BYTES)}).to_string();
        let mut lengths = Vec::new();
        let mut take = |part: Part<'_>| {
            if let Part::Text(piece) = part {
                lengths.push(piece.len());
            }
            Ok(())
        };
        read_json_lines(Path::new("a.jsonl"), json.as_bytes(), "text", &mut Documents::new(&mut take)).unwrap();
        assert_eq!(lengths.iter().sum::<usize>(), 2 * PIECE_BYTES);
        assert!(lengths.iter().all(|length| *length <= PIECE_BYTES));
    }
}
