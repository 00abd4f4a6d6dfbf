//! What crosses between peers beside the session: frames of lanes with each codec, tables of states, headers of a relay.

use atoll_collective::codec::{Codec, Precision, Signs, Sparse};
use atoll_collective::framing::{self, HEADER as HEADER_LENGTH, Header, Kind, PREFIX, Part, Unframer};
use atoll_collective::identity::PeerName;
use atoll_collective::operation::Key;
use atoll_collective::relay::{Header as RelayHeader, Purpose, Tokens};
use atoll_collective::state::manifest::{ElementType, Manifest, Tensor};
use atoll_collective::state::wire::Limits;
use atoll_collective::v1::{ChunkRange, StateRequest};
use bytes::Bytes;
use futures::executor::block_on;
use prost::Message;

use super::{Frame, message};

pub(super) const FRAMES: [Frame; 15] = [
    Frame { name: "lane-f32", bytes: || coded(Codec::F32), check: |bytes| decodes(Codec::F32, bytes, 0.0) },
    Frame { name: "lane-bf16", bytes: || coded(Codec::Bf16), check: |bytes| decodes(Codec::Bf16, bytes, 1.0 / 128.0) },
    Frame { name: "lane-u8", bytes: || coded(Codec::UInt8), check: |bytes| decodes(Codec::UInt8, bytes, 1.0 / 128.0) },
    Frame { name: "lane-u4", bytes: || coded(Codec::UInt4), check: |bytes| decodes(Codec::UInt4, bytes, 0.3) },
    Frame { name: "lane-result", bytes: || frame(Kind::Result, &[5; 8]), check: |bytes| unframes(bytes, Kind::Result, &[5; 8]) },
    Frame {
        name: "lane-partial",
        bytes: || frame(Kind::Partial, &[5; 8]),
        check: |bytes| unframes(bytes, Kind::Partial, &[5; 8]),
    },
    Frame {
        name: "lane-digest",
        bytes: || frame(Kind::Digest, &[7; 32]),
        check: |bytes| unframes(bytes, Kind::Digest, &[7; 32]),
    },
    Frame { name: "pairs-sparse", bytes: sparse, check: sparse_pairs },
    Frame { name: "pairs-signs", bytes: signs, check: sign_pairs },
    Frame { name: "state-manifest", bytes: || manifest().to_message().encode_to_vec(), check: is_manifest },
    message!("state-request", StateRequest { root: vec![7; 32], chunks: Some(ChunkRange { first: 3, count: 4 }) }),
    Frame {
        name: "relay-dial",
        bytes: || relay(Purpose::Dial(peer("1"))),
        check: |bytes| opens(bytes, &Purpose::Dial(peer("1"))),
    },
    Frame { name: "relay-listen", bytes: || relay(Purpose::Listen), check: |bytes| opens(bytes, &Purpose::Listen) },
    Frame { name: "relay-answer", bytes: || relay(Purpose::Answer(5)), check: |bytes| opens(bytes, &Purpose::Answer(5)) },
    Frame { name: "operation-key", bytes: || String::from(key()).into_bytes(), check: is_key },
];

const HEADER: (u64, u64, u32) = (3, 6, 1);
/// Length of the vectors behind pairs, and the pairs.
const DENSE: usize = 4096;
const PAIRS: ([u32; 3], [f32; 3]) = ([1, 258, 4000], [1.0, -2.0, 0.5]);

fn values() -> Vec<f32> {
    (0..1030).map(|index| (index as f32 - 515.0) / 515.0).collect()
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let (term, number, block) = HEADER;
    let header = Header { term, number, block, kind };
    [&header.encode(payload.len(), Some(sum(kind, payload)))[..], payload].concat()
}

/// A result's is that of a hash, which the receiver compares.
fn sum(kind: Kind, payload: &[u8]) -> u32 {
    if kind == Kind::Result { framing::sum_of_result(&[7; 32]) } else { framing::sum(payload) }
}

fn coded(codec: Codec) -> Vec<u8> {
    let mut payload = vec![0; codec.encoded_len(values().len())];
    codec.encode(&values(), &mut payload).expect("finite values");
    frame(Kind::Contribution, &payload)
}

/// The payload of the one frame that the bytes are.
fn payload(bytes: &[u8], kind: Kind) -> Vec<u8> {
    let (mut unframer, mut bytes) = (Unframer::summed(), Bytes::copy_from_slice(bytes));
    let (term, number, block) = HEADER;
    let length = bytes.len() - PREFIX - HEADER_LENGTH;
    let Ok(Some(Part::Head(header, told, hashed))) = unframer.next(&mut bytes) else { panic!("no head") };
    assert_eq!((header, told), (Header { term, number, block, kind }, length));
    let Ok(Some(Part::Payload { bytes: payload, last: true })) = unframer.next(&mut bytes) else { panic!("no whole payload") };
    assert_eq!(hashed, (kind == Kind::Result).then(|| sum(kind, &payload)));
    assert!(bytes.is_empty() && unframer.is_complete());
    payload.to_vec()
}

fn unframes(bytes: &[u8], kind: Kind, expected: &[u8]) {
    assert_eq!(payload(bytes, kind), expected);
}

/// To the same values within `tolerance`, and from them to the same bytes.
fn decodes(codec: Codec, bytes: &[u8], tolerance: f32) {
    let mut decoded = vec![0.0; values().len()];
    codec.decode(&payload(bytes, Kind::Contribution), &mut decoded).expect("a block of this codec");
    let near = |(decoded, value): (&f32, &f32)| (decoded - value).abs() <= tolerance;
    assert!(decoded.iter().zip(&values()).all(near));
    assert_eq!(coded(codec), bytes, "numerics belong to the run: an older peer has to get the same bytes");
}

fn sparse() -> Vec<u8> {
    let mut bytes = Vec::new();
    Sparse::new(DENSE, Precision::Bf16).and_then(|pairs| pairs.encode(&PAIRS.0, &PAIRS.1, &mut bytes)).expect("good pairs");
    bytes
}

fn sparse_pairs(bytes: &[u8]) {
    let decoded = Sparse::new(DENSE, Precision::Bf16).and_then(|pairs| pairs.decode(bytes));
    assert_eq!(decoded, Ok((PAIRS.0.to_vec(), PAIRS.1.to_vec())));
}

fn signs() -> Vec<u8> {
    let mut bytes = Vec::new();
    Signs::new(DENSE).and_then(|pairs| pairs.encode(&PAIRS.0, &PAIRS.1, &mut bytes)).expect("good pairs");
    bytes
}

fn sign_pairs(bytes: &[u8]) {
    let decoded = Signs::new(DENSE).and_then(|pairs| pairs.decode(bytes));
    assert_eq!(decoded, Ok((PAIRS.0.to_vec(), PAIRS.1.map(f32::signum).to_vec())));
}

fn manifest() -> Manifest {
    let bytes: Vec<u8> = (0..=255).collect();
    let tensor = |key, bytes| Tensor { key, element_type: ElementType::F32, bytes };
    Manifest::of(&[tensor("momentum", &bytes[..64]), tensor("weights", &bytes)], 1).expect("two tensors")
}

fn is_manifest(bytes: &[u8]) {
    let limits = Limits { keys: 2, key_length: 8, bytes: 320 };
    assert_eq!(Manifest::decode(bytes, &limits), Ok(manifest()));
}

fn peer(worker: &str) -> PeerName {
    PeerName::new("kjv", "west", worker).expect("labels")
}

fn relay(purpose: Purpose) -> Vec<u8> {
    RelayHeader::new(&Tokens::new([7; 32]).pass(&peer("0")), purpose).encode()
}

fn opens(bytes: &[u8], purpose: &Purpose) {
    let mut rest = bytes;
    let header = block_on(RelayHeader::read(&mut rest)).expect("a header");
    assert!(rest.is_empty() && Tokens::new([7; 32]).admit(&header));
    assert_eq!((&header.from, &header.purpose), (&peer("0"), purpose));
}

fn key() -> Key {
    Key { round: 7, started: 3, tag: "a/b".into(), sequence: 2, slots: vec![0, 4] }
}

fn is_key(bytes: &[u8]) {
    let text = String::from_utf8(bytes.to_vec()).expect("a text");
    assert_eq!(Key::try_from(text), Ok(key()));
}
