//! The manifest as a message, refused before it takes more memory than its limits allow.

use bytes::Buf;
use prost::Message;

use super::manifest::{CHUNK, Entry, HASH, Manifest, ManifestError, append};
use crate::v1::{StateEntry, StateManifest};

/// First byte of every field of an encoded [`StateManifest`]: field 1, with a length before it.
const ENTRY_FIELD: u8 = 1 << 3 | 2;

/// How large a state another process may describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tensors.
    pub keys: usize,
    /// Bytes of one key.
    pub key_length: usize,
    /// Bytes of all tensors together.
    pub bytes: u64,
}

impl Limits {
    /// Admits states of the shape of `manifest`, and none with more tensors, longer keys or more bytes.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let entries = manifest.entries();
        let key_length = entries.iter().map(|entry| entry.key.len()).max().unwrap_or(0);
        Self { keys: entries.len(), key_length, bytes: manifest.length() }
    }
}

impl Manifest {
    /// The manifest as a message.
    #[must_use]
    pub fn to_message(&self) -> StateManifest {
        let entry = |entry: &Entry| StateEntry {
            key: entry.key.clone(),
            element_type: entry.element_type.into(),
            length: entry.length,
            chunk_hashes: self.chunks()[entry.chunks.clone()].as_flattened().to_vec(),
        };
        StateManifest { entries: self.entries().iter().map(entry).collect() }
    }

    /// Bytes of the encoded message: those of any state of the same shape.
    #[must_use]
    pub fn encoded_length(&self) -> u64 {
        self.to_message().encoded_len() as u64
    }

    /// The manifest of a message.
    ///
    /// # Errors
    /// [`ManifestError`] naming what is not in order or beyond `limits`.
    pub fn from_message(message: &StateManifest, limits: &Limits) -> Result<Self, ManifestError> {
        if message.entries.len() > limits.keys {
            return Err(ManifestError::TooManyKeys(limits.keys));
        }
        let mut entries = Vec::with_capacity(message.entries.len());
        let mut chunks = Vec::new();
        let mut left = limits.bytes;
        for entry in &message.entries {
            if entry.key.len() > limits.key_length {
                return Err(ManifestError::KeyTooLong(limits.key_length));
            }
            left = left.checked_sub(entry.length).ok_or(ManifestError::TooLarge(limits.bytes))?;
            append(&mut entries, entry.key.clone(), entry.element_type(), entry.length)?;
            let (hashes, rest) = entry.chunk_hashes.as_chunks::<HASH>();
            let implied = entry.length.div_ceil(CHUNK as u64);
            if hashes.len() as u64 != implied || !rest.is_empty() {
                let (bytes, expected) = (entry.chunk_hashes.len(), implied * HASH as u64);
                return Err(ManifestError::Chunks { key: entry.key.clone(), bytes, expected });
            }
            chunks.extend_from_slice(hashes);
        }
        Ok(Self::sealed(entries, chunks))
    }

    /// An encoded [`StateManifest`]. Takes memory in proportion to `data`, however it is made up.
    ///
    /// # Errors
    /// [`ManifestError`] naming what is not in order or beyond `limits`.
    pub fn decode(mut data: &[u8], limits: &Limits) -> Result<Self, ManifestError> {
        let malformed = |error: prost::DecodeError| ManifestError::Malformed(error.to_string());
        let mut message = StateManifest::default();
        while data.has_remaining() {
            if data.get_u8() != ENTRY_FIELD {
                return Err(ManifestError::Malformed("a field that is no entry".into()));
            }
            // An empty entry is two bytes here and sixty in memory: their number is bounded before they are made.
            if message.entries.len() == limits.keys {
                return Err(ManifestError::TooManyKeys(limits.keys));
            }
            let length = prost::decode_length_delimiter(&mut data).map_err(malformed)?;
            let entry = data.split_off(..length).ok_or_else(|| ManifestError::Malformed("an entry is cut short".into()))?;
            message.entries.push(StateEntry::decode(entry).map_err(malformed)?);
        }
        Self::from_message(&message, limits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::manifest::{ElementType, Tensor};
    use super::*;

    const LIMITS: Limits = Limits { keys: 3, key_length: 8, bytes: 4 * CHUNK as u64 };

    fn manifest() -> Manifest {
        let weights: Vec<u8> = (0..2 * CHUNK + 4).map(|index| (index % 253) as u8).collect();
        let tensor = |key, bytes| Tensor { key, element_type: ElementType::F32, bytes };
        Manifest::of(&[tensor("empty", &[]), tensor("momentum", &weights[..64]), tensor("weights", &weights)], 1).unwrap()
    }

    fn refused(change: impl FnOnce(&mut StateManifest)) -> ManifestError {
        let mut message = manifest().to_message();
        change(&mut message);
        let error = Manifest::decode(&message.encode_to_vec(), &LIMITS).unwrap_err();
        assert_eq!(Manifest::from_message(&message, &LIMITS).unwrap_err(), error);
        error
    }

    #[test]
    fn a_manifest_survives_the_wire() {
        let (manifest, encoded) = (manifest(), manifest().to_message().encode_to_vec());
        assert_eq!(Manifest::decode(&encoded, &LIMITS).as_ref(), Ok(&manifest));
        assert_eq!(Manifest::decode(&encoded, &Limits::of(&manifest)).as_ref(), Ok(&manifest));
        assert_eq!(StateManifest::decode(encoded.as_slice()).unwrap(), manifest.to_message());
    }

    #[test]
    fn what_is_beyond_the_limits_is_refused() {
        assert_eq!(refused(|message| message.entries.push(StateEntry::default())), ManifestError::TooManyKeys(3));
        assert_eq!(refused(|message| message.entries[2].key = "weights w".into()), ManifestError::KeyTooLong(8));
        assert_eq!(refused(|message| message.entries[0].length = u64::MAX), ManifestError::TooLarge(4 * CHUNK as u64));
        assert_eq!(refused(|message| message.entries[2].length += 2 * CHUNK as u64), ManifestError::TooLarge(4 * CHUNK as u64));
    }

    #[test]
    fn tables_that_contradict_themselves_are_refused() {
        let key = || "weights".to_owned();
        let expected = 3 * HASH as u64;
        let hashes = |bytes| ManifestError::Chunks { key: key(), bytes, expected };
        assert_eq!(refused(|message| message.entries[2].chunk_hashes.truncate(2 * HASH)), hashes(2 * HASH));
        assert_eq!(refused(|message| message.entries[2].chunk_hashes.truncate(3 * HASH - 1)), hashes(3 * HASH - 1));
        assert_eq!(refused(|message| message.entries[2].chunk_hashes.push(0)), hashes(3 * HASH + 1));
        assert_eq!(refused(|message| message.entries[2].element_type = 99), ManifestError::ElementType { key: key() });
        assert_eq!(
            refused(|message| message.entries[2].length -= 1),
            ManifestError::Elements { key: key(), length: 2 * CHUNK as u64 + 3 }
        );
        assert_eq!(refused(|message| message.entries.swap(0, 1)), ManifestError::Order { key: "empty".into() });
    }

    #[test]
    fn more_entries_than_the_limit_are_refused_before_they_are_made() {
        let mut flood = [ENTRY_FIELD, 0].repeat(3);
        assert!(matches!(Manifest::decode(&flood, &LIMITS), Err(ManifestError::ElementType { .. })));
        // The fourth is not even looked at: it is none.
        flood.extend([ENTRY_FIELD, 0xff]);
        assert_eq!(Manifest::decode(&flood, &LIMITS), Err(ManifestError::TooManyKeys(3)));
    }

    #[test]
    fn an_entry_longer_than_the_message_is_refused() {
        let cut = [ENTRY_FIELD, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(Manifest::decode(&cut, &LIMITS), Err(ManifestError::Malformed("an entry is cut short".into())));
        assert_eq!(Manifest::decode(&[0], &LIMITS), Err(ManifestError::Malformed("a field that is no entry".into())));
    }

    proptest! {
        #[test]
        fn a_message_that_was_tampered_with_is_refused_or_has_another_root(
            position in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>()
        ) {
            let manifest = manifest();
            let mut encoded = manifest.to_message().encode_to_vec();
            let position = position.index(encoded.len());
            encoded[position] ^= flip;
            let tampered = Manifest::decode(&encoded, &LIMITS);
            prop_assert!(tampered.is_err() || tampered.unwrap().root() != manifest.root());
            encoded[position] ^= flip;
            encoded.truncate(cut.index(encoded.len()));
            let cut = Manifest::decode(&encoded, &LIMITS);
            prop_assert!(cut.is_err() || cut.unwrap().root() != manifest.root());
        }
    }
}
