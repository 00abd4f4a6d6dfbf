//! The header of an outer connection of a relay, before anybody is trusted.

use atoll_collective::identity::PeerName;
use atoll_collective::relay::{Header, Purpose, Tokens};
use futures::executor::block_on;

use crate::Target;

/// One header.
pub(super) const HEADER: Target = Target { name: "relay", run, seeds };

fn tokens() -> Tokens {
    Tokens::new([7; 32])
}

fn peer(worker: &str) -> PeerName {
    PeerName::new("kjv", "west", worker).expect("labels")
}

fn run(bytes: &[u8]) {
    let mut rest = bytes;
    let Ok(header) = block_on(Header::read(&mut rest)) else { return };
    let read = bytes.len() - rest.len();
    assert_eq!(header.encode(), bytes[..read], "one header for the same bytes");
    if tokens().admit(&header) {
        let own = tokens().pass(&header.from);
        assert_eq!(Header::new(&own, header.purpose.clone()).encode(), header.encode(), "only the owner's pass is admitted");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let purposes = [Purpose::Dial(peer("1")), Purpose::Listen, Purpose::Answer(5)];
    purposes.map(|purpose| Header::new(&tokens().pass(&peer("0")), purpose).encode()).to_vec()
}
