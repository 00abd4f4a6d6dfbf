//! gRPC's length-prefixed messages, read and written without copying their payload.
//!
//! A lane is a raw gRPC body: each message is one flag byte (0: not compressed), four bytes of big-endian length, and the
//! payload. Frames of HTTP/2 cut this stream anywhere.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before each message's payload.
pub const PREFIX: usize = 5;

/// The prefix of a message of `length` bytes.
#[must_use]
pub fn prefix(length: u32) -> Bytes {
    let mut prefix = BytesMut::with_capacity(PREFIX);
    prefix.put_u8(0);
    prefix.put_u32(length);
    prefix.freeze()
}

/// Why a stream is not a sequence of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The flag byte is not 0.
    #[error("a message has the flag {0}; only 0 (not compressed) is understood")]
    Flag(u8),
    /// More payload than was agreed.
    #[error("the messages hold more than the {0} bytes that were agreed")]
    TooLong(u64),
}

/// Takes the prefixes out of a stream and bounds its payload.
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
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = deframe(64, &[&bytes]);
        }
    }
}
