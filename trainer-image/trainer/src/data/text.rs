//! Text files, read piece by piece in bounded memory.

use std::io::{self, Read};
use std::path::Path;

use super::documents::Documents;
use super::error::DataError;

/// Longest piece of text that is handed on at once, in bytes.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// Hands the whole of `reader` on as one document. `path` is for errors.
pub(crate) fn read_text(path: &Path, mut reader: impl Read, documents: &mut Documents<'_>) -> Result<(), DataError> {
    let mut buffer = vec![0; PIECE_BYTES];
    // A character may lie across two reads: its first bytes wait at the front of the buffer.
    let mut waiting = 0;
    let (mut offset, mut line) = (0, 1);
    loop {
        let read = read_some(&mut reader, &mut buffer[waiting..]).map_err(|error| DataError::reading(path, error))?;
        let filled = &buffer[..waiting + read];
        let text = match valid_prefix(filled) {
            Ok(text) if read > 0 || text.len() == filled.len() => text,
            Ok(text) => return Err(not_utf8(path, offset, line, text.as_bytes())),
            Err(valid) => return Err(not_utf8(path, offset, line, &filled[..valid])),
        };
        if read == 0 {
            documents.end();
            return Ok(());
        }
        documents.text(text)?;
        offset += text.len() as u64;
        line += newlines(text.as_bytes());
        let taken = text.len()..filled.len();
        waiting = taken.len();
        buffer.copy_within(taken, 0);
    }
}

/// The error for bytes that are not UTF-8 after `valid`, which itself begins at `offset` in `line`.
pub(crate) fn not_utf8(path: &Path, offset: u64, line: u64, valid: &[u8]) -> DataError {
    DataError::NotUtf8 { path: path.to_owned(), offset: offset + valid.len() as u64, line: line + newlines(valid) }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// One read that is not interrupted; 0 at the end of the input.
fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The text before an unfinished last character, or the number of valid bytes before a wrong one.
fn valid_prefix(bytes: &[u8]) -> Result<&str, usize> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) if error.error_len().is_some() => return Err(error.valid_up_to()),
        Err(error) => error,
    };
    std::str::from_utf8(&bytes[..error.valid_up_to()]).map_err(|error| error.valid_up_to())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::documents::Part;

    /// Gives `step` bytes per read.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn read(bytes: &[u8], step: usize) -> Result<String, DataError> {
        let mut text = String::new();
        let mut take = |part: Part<'_>| {
            if let Part::Text(piece) = part {
                text.push_str(piece);
            }
            Ok(())
        };
        read_text(Path::new("a.txt"), Dribble(bytes, step), &mut Documents::new(&mut take))?;
        Ok(text)
    }

    #[test]
    fn a_wrong_byte_is_placed_by_offset_and_line() {
        let wrong = |bytes: &[u8], step| match read(bytes, step) {
            Err(DataError::NotUtf8 { offset, line, .. }) => (offset, line),
            other => panic!("{other:?}"),
        };
        for step in 1..12 {
            assert_eq!(wrong(b"one\ntwo\n\xff three", step), (8, 3));
            assert_eq!(wrong("one\n€".as_bytes().split_last().unwrap().1, step), (4, 2));
        }
    }

    proptest! {
        #[test]
        fn text_arrives_whole_however_it_is_cut(text in ".{0,40}", step in 1usize..9) {
            prop_assert_eq!(read(text.as_bytes(), step).unwrap(), text);
        }
    }
}
