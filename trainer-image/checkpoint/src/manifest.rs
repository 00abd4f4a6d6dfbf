//! What a checkpoint is made of. The manifest is the truth: a checkpoint exists when its manifest does.
//!
//! A reader takes nothing for granted: sizes are bounded before memory is taken for them, shards are named by what is in them, and
//! lengths must add up, so that a manifest that parses can be restored as far as its shards verify.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::Place;
use crate::shard::{self, ShardName};

/// Version of the format that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// Longest manifest that is read, in bytes.
pub const LONGEST: u64 = 16 << 20;
/// Most vectors of a state, and most slots with a private one.
const MOST_VECTORS: usize = 4_096;
const MOST_SLOTS: usize = 65_536;
/// Most shards that a manifest may name.
pub(crate) const MOST_SHARDS: usize = 1 << 17;
/// Most bytes of a shard's file: what is read into memory at once.
const MOST_BYTES: u64 = shard::LARGEST + 4_096;
/// Longest name of a run or a vector, in bytes.
const LONGEST_NAME: usize = 253;
/// The last lineage there is: a number stays free after each.
pub(crate) const LAST_LINEAGE: u64 = u64::MAX - 1;

/// One checkpoint of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`VERSION`] of the format.
    pub version: u32,
    /// What wrote it, as in `atoll 0.1.0`.
    pub written_by: String,
    /// Name of the run.
    pub run: String,
    /// Lineage, term, epoch and round.
    pub place: Place,
    /// What the lineage began from, where that was a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// Inner steps of each worker in all committed rounds.
    pub step: u64,
    /// Tokens behind all committed samples.
    pub tokens: u64,
    /// Mean training loss of the round, nats per token.
    pub loss: f64,
    /// Seeds everything pseudo-random of the run.
    pub seed: u64,
    /// The commit of the round, as its encoded `CommitRecord` in hexadecimal digits: the next round links to it, and its ledger is
    /// the position in the data. Empty before the first round.
    pub record: String,
    /// Bit-identical on all workers, in the order of the run's state.
    pub replicated: Vec<Vector>,
    /// Each worker's own, by ascending slot.
    pub private: Vec<PrivateState>,
    /// What the state is of, as files of bytes: `config.json` and `tokenizer.json` as Hugging Face's tools read them, and
    /// `tensors.json`, the index of the tensors in `parameters`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Vector>,
}

/// A checkpoint that another lineage began from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Origin {
    /// The folder that it is in, without credentials.
    pub uri: String,
    /// The checkpoint in it.
    pub place: Place,
}

/// A vector of one element type, in pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vector {
    /// Its name in the state, as in `parameters`.
    pub name: String,
    /// How its elements are written.
    pub element_type: ElementType,
    /// Elements in all its pieces.
    pub elements: u64,
    /// Its shards, one behind the other.
    pub pieces: Vec<Piece>,
}

/// How an element is written, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ElementType {
    /// Bytes.
    U8,
    /// 32-bit integer.
    I32,
    /// 32-bit integer without sign.
    U32,
    /// 64-bit integer.
    I64,
    /// 64-bit integer without sign.
    U64,
    /// bfloat16.
    Bf16,
    /// 16-bit float.
    F16,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
}

impl ElementType {
    /// Bytes of one element.
    #[must_use]
    pub fn size(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::Bf16 | Self::F16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }
}

/// Part of a vector, in a shard of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Piece {
    /// File of the shard.
    pub shard: ShardName,
    /// Bytes of that file.
    pub bytes: u64,
    /// Elements in it.
    pub elements: u64,
}

/// What one worker held for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrivateState {
    /// The worker's slot.
    pub slot: u32,
    /// Committed rounds in it: those of the checkpoint, or one checkpoint fewer where its upload was late.
    pub round: u64,
    /// Inner steps that its moments have seen.
    pub steps: u64,
    /// In the order that the method declares.
    pub vectors: Vec<Vector>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of this shape.
    #[error("it is no manifest: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of a program that is newer than this one.
    #[error("its format is version {found}, and this program reads up to {VERSION}; {written_by} wrote it")]
    Version {
        /// The version that it says.
        found: u32,
        /// What wrote it.
        written_by: String,
    },
    /// Longer than any manifest that is written.
    #[error("it has {bytes} bytes, and {LONGEST} at most are read")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// A part of it contradicts another, or a bound.
    #[error("{field}: {problem}")]
    Field {
        /// The field, as in `replicated[0].pieces[3].elements`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What every version says, whatever else it says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: u32,
    #[serde(default)]
    written_by: String,
}

impl Manifest {
    /// Reads a manifest and checks it.
    ///
    /// # Errors
    /// [`ManifestError`]: what is wrong with it, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > LONGEST {
            return Err(ManifestError::TooLong { bytes: bytes.len() as u64 });
        }
        let Version { version, written_by } = serde_json::from_slice(bytes)?;
        if version > VERSION {
            return Err(ManifestError::Version { found: version, written_by: written_by.chars().take(LONGEST_NAME).collect() });
        }
        let (body, hash) = unsealed(bytes).map_or((bytes, None), |(body, hash)| (body, Some(hash)));
        let manifest: Self = match hash {
            Some(_) => serde_json::from_slice(&[body, END].concat())?,
            None => serde_json::from_slice(body)?,
        };
        manifest.check()?;
        match hash {
            Some(hash) if hash == blake3::hash(body).to_hex().as_bytes() => Ok(manifest),
            Some(_) => Err(wrong("hash", "its bytes are others than were written".to_owned())),
            None => Err(wrong("hash", "it does not end with a hash of what comes before".to_owned())),
        }
    }

    /// The manifest as it is stored.
    ///
    /// # Errors
    /// [`ManifestError`] where it would not be read again.
    pub fn to_json(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let bytes = sealed(&serde_json::to_vec_pretty(self)?);
        if bytes.len() as u64 > LONGEST {
            return Err(ManifestError::TooLong { bytes: bytes.len() as u64 });
        }
        Ok(bytes)
    }

    /// All shards that it names, each once.
    #[must_use]
    pub fn shards(&self) -> BTreeSet<&ShardName> {
        self.pieces().map(|piece| &piece.shard).collect()
    }

    /// All vectors: replicated ones first, files last.
    pub fn vectors(&self) -> impl Iterator<Item = &Vector> {
        self.replicated.iter().chain(self.private.iter().flat_map(|state| &state.vectors)).chain(&self.files)
    }

    /// All pieces of all vectors, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.vectors().flat_map(|vector| &vector.pieces)
    }

    /// Bytes of all shards that it names, each counted once.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let mut counted = BTreeSet::new();
        self.pieces().filter(|piece| counted.insert(&piece.shard)).fold(0, |sum, piece| sum.saturating_add(piece.bytes))
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.version == 0 || self.version > VERSION {
            return Err(wrong("version", format!("{} is no version", self.version)));
        }
        check_name("run", &self.run)?;
        if self.place.lineage == 0 || self.place.lineage > LAST_LINEAGE {
            return Err(wrong("place", format!("lineages count from 1 to {LAST_LINEAGE}")));
        }
        if !self.loss.is_finite() {
            return Err(wrong("loss", "it is not finite".to_owned()));
        }
        let digits = self.record.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits || !self.record.len().is_multiple_of(2) {
            return Err(wrong("record", "it is not written in pairs of hexadecimal digits".to_owned()));
        }
        if self.record.is_empty() != (self.place.round == 0) {
            return Err(wrong("record", format!("it does not fit round {}", self.place.round)));
        }
        check_count("replicated", self.replicated.len(), MOST_VECTORS)?;
        check_count("private", self.private.len(), MOST_SLOTS)?;
        check_count("shards", self.pieces().count(), MOST_SHARDS)?;
        check_vectors("replicated", &self.replicated)?;
        check_count("files", self.files.len(), MOST_VECTORS)?;
        check_vectors("files", &self.files)?;
        if let Some(index) = self.files.iter().position(|file| file.element_type != ElementType::U8) {
            return Err(wrong(&format!("files[{index}].elementType"), "a file is of U8".to_owned()));
        }
        for (index, state) in self.private.iter().enumerate() {
            let field = format!("private[{index}]");
            if index > 0 && self.private[index - 1].slot >= state.slot {
                return Err(wrong(&format!("{field}.slot"), "slots do not ascend".to_owned()));
            }
            if state.round > self.place.round {
                return Err(wrong(&format!("{field}.round"), format!("{} is after round {}", state.round, self.place.round)));
            }
            check_count(&format!("{field}.vectors"), state.vectors.len(), MOST_VECTORS)?;
            check_vectors(&format!("{field}.vectors"), &state.vectors)?;
        }
        Ok(())
    }
}

/// What a JSON object in lines ends with, and what comes before and behind the hash that is its last field.
const END: &[u8] = b"\n}";
const BEFORE_HASH: &[u8] = b",\n  \"hash\": \"";
const AFTER_HASH: &[u8] = b"\"\n}";
/// Hexadecimal digits of a hash.
const DIGITS: usize = 2 * blake3::OUT_LEN;

/// A manifest in lines with its last field, `hash`: the BLAKE3 of all bytes before that field.
fn sealed(object: &[u8]) -> Vec<u8> {
    let body = object.strip_suffix(END).unwrap_or(object);
    [body, BEFORE_HASH, blake3::hash(body).to_hex().as_bytes(), AFTER_HASH].concat()
}

/// What comes before the last field, and the digits of the hash that it says.
fn unsealed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let before = bytes.strip_suffix(AFTER_HASH)?;
    let (body, digits) = before.split_at_checked(before.len().checked_sub(DIGITS)?)?;
    Some((body.strip_suffix(BEFORE_HASH)?, digits))
}

fn wrong(field: &str, problem: String) -> ManifestError {
    ManifestError::Field { field: field.to_owned(), problem }
}

fn check_count(field: &str, count: usize, most: usize) -> Result<(), ManifestError> {
    if count > most {
        return Err(wrong(field, format!("{count} are given, and {most} at most are read")));
    }
    Ok(())
}

fn check_name(field: &str, name: &str) -> Result<(), ManifestError> {
    if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
        return Err(wrong(field, format!("a name has 1 to {LONGEST_NAME} bytes, and no control characters")));
    }
    Ok(())
}

fn check_vectors(field: &str, vectors: &[Vector]) -> Result<(), ManifestError> {
    let mut names = BTreeSet::new();
    for (index, vector) in vectors.iter().enumerate() {
        let field = format!("{field}[{index}]");
        check_name(&format!("{field}.name"), &vector.name)?;
        if !names.insert(&vector.name) {
            return Err(wrong(&format!("{field}.name"), format!("{} is there twice", vector.name)));
        }
        let mut sum = 0u64;
        for (index, piece) in vector.pieces.iter().enumerate() {
            let field = format!("{field}.pieces[{index}]");
            let values = piece.elements.checked_mul(vector.element_type.size());
            if piece.bytes > MOST_BYTES {
                let problem = format!("a shard has {MOST_BYTES} bytes at most, not {}", piece.bytes);
                return Err(wrong(&format!("{field}.bytes"), problem));
            }
            let fits = piece.elements > 0 && values.is_some_and(|values| values < piece.bytes);
            if !fits {
                let problem = format!("{} elements do not fit into a shard of {} bytes", piece.elements, piece.bytes);
                return Err(wrong(&format!("{field}.elements"), problem));
            }
            sum = sum.checked_add(piece.elements).ok_or_else(|| wrong(&field, "too many elements".to_owned()))?;
        }
        if sum != vector.elements {
            return Err(wrong(&format!("{field}.elements"), format!("its pieces have {sum}, not {}", vector.elements)));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn piece(content: &[u8], elements: u64) -> Piece {
        Piece { shard: ShardName::of(content), bytes: elements * 4 + 80, elements }
    }

    /// A checkpoint of `round` whose parameters are these pieces.
    pub(crate) fn manifest(round: u64, pieces: Vec<Piece>) -> Manifest {
        let elements = pieces.iter().map(|piece| piece.elements).sum();
        let vector = Vector { name: "parameters".into(), element_type: ElementType::F32, elements, pieces };
        Manifest {
            version: VERSION,
            written_by: "atoll test".into(),
            run: "kjv".into(),
            place: Place { lineage: 1, term: 1, epoch: 2, round },
            from: None,
            step: 20 * round,
            tokens: 1_000,
            loss: 1.5,
            seed: 7,
            record: if round == 0 { String::new() } else { "0a1b".into() },
            replicated: vec![vector],
            private: Vec::new(),
            files: Vec::new(),
        }
    }

    fn refused(change: impl FnOnce(&mut Manifest)) -> String {
        let mut wrong = manifest(3, vec![piece(b"a", 10), piece(b"b", 5)]);
        wrong.private = [0, 2].map(|slot| PrivateState { slot, round: 3, steps: 60, vectors: wrong.replicated.clone() }).into();
        change(&mut wrong);
        Manifest::parse(&sealed(&serde_json::to_vec_pretty(&wrong).unwrap())).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let written = manifest(3, vec![piece(b"a", 10), piece(b"b", 5), piece(b"a", 10)]);
        assert_eq!(Manifest::parse(&written.to_json().unwrap()).unwrap(), written);
        assert_eq!((written.shards().len(), written.bytes()), (2, 120 + 100));
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused_by_field() {
        let said = refused(|manifest| manifest.replicated[0].elements = 16);
        assert_eq!(said, "replicated[0].elements: its pieces have 15, not 16");
        let said = refused(|manifest| manifest.private[1].vectors[0].pieces[1].elements = u64::MAX);
        assert!(said.starts_with("private[1].vectors[0].pieces[1].elements: 18446744073709551615 elements do not fit"), "{said}");
        let said = refused(|manifest| manifest.replicated[0].pieces[0].bytes = 40);
        assert!(said.starts_with("replicated[0].pieces[0].elements: 10 elements do not fit into a shard of 40 bytes"), "{said}");
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_field() {
        assert!(refused(|manifest| manifest.private[1].slot = 0).starts_with("private[1].slot: slots do not ascend"));
        assert!(refused(|manifest| manifest.private[0].round = 4).starts_with("private[0].round: 4 is after round 3"));
        assert!(refused(|manifest| manifest.record = "xy".into()).starts_with("record: it is not written in pairs"));
        assert!(refused(|manifest| manifest.record = String::new()).starts_with("record: it does not fit round 3"));
        assert!(refused(|manifest| manifest.run = "a\nb".into()).starts_with("run: a name has 1 to 253 bytes"));
        let twice = refused(|manifest| {
            let again = manifest.replicated[0].clone();
            manifest.replicated.push(again);
        });
        assert!(twice.starts_with("replicated[1].name: parameters is there twice"), "{twice}");
    }

    #[test]
    fn a_newer_format_is_told_before_anything_else_of_it_is_judged() {
        let newer = br#"{"version": 2, "writtenBy": "atoll 9.1", "unheardOf": []}"#;
        let said = Manifest::parse(newer).unwrap_err().to_string();
        assert_eq!(said, "its format is version 2, and this program reads up to 1; atoll 9.1 wrote it");
    }

    #[test]
    fn a_shard_outside_the_folder_is_refused() {
        let text = String::from_utf8(manifest(3, vec![piece(b"a", 10)]).to_json().unwrap()).unwrap();
        let name = ShardName::of(b"a").to_string();
        for path in ["../../../etc/passwd", "/etc/passwd", "shards/x", ""] {
            let said = Manifest::parse(text.replace(&name, path).as_bytes()).unwrap_err().to_string();
            assert!(said.contains("does not name a shard"), "{said}");
        }
    }

    #[test]
    fn a_manifest_with_a_bit_that_flipped_is_none() {
        let whole = manifest(3, vec![piece(b"a", 10)]).to_json().unwrap();
        for bit in 0..8 * whole.len() {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::parse(&flipped).is_err(), "{}", String::from_utf8_lossy(&flipped));
        }
        let without = serde_json::to_vec_pretty(&manifest(3, Vec::new())).unwrap();
        assert!(Manifest::parse(&without).unwrap_err().to_string().starts_with("hash: it does not end with a hash"));
    }

    #[test]
    fn half_a_manifest_is_none() {
        let whole = manifest(3, vec![piece(b"a", 10)]).to_json().unwrap();
        for length in 0..whole.len() - 1 {
            assert!(Manifest::parse(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}
