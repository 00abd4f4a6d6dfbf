//! An output in this process's own memory, for programs that share none with others.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::Output;

/// Where a result is put together.
#[derive(Debug)]
pub struct Memory(Mutex<Vec<u8>>);

impl Memory {
    /// Of so many bytes, all zero.
    #[must_use]
    pub fn new(length: usize) -> Self {
        Self(Mutex::new(vec![0; length]))
    }

    /// What it holds now.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output for Memory {
    fn write(&self, offset: usize, data: &[u8]) -> bool {
        let mut bytes = self.lock();
        let place = offset.checked_add(data.len()).and_then(|end| bytes.get_mut(offset..end));
        place.map(|place| place.copy_from_slice(data)).is_some()
    }

    fn shared(&self, start: usize, end: usize) -> Bytes {
        self.lock().get(start..end).map(Bytes::copy_from_slice).unwrap_or_default()
    }

    fn len(&self) -> usize {
        self.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_lie_inside_is_neither_written_nor_read() {
        let memory = Memory::new(4);
        assert!(memory.write(1, &[7, 8]));
        assert!(!memory.write(3, &[9, 9]) && !memory.write(usize::MAX, &[9]));
        assert_eq!((memory.to_vec(), memory.len()), (vec![0, 7, 8, 0], 4));
        assert_eq!((memory.shared(1, 3), memory.shared(3, 5)), (Bytes::from_static(&[7, 8]), Bytes::new()));
    }
}
