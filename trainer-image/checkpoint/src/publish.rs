//! Publishing: the one step by which a checkpoint comes to be; and who may take it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Place;
use crate::error::{Kind, StoreError};
use crate::folder::{Folder, LATEST, LINEAGES, MANIFESTS, manifest_name};
use crate::manifest::{LAST_LINEAGE, Manifest, ManifestError, Origin};
use crate::write::encoded;

/// Tries to write the hint. Somebody else's is as good.
const TRIES: usize = 4;
/// Longest manifest or claim that is read to compare.
const MOST: u64 = crate::manifest::LONGEST;

/// Why a checkpoint does not come to be.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The store does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It contradicts itself.
    #[error("the checkpoint cannot be published: {0}")]
    Manifest(#[from] ManifestError),
    /// Another history of the run goes on in this folder.
    #[error("checkpoint {place} is not published: {by} was begun in its folder since; end one of the two runs")]
    Superseded {
        /// The checkpoint.
        place: Place,
        /// What is newer.
        by: String,
    },
}

/// Who has begun a lineage, and from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Name of the run.
    pub run: String,
    /// What tells this claim from another of the same run.
    pub nonce: String,
    /// The checkpoint that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
}

fn claim_name(lineage: u64) -> String {
    format!("{LINEAGES}/{lineage:020}.json")
}

impl Folder {
    /// Begins a lineage: takes the first number after `after` and all that are taken. From then on nobody publishes in an older one.
    ///
    /// # Errors
    /// [`StoreError`]; [`Kind::Last`] where the last number there is has been taken.
    pub async fn claim(&self, after: u64, claim: &Claim) -> Result<u64, StoreError> {
        let number = |name: &str| name.strip_prefix(LINEAGES)?.strip_prefix('/')?.strip_suffix(".json")?.parse::<u64>().ok();
        let taken = self.store().list(LINEAGES, None).await?;
        let newest = taken.iter().filter_map(|listed| Some((number(&listed.name)?, listed.name.clone()))).max();
        let (last, name) = newest.filter(|(newest, _)| *newest >= after).unwrap_or_else(|| (after, MANIFESTS.to_owned()));
        let next = |lineage: u64, name: &str| {
            let none = || self.store().problem("begin a lineage after", name, Kind::Last, format!("its lineage is {lineage}"));
            lineage.checked_add(1).filter(|next| *next <= LAST_LINEAGE).ok_or_else(none)
        };
        let mut lineage = next(last, &name)?;
        loop {
            let content = encoded(claim);
            if self.store().create(&claim_name(lineage), content.clone()).await? {
                return Ok(lineage);
            }
            // The answer to our own may have been lost on the way.
            let found = self.store().get(&claim_name(lineage), MOST).await?;
            if found.is_some_and(|(found, _)| found == content) {
                return Ok(lineage);
            }
            lineage = next(lineage, &claim_name(lineage))?;
        }
    }

    /// Publishes a checkpoint whose shards are all written. False where it was published already, with the same content.
    ///
    /// # Errors
    /// [`PublishError`]. Nothing was published then, as far as this process knows.
    pub async fn publish(&self, manifest: &Manifest) -> Result<bool, PublishError> {
        let place = manifest.place;
        let content = Bytes::from(manifest.to_json()?);
        let superseded = |by: String| PublishError::Superseded { place, by };
        if let Some(newer) = self.newer_than(place).await? {
            return Err(superseded(newer));
        }
        let name = manifest_name(place);
        let created = self.store().create(&name, content.clone()).await?;
        if !created {
            match self.store().get(&name, MOST).await? {
                Some((found, _)) if found == content => {}
                _ => return Err(superseded("another checkpoint of this place".to_owned())),
            }
        }
        // Who came meanwhile may have removed what this one names, and nobody goes on from it.
        if created && let Some(newer) = self.newer_than(place).await? {
            self.store().remove(&name).await?;
            return Err(superseded(newer));
        }
        if let Err(error) = self.hint_at(place).await {
            tracing::warn!(%error, "the hint which checkpoint is the newest stays as it is");
        }
        Ok(created)
    }

    /// What was begun in this folder after that place.
    async fn newer_than(&self, place: Place) -> Result<Option<String>, StoreError> {
        if let Some(newer) = self.after(Some(place)).await?.last() {
            return Ok(Some(format!("checkpoint {}", newer.place)));
        }
        let next = place.lineage.saturating_add(1);
        Ok(self.store().length(&claim_name(next)).await?.map(|_| format!("lineage {next}")))
    }

    /// Has the hint name this checkpoint, or a newer one.
    async fn hint_at(&self, place: Place) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let (hint, version) = self.hint().await?;
            if hint.is_some_and(|hint| hint >= place) {
                return Ok(());
            }
            if self.store().replace(LATEST, version, format!("{place}\n").into()).await? {
                return Ok(());
            }
        }
        Err(self.store().problem("write", LATEST, Kind::Other, "others write it all the time"))
    }
}
