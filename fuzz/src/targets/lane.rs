//! What comes on a lane before anybody knows which operation it belongs to, and what its receiver answers.

use atoll_collective::framing::{self, Deframer, HEADER, Header, Kind, LARGEST, PREFIX, Part, Unframer, prefix};
use atoll_collective::lane::Arrivals;
use bytes::Bytes;

use crate::Target;
use crate::input::Input;

/// Frames of operations, cut anywhere.
pub(super) const FRAMES: Target = Target { name: "frames", run: frames, seeds: frame_seeds };
/// The same on a connection without TLS.
pub(super) const SUMMED: Target = Target { name: "summed", run: summed, seeds: frame_seeds };
/// Messages of an agreed length in all; the same bytes as counts of what has arrived.
pub(super) const MESSAGES: Target = Target { name: "messages", run: messages, seeds: message_seeds };

/// Bytes of the checksums at a header's end.
const SUMS: usize = 8;

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
                Ok(Some(Part::Head(header, length, sum))) => {
                    assert!(left == 0 && (1..=LARGEST).contains(&length) && sum.is_none());
                    left = length;
                    // Nobody looks at the checksums here.
                    let sums = &bytes[1 + written.len()..][..PREFIX + HEADER][PREFIX + HEADER - SUMS..];
                    written.extend_from_slice(&header.encode(length, None)[..PREFIX + HEADER - SUMS]);
                    written.extend_from_slice(sums);
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

/// What has the checksums of every frame is understood alike where nobody looks at them.
fn summed(bytes: &[u8]) {
    let (mut summed, mut plain) = (Unframer::summed(), Unframer::default());
    for piece in pieces(bytes) {
        let mut ends = [piece.clone(), piece];
        loop {
            let [one, other] = &mut ends;
            match (summed.next(one), plain.next(other)) {
                (Err(_), _) => return,
                (Ok(None), understood) => {
                    assert_eq!(understood, Ok(None));
                    break;
                }
                (Ok(Some(Part::Head(header, length, sum))), understood) => {
                    assert_eq!(sum.is_some(), header.kind == Kind::Result);
                    assert_eq!(understood, Ok(Some(Part::Head(header, length, None))));
                }
                (payload, understood) => assert_eq!(understood, payload),
            }
        }
    }
    assert_eq!(summed.is_complete(), plain.is_complete());
}

fn messages(bytes: &[u8]) {
    let mut input = Input(bytes);
    let limit = u64::from(input.short());
    arrivals(input.0);
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

/// However they are cut, no more has arrived than the largest count says, and than was sent.
fn arrivals(bytes: &[u8]) {
    const SENT: u64 = u64::MAX / 2;
    let (mut cut, mut whole) = (Arrivals::default(), Arrivals::default());
    let mut sum: u64 = 0;
    for piece in pieces(bytes) {
        let Ok(more) = cut.take(piece, SENT) else { return };
        sum = sum.checked_add(more).expect("together what the largest count says");
    }
    assert!(sum <= SENT);
    assert_eq!(whole.take(Bytes::copy_from_slice(&bytes[1.min(bytes.len())..]), SENT), Ok(sum));
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let frame = |kind, payload: &[u8]| {
        let header = Header { term: 2, number: 7, block: 3, kind };
        [&header.encode(payload.len(), Some(framing::sum(payload)))[..], payload].concat()
    };
    let all = [frame(Kind::Contribution, b"four"), frame(Kind::Result, b"bytes"), frame(Kind::Digest, &[7; 32])].concat();
    [1, 5, 255].map(|size| [&[size], &all[..]].concat()).to_vec()
}

fn message_seeds() -> Vec<Vec<u8>> {
    let messages = [&prefix(3)[..], b"abc", &prefix(0), &prefix(2), b"de"].concat();
    let counts = [100_u64, 70, u64::MAX].map(|count| [&prefix(8)[..], &count.to_le_bytes()].concat()).concat();
    let seeds = [(5, 1, &messages), (5, 6, &messages), (5, 255, &messages), (24, 7, &counts)];
    seeds.map(|(limit, size, bytes)| [&[limit, 0, size], &bytes[..]].concat()).to_vec()
}
