//! Where a checkpoint stands in its folder: by lineage, then term, epoch and round; the names of manifests sort alike.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A committed round, the term and epoch that committed it, and the lineage that they are of. The derived order is that of time: a
/// lineage is numbered when it begins, a term and an epoch never come back in it, and rounds only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Place {
    /// Number of the history that it belongs to, from 1: a run that begins anew in a folder begins another one.
    pub lineage: u64,
    /// Term of the coordinator that published it.
    pub term: u64,
    /// Version of the membership.
    pub epoch: u64,
    /// Committed rounds in the state.
    pub round: u64,
}

/// Digits of each number in a name: enough for any u64, so that names sort as places do.
const DIGITS: usize = 20;

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lineage, term, epoch, round } = self;
        write!(formatter, "{lineage:0DIGITS$}-{term:0DIGITS$}-{epoch:0DIGITS$}-{round:0DIGITS$}")
    }
}

/// A text that is not `LINEAGE-TERM-EPOCH-ROUND`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not name a checkpoint")]
pub struct NotAPlace(pub String);

impl FromStr for Place {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        let number = |part: &str| {
            let digits = part.len() == DIGITS && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        };
        let numbers: Option<Vec<u64>> = text.split('-').map(number).collect();
        match numbers.as_deref() {
            Some(&[lineage, term, epoch, round]) => Ok(Self { lineage, term, epoch, round }),
            _ => Err(NotAPlace(text.chars().take(80).collect())),
        }
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl TryFrom<String> for Place {
    type Error = NotAPlace;

    fn try_from(text: String) -> Result<Self, NotAPlace> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_a_place_is_told_so() {
        for text in ["", "1-2-3-4", "../../etc/passwd", "00000000000000000001-00000000000000000002", &"9".repeat(83)] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        let beyond = ["9", "0", "0", "0"].map(|digit| digit.repeat(20)).join("-");
        assert!(beyond.parse::<Place>().is_err());
    }

    proptest! {
        #[test]
        fn names_sort_as_places_do_and_lead_back_to_them(one in any::<[u64; 4]>(), other in any::<[u64; 4]>()) {
            let place = |[lineage, term, epoch, round]: [u64; 4]| Place { lineage, term, epoch, round };
            let (one, other) = (place(one), place(other));
            prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
            prop_assert_eq!(one.to_string().parse(), Ok(one));
        }
    }
}
