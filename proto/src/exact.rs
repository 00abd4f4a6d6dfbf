//! Numbers in JSON so that reading them gives the same bits: the chain of rounds is hashed over them.
//!
//! They are text, because readers of JSON numbers may be off by the last bit, and some values are no JSON numbers at all.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the bits of a value that is no finite number begin with.
const BITS: &str = "bits:";

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    let text = if value.is_finite() { format!("{value:?}") } else { format!("{BITS}{:016x}", value.to_bits()) };
    text.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.strip_prefix(BITS) {
        Some(bits) => u64::from_str_radix(bits, 16).map(f64::from_bits).map_err(D::Error::custom),
        None => text.parse().map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use crate::v1::Contribution;

    #[test]
    fn every_loss_keeps_its_bits() {
        let odd = [0.1 + 0.2, -0.0, f64::MIN_POSITIVE / 3.0, 1.797e308, 7.411_984_623_118_4e-9];
        for loss in odd.into_iter().chain([f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY]) {
            let text = serde_json::to_string(&Contribution { loss, ..Contribution::default() }).unwrap();
            let read: Contribution = serde_json::from_str(&text).unwrap();
            assert_eq!(read.loss.to_bits(), loss.to_bits(), "{text}");
        }
        let read = |loss: &str| {
            let text = serde_json::to_string(&Contribution::default()).unwrap().replace("0.0", loss);
            serde_json::from_str::<Contribution>(&text)
        };
        assert!(read("0.5").is_ok() && read("much").is_err() && read("bits:x").is_err());
    }
}
