//! A tar of files and folders that is the same bytes each time: sorted, owned by root, without times.

use std::{collections::BTreeMap, io};

use tar::{Builder, EntryType, Header};

/// Mode of folders that only lie on the way to something.
const ON_THE_WAY: u32 = 0o755;

/// Files and folders by path, without a leading slash.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer(BTreeMap<String, Item>);

#[derive(Debug, Clone)]
struct Item {
    mode: u32,
    /// None: a folder.
    bytes: Option<Vec<u8>>,
}

impl Layer {
    /// Adds a folder, and those above it.
    pub(super) fn folder(&mut self, path: &str, mode: u32) {
        self.above(path);
        self.0.insert(path.to_owned(), Item { mode, bytes: None });
    }

    /// Adds a file, and the folders above it.
    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        self.above(path);
        self.0.insert(path.to_owned(), Item { mode, bytes: Some(bytes) });
    }

    fn above(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            self.0.entry(path[..end].to_owned()).or_insert(Item { mode: ON_THE_WAY, bytes: None });
        }
    }

    /// The tar; a folder comes before what is in it.
    pub(super) fn tar(&self) -> io::Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, item) in &self.0 {
            let bytes = item.bytes.as_deref().unwrap_or_default();
            let mut header = Header::new_gnu();
            header.set_entry_type(if item.bytes.is_some() { EntryType::Regular } else { EntryType::Directory });
            header.set_mode(item.mode);
            header.set_size(bytes.len() as u64);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            tar.append_data(&mut header, path, bytes)?;
        }
        tar.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn modes_owners_and_contents_are_as_given_and_folders_come_first() {
        let mut layer = Layer::default();
        layer.file("usr/share/a", 0o644, b"text".to_vec());
        layer.file("atoll", 0o755, vec![7; 2000]);
        layer.folder("tmp", 0o1777);
        let bytes = layer.tar().unwrap();
        let mut found = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            found.push((entry.path().unwrap().display().to_string(), entry.header().mode().unwrap(), content.len()));
        }
        let wanted = [("atoll", 0o755, 2000), ("tmp", 0o1777, 0), ("usr", 0o755, 0), ("usr/share", 0o755, 0)];
        let wanted = wanted.into_iter().chain([("usr/share/a", 0o644, 4)]);
        assert_eq!(found, wanted.map(|(path, mode, size)| (path.to_owned(), mode, size)).collect::<Vec<_>>());
    }

    #[test]
    fn the_order_in_which_things_are_added_does_not_matter() {
        let (mut one, mut other) = (Layer::default(), Layer::default());
        one.file("a/b", 0o644, vec![1]);
        one.folder("tmp", 0o1777);
        other.folder("tmp", 0o1777);
        other.file("a/b", 0o644, vec![1]);
        assert_eq!(one.tar().unwrap(), other.tar().unwrap());
    }
}
