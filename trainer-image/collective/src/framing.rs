//! What travels on a lane: frames, each a gRPC message with a header and a part of one block, read and written without
//! copying the payload.
//!
//! A lane is a raw gRPC body: each message is one flag byte (0: not compressed), four bytes of big-endian length, and the
//! message. HTTP/2 cuts this stream anywhere.
//!
//! A frame carries checksums where its connection has no TLS. The vote over results cannot find a copy that was changed on its
//! way to the owner of its block: the owner gives the same wrong sum to all. A result is hashed at both ends for the vote; the
//! first bytes of that hash are its checksum, so that it is not read once more.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before each message.
pub const PREFIX: usize = 5;
/// Bytes of a frame's header.
pub const HEADER: usize = 32;
/// Bytes of it that say what the frame is; checksums of them and of the payload follow.
const FIELDS: usize = 24;
/// Largest payload of a frame.
pub const LARGEST: usize = 1 << 20;

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The sender's copy of a block, for who reduces it or adds up the sender's group.
    Contribution = 0,
    /// A block, reduced: by the sender, or passed on to its group.
    Result = 1,
    /// BLAKE3 of a block of the sender's shard, reduced: for who does not want the block.
    Digest = 2,
    /// What the sender's group gives to a block of the receiver's shard, added up.
    Partial = 3,
}

/// Which block of which attempt a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Term of the coordinator that began the attempt.
    pub term: u64,
    /// The attempt's number in the term.
    pub number: u64,
    /// Index of the block among those of all shards.
    pub block: u32,
    /// What the payload is.
    pub kind: Kind,
}

/// Why a stream is not a sequence of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The flag byte is not 0.
    #[error("a message has the flag {0}; only 0 (not compressed) is understood")]
    Flag(u8),
    /// More payload than was agreed.
    #[error("the messages hold more than the {0} bytes that were agreed")]
    TooLong(u64),
    /// A frame without payload, or with too much.
    #[error("a frame of {0} bytes; 33 to 1,048,608 are understood")]
    Length(u32),
    /// A kind that nobody knows.
    #[error("a frame is of the unknown kind {0}")]
    Kind(u32),
    /// Header or payload are not what was sent.
    #[error("the frame of block {0} was changed on its way")]
    Damaged(u32),
}

/// The prefix of a message of `length` bytes.
#[must_use]
pub fn prefix(length: u32) -> Bytes {
    let mut prefix = BytesMut::with_capacity(PREFIX);
    prefix.put_u8(0);
    prefix.put_u32(length);
    prefix.freeze()
}

impl Header {
    /// Prefix and header of a frame with a payload of `length` bytes. `sum` is that of the payload, [`sum_of_result`] or
    /// [`sum`]; none where the connection has TLS.
    #[must_use]
    pub fn encode(&self, length: usize, sum: Option<u32>) -> Bytes {
        let mut head = BytesMut::with_capacity(PREFIX + HEADER);
        head.put_u8(0);
        head.put_u32((HEADER + length) as u32);
        head.put_u64_le(self.term);
        head.put_u64_le(self.number);
        head.put_u32_le(self.block);
        head.put_u32_le(self.kind as u32);
        let own = sum.map_or(0, |_| self::sum(&head));
        head.put_u32_le(own);
        head.put_u32_le(sum.unwrap_or_default());
        head.freeze()
    }

    fn decode(mut head: &[u8]) -> Result<Self, FramingError> {
        let (term, number, block) = (head.get_u64_le(), head.get_u64_le(), head.get_u32_le());
        let kind = match head.get_u32_le() {
            0 => Kind::Contribution,
            1 => Kind::Result,
            2 => Kind::Digest,
            3 => Kind::Partial,
            kind => return Err(FramingError::Kind(kind)),
        };
        Ok(Self { term, number, block, kind })
    }
}

/// What comes next in a stream of frames.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// A frame begins, with a payload of so many bytes. A result has the sum that its block's hash must have, where frames
    /// carry checksums; the unframer does not look at it.
    Head(Header, usize, Option<u32>),
    /// The next bytes of its payload.
    Payload {
        /// The bytes.
        bytes: Bytes,
        /// Whether they are the last of the frame.
        last: bool,
    },
}

/// Takes frames out of a stream.
#[derive(Debug, Default)]
pub struct Unframer {
    head: Vec<u8>,
    left: usize,
    /// Of the frame that is coming, where frames carry checksums.
    check: Option<Check>,
}

/// What the sum of a frame's payload is so far, and what it must become; nothing where the payload is a result.
#[derive(Debug, Default)]
struct Check {
    sum: crc32fast::Hasher,
    expected: Option<u32>,
    block: u32,
}

impl Check {
    fn take(&mut self, bytes: &[u8], last: bool) -> Result<(), FramingError> {
        let Some(expected) = self.expected else { return Ok(()) };
        self.sum.update(bytes);
        if last && self.sum.clone().finalize() != expected { Err(FramingError::Damaged(self.block)) } else { Ok(()) }
    }
}

/// The sum of a payload that is no result: its CRC-32.
#[must_use]
pub fn sum(payload: &[u8]) -> u32 {
    crc32fast::hash(payload)
}

/// The sum of a result, by the BLAKE3 of its block: the first bytes of it.
#[must_use]
pub fn sum_of_result(hash: &[u8; 32]) -> u32 {
    hash.first_chunk().map_or(0, |sum| u32::from_le_bytes(*sum))
}

impl Unframer {
    /// One for a connection without TLS: every frame must carry its checksums.
    #[must_use]
    pub fn summed() -> Self {
        Self { check: Some(Check::default()), ..Self::default() }
    }

    /// Takes the next part from the front of `data`; none when `data` is used up.
    ///
    /// # Errors
    /// [`FramingError`] when the stream is not a sequence of frames; nothing more of it can be understood then.
    pub fn next(&mut self, data: &mut Bytes) -> Result<Option<Part>, FramingError> {
        if self.left > 0 {
            if data.is_empty() {
                return Ok(None);
            }
            let bytes = data.split_to(self.left.min(data.len()));
            self.left -= bytes.len();
            let last = self.left == 0;
            if let Some(check) = &mut self.check {
                check.take(&bytes, last)?;
            }
            return Ok(Some(Part::Payload { bytes, last }));
        }
        let take = (PREFIX + HEADER - self.head.len()).min(data.len());
        self.head.extend_from_slice(&data.split_to(take));
        if self.head.len() < PREFIX + HEADER {
            return Ok(None);
        }
        let head = std::mem::take(&mut self.head);
        let (prefix, header) = head.split_at(PREFIX);
        if prefix[0] != 0 {
            return Err(FramingError::Flag(prefix[0]));
        }
        let length = (&prefix[1..]).get_u32();
        let payload = (length as usize).checked_sub(HEADER).filter(|payload| (1..=LARGEST).contains(payload));
        self.left = payload.ok_or(FramingError::Length(length))?;
        let decoded = Header::decode(header)?;
        let Some(check) = &mut self.check else { return Ok(Some(Part::Head(decoded, self.left, None))) };
        let (told, mut sums) = head.split_at(PREFIX + FIELDS);
        if sums.get_u32_le() != sum(told) {
            return Err(FramingError::Damaged(decoded.block));
        }
        let (is_result, expected) = (decoded.kind == Kind::Result, sums.get_u32_le());
        let summed = (!is_result).then_some(expected);
        *check = Check { sum: crc32fast::Hasher::new(), expected: summed, block: decoded.block };
        Ok(Some(Part::Head(decoded, self.left, is_result.then_some(expected))))
    }

    /// Whether no frame is cut short.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.left == 0 && self.head.is_empty()
    }
}

/// Takes the prefixes out of a stream of messages and bounds its payload.
#[derive(Debug)]
pub struct Deframer {
    prefix: [u8; PREFIX],
    prefix_filled: usize,
    message_left: u64,
    payload_left: u64,
    limit: u64,
}

impl Deframer {
    /// Accepts at most `limit` bytes of payload in all.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { prefix: [0; PREFIX], prefix_filled: 0, message_left: 0, payload_left: limit, limit }
    }

    /// Takes the next piece of payload from the front of `data`; none when `data` is used up.
    ///
    /// # Errors
    /// [`FramingError`] when the stream is not what was agreed; nothing of it may be used then.
    pub fn next(&mut self, data: &mut Bytes) -> Result<Option<Bytes>, FramingError> {
        while data.has_remaining() {
            if self.message_left > 0 {
                let take = self.message_left.min(data.len() as u64);
                self.message_left -= take;
                return Ok(Some(data.split_to(take as usize)));
            }
            self.prefix[self.prefix_filled] = data.get_u8();
            self.prefix_filled += 1;
            if self.prefix_filled == PREFIX {
                self.prefix_filled = 0;
                if self.prefix[0] != 0 {
                    return Err(FramingError::Flag(self.prefix[0]));
                }
                let [_, length @ ..] = self.prefix;
                self.message_left = u64::from(u32::from_be_bytes(length));
                self.payload_left = self.payload_left.checked_sub(self.message_left).ok_or(FramingError::TooLong(self.limit))?;
            }
        }
        Ok(None)
    }

    /// Whether all payload has come and no message is cut short.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.payload_left == 0 && self.message_left == 0 && self.prefix_filled == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deframe(limit: u64, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), FramingError> {
        let mut deframer = Deframer::new(limit);
        let mut payload = Vec::new();
        for piece in pieces {
            let mut data = Bytes::copy_from_slice(piece);
            while let Some(part) = deframer.next(&mut data)? {
                payload.extend_from_slice(&part);
            }
        }
        Ok((payload, deframer.is_complete()))
    }

    type Frames = Vec<(Header, Vec<u8>)>;

    fn unframe(pieces: &[&[u8]]) -> Result<(Frames, bool), FramingError> {
        unframe_with(Unframer::default(), pieces)
    }

    fn unframe_with(mut unframer: Unframer, pieces: &[&[u8]]) -> Result<(Frames, bool), FramingError> {
        let mut frames: Frames = Vec::new();
        for piece in pieces {
            let mut data = Bytes::copy_from_slice(piece);
            while let Some(part) = unframer.next(&mut data)? {
                match (part, frames.last_mut()) {
                    (Part::Head(header, ..), _) => frames.push((header, Vec::new())),
                    (Part::Payload { bytes, .. }, Some((_, payload))) => payload.extend_from_slice(&bytes),
                    (Part::Payload { .. }, None) => unreachable!(),
                }
            }
        }
        Ok((frames, unframer.is_complete()))
    }

    fn header(number: u64) -> Header {
        Header { term: 3, number, block: 7, kind: Kind::Partial }
    }

    #[test]
    fn more_than_agreed_is_refused_before_it_is_read() {
        assert_eq!(deframe(3, &[&prefix(4)]), Err(FramingError::TooLong(3)));
        assert_eq!(deframe(3, &[&[1, 0, 0, 0, 1]]), Err(FramingError::Flag(1)));
    }

    #[test]
    fn a_cut_message_is_not_complete() {
        assert_eq!(deframe(3, &[&prefix(3), b"ab"]), Ok((b"ab".to_vec(), false)));
        assert_eq!(deframe(3, &[&prefix(3), b"abc"]), Ok((b"abc".to_vec(), true)));
    }

    #[test]
    fn a_frame_that_is_none_is_refused_at_its_head() {
        let mut wrong = header(1).encode(1, None).to_vec();
        wrong[PREFIX + 20] = 9;
        assert_eq!(unframe(&[&wrong]), Err(FramingError::Kind(9)));
        assert_eq!(unframe(&[&header(1).encode(0, None)]), Err(FramingError::Length(32)));
        assert_eq!(unframe(&[&header(1).encode(LARGEST + 1, None)]), Err(FramingError::Length(1_048_609)));
        wrong[0] = 1;
        assert_eq!(unframe(&[&wrong]), Err(FramingError::Flag(1)));
    }

    #[test]
    fn the_sum_of_a_result_is_for_who_hashes_its_block() {
        let result = Header { kind: Kind::Result, ..header(1) };
        let hash = blake3::hash(b"abcd");
        let head = result.encode(4, Some(sum_of_result(hash.as_bytes())));
        let mut stream = Bytes::from([&head[..], b"abcd"].concat());
        let mut unframer = Unframer::summed();
        let sum = u32::from_le_bytes(*hash.as_bytes().first_chunk().unwrap());
        assert_eq!(unframer.next(&mut stream), Ok(Some(Part::Head(result, 4, Some(sum)))));
        assert_eq!(unframer.next(&mut stream), Ok(Some(Part::Payload { bytes: Bytes::from_static(b"abcd"), last: true })));
        assert_eq!(Unframer::default().next(&mut head.clone()), Ok(Some(Part::Head(result, 4, None))));
    }

    proptest! {
        #[test]
        fn payload_survives_any_cuts(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8), size in 1usize..40) {
            let mut stream = Vec::new();
            for message in &messages {
                stream.extend_from_slice(&prefix(message.len() as u32));
                stream.extend_from_slice(message);
            }
            let payload = messages.concat();
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            prop_assert_eq!(deframe(payload.len() as u64, &pieces), Ok((payload, true)));
        }

        #[test]
        fn frames_survive_any_cuts(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8), size in 1usize..40) {
            let frames: Vec<_> = payloads.into_iter().enumerate().map(|(number, payload)| (header(number as u64), payload)).collect();
            let stream: Vec<u8> = frames.iter().flat_map(|(header, payload)| [header.encode(payload.len(), Some(sum(payload))).to_vec(), payload.clone()].concat()).collect();
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            prop_assert_eq!(unframe(&pieces), Ok((frames.clone(), true)));
            prop_assert_eq!(unframe_with(Unframer::summed(), &pieces), Ok((frames, true)));
        }

        #[test]
        fn a_changed_bit_of_a_summed_head_is_found_before_the_payload_comes(place in 0..PREFIX + HEADER - 4, bit in 0..8u8) {
            let mut head = Header { kind: Kind::Result, ..header(1) }.encode(9, Some(5)).to_vec();
            head[place] ^= 1u8 << bit;
            prop_assert!(Unframer::summed().next(&mut Bytes::from(head)).is_err());
        }

        #[test]
        fn a_changed_bit_of_a_summed_frame_is_found(payload in prop::collection::vec(any::<u8>(), 1..200), place in any::<prop::sample::Index>(), bit in 0..8u8) {
            let sent = [header(1).encode(payload.len(), Some(sum(&payload))).to_vec(), payload].concat();
            let mut came = sent.clone();
            came[PREFIX + place.index(sent.len() - PREFIX)] ^= 1u8 << bit;
            prop_assert!(unframe_with(Unframer::summed(), &[&sent]).is_ok());
            prop_assert!(unframe_with(Unframer::summed(), &[&came]).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = deframe(64, &[&bytes]);
            let _ = unframe(&[&bytes]);
            let _ = unframe_with(Unframer::summed(), &[&bytes]);
        }
    }
}
