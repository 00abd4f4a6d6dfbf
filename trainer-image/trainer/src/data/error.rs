//! What can be wrong with a dataset, a tokenizer or the place where tokens are kept.

use std::io;
use std::path::{Path, PathBuf};

/// Why the data of a run cannot be used. Each variant names the file and says what would be right.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// `builtin:` is followed by a name that is not shipped.
    #[error("builtin:{name} does not exist; builtin:kjv does")]
    UnknownBuiltin {
        /// The name asked for.
        name: String,
    },
    /// The text shipped with this program is not the one that was put in.
    #[error("builtin:{name} is damaged inside this program; install it again")]
    DamagedBuiltin {
        /// Name of the text.
        name: &'static str,
    },
    /// The address is of a kind that is not read.
    #[error("{uri}: this kind of address is not read; give builtin:NAME, a file or a folder")]
    Scheme {
        /// The address.
        uri: String,
    },
    /// Nothing is there.
    #[error("{}: no such file or folder", path.display())]
    Missing {
        /// Path of the file.
        path: PathBuf,
    },
    /// The operating system refused to read it.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// Path of the file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is neither a regular file nor a folder.
    #[error("{}: neither a file nor a folder", path.display())]
    NotAFile {
        /// Path of the thing.
        path: PathBuf,
    },
    /// A folder contains a link to a folder, which could lead back to itself.
    #[error("{}: links to folders inside a folder are not followed; name that folder itself or copy it", path.display())]
    LinkedFolder {
        /// Path of the link.
        path: PathBuf,
    },
    /// A folder contains a file of a kind that is not read.
    #[error("{}: a folder of text may hold .txt, .text, .md and .jsonl files, and hidden files, which are skipped", path.display())]
    Extension {
        /// Path of the file.
        path: PathBuf,
    },
    /// There is no text in it.
    #[error("{}: contains no text", path.display())]
    Empty {
        /// Path of the file or folder.
        path: PathBuf,
    },
    /// A byte sequence is not UTF-8.
    #[error("{}: not UTF-8 at byte {offset}, line {line}", path.display())]
    NotUtf8 {
        /// Path of the file.
        path: PathBuf,
        /// Bytes before the first wrong one.
        offset: u64,
        /// Line of the first wrong byte, counted from 1.
        line: u64,
    },
    /// A line of a JSON-lines file is too long to be held in memory.
    #[error("{}: line {line} is longer than {limit} bytes", path.display())]
    LineTooLong {
        /// Path of the file.
        path: PathBuf,
        /// Line, counted from 1.
        line: u64,
        /// Longest line that is read, in bytes.
        limit: usize,
    },
    /// A line of a JSON-lines file is not a JSON object.
    #[error("{}: line {line}, column {column}: {message}", path.display())]
    Json {
        /// Path of the file.
        path: PathBuf,
        /// Line, counted from 1.
        line: u64,
        /// Column in bytes, counted from 1.
        column: usize,
        /// What the parser found and expected.
        message: String,
    },
    /// A line of a JSON-lines file lacks the field with the text.
    #[error("{}: line {line} has no field {field:?}", path.display())]
    FieldMissing {
        /// Path of the file.
        path: PathBuf,
        /// Line, counted from 1.
        line: u64,
        /// Name of the field.
        field: String,
    },
    /// The field with the text is not a string.
    #[error("{}: line {line}: field {field:?} is not a string", path.display())]
    FieldNotText {
        /// Path of the file.
        path: PathBuf,
        /// Line, counted from 1.
        line: u64,
        /// Name of the field.
        field: String,
    },
    /// The text was another when it was read for the second time.
    #[error("{}: changed while it was being read", path.display())]
    Changed {
        /// Path of the file or folder.
        path: PathBuf,
    },
    /// A tokenizer file cannot be used.
    #[error("{}: not a usable tokenizer.json: {reason}", path.display())]
    Tokenizer {
        /// Path of the tokenizer file.
        path: PathBuf,
        /// What the tokenizer library said.
        reason: String,
    },
    /// The device that keeps the tokens is full.
    #[error("{}: no space left for the tokens, after {written} bytes", folder.display())]
    DiskFull {
        /// Folder that the tokens go to.
        folder: PathBuf,
        /// Bytes that found space.
        written: u64,
    },
    /// The tokens cannot be written.
    #[error("{}: tokens cannot be written here", folder.display())]
    Write {
        /// Folder that the tokens go to.
        folder: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file of tokens cannot be used.
    #[error("{}: not a file of tokens: {reason}", path.display())]
    TokenFile {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A part of the data is shorter than one sequence.
    #[error(
        "the {part} part has {tokens} tokens and one sequence needs {needed}; give more text, a shorter context or another held-out fraction"
    )]
    TooShort {
        /// `training` or `held-out`.
        part: &'static str,
        /// Tokens in the part.
        tokens: u64,
        /// Tokens in one sequence: the context length and one more.
        needed: u64,
    },
}

impl DataError {
    /// The error for a file or folder that could not be opened or read.
    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path: path.to_owned() },
            _ => Self::Unreadable { path: path.to_owned(), source },
        }
    }

    /// The error for tokens that could not be written to `folder` after `written` bytes.
    pub(crate) fn writing(folder: &Path, written: u64, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { folder: folder.to_owned(), written },
            _ => Self::Write { folder: folder.to_owned(), source },
        }
    }
}
