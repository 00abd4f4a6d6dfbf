//! The table of a state that a donor sends.

use atoll_collective::state::manifest::{ElementType, Manifest, Tensor};
use atoll_collective::state::wire::Limits;
use atoll_collective::v1::StateRequest;
use prost::Message;

use crate::Target;

/// A manifest, and the question for one.
pub(super) const MANIFEST: Target = Target { name: "manifest", run, seeds };

const LIMITS: Limits = Limits { keys: 64, key_length: 64, bytes: 64 << 20 };

fn run(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes, &LIMITS) {
        assert!(manifest.entries().len() <= LIMITS.keys && manifest.length() <= LIMITS.bytes);
        let encoded = manifest.to_message().encode_to_vec();
        let again = Manifest::decode(&encoded, &Limits::of(&manifest)).expect("what was decoded");
        assert_eq!(again.root(), manifest.root());
    }
    if let Ok(request) = StateRequest::decode(bytes) {
        assert_eq!(StateRequest::decode(request.encode_to_vec().as_slice()), Ok(request));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let bytes: Vec<u8> = (0..=255).collect();
    let tensor = |key, bytes| Tensor { key, element_type: ElementType::F32, bytes };
    let manifest = Manifest::of(&[tensor("momentum", &bytes[..64]), tensor("weights", &bytes)], 1).expect("two tensors");
    vec![manifest.to_message().encode_to_vec(), StateRequest { root: vec![7; 32], chunks: None }.encode_to_vec()]
}
