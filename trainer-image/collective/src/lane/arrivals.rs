//! What the receiver of a lane says has arrived: messages of eight bytes, each the sum so far.

use bytes::Bytes;

use crate::framing::{Deframer, FramingError};

/// Reads what a receiver says.
pub struct Arrivals {
    deframer: Deframer,
    count: Vec<u8>,
    arrived: u64,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { deframer: Deframer::new(u64::MAX), count: Vec::new(), arrived: 0 }
    }
}

impl Arrivals {
    /// Takes `data`, and gives the bytes that have arrived since; together never more than the largest sum that was told, and than
    /// were `sent` so far: a receiver may say anything, and what has arrived decides how much a peer is given to reduce.
    ///
    /// # Errors
    /// [`FramingError`] where it is no sequence of messages.
    pub fn take(&mut self, mut data: Bytes, sent: u64) -> Result<u64, FramingError> {
        let before = self.arrived;
        while let Some(piece) = self.deframer.next(&mut data)? {
            for byte in piece {
                self.count.push(byte);
                let Ok(sum) = <[u8; 8]>::try_from(&*self.count).map(u64::from_le_bytes) else { continue };
                self.count.clear();
                self.arrived = self.arrived.max(sum.min(sent));
            }
        }
        Ok(self.arrived - before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::prefix;

    #[test]
    fn sums_are_understood_wherever_they_are_cut_and_never_fall() {
        let told = |sum: u64| [&prefix(8)[..], &sum.to_le_bytes()].concat();
        let all = [told(100), told(70), told(200)].concat();
        let mut arrivals = Arrivals::default();
        let more: Vec<u64> = all.chunks(7).map(|data| arrivals.take(Bytes::copy_from_slice(data), 300).unwrap()).collect();
        assert_eq!(more, [0, 100, 0, 0, 0, 100]);
        assert!(arrivals.take(Bytes::from_static(&[1; 5]), 300).is_err());
    }

    #[test]
    fn no_more_has_arrived_than_was_sent_whatever_is_said() {
        let mut arrivals = Arrivals::default();
        let mut told = |sum: u64, sent| arrivals.take([&prefix(8)[..], &sum.to_le_bytes()].concat().into(), sent).unwrap();
        assert_eq!((told(u64::MAX, 100), told(u64::MAX, 100), told(u64::MAX, 130)), (100, 0, 30));
        assert_eq!((told(140, 200), told(u64::MAX, 200)), (10, 60));
    }
}
