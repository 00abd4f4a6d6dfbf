//! What a writer is about to name, said before it looks which shards are there: nobody removes those meanwhile.
//!
//! A shard that is in the store already is not written again. Between that look and the manifest that names it a collector might remove
//! it. So a writer first says what it needs, and a collector first says what it condemns; each then reads what the other has said:
//!
//! | writer | collector |
//! |---|---|
//! | 1. store the [`Intent`] | 1. store what is [`condemned`](crate::collect) |
//! | 2. read what is condemned | 2. read the intents |
//! | 3. look for shards, upload those that lack: a condemned one is as good as gone, and gets another copy | 3. read the manifests |
//! | 4. publish the manifest | 4. remove what nobody intends or names |
//! | 5. take the intent back | 5. take the condemnation back |
//!
//! Whichever of the two stored first, the other one reads it. No clock decides, and nobody waits for anybody.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::shard::ShardName;

/// Shards that a writer will name, whichever copies of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Intent {
    /// First copies.
    shards: BTreeSet<ShardName>,
}

impl Intent {
    /// To name files with these contents.
    #[must_use]
    pub fn new(shards: impl IntoIterator<Item = ShardName>) -> Self {
        Self { shards: shards.into_iter().map(ShardName::first_copy).collect() }
    }

    /// Whether this copy of a shard may be what it will name.
    #[must_use]
    pub fn spares(&self, shard: &ShardName) -> bool {
        self.shards.contains(&shard.first_copy())
    }
}

/// The copy of a shard that a writer uses: the first that nobody has condemned.
#[must_use]
pub fn usable_copy(shard: ShardName, condemned: &BTreeSet<ShardName>) -> ShardName {
    let mut copy = shard.first_copy();
    while condemned.contains(&copy) {
        copy = copy.next_copy();
    }
    copy
}
