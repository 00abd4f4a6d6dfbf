//! The manifest of a state: its tensors by key, and a hash of every mebibyte of them.
//!
//! The root is the state's identity: peers with one root hold the same keys, types, lengths and bytes. Two tables of one shape
//! differ exactly in the chunks that have to move.

use std::ops::Range;

pub use crate::chain::HASH;
pub use crate::v1::ElementType;

/// Bytes of one chunk; the last of a tensor may be shorter, and none reaches into the next tensor.
pub const CHUNK: usize = 1 << 20;

/// A BLAKE3 hash.
pub type Hash = [u8; HASH];

/// Keeps the root and the shape of a state apart from every other hash; part of the protocol.
const ROOT: &str = "Atoll 2026 state root 1";
const SHAPE: &str = "Atoll 2026 state shape 1";

/// Why tensors or a message do not make a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Keys are not strictly ascending.
    #[error("key {key:?} does not come after the key before it")]
    Order {
        /// The first key that is out of order.
        key: String,
    },
    /// The element type is not one that this build knows.
    #[error("the element type of {key:?} is not known")]
    ElementType {
        /// Whose.
        key: String,
    },
    /// The length is no multiple of the element's.
    #[error("{key:?} has {length} bytes, which is no whole number of elements")]
    Elements {
        /// Whose.
        key: String,
        /// In bytes.
        length: u64,
    },
    /// The bytes given for a tensor are more or fewer than the manifest says.
    #[error("the state has {expected} bytes in its tensor {entry}, not {given}")]
    Length {
        /// Position of the tensor in the manifest.
        entry: usize,
        /// By the manifest, in bytes.
        expected: u64,
        /// In bytes.
        given: u64,
    },
    /// The hashes are more or fewer than the length implies.
    #[error("{key:?} has {bytes} bytes of chunk hashes, its length implies {expected}")]
    Chunks {
        /// Whose.
        key: String,
        /// Bytes of hashes that came.
        bytes: usize,
        /// Bytes of hashes that should.
        expected: u64,
    },
    /// More tensors than the limit.
    #[error("more than {0} tensors")]
    TooManyKeys(usize),
    /// A key longer than the limit, in bytes.
    #[error("a key of more than {0} bytes")]
    KeyTooLong(usize),
    /// More bytes of state than the limit.
    #[error("more than {0} bytes of state")]
    TooLarge(u64),
    /// The message is not one.
    #[error("not a manifest: {0}")]
    Malformed(String),
}

/// The states of two peers do not have the same keys, types and lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the states do not have the same keys, element types and lengths")]
pub struct DifferentShape;

/// One tensor of a state, as its owner holds it.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Unique in the state.
    pub key: &'a str,
    /// What its bytes are.
    pub element_type: ElementType,
    /// Little-endian.
    pub bytes: &'a [u8],
}

/// One tensor in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unique in the state.
    pub key: String,
    /// What its bytes are.
    pub element_type: ElementType,
    /// In bytes.
    pub length: u64,
    /// Its chunks, numbered through the whole table.
    pub chunks: Range<usize>,
    /// Bytes of all tensors before it.
    pub(super) offset: u64,
}

/// Where a chunk lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Position of its tensor in the manifest.
    pub entry: usize,
    /// Its bytes in that tensor.
    pub bytes: Range<usize>,
}

/// What a state consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
    chunks: Vec<Hash>,
    shape: Hash,
    root: Hash,
}

impl Manifest {
    /// Hashes a state in one pass, on `threads` threads; `tensors` in strictly ascending order of their keys.
    ///
    /// # Errors
    /// [`ManifestError::Order`], [`ManifestError::ElementType`] and [`ManifestError::Elements`], naming the first tensor.
    pub fn of(tensors: &[Tensor], threads: usize) -> Result<Self, ManifestError> {
        let mut entries = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            append(&mut entries, tensor.key.to_owned(), tensor.element_type, tensor.bytes.len() as u64)?;
        }
        let chunks: Vec<_> = tensors.iter().flat_map(|tensor| tensor.bytes.chunks(CHUNK)).collect();
        Ok(Self::sealed(entries, hash_all(&chunks, threads)))
    }

    /// From entries that [`append`] made, and the hashes of all their chunks.
    pub(super) fn sealed(entries: Vec<Entry>, chunks: Vec<Hash>) -> Self {
        let shape = shape(&entries);
        let root = root(&shape, &chunks);
        Self { entries, chunks, shape, root }
    }

    /// The identity of the state.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Digest of keys, element types and lengths: states of one shape can be repaired from each other.
    #[must_use]
    pub fn shape(&self) -> Hash {
        self.shape
    }

    /// The tensors, in ascending order of their keys.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The hashes of all chunks, tensor by tensor.
    #[must_use]
    pub fn chunks(&self) -> &[Hash] {
        &self.chunks
    }

    /// Bytes of the whole state.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.offset + entry.length)
    }

    /// Where a chunk lies.
    ///
    /// # Panics
    /// Where the table has no such chunk.
    #[must_use]
    pub fn place(&self, chunk: usize) -> Place {
        let entry = self.entries.partition_point(|entry| entry.chunks.end <= chunk);
        let found = &self.entries[entry];
        let start = (chunk - found.chunks.start) * CHUNK;
        Place { entry, bytes: start..(start + CHUNK).min(found.length as usize) }
    }

    /// Bytes of a range of chunks.
    ///
    /// # Panics
    /// Where the range begins after the table's last chunk.
    #[must_use]
    pub fn span(&self, chunks: &Range<usize>) -> u64 {
        if chunks.is_empty() {
            return 0;
        }
        let offset = |place: &Place, within: usize| self.entries[place.entry].offset + within as u64;
        let (first, last) = (self.place(chunks.start), self.place(chunks.end - 1));
        offset(&last, last.bytes.end) - offset(&first, first.bytes.start)
    }

    /// The chunks in which `self` differs from `wanted`, as ascending ranges that do not touch.
    ///
    /// # Errors
    /// [`DifferentShape`].
    pub fn dirty(&self, wanted: &Self) -> Result<Vec<Range<usize>>, DifferentShape> {
        if self.shape != wanted.shape || self.chunks.len() != wanted.chunks.len() {
            return Err(DifferentShape);
        }
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (chunk, _) in self.chunks.iter().zip(&wanted.chunks).enumerate().filter(|(_, (held, wanted))| held != wanted) {
            match ranges.last_mut() {
                Some(range) if range.end == chunk => range.end += 1,
                _ => ranges.push(chunk..chunk + 1),
            }
        }
        Ok(ranges)
    }

    /// Hashes only the `changed` chunks again; `tensors` in the manifest's order.
    ///
    /// # Errors
    /// [`ManifestError::Length`] where a tensor's length is not the manifest's; nothing is changed then.
    ///
    /// # Panics
    /// Where a range reaches beyond the table.
    pub fn rehash(&mut self, changed: &[Range<usize>], tensors: &[&[u8]]) -> Result<(), ManifestError> {
        self.fits(tensors.iter().map(|bytes| bytes.len() as u64))?;
        for chunk in changed.iter().cloned().flatten() {
            let place = self.place(chunk);
            self.chunks[chunk] = hash(&tensors[place.entry][place.bytes]);
        }
        self.root = root(&self.shape, &self.chunks);
        Ok(())
    }

    /// Takes over the hashes of `chunks` that were copied from the state of `other`, which has the same shape.
    ///
    /// # Panics
    /// Where a table has no such chunk.
    pub(super) fn adopt(&mut self, other: &Self, chunks: &[usize]) {
        for chunk in chunks {
            self.chunks[*chunk] = other.chunks[*chunk];
        }
        self.root = root(&self.shape, &self.chunks);
    }

    /// Whether tensors of these lengths, in bytes, are the manifest's.
    pub(super) fn fits(&self, lengths: impl ExactSizeIterator<Item = u64>) -> Result<(), ManifestError> {
        let entry = self.entries.len().min(lengths.len());
        let expected = |entry: usize| self.entries.get(entry).map_or(0, |entry| entry.length);
        if lengths.len() != self.entries.len() {
            return Err(ManifestError::Length { entry, expected: expected(entry), given: 0 });
        }
        match lengths.enumerate().find(|(entry, given)| *given != expected(*entry)) {
            Some((entry, given)) => Err(ManifestError::Length { entry, expected: expected(entry), given }),
            None => Ok(()),
        }
    }
}

/// Hash of a chunk.
pub(super) fn hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

/// Adds a tensor to a manifest's entries.
pub(super) fn append(entries: &mut Vec<Entry>, key: String, element_type: ElementType, length: u64) -> Result<(), ManifestError> {
    let last = entries.last();
    if last.is_some_and(|last| last.key >= key) {
        return Err(ManifestError::Order { key });
    }
    let Some(element) = element_bytes(element_type) else { return Err(ManifestError::ElementType { key }) };
    if !length.is_multiple_of(element) {
        return Err(ManifestError::Elements { key, length });
    }
    let (first, offset) = last.map_or((0, 0), |last| (last.chunks.end, last.offset + last.length));
    let chunks = first..first + length.div_ceil(CHUNK as u64) as usize;
    entries.push(Entry { key, element_type, length, chunks, offset });
    Ok(())
}

fn element_bytes(element_type: ElementType) -> Option<u64> {
    match element_type {
        ElementType::Unspecified => None,
        ElementType::U8 => Some(1),
        ElementType::Bf16 | ElementType::F16 => Some(2),
        ElementType::I32 | ElementType::U32 | ElementType::F32 => Some(4),
        ElementType::I64 | ElementType::U64 | ElementType::F64 => Some(8),
    }
}

fn shape(entries: &[Entry]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(SHAPE);
    for entry in entries {
        // The key's length first, so that no two shapes are one string of bytes.
        hasher.update(&(entry.key.len() as u64).to_le_bytes());
        hasher.update(entry.key.as_bytes());
        hasher.update(&i32::from(entry.element_type).to_le_bytes());
        hasher.update(&entry.length.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

fn root(shape: &Hash, chunks: &[Hash]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(ROOT);
    hasher.update(shape);
    hasher.update(chunks.as_flattened());
    *hasher.finalize().as_bytes()
}

fn hash_all(chunks: &[&[u8]], threads: usize) -> Vec<Hash> {
    let mut hashes = vec![[0; HASH]; chunks.len()];
    let share = chunks.len().div_ceil(threads.max(1)).max(1);
    let hash_each = |chunks: &[&[u8]], hashes: &mut [Hash]| {
        for (chunk, hashed) in chunks.iter().zip(hashes) {
            *hashed = hash(chunk);
        }
    };
    std::thread::scope(|scope| {
        let mut shares = chunks.chunks(share).zip(hashes.chunks_mut(share));
        let own = shares.next();
        for (chunks, hashes) in shares {
            scope.spawn(move || hash_each(chunks, hashes));
        }
        if let Some((chunks, hashes)) = own {
            hash_each(chunks, hashes);
        }
    });
    hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor<'a>(key: &'a str, bytes: &'a [u8]) -> Tensor<'a> {
        Tensor { key, element_type: ElementType::U8, bytes }
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index % 251) as u8).collect()
    }

    #[test]
    fn the_root_is_part_of_the_protocol() {
        let weights = bytes(2 * CHUNK + 4);
        let tensors = [
            Tensor { key: "momentum", element_type: ElementType::F32, bytes: &weights[..8] },
            Tensor { key: "weights", element_type: ElementType::F32, bytes: &weights },
        ];
        let manifest = Manifest::of(&tensors, 1).unwrap();
        assert_eq!(hex(manifest.root()), "41e12acd2110f961bde24721a61e6a770c61981c66f2dd7a625a6bd68fde7200");
        assert_eq!(hex(manifest.shape()), "304731dd184d68c25bbff9645b74defd63bfb36d95581aea5775afb32837824e");
    }

    fn hex(hash: Hash) -> String {
        blake3::Hash::from(hash).to_hex().to_string()
    }

    #[test]
    fn any_number_of_threads_finds_the_same_hashes() {
        let (a, b) = (bytes(3 * CHUNK + 1), bytes(CHUNK));
        let tensors = [tensor("a", &a), tensor("b", &b), tensor("c", &[])];
        let alone = Manifest::of(&tensors, 1).unwrap();
        for threads in [0, 2, 3, 64] {
            assert_eq!(Manifest::of(&tensors, threads).unwrap(), alone);
        }
    }

    #[test]
    fn key_type_length_and_every_byte_are_part_of_the_identity() {
        let state = bytes(CHUNK + 8);
        let mut flipped = state.clone();
        flipped[CHUNK + 7] ^= 1;
        let of = |key, element_type, bytes| Manifest::of(&[Tensor { key, element_type, bytes }], 1).unwrap();
        let manifest = of("w", ElementType::F32, &state);
        for other in
            [of("v", ElementType::F32, &state), of("w", ElementType::I32, &state), of("w", ElementType::F32, &state[4..])]
        {
            assert_ne!(other.root(), manifest.root());
            assert_ne!(other.shape(), manifest.shape());
            assert_eq!(other.dirty(&manifest), Err(DifferentShape));
        }
        let other = of("w", ElementType::F32, &flipped);
        assert_ne!(other.root(), manifest.root());
        assert_eq!(other.shape(), manifest.shape());
        let last = 1..2;
        assert_eq!(other.dirty(&manifest), Ok(vec![last]));
    }

    #[test]
    fn chunks_are_numbered_through_the_table_and_none_reaches_into_the_next_tensor() {
        let (a, c) = (bytes(CHUNK + 1), bytes(2));
        let manifest = Manifest::of(&[tensor("a", &a), tensor("b", &[]), tensor("c", &c)], 1).unwrap();
        let places: Vec<_> = (0..3).map(|chunk| manifest.place(chunk)).map(|place| (place.entry, place.bytes)).collect();
        assert_eq!(places, [(0, 0..CHUNK), (0, CHUNK..CHUNK + 1), (2, 0..2)]);
        assert_eq!(manifest.span(&(0..3)), manifest.length());
        assert_eq!(manifest.span(&(1..3)), 3);
        assert_eq!(manifest.span(&(1..1)), 0);
    }

    #[test]
    fn dirty_chunks_are_ranges_that_do_not_touch() {
        let state = bytes(6 * CHUNK);
        let mut other = state.clone();
        for chunk in [0, 1, 3, 5] {
            other[chunk * CHUNK + 17] ^= 0x80;
        }
        let of = |bytes| Manifest::of(&[tensor("w", bytes)], 1).unwrap();
        assert_eq!(of(&state).dirty(&of(&other)), Ok(vec![0..2, 3..4, 5..6]));
        assert_eq!(of(&state).dirty(&of(&state)), Ok(Vec::new()));
    }

    #[test]
    fn hashing_the_changed_chunks_again_is_as_good_as_hashing_all() {
        let mut weights = bytes(4 * CHUNK + 5);
        let moments = bytes(CHUNK);
        let mut manifest = Manifest::of(&[tensor("m", &moments), tensor("w", &weights)], 1).unwrap();
        weights[2 * CHUNK] ^= 1;
        weights[4 * CHUNK + 4] ^= 1;
        manifest.rehash(&[3..4, 5..6], &[&moments, &weights]).unwrap();
        assert_eq!(manifest, Manifest::of(&[tensor("m", &moments), tensor("w", &weights)], 1).unwrap());
        let shorter = ManifestError::Length { entry: 1, expected: 4 * CHUNK as u64 + 5, given: 3 };
        assert_eq!(manifest.rehash(&[], &[&moments, &weights[..3]]), Err(shorter));
        assert!(manifest.rehash(&[], &[&moments]).is_err());
    }

    #[test]
    fn tensors_that_make_no_state_are_named() {
        let of = |key, element_type, bytes| Manifest::of(&[tensor("k", &[1]), Tensor { key, element_type, bytes }], 1);
        for key in ["a", "k"] {
            assert_eq!(of(key, ElementType::U8, &[]), Err(ManifestError::Order { key: key.into() }));
        }
        assert_eq!(of("w", ElementType::Unspecified, &[]), Err(ManifestError::ElementType { key: "w".into() }));
        assert_eq!(of("w", ElementType::F32, &[0; 6]), Err(ManifestError::Elements { key: "w".into(), length: 6 }));
    }
}
