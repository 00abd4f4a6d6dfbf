//! Figures as people write them: `64MiB`, `200mbit`, `100ms`.

use std::fmt;
use std::num::IntErrorKind;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Bytes on an Ethernet-sized link per byte of TCP payload: 1514 / 1448, rounded as it is usually given.
pub(crate) const FRAMING: f64 = 1.046;

/// A figure that cannot be used, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnitError {
    /// Not a number with one of the units.
    #[error("give a number and a unit, as in {example}")]
    Unreadable {
        /// A figure that can be read.
        example: &'static str,
    },
    /// Out of bounds.
    #[error("give {least} to {most}")]
    OutOfBounds {
        /// Smallest that is taken.
        least: &'static str,
        /// Largest that is taken.
        most: &'static str,
    },
}

/// A number of bytes, at most 16 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(pub(crate) u64);

const BYTE_UNITS: [(&str, u64); 5] = [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Bits per second in one direction, 100 kbit to 100 gbit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate(pub(crate) u64);

const RATE_UNITS: [(&str, u64); 4] = [("bit", 1), ("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];

/// A round trip, 1 ms to 10 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoundTrip(pub(crate) Duration);

const TIME_UNITS: [(&str, u64); 2] = [("ms", 1), ("s", 1_000)];

/// Packets that are lost of a million: a share from 0 to 50 %, as in `0.1%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loss(pub(crate) u64);

impl Loss {
    /// All packets.
    pub(crate) const ALL: u64 = 1_000_000;
    /// No packet.
    pub(crate) const NONE: Self = Self(0);
    /// Of one percent.
    const PERCENT: f64 = 10_000.0;
}

impl FromStr for Loss {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let share = text.strip_suffix('%').filter(|share| share.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
        let share: f64 = share.and_then(|share| share.parse().ok()).ok_or(UnitError::Unreadable { example: "0.1%" })?;
        if !(0.0..=50.0).contains(&share) {
            return Err(UnitError::OutOfBounds { least: "0%", most: "50%" });
        }
        Ok(Self((share * Self::PERCENT).round() as u64))
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}%", self.0 as f64 / Self::PERCENT)
    }
}

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bytes = read(text, &BYTE_UNITS).ok_or(UnitError::Unreadable { example: "4096, 4KiB or 64MiB" })?;
        let most = 16 << 30;
        if bytes <= most { Ok(Self(bytes)) } else { Err(UnitError::OutOfBounds { least: "0", most: "16GiB" }) }
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bits = read(text, &RATE_UNITS).ok_or(UnitError::Unreadable { example: "200mbit or 1gbit" })?;
        let bounds = 100_000..=100_000_000_000;
        if bounds.contains(&bits) { Ok(Self(bits)) } else { Err(UnitError::OutOfBounds { least: "100kbit", most: "100gbit" }) }
    }
}

impl FromStr for RoundTrip {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let milliseconds = read(text, &TIME_UNITS).ok_or(UnitError::Unreadable { example: "100ms" })?;
        if !(1..=10_000).contains(&milliseconds) {
            return Err(UnitError::OutOfBounds { least: "1ms", most: "10s" });
        }
        Ok(Self(Duration::from_millis(milliseconds)))
    }
}

/// The number before one of `units`, times that unit; the largest there is where that is too large.
fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    match number.parse::<u64>() {
        Ok(number) => Some(number.saturating_mul(*factor)),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => Some(u64::MAX),
        Err(_) => None,
    }
}

/// `figure` in the largest of `units` that divides it.
fn write(figure: u64, units: &[(&str, u64)], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (name, factor) =
        units.iter().rfind(|(_, factor)| figure >= *factor && figure.is_multiple_of(*factor)).unwrap_or(&units[0]);
    write!(out, "{}{name}", figure / factor)
}

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, &BYTE_UNITS, out)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, &RATE_UNITS, out)
    }
}

impl fmt::Display for RoundTrip {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0.as_millis() as u64, &TIME_UNITS, out)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_with_their_units_and_written_as_they_were_read() {
        for (text, bytes) in [("4096", 4096), ("4KiB", 4096), ("64MiB", 64 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)));
        }
        assert_eq!(Bytes(4096).to_string(), "4KiB");
        assert_eq!(Bytes(4100).to_string(), "4100");
        for (text, bits) in [("200mbit", 200_000_000), ("1gbit", 1_000_000_000), ("512kbit", 512_000)] {
            assert_eq!(text.parse(), Ok(Rate(bits)));
            assert_eq!(Rate(bits).to_string(), text);
        }
        assert_eq!(("0".parse(), Bytes(0).to_string()), (Ok(Bytes(0)), "0".to_owned()));
        assert_eq!("100ms".parse(), Ok(RoundTrip(Duration::from_millis(100))));
        assert_eq!("2s".parse::<RoundTrip>().unwrap().to_string(), "2s");
        for (text, lost) in [("0%", 0), ("0.1%", 1_000), ("1%", 10_000)] {
            assert_eq!(text.parse(), Ok(Loss(lost)));
            assert_eq!(Loss(lost).to_string(), text);
        }
    }

    #[test]
    fn figures_without_unit_sense_or_bounds_are_refused() {
        for text in ["", "MiB", "64MB", "-1", "1.5MiB", "64 MiB", "17GiB", "99999999999999999999GiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        for text in ["200", "200Mbit", "0mbit", "101gbit", "1kbit", "mbit"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        for text in ["1", "51%", "-1%", "nan%", "%", "1e1%"] {
            assert!(text.parse::<Loss>().is_err(), "{text}");
        }
        for text in ["100", "0ms", "11s", "1us"] {
            assert!(text.parse::<RoundTrip>().is_err(), "{text}");
        }
        for text in ["17GiB", "1TiB", "99999999999999999999"] {
            assert_eq!(text.parse::<Bytes>().unwrap_err().to_string(), "give 0 to 16GiB");
        }
        assert_eq!("200".parse::<Rate>().unwrap_err().to_string(), "give a number and a unit, as in 200mbit or 1gbit");
    }
}
