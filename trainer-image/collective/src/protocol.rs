//! Versions of the protocol: which both ends speak, and what to install where there is none.
//!
//! A build speaks the versions of [`PROTOCOL`]: its own and the one before. Whoever opens a session, a lane or a question to
//! an arbiter shows its range in a header; the highest common version is spoken. So builds that are one version apart work
//! together, and others are told what to install.

use std::fmt;
use std::str::FromStr;

use atoll_proto::PROTOCOL;

/// Name of the header that carries the range.
pub const HEADER: &str = "atoll-protocol";
/// The release that this is.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The versions of the protocol that a build speaks. Written as `LOW-HIGH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    low: u32,
    high: u32,
}

/// Why two builds do not understand each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// They have no version in common.
    #[error("here protocol {ours} is spoken, there {theirs}: install atoll {RELEASE}, or another that speaks protocol {ours}")]
    Apart {
        /// Those of this build.
        ours: Versions,
        /// Those of the other.
        theirs: Versions,
    },
    /// The other does not say what it speaks.
    #[error("the other end does not say which protocol it speaks: install atoll {RELEASE}, which speaks protocol {0}")]
    Untold(
        /// Those of this build.
        Versions,
    ),
}

impl Versions {
    /// Those of this build.
    pub const OURS: Self = Self { low: *PROTOCOL.start(), high: *PROTOCOL.end() };

    /// From `low` to `high`.
    #[must_use]
    pub fn new(low: u32, high: u32) -> Self {
        Self { low, high }
    }

    /// The highest version that both speak.
    ///
    /// # Errors
    /// [`Incompatible::Apart`] where there is none.
    pub fn common(self, theirs: Self) -> Result<u32, Incompatible> {
        let highest = self.high.min(theirs.high);
        if highest < self.low.max(theirs.low) { Err(Incompatible::Apart { ours: self, theirs }) } else { Ok(highest) }
    }

    /// The highest version that both speak, where the other shows `header`.
    ///
    /// # Errors
    /// [`Incompatible`].
    pub fn common_with(self, header: Option<&[u8]>) -> Result<u32, Incompatible> {
        let theirs = header.and_then(|shown| str::from_utf8(shown).ok()?.parse().ok());
        self.common(theirs.ok_or(Incompatible::Untold(self))?)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high { write!(out, "{}", self.low) } else { write!(out, "{}-{}", self.low, self.high) }
    }
}

/// A text that is no range of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a range of versions")]
pub struct NotVersions;

impl FromStr for Versions {
    type Err = NotVersions;

    fn from_str(text: &str) -> Result<Self, NotVersions> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high)) if low <= high => Ok(Self { low, high }),
            _ => Err(NotVersions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A build of protocol `version` speaks the one before too.
    fn build(version: u32) -> Versions {
        Versions::new(version - 1, version)
    }

    #[test]
    fn one_version_apart_works_and_two_do_not() {
        assert_eq!(build(5).common(build(5)), Ok(5));
        assert_eq!(build(5).common(build(6)), Ok(5));
        assert_eq!(build(6).common(build(5)), Ok(5));
        assert_eq!(build(5).common(build(7)), Err(Incompatible::Apart { ours: build(5), theirs: build(7) }));
        assert!(build(7).common(build(5)).is_err());
    }

    #[test]
    fn who_is_refused_is_told_what_to_install() {
        let apart = Versions::OURS.common_with(Some(b"2-3")).unwrap_err().to_string();
        assert_eq!(
            apart,
            format!("here protocol 1 is spoken, there 2-3: install atoll {RELEASE}, or another that speaks protocol 1")
        );
        for shown in [None, Some(&b""[..]), Some(b"3-2"), Some(b"x"), Some(b"1-2-3"), Some(&[0xff])] {
            assert_eq!(Versions::OURS.common_with(shown), Err(Incompatible::Untold(Versions::OURS)));
        }
        assert!(Incompatible::Untold(Versions::OURS).to_string().contains("install atoll"));
    }

    #[test]
    fn a_range_is_what_was_written() {
        for versions in [build(2), Versions::new(4, 4)] {
            assert_eq!(versions.to_string().parse(), Ok(versions));
        }
    }
}
