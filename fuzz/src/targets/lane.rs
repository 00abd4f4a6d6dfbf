//! What comes on a lane before anybody knows which operation it belongs to.

use atoll_collective::framing::{Deframer, HEADER, Header, Kind, LARGEST, PREFIX, Part, Unframer, prefix};
use bytes::Bytes;

use crate::Target;
use crate::input::Input;

/// Frames of operations, cut anywhere.
pub(super) const FRAMES: Target = Target { name: "frames", run: frames, seeds: frame_seeds };
/// Messages of an agreed length in all.
pub(super) const MESSAGES: Target = Target { name: "messages", run: messages, seeds: message_seeds };

/// The first byte says how long the pieces are in which the rest comes.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = Bytes> + '_ {
    let mut input = Input(bytes);
    let size = usize::from(input.byte()).max(1);
    input.0.chunks(size).map(Bytes::copy_from_slice)
}

fn frames(bytes: &[u8]) {
    let mut unframer = Unframer::default();
    let (mut came, mut written, mut left) = (0, Vec::new(), 0);
    for mut piece in pieces(bytes) {
        came += piece.len();
        loop {
            match unframer.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(Part::Head(header, length))) => {
                    assert!(left == 0 && (1..=LARGEST).contains(&length));
                    left = length;
                    let sum =
                        bytes[1 + written.len() + PREFIX..][..HEADER].last_chunk().map_or(0, |sum| u32::from_le_bytes(*sum));
                    written.extend_from_slice(&header.encode(length, sum));
                }
                Ok(Some(Part::Payload { bytes, last })) => {
                    assert!(!bytes.is_empty() && bytes.len() <= left);
                    left -= bytes.len();
                    assert_eq!(last, left == 0);
                    written.extend_from_slice(&bytes);
                }
                Err(_) => return,
            }
        }
    }
    // What was understood is what came, but for a head that is not whole.
    let rest = &bytes[1.min(bytes.len())..];
    assert!(written.len() <= came && came - written.len() < PREFIX + HEADER);
    assert_eq!(written, rest[..written.len()]);
    assert_eq!(unframer.is_complete(), left == 0 && written.len() == came);
}

fn messages(bytes: &[u8]) {
    let mut input = Input(bytes);
    let limit = u64::from(input.short());
    let mut deframer = Deframer::new(limit);
    let mut payload = 0;
    for mut piece in pieces(input.0) {
        loop {
            match deframer.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(bytes)) => payload += bytes.len() as u64,
                Err(_) => return,
            }
            assert!(payload <= limit);
        }
    }
    assert!(!deframer.is_complete() || payload == limit);
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let frame = |kind, payload: &[u8]| {
        let header = Header { term: 2, number: 7, block: 3, kind };
        [&header.encode(payload.len(), header.sum(payload))[..], payload].concat()
    };
    let all = [frame(Kind::Contribution, b"four"), frame(Kind::Result, b"bytes"), frame(Kind::Digest, &[7; 32])].concat();
    [1, 5, 255].map(|size| [&[size], &all[..]].concat()).to_vec()
}

fn message_seeds() -> Vec<Vec<u8>> {
    let messages = [&prefix(3)[..], b"abc", &prefix(0), &prefix(2), b"de"].concat();
    [1, 6, 255].map(|size| [&[5, 0, size], &messages[..]].concat()).to_vec()
}
