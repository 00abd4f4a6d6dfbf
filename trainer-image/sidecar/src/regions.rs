//! The regions that the trainer passed, and parts of them as inputs and outputs of operations.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};

use atoll_collective::v1::Slice;
use atoll_sdk::{Region, SdkError};
use bytes::Bytes;

use crate::SidecarError;
use crate::core::MOST_RANKS;

/// Most regions of one rank: each is a descriptor and a mapping.
const MOST_OF_A_RANK: usize = 64;
/// Longest `NAME`, in bytes.
const LONGEST_NAME: usize = 64;

/// Why a region is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegionRefused {
    /// Its name is not `INCARNATION/RANK/NAME`.
    #[error(
        "its name is not INCARNATION/RANK/NAME, the first two in decimal, the rank less than {MOST_RANKS}, \
         the last of 1 to {LONGEST_NAME} bytes"
    )]
    Name,
    /// The rank has as many as it may have.
    #[error("its rank has {MOST_OF_A_RANK} regions already")]
    TooMany,
}

/// All regions that a sidecar was passed, by name; a name begins with the incarnation of the trainer that made it.
#[derive(Clone, Default)]
pub struct Regions {
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    /// The incarnation that attached last.
    attached: Option<u64>,
    regions: BTreeMap<String, Region>,
}

/// Incarnation and rank of whoever made the region of this name; none where it is no name.
fn maker(name: &str) -> Option<(u64, u32)> {
    fn number<T: std::str::FromStr + ToString>(text: &str) -> Option<T> {
        text.parse().ok().filter(|number: &T| number.to_string() == text)
    }
    let mut parts = name.splitn(3, '/');
    let (incarnation, rank, own) = (number(parts.next()?)?, number(parts.next()?)?, parts.next()?);
    (rank < MOST_RANKS && (1..=LONGEST_NAME).contains(&own.len())).then_some((incarnation, rank))
}

/// Whether the region of this name was made by this incarnation.
fn belongs(name: &str, incarnation: u64) -> bool {
    name.strip_prefix(&incarnation.to_string()).is_some_and(|rest| rest.starts_with('/'))
}

impl Taken {
    /// Of trainers that are not attached, the one that passed last is the one that will be: those of earlier ones are forgotten.
    fn take(&mut self, name: String, region: Region) -> Result<(), RegionRefused> {
        let (incarnation, rank) = maker(&name).ok_or(RegionRefused::Name)?;
        if self.attached != Some(incarnation) {
            self.keep(&[Some(incarnation), self.attached]);
        }
        let prefix = format!("{incarnation}/{rank}/");
        let others = self.regions.keys().filter(|other| other.starts_with(&prefix) && **other != name).count();
        if others >= MOST_OF_A_RANK {
            return Err(RegionRefused::TooMany);
        }
        self.regions.insert(name, region);
        Ok(())
    }

    fn keep(&mut self, incarnations: &[Option<u64>]) {
        self.regions.retain(|name, _| incarnations.iter().flatten().any(|incarnation| belongs(name, *incarnation)));
    }
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

    /// Takes a region, in place of the one that has its name.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn take(&self, name: String, region: Region) -> Result<(), RegionRefused> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).take(name, region)
    }

    fn receive(&self, mut socket: UnixStream) {
        loop {
            match atoll_sdk::receive(&mut socket, |name, region| self.take(name, region).map_err(std::io::Error::other)) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "a region was refused");
                    return;
                }
            }
        }
    }

    /// This incarnation attaches: forgets the regions of all others.
    pub(crate) fn keep(&self, incarnation: u64) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.attached = Some(incarnation);
        taken.keep(&[Some(incarnation)]);
    }

    /// A part of a region of this incarnation; none when there is no such region or part.
    pub(crate) fn part(&self, incarnation: u64, slice: Option<&Slice>) -> Option<Part> {
        let slice = slice?;
        let start = usize::try_from(slice.offset).ok()?;
        let end = start.checked_add(usize::try_from(slice.length).ok()?)?;
        if !belongs(&slice.region, incarnation) {
            return None;
        }
        let region = self.taken.lock().unwrap_or_else(PoisonError::into_inner).regions.get(&slice.region)?.clone();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn take(regions: &Regions, name: &str) -> Result<(), RegionRefused> {
        regions.take(name.to_owned(), Region::create("test", 1).unwrap())
    }

    fn has(regions: &Regions, incarnation: u64, name: &str) -> bool {
        regions.part(incarnation, Some(&Slice { region: name.to_owned(), offset: 0, length: 1 })).is_some()
    }

    #[test]
    fn a_name_says_who_made_the_region() {
        let regions = Regions::default();
        for name in ["7/0/state", "7/63/x", "7/0/a/b", &format!("{}/0/{}", u64::MAX, "x".repeat(64))] {
            assert_eq!(take(&regions, name), Ok(()), "{name}");
        }
        let long = format!("7/0/{}", "x".repeat(65));
        for name in
            ["x", "", "7/0", "7/0/", "-1/0/x", "+7/0/x", "07/0/x", "7/64/x", "7//x", "/0/x", "18446744073709551616/0/x", &long]
        {
            assert_eq!(take(&regions, name), Err(RegionRefused::Name), "{name}");
        }
    }

    #[test]
    fn a_rank_has_so_many_regions_and_no_more_whatever_others_have() {
        let regions = Regions::default();
        for index in 0..MOST_OF_A_RANK {
            assert_eq!(take(&regions, &format!("7/1/{index}")), Ok(()));
        }
        assert_eq!(take(&regions, "7/1/x"), Err(RegionRefused::TooMany));
        assert_eq!(take(&regions, "7/1/5"), Ok(()), "it takes the place of the earlier one");
        assert_eq!((take(&regions, "7/2/x"), take(&regions, "7/11/x")), (Ok(()), Ok(())));
    }

    #[test]
    fn only_the_trainer_that_is_attached_and_the_one_that_passed_last_have_regions() {
        let regions = Regions::default();
        take(&regions, "7/0/x").unwrap();
        regions.keep(7);
        for incarnation in 8..20 {
            take(&regions, &format!("{incarnation}/0/x")).unwrap();
        }
        take(&regions, "7/0/y").unwrap();
        assert!(has(&regions, 7, "7/0/x") && has(&regions, 7, "7/0/y"));
        assert!(has(&regions, 19, "19/0/x") && !has(&regions, 18, "18/0/x"));
        regions.keep(19);
        assert!(has(&regions, 19, "19/0/x") && !has(&regions, 7, "7/0/x") && !has(&regions, 1, "19/0/x"));
    }
}
