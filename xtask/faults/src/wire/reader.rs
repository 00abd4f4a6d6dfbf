//! Reads one direction of a connection and says which messages of the protocol pass, and where they end.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use atoll_collective::framing;
use atoll_proto::v1::{CoordinatorMessage, PeerMessage, coordinator_message, peer_message};
use prost::Message;

use super::http2::{Frames, Piece, path};

/// Bytes before each gRPC message.
const PREFIX: usize = 5;
/// Bytes of a frame's payload on a lane that have passed when it is told.
const INTO_PAYLOAD: usize = 1000;
/// Bytes of a donor's answer that have passed when it is told: more than a list of hashes has.
const INTO_STATE: usize = 16 << 10;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A session with the coordinator.
    Control,
    /// Frames of operations.
    Lane,
    /// Somebody takes the state.
    State,
}

/// A message that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// A peer's trainer stands at a round's start.
    Arrive,
    /// A round begins.
    Start,
    /// A peer asks for an operation.
    Enter,
    /// An operation begins.
    Begin,
    /// A copy of a block, on its way to the block's owner.
    Contribution,
    /// A reduced block.
    Result,
    /// A peer reports its result.
    Prepared,
    /// An operation is committed.
    Commit,
    /// A donor's state.
    State,
}

/// A message, and where it lies in the bytes that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub sight: Sight,
    /// As much of it as there is in these bytes, up to where it is told: its end, or a place in the middle of a long one.
    pub range: Range<usize>,
}

#[derive(Debug, Default)]
struct Messages {
    prefix: Vec<u8>,
    left: usize,
    /// Bytes of the current message so far, and the first of them.
    came: usize,
    head: Vec<u8>,
    total: usize,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Reader {
    client: bool,
    frames: Frames,
    streams: BTreeMap<u32, Messages>,
}

impl Kind {
    /// By the path of the first request.
    fn of(path: &str) -> Self {
        match path {
            "/atoll.v1.Coordinator/Session" => Self::Control,
            "/atoll.v1.Lane/Push" => Self::Lane,
            _ => Self::State,
        }
    }
}

impl Reader {
    /// From who dialled, or from who was dialled.
    #[must_use]
    pub fn new(client: bool) -> Self {
        Self { client, frames: Frames::new(client), streams: BTreeMap::new() }
    }

    /// Reads the next bytes; `kind` is shared by both directions of a connection, and set by its first request.
    pub fn read(&mut self, bytes: &[u8], kind: &OnceLock<Kind>) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut at = 0;
        while let Some(piece) = self.frames.next(bytes, &mut at) {
            match piece {
                Piece::Headers(block) if self.client => {
                    if let Some(path) = path(&block) {
                        kind.get_or_init(|| Kind::of(&path));
                    }
                }
                Piece::Headers(_) => {}
                Piece::Data(stream, range) => {
                    if let Some(kind) = kind.get() {
                        let messages = self.streams.entry(stream).or_default();
                        messages.take(*kind, self.client, bytes, range, &mut seen);
                    }
                }
            }
        }
        seen
    }
}

impl Messages {
    fn take(&mut self, kind: Kind, client: bool, bytes: &[u8], range: Range<usize>, seen: &mut Vec<Seen>) {
        let before = self.total;
        self.total += range.len();
        if kind == Kind::State {
            if !client && (before..self.total).contains(&INTO_STATE) {
                seen.push(Seen { sight: Sight::State, range: range.start..range.start + INTO_STATE - before + 1 });
            }
            return;
        }
        let mut at = range.start;
        while at < range.end {
            if self.left == 0 {
                let take = (PREFIX - self.prefix.len()).min(range.end - at);
                self.prefix.extend_from_slice(&bytes[at..at + take]);
                at += take;
                if let [_, a, b, c, d] = self.prefix[..] {
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.prefix.clear();
                    self.came = 0;
                    self.head.clear();
                }
                continue;
            }
            let part = at..at + self.left.min(range.end - at);
            at = part.end;
            self.message(kind, client, bytes, part, seen);
        }
    }

    /// Bytes of one message.
    fn message(&mut self, kind: Kind, client: bool, bytes: &[u8], part: Range<usize>, seen: &mut Vec<Seen>) {
        let before = self.came;
        self.came += part.len();
        self.left -= part.len();
        let wanted = if kind == Kind::Lane { framing::HEADER } else { usize::MAX };
        let take = wanted.saturating_sub(self.head.len()).min(part.len());
        self.head.extend_from_slice(&bytes[part.start..part.start + take]);
        if kind == Kind::Lane {
            let told = (framing::HEADER + INTO_PAYLOAD).min(self.came + self.left);
            if client && before < told && told <= self.came {
                let start = part.start.max((part.start + framing::HEADER).saturating_sub(before));
                seen.extend(frame(&self.head).map(|sight| Seen { sight, range: start..part.start + told - before }));
            }
        } else if self.left == 0 {
            seen.extend(control(client, &self.head).map(|sight| Seen { sight, range: part }));
        }
    }
}

/// What a frame of a lane is, by its header.
fn frame(header: &[u8]) -> Option<Sight> {
    match header.get(20..24)?.first()? {
        0 => Some(Sight::Contribution),
        1 => Some(Sight::Result),
        _ => None,
    }
}

fn control(client: bool, message: &[u8]) -> Option<Sight> {
    if client {
        return match PeerMessage::decode(message).ok()?.body? {
            peer_message::Body::Arrive(_) => Some(Sight::Arrive),
            peer_message::Body::Enter(_) => Some(Sight::Enter),
            peer_message::Body::Prepared(_) => Some(Sight::Prepared),
            _ => None,
        };
    }
    match CoordinatorMessage::decode(message).ok()?.body? {
        coordinator_message::Body::Start(_) => Some(Sight::Start),
        coordinator_message::Body::Begin(_) => Some(Sight::Begin),
        coordinator_message::Body::Commit(_) => Some(Sight::Commit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use atoll_collective::framing::Header;
    use atoll_proto::v1::{Arrive, Heartbeat};

    use super::*;

    fn data(stream: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32).to_be_bytes();
        [&length[1..], &[0, 0, 0, 0, 0, stream], body].concat()
    }

    fn message(body: peer_message::Body) -> Vec<u8> {
        let message = PeerMessage { term: 1, learned: 0, body: Some(body) }.encode_to_vec();
        [framing::prefix(message.len() as u32).to_vec(), message].concat()
    }

    fn preface() -> Vec<u8> {
        vec![0; 24]
    }

    /// What is seen, and the place in the stream where it is told.
    fn seen(kind: Kind, bytes: &[u8], cut: usize) -> Vec<(Sight, usize)> {
        let (mut reader, kind) = (Reader::new(true), OnceLock::from(kind));
        let told = |(index, chunk): (usize, &[u8])| {
            let seen = reader.read(chunk, &kind);
            seen.into_iter().map(|seen| (seen.sight, index * cut + seen.range.end)).collect::<Vec<_>>()
        };
        bytes.chunks(cut).enumerate().flat_map(told).collect()
    }

    #[test]
    fn control_messages_are_told_at_their_end_however_the_bytes_are_cut() {
        let beat = message(peer_message::Body::Heartbeat(Heartbeat {}));
        let arrive = message(peer_message::Body::Arrive(Arrive { round: 3, ..Arrive::default() }));
        let bytes = [preface(), data(1, &beat), data(1, &arrive)].concat();
        for cut in 1..=bytes.len() {
            assert_eq!(seen(Kind::Control, &bytes, cut), [(Sight::Arrive, bytes.len())]);
        }
    }

    #[test]
    fn frames_are_told_in_the_middle_of_their_payload() {
        let frame = |kind, length: usize| {
            let header = Header { term: 1, number: 1, block: 0, kind };
            [header.encode(length, None).to_vec(), vec![7; length]].concat()
        };
        let (long, short) = (frame(framing::Kind::Contribution, 5000), frame(framing::Kind::Result, 10));
        let body = [long.clone(), short].concat();
        let bytes = [preface(), data(1, &body[..2000]), data(1, &body[2000..])].concat();
        let first = 24 + 9 + framing::PREFIX + framing::HEADER + INTO_PAYLOAD;
        for cut in [1, 7, 1000, bytes.len()] {
            assert_eq!(seen(Kind::Lane, &bytes, cut), [(Sight::Contribution, first), (Sight::Result, bytes.len())]);
        }
    }
}
