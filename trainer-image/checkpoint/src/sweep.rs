//! Removing what nobody needs any more. How that goes together with writers: [`intent`](crate::intent).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use crate::collect::{condemned, doomed};
use crate::error::{Kind, StoreError};
use crate::folder::{CONDEMNED, Folder, INTENTS, MANIFESTS, manifest_name, shard_name};
use crate::intent::Intent;
use crate::retention::Retention;
use crate::shard::ShardName;
use crate::write::{encoded, read_all};
use crate::{Address, Place};
use crate::{staged, threads};

/// Intents and condemnations of processes that are gone are forgotten after so long, by the store's clock.
const FORGOTTEN: Duration = Duration::from_hours(24);
/// Sweeps of which one looks at all shards.
const COMPLETE: u32 = 16;
/// Objects that are removed at once.
const AT_ONCE: usize = 8;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Checkpoints.
    pub checkpoints: BTreeSet<Place>,
    /// Shards.
    pub shards: BTreeSet<ShardName>,
}

/// Removes what is kept no longer from one folder. Manifests never change, so each is read once.
#[derive(Debug)]
pub struct Sweeper {
    folder: Folder,
    name: String,
    known: BTreeMap<Place, BTreeSet<ShardName>>,
    /// All shards have been looked at once; since then only those of removed checkpoints can be nobody's.
    complete: bool,
    sweeps: u32,
}

impl Sweeper {
    /// A collector of this name: one for each process.
    #[must_use]
    pub fn new(folder: Folder, name: &str) -> Self {
        Self { folder, name: format!("{CONDEMNED}/{name}.json"), known: BTreeMap::new(), complete: false, sweeps: 0 }
    }

    /// Removes the checkpoints that `retention` does not keep, then the shards that no checkpoint names.
    ///
    /// Nothing is removed where a manifest that stays cannot be read: what it names is not known then.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sweep(&mut self, retention: &Retention) -> Result<Swept, StoreError> {
        let places = self.places().await?;
        let expired = retention.expired(&places);
        self.learn(places, &expired).await?;
        let mut candidates = BTreeSet::new();
        for place in &expired {
            match self.known.remove(place) {
                Some(shards) => candidates.extend(shards),
                // What it names is only found among all.
                None => self.complete = false,
            }
            self.folder.store().remove(&manifest_name(*place)).await?;
        }
        if !expired.is_empty() {
            // One that came back once the power was lost would name shards that are gone.
            self.folder.store().settle(MANIFESTS).await?;
        }
        let stored = if self.complete { candidates } else { self.stored().await? };
        let condemned = condemned(&stored, &self.named());
        let shards = if condemned.is_empty() { BTreeSet::new() } else { self.remove(&condemned).await? };
        self.sweeps += 1;
        // What a checkpoint that was given up has left is found by looking at all shards again.
        self.complete = !self.sweeps.is_multiple_of(COMPLETE);
        Ok(Swept { checkpoints: expired, shards })
    }

    /// What a sweep would remove.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn would_sweep(&mut self, retention: &Retention) -> Result<Swept, StoreError> {
        let places = self.places().await?;
        let expired = retention.expired(&places);
        self.learn(places, &expired).await?;
        let living = self.known.iter().filter(|(place, _)| !expired.contains(place));
        let named = living.flat_map(|(_, shards)| shards).copied().collect();
        Ok(Swept { shards: condemned(&self.stored().await?, &named), checkpoints: expired })
    }

    async fn remove(&self, condemned: &BTreeSet<ShardName>) -> Result<BTreeSet<ShardName>, StoreError> {
        let store = self.folder.store();
        store.put(&self.name, &[encoded(condemned)]).await?;
        let removed = self.remove_condemned(condemned).await;
        store.remove(&self.name).await?;
        removed
    }

    async fn remove_condemned(&self, condemned: &BTreeSet<ShardName>) -> Result<BTreeSet<ShardName>, StoreError> {
        let store = self.folder.store();
        let now = store.list(CONDEMNED, None).await?.into_iter().find(|listed| listed.name == self.name);
        let Some(now) = now else {
            return Err(store.problem("find", &self.name, Kind::Missing, "somebody else removed it"));
        };
        let since = now.written.checked_sub(FORGOTTEN);
        let intents: Vec<Intent> = read_all(&self.folder, INTENTS, since).await?;
        // After the intents: one that was taken back by then had become a manifest.
        let named = self.named_now().await?;
        let doomed = doomed(condemned, &intents, &named);
        let names: Vec<_> = doomed.iter().map(shard_name).collect();
        let removals = names.into_iter().map(|name| {
            let store = store.clone();
            async move { store.remove(&name).await }
        });
        futures::stream::iter(removals).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        for within in [INTENTS, CONDEMNED] {
            for listed in store.list(within, None).await? {
                if since.is_some_and(|since| listed.written < since) {
                    store.remove(&listed.name).await?;
                }
            }
        }
        if let (Address::Folder(folder), Some(since), false) = (store.address().clone(), since, self.complete) {
            let _another_time = threads::aside(move || staged::forget(&folder, since)).await;
        }
        Ok(doomed)
    }

    async fn places(&self) -> Result<BTreeSet<Place>, StoreError> {
        Ok(self.folder.entries().await?.into_iter().map(|entry| entry.place).collect())
    }

    /// Reads those manifests that are not known yet, and forgets those that are gone. One that is `expired` may be damaged.
    async fn learn(&mut self, places: BTreeSet<Place>, expired: &BTreeSet<Place>) -> Result<(), StoreError> {
        self.known.retain(|place, _| places.contains(place));
        for place in places {
            if self.known.contains_key(&place) {
                continue;
            }
            match self.folder.manifest(place).await {
                Ok(manifest) => {
                    self.known.insert(place, manifest.shards().into_iter().copied().collect());
                }
                Err(problem) if problem.kind == Kind::Damaged && expired.contains(&place) => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(())
    }

    fn named(&self) -> BTreeSet<ShardName> {
        self.known.values().flatten().copied().collect()
    }

    async fn named_now(&self) -> Result<BTreeSet<ShardName>, StoreError> {
        let mut now =
            Self { folder: self.folder.clone(), name: self.name.clone(), known: self.known.clone(), complete: true, sweeps: 0 };
        now.learn(self.places().await?, &BTreeSet::new()).await?;
        Ok(now.named())
    }

    async fn stored(&self) -> Result<BTreeSet<ShardName>, StoreError> {
        Ok(self.folder.stored().await?.into_keys().collect())
    }
}
