//! Where the text of a run comes from: a text shipped with this program, a file, or a folder of files.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::builtin::Builtin;
use super::documents::{Documents, Take};
use super::error::DataError;
use super::json_lines::read_json_lines;
use super::text::{PIECE_BYTES, read_text};

/// The text of a run, found but not yet read.
///
/// A text file is one document, a JSON-lines file one per line. Empty documents do not count.
#[derive(Debug, Clone)]
pub struct Source {
    /// What the user named, for errors about the whole.
    path: PathBuf,
    /// Field with the text, in JSON-lines files.
    field: String,
    /// In the order in which they are read.
    files: Vec<(PathBuf, Kind)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Builtin(Builtin),
    Text,
    JsonLines,
}

impl Source {
    /// Finds what `uri` names: `builtin:NAME`, or a file or folder as a path or `file://` and a path, taken literally.
    ///
    /// Relative paths begin at `base`. `field` is the field with the text in JSON-lines files. A file named by itself is JSON
    /// lines if it ends in `.jsonl`, else text. A folder is read with all below it, sorted by the bytes of the path relative to
    /// it; in it `.txt`, `.text` and `.md` are text, `.jsonl` JSON lines, and files and folders whose name begins with a dot are
    /// skipped.
    ///
    /// # Errors
    /// A [`DataError`] naming what is missing, unreadable, of no known kind, or a folder without files. Contents come later.
    pub fn locate(uri: &str, base: &Path, field: &str) -> Result<Self, DataError> {
        if let Some(name) = uri.strip_prefix("builtin:") {
            let builtin = Builtin::named(name)?;
            return Ok(Self { path: uri.into(), field: field.to_owned(), files: vec![(uri.into(), Kind::Builtin(builtin))] });
        }
        let path = uri.strip_prefix("file://").unwrap_or(uri);
        if path.contains("://") {
            return Err(DataError::Scheme { uri: uri.to_owned() });
        }
        let path = base.join(path);
        let metadata = fs::metadata(&path).map_err(|error| DataError::reading(&path, error))?;
        let files = if metadata.is_dir() {
            files_below(&path)?
        } else if metadata.is_file() {
            let kind = if kind_by_extension(&path) == Some(Kind::JsonLines) { Kind::JsonLines } else { Kind::Text };
            vec![(path.clone(), kind)]
        } else {
            return Err(DataError::NotAFile { path });
        };
        Ok(Self { path, field: field.to_owned(), files })
    }

    /// The path or address of the whole source, for errors about it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Hands the whole text on, in order and in pieces of bounded size.
    pub(crate) fn read(&self, take: &mut Take<'_>) -> Result<(), DataError> {
        let mut documents = Documents::new(take);
        for (path, kind) in &self.files {
            let open = || File::open(path).map_err(|error| DataError::reading(path, error));
            match kind {
                Kind::Builtin(builtin) => read_text(path, builtin.text()?.as_slice(), &mut documents)?,
                Kind::Text => read_text(path, open()?, &mut documents)?,
                Kind::JsonLines => {
                    let reader = BufReader::with_capacity(PIECE_BYTES, open()?);
                    read_json_lines(path, reader, &self.field, &mut documents)?;
                }
            }
        }
        if documents.are_empty() {
            return Err(DataError::Empty { path: self.path.clone() });
        }
        Ok(())
    }
}

/// What a file in a folder is, by its name.
fn kind_by_extension(path: &Path) -> Option<Kind> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "txt" | "text" | "md" => Some(Kind::Text),
        "jsonl" => Some(Kind::JsonLines),
        _ => None,
    }
}

/// All files below `folder` that are not hidden, sorted by the bytes of their relative path.
fn files_below(folder: &Path) -> Result<Vec<(PathBuf, Kind)>, DataError> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        let unreadable = |error| DataError::reading(&current, error);
        for entry in fs::read_dir(&current).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if is_hidden(&path) {
                continue;
            }
            let metadata = fs::metadata(&path).map_err(|error| DataError::reading(&path, error))?;
            match (metadata.is_dir(), kind_by_extension(&path)) {
                (true, _) if path.is_symlink() => return Err(DataError::LinkedFolder { path }),
                (true, _) => folders.push(path),
                (false, _) if !metadata.is_file() => return Err(DataError::NotAFile { path }),
                (false, None) => return Err(DataError::Extension { path }),
                (false, Some(kind)) => files.push((path, kind)),
            }
        }
    }
    if files.is_empty() {
        return Err(DataError::Empty { path: folder.to_owned() });
    }
    files.sort_by(|(left, _), (right, _)| left.as_os_str().as_encoded_bytes().cmp(right.as_os_str().as_encoded_bytes()));
    Ok(files)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().map(OsStr::as_encoded_bytes).is_some_and(|name| name.starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use tempfile::TempDir;

    use super::*;
    use crate::data::documents::Part;

    fn folder(files: &[(&str, &[u8])]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn read(uri: &str, base: &Path) -> Result<String, DataError> {
        let mut all = String::new();
        Source::locate(uri, base, "text")?.read(&mut |part| {
            all.push_str(match part {
                Part::Text(text) => text,
                Part::Separator => "|",
            });
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_its_relative_paths() {
        let folder = folder(&[
            ("b.txt", b"3"),
            ("a/z.MD", b"2"),
            ("a.jsonl", b"{\"text\": \"0\"}\n{\"text\": \"1\"}\n"),
            ("empty.text", b""),
            (".hidden.bin", b"\xff"),
            (".hidden/c.txt", b"no"),
        ]);
        assert_eq!(read(".", folder.path()).unwrap(), "0|1|2|3");
        assert_eq!(read(&format!("file://{}", folder.path().display()), Path::new("/")).unwrap(), "0|1|2|3");
    }

    #[test]
    fn a_file_named_by_itself_is_text_whatever_its_name() {
        let folder = folder(&[("notes.log", b"one\ntwo"), ("README", b"r"), ("c.jsonl", b"{\"text\": \"c\"}")]);
        assert_eq!(read("notes.log", folder.path()).unwrap(), "one\ntwo");
        assert_eq!(read("README", folder.path()).unwrap(), "r");
        assert_eq!(read("c.jsonl", folder.path()).unwrap(), "c");
    }

    #[test]
    fn links_to_files_are_followed_and_links_to_folders_refused() {
        let folder = folder(&[("..data/a.txt", b"a")]);
        symlink("..data/a.txt", folder.path().join("a.txt")).unwrap();
        assert_eq!(read(".", folder.path()).unwrap(), "a");
        symlink(".", folder.path().join("loop")).unwrap();
        let error = read(".", folder.path()).unwrap_err();
        assert!(matches!(&error, DataError::LinkedFolder { path } if path.ends_with("loop")), "{error:?}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = folder(&[("data/a.txt", b"a"), ("data/b.csv", b"b"), ("none/.x", b""), ("empty.txt", b"")]);
        let error = |uri| read(uri, folder.path()).unwrap_err();
        assert!(matches!(error("nowhere.txt"), DataError::Missing { path } if path.ends_with("nowhere.txt")));
        assert!(matches!(error("data"), DataError::Extension { path } if path.ends_with("data/b.csv")));
        assert!(matches!(error("none"), DataError::Empty { path } if path.ends_with("none")));
        assert!(matches!(error("empty.txt"), DataError::Empty { path } if path.ends_with("empty.txt")));
        assert!(matches!(error("empty.txt/x"), DataError::Unreadable { .. }));
        assert!(matches!(error("s3://bucket/text"), DataError::Scheme { uri } if uri == "s3://bucket/text"));
        assert!(matches!(error("builtin:other"), DataError::UnknownBuiltin { .. }));
        let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();
        assert!(matches!(error("socket"), DataError::NotAFile { path } if path.ends_with("socket")));
    }
}
