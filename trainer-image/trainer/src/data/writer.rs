//! The file of tokens: its format, and how it is written, once and from front to back.
//!
//! A [`Header`], the tokenizer as a Hugging Face `tokenizer.json`, then the tokens, little-endian, as u16 where the vocabulary
//! allows it and else as u32. The header is written last: a file without it is not finished.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::DataError;

/// First bytes of a finished file.
const MAGIC: [u8; 8] = *b"atolltok";

/// Version of the format.
const VERSION: u32 = 1;

/// Largest vocabulary whose tokens fit two bytes.
const NARROW_VOCABULARY: u32 = 1 << 16;

/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// What a file of tokens says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// One more than the largest token.
    pub(crate) vocabulary: u32,
    /// Number of tokens.
    pub(crate) tokens: u64,
    /// Bytes of the tokenizer between the header and the tokens.
    pub(crate) tokenizer_bytes: u64,
}

impl Header {
    /// Bytes of a header in the file.
    pub(crate) const BYTES: usize = 32;

    /// Bytes of one token in the file.
    pub(crate) fn width(&self) -> usize {
        width(self.vocabulary)
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.vocabulary.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[24..].copy_from_slice(&self.tokenizer_bytes.to_le_bytes());
        bytes
    }

    /// Reads the header of a file with the content `file` and checks the file's length against it.
    pub(crate) fn of(file: &[u8]) -> Result<Self, &'static str> {
        let (bytes, rest) = file.split_first_chunk::<{ Self::BYTES }>().ok_or("it is too short")?;
        let four = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let eight = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if bytes[..8] != MAGIC {
            return Err("it is something else, or was never finished");
        }
        if four(8) != VERSION {
            return Err("it was written by another version of this program");
        }
        let header = Self { vocabulary: four(12), tokens: eight(16), tokenizer_bytes: eight(24) };
        let length = header.tokens.checked_mul(header.width() as u64).and_then(|bytes| bytes.checked_add(header.tokenizer_bytes));
        if length != Some(rest.len() as u64) {
            return Err("its length is not what its header says");
        }
        Ok(header)
    }
}

fn width(vocabulary: u32) -> usize {
    if vocabulary <= NARROW_VOCABULARY { 2 } else { 4 }
}

/// Writes a file of tokens.
pub(crate) struct TokenWriter {
    file: File,
    /// For errors.
    folder: PathBuf,
    header: Header,
    buffer: Vec<u8>,
    written: u64,
}

impl TokenWriter {
    /// Begins a file without a name in `folder`. It vanishes with the last process that holds it open, however that one ends.
    pub(crate) fn create(folder: &Path, vocabulary: u32, tokenizer: &[u8]) -> Result<Self, DataError> {
        let file = tempfile::tempfile_in(folder).map_err(|error| DataError::writing(folder, 0, error))?;
        Ok(Self::begin(file, folder, vocabulary, tokenizer))
    }

    fn begin(file: File, folder: &Path, vocabulary: u32, tokenizer: &[u8]) -> Self {
        let header = Header { vocabulary, tokens: 0, tokenizer_bytes: tokenizer.len() as u64 };
        let mut buffer = vec![0; Header::BYTES];
        buffer.extend_from_slice(tokenizer);
        buffer.reserve(BUFFER_BYTES);
        Self { file, folder: folder.to_owned(), header, buffer, written: 0 }
    }

    /// Appends `tokens`, all below the vocabulary.
    pub(crate) fn append(&mut self, tokens: &[u32]) -> Result<(), DataError> {
        if self.header.width() == 2 {
            self.buffer.extend(tokens.iter().flat_map(|token| (*token as u16).to_le_bytes()));
        } else {
            self.buffer.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        }
        self.header.tokens += tokens.len() as u64;
        if self.buffer.len() >= BUFFER_BYTES { self.write_out() } else { Ok(()) }
    }

    /// Writes the rest and the header.
    pub(crate) fn finish(mut self) -> Result<File, DataError> {
        self.write_out()?;
        self.file.write_all_at(&self.header.to_bytes(), 0).map_err(|error| self.failed(error))?;
        Ok(self.file)
    }

    fn write_out(&mut self) -> Result<(), DataError> {
        self.file.write_all(&self.buffer).map_err(|error| self.failed(error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn failed(&self, error: io::Error) -> DataError {
        DataError::writing(&self.folder, self.written, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_is_named() {
        // Every write to this device fails as on a full disk.
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut writer = TokenWriter::begin(full, Path::new("tokens"), 10, b"{}");
        let error = writer.append(&vec![1; BUFFER_BYTES]).unwrap_err();
        assert!(matches!(&error, DataError::DiskFull { folder, written: 0 } if folder == Path::new("tokens")), "{error:?}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let error = TokenWriter::create(Path::new("nowhere/at/all"), 10, b"{}").err().unwrap();
        assert!(matches!(&error, DataError::Write { folder, .. } if folder == Path::new("nowhere/at/all")), "{error:?}");
    }

    #[test]
    fn a_file_that_does_not_fit_its_header_is_refused() {
        let header = Header { vocabulary: 10, tokens: 3, tokenizer_bytes: 2 };
        let file = [&header.to_bytes()[..], b"{}", &[0; 6]].concat();
        assert_eq!(Header::of(&file), Ok(header));
        assert_eq!(Header::of(&file[..20]), Err("it is too short"));
        assert_eq!(Header::of(&file[..39]), Err("its length is not what its header says"));
        assert_eq!(Header::of(&[0; 40]), Err("it is something else, or was never finished"));
        let changed = |at: usize, byte: u8| {
            let mut file = file.clone();
            file[at] = byte;
            Header::of(&file)
        };
        assert_eq!(changed(8, 9), Err("it was written by another version of this program"));
        assert_eq!(changed(23, 0xff), Err("its length is not what its header says"));
        assert_eq!(changed(15, 1), Err("its length is not what its header says"));
    }
}
