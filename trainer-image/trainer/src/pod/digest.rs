//! What a file must be: a hash of its bytes, by one of two functions.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::Digest as _;

/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;

/// A function that makes hashes of 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    /// BLAKE3.
    Blake3,
    /// SHA-256 (FIPS 180-4).
    Sha256,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }
}

/// A hash, written as `blake3:` or `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    function: Function,
    hash: [u8; 32],
}

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest: give blake3: or sha256: and 64 hexadecimal digits")]
pub struct DigestError(String);

impl Digest {
    /// The function that made it.
    pub(super) fn function(&self) -> Function {
        self.function
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let wrong = || DigestError(text.chars().take(100).collect());
        let (name, digits) = text.split_once(':').ok_or_else(wrong)?;
        let function =
            [Function::Blake3, Function::Sha256].into_iter().find(|function| function.name() == name).ok_or_else(wrong)?;
        let hash = *blake3::Hash::from_hex(digits).map_err(|_| wrong())?.as_bytes();
        Ok(Self { function, hash })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.function.name(), blake3::Hash::from_bytes(self.hash))
    }
}

/// Hashes bytes as they come.
// One at a time.
#[allow(clippy::large_enum_variant)]
pub(super) enum Hasher {
    Blake3(blake3::Hasher),
    Sha256(sha2::Sha256),
}

impl Hasher {
    pub(super) fn new(function: Function) -> Self {
        match function {
            Function::Blake3 => Self::Blake3(blake3::Hasher::new()),
            Function::Sha256 => Self::Sha256(sha2::Sha256::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => _ = hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn end(self) -> Digest {
        match self {
            Self::Blake3(hasher) => Digest { function: Function::Blake3, hash: *hasher.finalize().as_bytes() },
            Self::Sha256(hasher) => Digest { function: Function::Sha256, hash: hasher.finalize().into() },
        }
    }

    /// The digest of all that `reader` has left.
    ///
    /// # Errors
    /// What it says.
    pub(super) fn all(mut self, mut reader: impl Read) -> io::Result<Digest> {
        let mut block = vec![0; BLOCK];
        loop {
            match reader.read(&mut block)? {
                0 => return Ok(self.end()),
                read => self.update(&block[..read]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_that_other_tools_print() {
        let of = |function| Hasher::new(function).all(&b"abc"[..]).unwrap().to_string();
        assert_eq!(of(Function::Sha256), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(of(Function::Blake3), "blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
        assert_eq!(of(Function::Sha256).parse::<Digest>().unwrap().to_string(), of(Function::Sha256));
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for text in ["", "sha256:", "md5:00", "sha256:00", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"] {
            assert!(text.parse::<Digest>().unwrap_err().to_string().contains("give blake3: or sha256:"), "{text}");
        }
    }
}
