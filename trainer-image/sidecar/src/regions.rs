//! The regions that the trainer passed, and parts of them as inputs and outputs of operations.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};

use atoll_collective::v1::Slice;
use atoll_sdk::{Region, SdkError};
use bytes::Bytes;

use crate::SidecarError;

/// All regions that a sidecar was passed, by name; a name begins with the incarnation of the trainer that made it.
#[derive(Clone, Default)]
pub struct Regions {
    regions: Arc<Mutex<BTreeMap<String, Region>>>,
}

impl Regions {
    /// Accepts regions on `listener`, each connection on a thread of its own: the calls are few and block.
    pub(crate) fn listen(listener: UnixListener) -> Result<Self, SidecarError> {
        let regions = Self::default();
        let accepting = regions.clone();
        std::thread::Builder::new()
            .name("atoll-regions".into())
            .spawn(move || {
                for socket in listener.incoming().flatten() {
                    let regions = accepting.clone();
                    let _started = std::thread::Builder::new().spawn(move || regions.receive(socket));
                }
            })
            .map_err(SidecarError::Process)?;
        Ok(regions)
    }

    /// Takes a region.
    pub fn take(&self, name: String, region: Region) {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner).insert(name, region);
    }

    fn receive(&self, mut socket: UnixStream) {
        loop {
            match atoll_sdk::receive(&mut socket, |name, region| self.take(name, region)) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "a region was refused");
                    return;
                }
            }
        }
    }

    /// Forgets the regions of all trainers but this incarnation.
    pub(crate) fn keep(&self, incarnation: u64) {
        let prefix = format!("{incarnation}/");
        self.regions.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| name.starts_with(&prefix));
    }

    /// A part of a region of this incarnation; none when there is no such region or part.
    pub(crate) fn part(&self, incarnation: u64, slice: Option<&Slice>) -> Option<Part> {
        let slice = slice?;
        let start = usize::try_from(slice.offset).ok()?;
        let end = start.checked_add(usize::try_from(slice.length).ok()?)?;
        if !slice.region.starts_with(&format!("{incarnation}/")) {
            return None;
        }
        let region = self.regions.lock().unwrap_or_else(PoisonError::into_inner).get(&slice.region)?.clone();
        region.bytes(start..end)?;
        Some(Part { region, range: start..end })
    }
}

/// A part of a region; its range was checked when it was made.
#[derive(Clone)]
pub(crate) struct Part {
    region: Region,
    range: Range<usize>,
}

impl Part {
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// A place of this process's own.
    pub(crate) fn scratch(length: usize) -> Result<Self, SdkError> {
        // Regions of no length are refused.
        Ok(Self { region: Region::create("scratch", length.max(1) as u64)?, range: 0..length })
    }

    /// Whether its region's bytes are whole.
    pub(crate) fn is_whole(&self) -> std::io::Result<bool> {
        self.region.is_whole()
    }

    /// Says of its region whether the bytes are whole.
    pub(crate) fn mark(&self, whole: bool) -> std::io::Result<()> {
        self.region.mark(whole)
    }

    /// The bytes, without copying them.
    pub(crate) fn shared(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// Those of a part of it, none where it does not lie inside.
    pub(crate) fn shared_part(&self, range: Range<usize>) -> Bytes {
        self.part(range).map(Bytes::from_owner).unwrap_or_default()
    }

    /// Writes at a byte offset; false, and nothing is written, where it does not fit.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) -> bool {
        offset + data.len() <= self.range.len() && self.region.write(self.range.start + offset, data)
    }

    /// Takes over another part's bytes; false, and nothing is done, where their lengths differ.
    pub(crate) fn copy_from(&self, other: &Self) -> bool {
        self.len() == other.len() && self.write(0, other.as_ref())
    }

    /// A part of it, in bytes from its start; nothing where it does not lie inside.
    pub(crate) fn part(&self, range: Range<usize>) -> Option<Self> {
        let inside = range.start <= range.end && range.end <= self.range.len();
        let from = self.range.start;
        inside.then(|| Self { region: self.region.clone(), range: from + range.start..from + range.end })
    }

    /// Its f32 values, to write; none where it is not aligned to them.
    pub(crate) fn values_mut(&mut self) -> Option<&mut [f32]> {
        self.region.values_mut(self.range.clone())
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.region.bytes(self.range.clone()).unwrap_or_default()
    }
}
