//! The tokens of a run, written once and then mapped by every process that trains on them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::error::DataError;
use super::map::FileMap;
use super::source::Source;
use super::tokenizer::Tokenizer;
use super::writer::{Header, TokenWriter};

/// Models get a vocabulary that is a multiple of this.
const VOCABULARY_PADDING: u32 = 128;

/// All tokens of a source in order, with the tokenizer that made them.
///
/// The file behind it has no name. Another process opens it through an inherited descriptor ([`AsFd`], then
/// [`TokenStore::from_file`]) or as `/proc/PID/fd/N` ([`TokenStore::open`]), and needs nothing else: neither the source nor the
/// tokenizer's file.
#[derive(Debug)]
pub struct TokenStore {
    file: File,
    map: FileMap,
    header: Header,
}

impl TokenStore {
    /// Reads the whole `source`, encodes it, and keeps the tokens in a file without a name in `folder`.
    ///
    /// The characters tokenizer reads the source twice, first for its vocabulary. Memory stays bounded whatever the size of the
    /// source; a JSON line is held whole and may have 64 MiB. `folder` needs two bytes per token, four if the vocabulary exceeds
    /// 65,536.
    ///
    /// # Errors
    /// The first [`DataError`] in the source, the tokenizer or the folder, naming its file.
    pub fn prepare(source: &Source, tokenizer: &Tokenizer, folder: &Path) -> Result<Self, DataError> {
        let mut encoder = tokenizer.encoder(source)?;
        let mut writer = TokenWriter::create(folder, encoder.vocabulary(), encoder.json())?;
        let mut tokens = Vec::new();
        source.read(&mut |part| {
            tokens.clear();
            encoder.encode(part, &mut tokens)?;
            writer.append(&tokens)
        })?;
        tokens.clear();
        encoder.finish(&mut tokens)?;
        writer.append(&tokens)?;
        Self::from_file(writer.finish()?, folder)
    }

    /// Opens the file of tokens at `path`, which nobody may change as long as it is open.
    ///
    /// # Errors
    /// [`DataError::Missing`], [`DataError::Unreadable`], or [`DataError::TokenFile`] if it is not a finished file of tokens.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::from_file(File::open(path).map_err(|error| DataError::reading(path, error))?, path)
    }

    /// Maps a file of tokens that is already open, as [`TokenStore::open`] does. `path` is for errors.
    ///
    /// # Errors
    /// As [`TokenStore::open`].
    pub fn from_file(file: File, path: &Path) -> Result<Self, DataError> {
        let refused = |reason| DataError::TokenFile { path: path.to_owned(), reason };
        let map = FileMap::new(&file).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => refused("it is empty"),
            _ => DataError::reading(path, error),
        })?;
        let header = Header::of(&map).map_err(refused)?;
        Ok(Self { file, map, header })
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// One more than the largest token that the tokenizer can give.
    #[must_use]
    pub fn vocabulary(&self) -> u32 {
        self.header.vocabulary
    }

    /// The vocabulary that a model gets: the next multiple of 128, so that matrices divide well. No token ever has one of the
    /// ids above [`TokenStore::vocabulary`].
    #[must_use]
    pub fn padded_vocabulary(&self) -> u32 {
        self.header.vocabulary.next_multiple_of(VOCABULARY_PADDING)
    }

    /// The tokenizer as the bytes of a Hugging Face `tokenizer.json`: the user's own file, or the characters in that format.
    #[must_use]
    pub fn tokenizer_json(&self) -> &[u8] {
        &self.map[Header::BYTES..self.tokens_at()]
    }

    /// Appends the `count` tokens from position `start` to `tokens`.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn read(&self, start: u64, count: usize, tokens: &mut Vec<u32>) {
        let width = self.header.width();
        let first = self.tokens_at() + start as usize * width;
        let bytes = &self.map[first..first + count * width];
        if width == 2 {
            tokens.extend(bytes.as_chunks().0.iter().map(|token| u32::from(u16::from_le_bytes(*token))));
        } else {
            tokens.extend(bytes.as_chunks().0.iter().map(|token| u32::from_le_bytes(*token)));
        }
    }

    /// Byte of the file at which the tokens begin.
    fn tokens_at(&self) -> usize {
        Header::BYTES + self.header.tokenizer_bytes as usize
    }
}

impl AsFd for TokenStore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::process::Command;

    use super::*;

    fn all(store: &TokenStore) -> Vec<u32> {
        let mut tokens = Vec::new();
        store.read(0, store.tokens() as usize, &mut tokens);
        tokens
    }

    fn characters(text: &str) -> (tempfile::TempDir, TokenStore) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.txt"), text).unwrap();
        let source = Source::locate("a.txt", folder.path(), "text").unwrap();
        let store = TokenStore::prepare(&source, &Tokenizer::Characters, folder.path()).unwrap();
        (folder, store)
    }

    #[test]
    fn the_king_james_text_comes_back_from_its_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::locate("builtin:kjv", folder.path(), "text").unwrap();
        let store = TokenStore::prepare(&source, &Tokenizer::Characters, folder.path()).unwrap();
        assert_eq!((store.tokens(), store.vocabulary(), store.padded_vocabulary()), (4_298_239, 73, 128));
        let tokenizer = tokenizers::Tokenizer::from_bytes(store.tokenizer_json()).unwrap();
        let symbols: String = (0..73).map(|token| tokenizer.id_to_token(token).unwrap()).collect();
        let text: Vec<u8> = all(&store).into_iter().map(|token| symbols.as_bytes()[token as usize]).collect();
        assert_eq!(text, crate::data::builtin::Builtin::Kjv.text().unwrap());
    }

    #[test]
    fn another_process_needs_only_the_descriptor() {
        let (_folder, store) = characters("hello\n");
        let path = format!("/proc/{}/fd/{}", std::process::id(), store.as_fd().as_raw_fd());
        let opened = TokenStore::open(Path::new(&path)).unwrap();
        assert_eq!(all(&opened), [2, 1, 3, 3, 4, 0]);
        assert_eq!(opened.tokenizer_json(), store.tokenizer_json());
        let inherited = TokenStore::from_file(store.as_fd().try_clone_to_owned().unwrap().into(), Path::new("tokens")).unwrap();
        drop(store);
        assert_eq!(all(&inherited), all(&opened));
    }

    #[test]
    fn nothing_is_left_in_the_folder() {
        let (folder, _store) = characters("hello\n");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a.txt"]);
    }

    #[test]
    fn a_large_vocabulary_takes_four_bytes_per_token() {
        let many: String = ('\u{20}'..).take(70_000).chain("ba".chars()).collect();
        let (_folder, store) = characters(&many);
        assert_eq!((store.vocabulary(), store.padded_vocabulary(), store.tokens()), (70_000, 70_016, 70_002));
        assert_eq!(all(&store), (0..70_000).chain([66, 65]).collect::<Vec<_>>());
    }

    #[test]
    fn a_tokenizer_file_travels_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = folder.path().join("tokenizer.json");
        let (_other, made) = characters("ab\n");
        fs::write(&tokenizer, made.tokenizer_json()).unwrap();
        fs::write(folder.path().join("b.txt"), "abba").unwrap();
        let source = Source::locate("b.txt", folder.path(), "text").unwrap();
        let store = TokenStore::prepare(&source, &Tokenizer::File(tokenizer), folder.path()).unwrap();
        assert_eq!(all(&store), [1, 2, 2, 1]);
        assert_eq!(store.tokenizer_json(), made.tokenizer_json());
    }

    #[test]
    fn what_is_not_a_file_of_tokens_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |content: &[u8]| {
            let path = folder.path().join("tokens");
            fs::write(&path, content).unwrap();
            matches!(TokenStore::open(&path), Err(DataError::TokenFile { path: named, .. }) if named == path)
        };
        assert!(refused(b""));
        assert!(refused(b"short"));
        assert!(refused(&[0; 100]));
        assert!(matches!(TokenStore::open(Path::new("nowhere")), Err(DataError::Missing { .. })));
    }

    const LARGE_TEXT: &str = "ATOLL_TEST_LARGE_TEXT";

    /// Most memory that this process ever had, in KiB.
    fn peak_memory() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    #[ignore = "runs in a process of its own, started by the test below"]
    fn prepare_a_large_text_alone() {
        let Some(path) = std::env::var_os(LARGE_TEXT) else { return };
        let path = Path::new(&path);
        let before = peak_memory();
        let source = Source::locate(path.to_str().unwrap(), Path::new(""), "text").unwrap();
        let store = TokenStore::prepare(&source, &Tokenizer::Characters, path.parent().unwrap()).unwrap();
        let grown = peak_memory() - before;
        println!("{} tokens, {grown} KiB more memory", store.tokens());
        assert_eq!(store.tokens(), fs::metadata(path).unwrap().len());
        assert!(grown < 24 << 10, "memory grew by {grown} KiB");
    }

    #[test]
    fn a_text_larger_than_the_memory_used_is_prepared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.txt");
        fs::write(&path, "In the beginning\n".repeat(3 << 20)).unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "data::store::tests::prepare_a_large_text_alone"])
            .env(LARGE_TEXT, &path)
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
        assert!(String::from_utf8_lossy(&status.stdout).contains("1 passed"));
    }
}
