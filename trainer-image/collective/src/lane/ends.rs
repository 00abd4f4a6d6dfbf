//! The headers of a lane: whose it is, and for which process.

/// Header with the slot of the sender.
pub(super) const FROM: &str = "atoll-from";
/// Header with the slot of the receiver.
pub(super) const TO: &str = "atoll-to";
/// Header with the incarnation of the receiver.
pub(super) const INCARNATION: &str = "atoll-incarnation";

/// The two ends of a lane, by the sender's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Slot of the sender.
    pub from: u32,
    /// Slot of the receiver.
    pub to: u32,
    /// Incarnation of the receiver that is meant.
    pub incarnation: u64,
}

impl Ends {
    /// Reads them from the values of headers; none where one is missing or is no number.
    #[must_use]
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Self> {
        let slot = |name| number(header(name)?).and_then(|slot| u32::try_from(slot).ok());
        Some(Self { from: slot(FROM)?, to: slot(TO)?, incarnation: number(header(INCARNATION)?)? })
    }
}

/// A decimal number.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_are_numbers_and_slots_have_32_bits() {
        let read = |values: [&'static str; 3]| {
            Ends::read(|name| [FROM, TO, INCARNATION].iter().position(|other| *other == name).map(|at| values[at].as_bytes()))
        };
        let ends = Ends { from: 1, to: 4_294_967_295, incarnation: u64::MAX };
        assert_eq!(read(["1", "4294967295", "18446744073709551615"]), Some(ends));
        for values in [["", "0", "1"], ["-1", "0", "1"], ["4294967296", "0", "1"], ["1", "0", "18446744073709551616"]] {
            assert_eq!(read(values), None, "{values:?}");
        }
        assert_eq!(Ends::read(|_| None), None);
    }
}
