//! A file mapped into memory for reading. All unsafe code of the data is here.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;

use memmap2::{Advice, Mmap};

/// The bytes of a file, fetched by the operating system when they are touched and dropped when memory is short.
#[derive(Debug)]
pub(crate) struct FileMap(Mmap);

impl FileMap {
    /// Maps the whole of `file`, which nobody may change or shorten as long as the map lives.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: only finished files of tokens are mapped. Each is written once, before it is first mapped, and has no name in
        // any folder, so that only processes of the run reach it, and they open it for reading.
        let map = unsafe { Mmap::map(file)? };
        // Samples are read in random order: reading ahead would fetch what is not needed.
        map.advise(Advice::Random)?;
        Ok(Self(map))
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
