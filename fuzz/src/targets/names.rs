//! Whom a certificate names, and the names themselves.

use atoll_collective::identity::{Identity, PeerName};
use serde_json::json;

use crate::Target;
use crate::input::Input;

/// A name as text, or a certificate.
pub(super) const CERTIFICATE: Target = Target { name: "certificate", run, seeds };

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 3 {
        0 => {
            let Ok(text) = std::str::from_utf8(input.0) else { return };
            if let Ok(name) = text.parse::<PeerName>() {
                assert_eq!(name.to_string(), text);
                assert_eq!(PeerName::new(name.run(), name.island(), name.worker()), Ok(name));
            }
        }
        1 => named(&pem(input.0)),
        _ => named(&String::from_utf8_lossy(input.0)),
    }
}

/// Whom the first certificate of a chain names.
fn named(chain: &str) {
    let identity = json!({"certificate_chain": chain, "private_key": "", "run_root": ""});
    let identity: Identity = serde_json::from_value(identity).expect("three texts");
    if let Ok(name) = identity.name() {
        assert_eq!(name.to_string().parse::<PeerName>(), Ok(name));
    }
}

fn pem(der: &[u8]) -> String {
    let coded = der.chunks(3).flat_map(|three| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(*three.get(at).unwrap_or(&0)));
        (0..4).map(move |at| if at <= three.len() { ALPHABET[(bits >> (18 - 6 * at)) as usize & 63] as char } else { '=' })
    });
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", coded.collect::<String>())
}

fn seeds() -> Vec<Vec<u8>> {
    let der = include_bytes!("../../certificate.der");
    let seed = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    vec![seed(0, b"w0.west.kjv.atoll.internal"), seed(1, der), seed(2, pem(der).as_bytes())]
}
