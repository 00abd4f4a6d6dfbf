//! Which checkpoints there are, and their manifests, many at once.

use std::collections::BTreeSet;
use std::time::SystemTime;

use atoll_checkpoint::error::Kind;
use atoll_checkpoint::{Address, Folder, Manifest, Place, StoreError};
use futures::{StreamExt, TryStreamExt};

use super::ending;
use crate::Ending;

/// Manifests that are read at once: a store far away answers each after tens of milliseconds.
const AT_ONCE: usize = 32;

/// A checkpoint that a folder has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) place: Place,
    /// By the store's clock; none where the store does not say.
    pub(crate) written: Option<SystemTime>,
}

/// All checkpoints, the oldest first. Over HTTP, where a server lists nothing, the newest alone.
pub(crate) async fn known(folder: &Folder) -> Result<Vec<Known>, Ending> {
    if is_web(folder) {
        let newest = folder.newest().await.map_err(|error| ending(&error))?;
        return Ok(newest.into_iter().map(|place| Known { place, written: None }).collect());
    }
    let entries = folder.entries().await.map_err(|error| ending(&error))?;
    Ok(entries.iter().map(|entry| Known { place: entry.place, written: Some(entry.written) }).collect())
}

pub(crate) fn is_web(folder: &Folder) -> bool {
    matches!(folder.store().address(), Address::Web(_))
}

/// What `take` makes of the manifest of each place, in their order, or why it cannot be read. Those that were removed since they
/// were listed are left out.
pub(crate) async fn manifests<T: Send + 'static>(
    folder: &Folder,
    places: impl IntoIterator<Item = Place>,
    take: fn(Manifest) -> T,
) -> Result<Vec<(Place, Result<T, StoreError>)>, Ending> {
    let read = async |place| {
        let folder = folder.clone();
        // In tasks of their own: to parse them is the work of all processors.
        let read = tokio::spawn(async move { folder.manifest(place).await.map(take) });
        match read.await.map_err(|error| Ending::failed(&error.into()))? {
            Err(error) if is_of_the_store(&error) => Err(ending(&error)),
            read => Ok((place, read)),
        }
    };
    let mut read: Vec<_> = futures::stream::iter(places).map(read).buffered(AT_ONCE).try_collect().await?;
    let is_missing = |read: &Result<T, StoreError>| matches!(read, Err(error) if error.kind == Kind::Missing);
    if read.iter().any(|(_, read)| is_missing(read)) {
        let there = there(folder).await?;
        read.retain(|(place, read)| !is_missing(read) || there.contains(place));
    }
    Ok(read)
}

/// Which checkpoints are there now.
pub(crate) async fn there(folder: &Folder) -> Result<BTreeSet<Place>, Ending> {
    Ok(known(folder).await?.iter().map(|known| known.place).collect())
}

/// Whether every other request would end the same way.
fn is_of_the_store(error: &StoreError) -> bool {
    matches!(error.kind, Kind::NoBucket | Kind::Unreachable | Kind::Failing)
}
