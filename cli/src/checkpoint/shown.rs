//! How checkpoints, sizes and times are written for people, and values for programs.

use std::time::SystemTime;

use atoll_checkpoint::Place;
use comfy_table::{Row, Table, presets};
use serde::Serialize;

use crate::{Ending, print};

/// A checkpoint's name without leading zeros, as every command takes it.
pub(crate) fn short(place: Place) -> String {
    let Place { lineage, term, epoch, round } = place;
    format!("{lineage}-{term}-{epoch}-{round}")
}

/// Bytes, in decimal units.
pub(crate) fn size(bytes: u64) -> String {
    if bytes < 1_000 {
        return count(bytes, "byte");
    }
    let (mut value, mut units) = (bytes as f64 / 1e3, ["kB", "MB", "GB", "TB"].iter());
    let mut unit = units.next();
    while value >= 999.95 && units.len() > 0 {
        value /= 1e3;
        unit = units.next();
    }
    format!("{value:.1} {}", unit.unwrap_or(&"TB"))
}

/// So many of a thing.
pub(crate) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A moment as RFC 3339 writes it, to the second.
pub(crate) fn moment(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The beginning of a text that is long.
pub(crate) fn beginning(text: &str) -> String {
    const SHOWN: usize = 32;
    let length = text.chars().count();
    if length <= 2 * SHOWN {
        return text.to_owned();
    }
    format!("{}... ({length} characters)", text.chars().take(SHOWN).collect::<String>())
}

/// An empty table.
pub(crate) fn table(header: impl Into<Row>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

/// Prints a value for programs: one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Ending> {
    let text = serde_json::to_string(value).map_err(|error| Ending::Failed(error.to_string()))?;
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_the_unit_that_fits() {
        let cases = [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1_000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (67_108_864, "67.1 MB"),
            (1 << 50, "1125.9 TB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn moments_are_rfc_3339() {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_500);
        assert_eq!(moment(time).unwrap(), "2023-11-14T22:13:20Z");
    }
}
