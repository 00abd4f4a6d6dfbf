//! What a run goes on from: the newest checkpoint that is whole, of its own folder or else of another run's, and the number of the
//! history that begins with it.

use atoll_proto::v1::CommitRecord;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::folder::{Folder, Found};
use crate::manifest::{Manifest, Origin};
use crate::publish::Claim;
use crate::{Location, Place};

/// The checkpoint that a run goes on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    /// Where it is.
    pub location: Location,
    /// What is in it.
    pub manifest: Manifest,
    /// The newest round in it.
    pub committed: CommitRecord,
}

/// A manifest that does not say how its round was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint {0} has no record of its round")]
pub struct NoRecord(pub Place);

impl Resume {
    /// The checkpoint of this manifest, which is at `location`.
    ///
    /// # Errors
    /// [`NoRecord`].
    pub fn of(location: Location, manifest: Manifest) -> Result<Self, NoRecord> {
        let place = manifest.place;
        let committed = bytes(&manifest.record).and_then(|bytes| CommitRecord::decode(&bytes[..]).ok());
        let committed = committed.filter(|record| record.round == place.round).ok_or(NoRecord(place))?;
        Ok(Self { location, manifest, committed })
    }

    /// What names it in the history that goes on from it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { uri: self.location.uri.clone(), place: self.manifest.place }
    }
}

/// The bytes that these hexadecimal digits are.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let byte = |index: usize| u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok();
    (0..digits.len() / 2).map(byte).collect()
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// The checkpoint to go on from, and newer ones that were passed over.
    pub found: Found,
    /// It is of the other run's folder.
    pub of_other: bool,
}

/// Why a run does not know what to go on from.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SearchError {
    /// Its own folder cannot be asked.
    #[error(transparent)]
    Own(StoreError),
    /// The other run's folder cannot be asked.
    #[error(transparent)]
    Other(StoreError),
    /// There are checkpoints, or should be, and none is whole.
    #[error("no checkpoint in {uri} is whole{}", problems(skipped))]
    NothingWhole {
        /// The folder.
        uri: String,
        /// It is the other run's.
        of_other: bool,
        /// What is wrong with each.
        skipped: Vec<(Place, StoreError)>,
    },
}

fn problems(skipped: &[(Place, StoreError)]) -> String {
    let problems = skipped.iter().map(|(place, why)| format!("\n  {place}: {why}"));
    problems.collect()
}

/// A folder that is open, and where it is.
pub type Opened<'a> = (&'a Folder, &'a Location);

/// The newest whole checkpoint of `own`; where that has none at all, of the folder `other`, which must have one.
///
/// `progress` is told bytes that have been checked, and all there are, of one checkpoint.
///
/// # Errors
/// [`SearchError`].
pub async fn search(own: Opened<'_>, other: Option<Opened<'_>>, progress: impl Fn(u64, u64)) -> Result<Search, SearchError> {
    let nothing_whole =
        |(_, location): Opened<'_>, of_other, skipped| SearchError::NothingWhole { uri: location.uri.clone(), of_other, skipped };
    let found = own.0.newest_whole(&progress).await.map_err(SearchError::Own)?;
    match other {
        _ if found.manifest.is_some() => Ok(Search { found, of_other: false }),
        _ if !found.skipped.is_empty() => Err(nothing_whole(own, false, found.skipped)),
        None => Ok(Search { found, of_other: false }),
        Some(other) => match other.0.newest_whole(&progress).await.map_err(SearchError::Other)? {
            found if found.manifest.is_some() => Ok(Search { found, of_other: true }),
            found => Err(nothing_whole(other, true, found.skipped)),
        },
    }
}

/// Takes the number of a new history of `run` in `folder`, after `newest` and all that are taken, which also shows that the folder can
/// be written to. `nonce` is nobody else's.
///
/// # Errors
/// As [`Folder::claim`].
pub async fn begin_lineage(
    folder: &Folder,
    newest: u64,
    run: &str,
    from: Option<Origin>,
    nonce: String,
) -> Result<u64, StoreError> {
    folder.claim(newest, &Claim { run: run.to_owned(), nonce, from }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::VERSION;

    fn manifest(lineage: u64, round: u64) -> Manifest {
        let record = CommitRecord { round, ..CommitRecord::default() };
        let digits: Vec<String> = record.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
        Manifest {
            version: VERSION,
            written_by: String::new(),
            run: "kjv".into(),
            place: Place { lineage, term: 1, epoch: 1, round },
            from: None,
            step: 3,
            tokens: 0,
            loss: 0.0,
            seed: 0,
            record: digits.concat(),
            replicated: Vec::new(),
            private: Vec::new(),
            files: Vec::new(),
        }
    }

    struct Ground {
        place: tempfile::TempDir,
        location: Location,
        folder: Folder,
    }

    impl Ground {
        async fn with(rounds: &[u64]) -> Self {
            let place = tempfile::tempdir().unwrap();
            let location = Location::at(place.path().to_str().unwrap(), "/".into());
            let folder = location.open().unwrap();
            for round in rounds {
                folder.publish(&manifest(1, *round)).await.unwrap();
            }
            Self { place, location, folder }
        }

        fn opened(&self) -> Opened<'_> {
            (&self.folder, &self.location)
        }

        async fn search(&self, other: Option<&Self>) -> Result<Search, SearchError> {
            search(self.opened(), other.map(Self::opened), |_, _| ()).await
        }
    }

    #[test]
    fn a_checkpoint_says_how_its_round_was_committed_or_is_none_to_go_on_from() {
        let location = Location::at("nowhere", "/".into());
        assert_eq!(Resume::of(location.clone(), manifest(1, 7)).unwrap().committed.round, 7);
        let other = Manifest { record: manifest(1, 6).record, ..manifest(1, 7) };
        for unusable in [other, Manifest { record: "0g".into(), ..manifest(1, 7) }] {
            let place = unusable.place;
            assert_eq!(Resume::of(location.clone(), unusable), Err(NoRecord(place)));
        }
    }

    #[tokio::test]
    async fn its_own_checkpoint_goes_before_anothers() {
        let (own, other) = (Ground::with(&[3, 5]).await, Ground::with(&[9]).await);
        let search = own.search(Some(&other)).await.unwrap();
        assert_eq!((search.found.manifest.unwrap().place.round, search.of_other), (5, false));
    }

    #[tokio::test]
    async fn an_empty_folder_begins_with_anothers_checkpoint_which_must_be_there() {
        let (own, other) = (Ground::with(&[]).await, Ground::with(&[9]).await);
        assert_eq!(own.search(None).await.unwrap().found.manifest, None);
        let found = own.search(Some(&other)).await.unwrap();
        assert_eq!((found.found.manifest.unwrap().place.round, found.of_other), (9, true));
        let refused = own.search(Some(&own)).await.unwrap_err();
        assert!(matches!(refused, SearchError::NothingWhole { of_other: true, .. }), "{refused}");
    }

    #[tokio::test]
    async fn where_nothing_of_its_own_is_whole_it_does_not_begin_with_anothers() {
        let (own, other) = (Ground::with(&[3]).await, Ground::with(&[9]).await);
        let name = crate::folder::manifest_name(manifest(1, 3).place);
        std::fs::write(own.place.path().join(name), "{}").unwrap();
        let refused = own.search(Some(&other)).await.unwrap_err();
        assert!(
            matches!(&refused, SearchError::NothingWhole { of_other: false, skipped, .. } if skipped.len() == 1),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn histories_are_numbered_one_after_the_other() {
        let own = Ground::with(&[3]).await;
        let begin = async |nonce: &str| begin_lineage(&own.folder, 1, "kjv", None, nonce.to_owned()).await.unwrap();
        assert_eq!((begin("one").await, begin("other").await), (2, 3));
    }
}
