//! Regions: memory that a trainer and its sidecar both map, so that no tensor is copied between them.
//!
//! The trainer makes a region as a memfd, seals it against shrinking and growing, and touches it first, so that its memory
//! is the trainer's. At any time one side writes a part and nobody else uses that part: the trainer between operations,
//! the sidecar (the output alone) within one. All access goes through the checked ranges of [`Region`].
#![allow(unsafe_code)]

use std::fs::{File, Permissions};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use memmap2::MmapRaw;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

use crate::SdkError;

/// Largest region that is accepted: 1 TiB.
const LARGEST: u64 = 1 << 40;

/// Permission of the file, for everybody to read it, that a region has while its bytes are whole. It means nothing else for a
/// file without a name, and it lives as long as the bytes do.
const WHOLE: u32 = 0o004;

/// What a file's blocks are counted in, whatever their size: `stat(2)`.
const BLOCK: u64 = 512;

/// Seals that keep both sides' mappings valid.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Shared memory of a fixed length. Clones share it.
#[derive(Debug, Clone)]
pub struct Region {
    map: Arc<MmapRaw>,
    file: Arc<File>,
}

impl Region {
    /// Makes a region of `length` bytes, all zero and present in memory.
    ///
    /// # Errors
    /// [`SdkError::Region`] where memory is short or the length is zero or absurd.
    pub fn create(name: &str, length: u64) -> Result<Self, SdkError> {
        let failed = |source: std::io::Error| SdkError::Region { name: name.to_owned(), length, source };
        if length == 0 || length > LARGEST {
            return Err(failed(std::io::ErrorKind::InvalidInput.into()));
        }
        let descriptor =
            memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(|error| failed(error.into()))?;
        let file = File::from(descriptor);
        file.set_len(length).map_err(failed)?;
        // Present now, or an error now: a full machine must not become a bus error in the middle of a round.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length).map_err(|error| failed(error.into()))?;
        fcntl_add_seals(&file, SEALS).map_err(|error| failed(error.into()))?;
        Self::map(name, file, length)
    }

    /// Maps a region that another process made, if it is sealed, as long as declared, and present in memory.
    ///
    /// # Errors
    /// [`SdkError::Region`] where it is not sealed or not as long, [`SdkError::Sparse`] where it has holes: nothing is taken from
    /// memory to fill them.
    pub fn open(name: &str, file: File, length: u64) -> Result<Self, SdkError> {
        let failed = |source: std::io::Error| SdkError::Region { name: name.to_owned(), length, source };
        let seals = fcntl_get_seals(&file).map_err(|error| failed(error.into()))?;
        let metadata = file.metadata().map_err(failed)?;
        if !seals.contains(SEALS) || metadata.len() != length || length == 0 || length > LARGEST {
            return Err(failed(std::io::ErrorKind::InvalidData.into()));
        }
        let present = metadata.blocks().saturating_mul(BLOCK);
        if present < length {
            return Err(SdkError::Sparse { name: name.to_owned(), length, present });
        }
        Self::map(name, file, length)
    }

    fn map(name: &str, file: File, length: u64) -> Result<Self, SdkError> {
        let map = MmapRaw::map_raw(&file).map_err(|source| SdkError::Region { name: name.to_owned(), length, source })?;
        Ok(Self { map: Arc::new(map), file: Arc::new(file) })
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Always false: regions of no length are refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The descriptor, to pass it on.
    #[must_use]
    pub fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether nobody has begun to overwrite it without coming to an end.
    ///
    /// # Errors
    /// What the system said.
    pub fn is_whole(&self) -> std::io::Result<bool> {
        Ok(self.file.metadata()?.permissions().mode() & WHOLE != 0)
    }

    /// Says for every process that has the region, now or later, whether its bytes are whole.
    ///
    /// # Errors
    /// What the system said: the region is another user's.
    pub fn mark(&self, whole: bool) -> std::io::Result<()> {
        let mode = self.file.metadata()?.permissions().mode() & 0o777;
        let mode = if whole { mode | WHOLE } else { mode & !WHOLE };
        self.file.set_permissions(Permissions::from_mode(mode))
    }

    /// The bytes of `range`, or none when it does not lie inside.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        self.inside(&range)?;
        // SAFETY: the range lies inside a mapping that lives as long as `self` and cannot shrink (sealed); by the protocol
        // nobody writes this part while it is read.
        Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(range.start), range.len()) })
    }

    /// Writes `data` at `offset`; false, and nothing is written, when it does not fit.
    #[must_use]
    pub fn write(&self, offset: usize, data: &[u8]) -> bool {
        let Some(end) = offset.checked_add(data.len()) else { return false };
        if self.inside(&(offset..end)).is_none() {
            return false;
        }
        // SAFETY: the range lies inside the mapping, which is writable and cannot shrink; by the protocol nobody else uses
        // this part now, and `data` is not part of it (it would be borrowed from `bytes`, whose users do not write).
        unsafe { std::ptr::copy(data.as_ptr(), self.map.as_mut_ptr().add(offset), data.len()) };
        true
    }

    /// The f32 values of a part (bytes, a multiple of 4), or none when it does not lie inside.
    #[must_use]
    pub fn values(&self, range: Range<usize>) -> Option<&[f32]> {
        let bytes = self.bytes(range)?;
        // SAFETY: every bit pattern is an f32.
        let (before, values, after) = unsafe { bytes.align_to::<f32>() };
        (before.is_empty() && after.is_empty()).then_some(values)
    }

    /// The same, to write.
    ///
    /// Takes `&mut self`, so that one handle gives one writer; handles of other parts are other [`Region`] clones.
    #[must_use]
    pub fn values_mut(&mut self, range: Range<usize>) -> Option<&mut [f32]> {
        if !range.start.is_multiple_of(4) || !range.len().is_multiple_of(4) {
            return None;
        }
        self.inside(&range)?;
        // SAFETY: inside the mapping; by the protocol this side alone uses the part now.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(range.start), range.len()) };
        // SAFETY: every bit pattern is an f32.
        let (before, values, after) = unsafe { bytes.align_to_mut::<f32>() };
        (before.is_empty() && after.is_empty()).then_some(values)
    }

    /// The word at a byte offset, for counters that both sides change; none when it does not lie inside or is not aligned.
    #[must_use]
    pub fn word(&self, offset: usize) -> Option<&AtomicU32> {
        self.inside(&(offset..offset.checked_add(size_of::<AtomicU32>())?))?;
        if !offset.is_multiple_of(align_of::<AtomicU32>()) {
            return None;
        }
        // SAFETY: aligned (mappings begin at a page) and inside a mapping that lives as long as `self`; by the protocol this
        // word is used as an atomic one alone.
        Some(unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(offset).cast()) })
    }

    fn inside(&self, range: &Range<usize>) -> Option<()> {
        (range.start <= range.end && range.end <= self.map.len()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn two_mappings_share_their_bytes() {
        let mut region = Region::create("test", 64).unwrap();
        region.values_mut(0..16).unwrap().copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
        let file = File::from(region.descriptor().try_clone_to_owned().unwrap());
        let other = Region::open("test", file, 64).unwrap();
        assert_eq!(other.values(4..12).unwrap(), [2.0, 3.0]);
    }

    #[test]
    fn a_word_is_one_counter_in_all_mappings() {
        let region = Region::create("test", 64).unwrap();
        let file = File::from(region.descriptor().try_clone_to_owned().unwrap());
        let other = Region::open("test", file, 64).unwrap();
        region.word(60).unwrap().fetch_add(3, Relaxed);
        assert_eq!(other.word(60).unwrap().load(Relaxed), 3);
        for offset in [61, 62, 64, usize::MAX] {
            assert!(region.word(offset).is_none(), "{offset}");
        }
    }

    #[test]
    fn who_gets_a_region_later_knows_whether_it_is_whole() {
        let region = Region::create("test", 64).unwrap();
        let again = || {
            let file = File::from(region.descriptor().try_clone_to_owned().unwrap());
            Region::open("test", file, 64).unwrap().is_whole().unwrap()
        };
        assert!(again());
        region.mark(false).unwrap();
        assert!(!again());
        region.mark(true).unwrap();
        assert!(again());
    }

    #[test]
    fn parts_outside_are_refused() {
        let region = Region::create("test", 16).unwrap();
        assert!(region.bytes(8..17).is_none());
        assert!(!region.write(9, &[0; 8]));
        assert!(!region.write(usize::MAX, &[0; 8]));
        assert!(region.values(1..5).is_none());
    }

    #[test]
    fn a_region_that_is_shorter_than_declared_or_not_sealed_is_refused() {
        let region = Region::create("test", 16).unwrap();
        let file = || File::from(region.descriptor().try_clone_to_owned().unwrap());
        assert!(Region::open("test", file(), 32).is_err());
        let open = File::from(memfd_create("open", MemfdFlags::ALLOW_SEALING).unwrap());
        open.set_len(16).unwrap();
        assert!(Region::open("test", open, 16).is_err());
        assert!(Region::create("test", 0).is_err());
    }

    #[test]
    fn a_region_with_holes_is_refused_until_all_of_it_is_there() {
        const LENGTH: u64 = 64 << 10;
        let file = File::from(memfd_create("sparse", MemfdFlags::ALLOW_SEALING).unwrap());
        file.set_len(LENGTH).unwrap();
        fcntl_add_seals(&file, SEALS).unwrap();
        let open = || Region::open("sparse", file.try_clone().unwrap(), LENGTH);
        let present = || match open() {
            Err(SdkError::Sparse { length: LENGTH, present, .. }) => present,
            other => panic!("{other:?}"),
        };
        assert_eq!(present(), 0);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, LENGTH / 2).unwrap();
        assert_eq!(present(), LENGTH / 2);
        assert!(open().unwrap_err().to_string().contains("32768 of its 65536 bytes are in memory"));
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, LENGTH).unwrap();
        assert_eq!(open().unwrap().len() as u64, LENGTH);
    }
}
