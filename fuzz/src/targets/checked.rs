//! Messages between machines, with the checksum at their end.

use atoll_proto::checked::{read, write};
use atoll_proto::v1::{Commit, CoordinatorMessage, PeerMessage, Ruling};
use prost::Message;

use crate::Target;
use crate::frames;
use crate::input::Input;

/// Bytes that say they are a message and its checksum.
pub(super) const CHECKED: Target = Target { name: "checked", run, seeds };

fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 4 {
        0 => judge::<PeerMessage>(input.0),
        1 => judge::<CoordinatorMessage>(input.0),
        2 => judge::<Ruling>(input.0),
        _ => judge::<Commit>(input.0),
    }
}

/// Bytes are refused, or are a message that arrives as it is written. With a right checksum they are what they are without.
fn judge<M: Message + Default>(bytes: &[u8]) {
    // By their bytes: a loss that is NaN equals nothing.
    let arrives = |message: &M| {
        let arrived = read::<M>(&write(message)).expect("what was written");
        assert_eq!(arrived.encode_to_vec(), message.encode_to_vec());
    };
    if let Ok(message) = read::<M>(bytes) {
        arrives(&message);
    }
    let Ok(message) = M::decode(bytes) else { return };
    arrives(&message);
    let mut changed = write(&message);
    let place = bytes.len() % changed.len();
    changed[place] ^= 1;
    assert!(read::<M>(&changed).is_err(), "one changed bit is found");
}

fn seeds() -> Vec<Vec<u8>> {
    let kind = |name: &str| ["peer-", "coordinator-", "arbiter-ruling"].iter().position(|kind| name.starts_with(kind));
    let seed = |frame: frames::Frame| Some([&[kind(frame.name)? as u8][..], &(frame.bytes)()].concat());
    frames::all().filter_map(seed).collect()
}
