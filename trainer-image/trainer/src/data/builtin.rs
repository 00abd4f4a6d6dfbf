//! Texts that are part of this program, so that an example needs no download and is the same everywhere.

use super::error::DataError;

/// A text compressed into this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builtin {
    /// The King James text of the Bible, 4,298,239 bytes of ASCII; `assets/README.md` says where it comes from.
    Kjv,
}

impl Builtin {
    /// Finds the text that `builtin:NAME` stands for.
    pub(crate) fn named(name: &str) -> Result<Self, DataError> {
        match name {
            "kjv" => Ok(Self::Kjv),
            _ => Err(DataError::UnknownBuiltin { name: name.to_owned() }),
        }
    }

    /// Unpacks the text and checks it against its BLAKE3 hash.
    pub(crate) fn text(self) -> Result<Vec<u8>, DataError> {
        match self {
            Self::Kjv => unpack("kjv", include_bytes!("../../assets/kjv.txt.zst"), KJV_HASH),
        }
    }
}

const KJV_HASH: &str = "69b17525bd9445bd51d0142ef1ad1a4eff31fc1643374ab8223b2d1c964c0aef";

fn unpack(name: &'static str, compressed: &[u8], hash: &str) -> Result<Vec<u8>, DataError> {
    let text = zstd::stream::decode_all(compressed).map_err(|_| DataError::DamagedBuiltin { name })?;
    if blake3::hash(&text).to_hex().as_str() != hash {
        return Err(DataError::DamagedBuiltin { name });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_king_james_text_is_whole() {
        let text = String::from_utf8(Builtin::Kjv.text().unwrap()).unwrap();
        assert_eq!(text.len(), 4_298_239);
        assert_eq!(text.split_whitespace().count(), 823_359);
        assert!(text.starts_with("\nGenesis 1\n\n  1 In the beginning God created the heaven and the earth.\n"));
        assert!(text.ends_with("The grace of our Lord Jesus Christ be with you all. Amen.\n"));
    }

    #[test]
    fn a_damaged_text_is_refused() {
        let damaged = |bytes: &[u8]| matches!(unpack("kjv", bytes, KJV_HASH), Err(DataError::DamagedBuiltin { name: "kjv" }));
        assert!(damaged(b"not compressed"));
        assert!(damaged(&zstd::encode_all(&b"another text"[..], 1).unwrap()));
    }

    #[test]
    fn another_name_is_refused() {
        assert!(matches!(Builtin::named("bible"), Err(DataError::UnknownBuiltin { name }) if name == "bible"));
    }
}
