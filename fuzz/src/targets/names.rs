//! Whom a certificate names, and names as text: of peers, of places, of versions, and of the two ends of a lane.

use atoll_collective::identity::{Identity, PeerName};
use atoll_collective::lane::Ends;
use atoll_collective::protocol::Versions;
use atoll_collective::transport::{Address, HostPort};
use serde_json::json;

use crate::Target;
use crate::input::{Input, chunk};

/// A name as text, a certificate, an address, or the headers of a call.
pub(super) const CERTIFICATE: Target = Target { name: "certificate", run, seeds };

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 5 {
        0 => {
            let Ok(text) = std::str::from_utf8(input.0) else { return };
            if let Ok(name) = text.parse::<PeerName>() {
                assert_eq!(name.to_string(), text);
                assert_eq!(PeerName::new(name.run(), name.island(), name.worker()), Ok(name));
            }
        }
        1 => named(&pem(input.0)),
        2 => named(&String::from_utf8_lossy(input.0)),
        3 => reached(&String::from_utf8_lossy(input.0)),
        _ => called(&mut input),
    }
}

/// Where a member says that it can be reached.
fn reached(text: &str) {
    if let Ok(place) = text.parse::<HostPort>() {
        assert!(!place.host().is_empty());
        assert_eq!(text.parse(), Ok(Address::Direct(place)));
    }
    match text.parse::<Address>() {
        Ok(address) => assert_eq!(address.to_string().parse(), Ok(address)),
        Err(error) => assert!(error.to_string().len() < 4096, "what is refused is not repeated at any length"),
    }
}

/// The headers of a lane: the protocol's versions and the two ends.
fn called(input: &mut Input<'_>) {
    let versions = input.chunk();
    if let Ok(spoken) = Versions::OURS.common_with(Some(versions)) {
        assert!(atoll_proto::PROTOCOL.contains(&spoken));
    }
    let values = [input.chunk(), input.chunk(), input.chunk()];
    let header = |name: &str| ["atoll-from", "atoll-to", "atoll-incarnation"].iter().position(|other| *other == name);
    if let Some(Ends { from, to, incarnation }) = Ends::read(|name| Some(values[header(name)?])) {
        let written = [from.to_string(), to.to_string(), incarnation.to_string()];
        let again = Ends::read(|name| Some(written[header(name)?].as_bytes()));
        assert_eq!(again, Some(Ends { from, to, incarnation }));
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
    let call = ["1", "9", "0", "7"].map(|value| chunk(value.as_bytes())).concat();
    vec![
        seed(0, b"w0.west.kjv.atoll.internal"),
        seed(1, der),
        seed(2, pem(der).as_bytes()),
        seed(3, b"worker-0.island:7000"),
        seed(3, b"relay/[fe80::1]:443"),
        seed(4, &call),
    ]
}
