//! A checkpoint as people name it.

use std::str::FromStr;

use atoll_checkpoint::error::Kind;
use atoll_checkpoint::{Folder, Manifest, Place};

use super::{ending, reading, shown};
use crate::Ending;

/// Which of a folder's checkpoints is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Latest,
    /// The newest of this round.
    Round(u64),
    Place(Place),
}

impl FromStr for Which {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u64>().ok()).flatten()
        };
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let numbers: Option<Vec<u64>> = text.strip_prefix("round:").unwrap_or(text).split('-').map(number).collect();
        match numbers.as_deref() {
            Some(&[round]) => Ok(Self::Round(round)),
            Some(&[lineage, term, epoch, round]) if !text.starts_with("round:") => {
                Ok(Self::Place(Place { lineage, term, epoch, round }))
            }
            _ => Err("give LINEAGE-TERM-EPOCH-ROUND as in 1-1-2-40, a round as in 40, or latest"),
        }
    }
}

impl Which {
    /// Reads its manifest; bad input where there is no such checkpoint.
    pub(crate) async fn read(self, folder: &Folder) -> Result<Manifest, Ending> {
        let place = self.place(folder).await?;
        folder.manifest(place).await.map_err(|error| match error.kind {
            Kind::Missing => none(folder, &format!("no checkpoint {}", shown::short(place))),
            _ => ending(&error),
        })
    }

    async fn place(self, folder: &Folder) -> Result<Place, Ending> {
        match self {
            Self::Place(place) => Ok(place),
            Self::Latest => {
                let newest = folder.newest().await.map_err(|error| ending(&error))?;
                newest.ok_or_else(|| Ending::BadInput(no_checkpoints(folder)))
            }
            Self::Round(round) => {
                let known = reading::known(folder).await?;
                let newest = known.iter().rev().map(|known| known.place).find(|place| place.round == round);
                newest.ok_or_else(|| none(folder, &format!("no checkpoint of round {round}")))
            }
        }
    }
}

fn none(folder: &Folder, what: &str) -> Ending {
    let address = folder.store().address();
    let (list, name) = (
        "`atoll checkpoint list` shows those that are there",
        "over HTTP an older one is found by its name alone, as in 1-1-2-40",
    );
    let help = if reading::is_web(folder) { name } else { list };
    Ending::BadInput(format!("there is {what} in {address}; {help}"))
}

/// Said of a folder without checkpoints.
pub(crate) fn no_checkpoints(folder: &Folder) -> String {
    format!("there are no checkpoints in {}", folder.store().address())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_named_in_full_in_short_by_its_round_or_as_the_latest() {
        let place = Place { lineage: 1, term: 1, epoch: 2, round: 40 };
        assert_eq!(place.to_string().parse(), Ok(Which::Place(place)));
        assert_eq!("1-1-2-40".parse(), Ok(Which::Place(place)));
        assert_eq!("40".parse(), Ok(Which::Round(40)));
        assert_eq!("round:40".parse(), Ok(Which::Round(40)));
        assert_eq!("latest".parse(), Ok(Which::Latest));
    }

    #[test]
    fn what_names_no_checkpoint_is_told_what_would() {
        for text in ["", "1-1-2", "1-1-2-", "round:", "round:1-1-2-40", "newest", "+1", "1-1-2-40-1", &"9".repeat(21)] {
            assert!(text.parse::<Which>().unwrap_err().contains("1-1-2-40"), "{text}");
        }
    }
}
