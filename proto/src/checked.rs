//! How messages between machines are written: as protocol buffers, with a checksum at their end.
//!
//! The checksum is the field 15 of every message, of type `fixed32`, and always the last: CRC-32 of all bytes before it. No
//! message uses that number otherwise, so that who only reads passes over it. A message that was changed on its way is refused,
//! and with it the call: without TLS one changed bit in a commit would be a round that never was.

use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Field 15, of four bytes.
const TAG: u8 = 15 << 3 | 5;
/// Bytes of the field.
const FIELD: usize = 5;

/// Writes `T` and reads `U`.
#[derive(Debug)]
pub struct Checked<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Checked<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// Writes messages.
#[derive(Debug)]
pub struct Writes<T>(PhantomData<T>);

/// Reads messages.
#[derive(Debug)]
pub struct Reads<U>(PhantomData<U>);

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for Checked<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = Writes<T>;
    type Decoder = Reads<U>;

    fn encoder(&mut self) -> Self::Encoder {
        Writes(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        Reads(PhantomData)
    }
}

impl<T: Message + Send + 'static> Encoder for Writes<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&write(&message));
        Ok(())
    }
}

impl<U: Message + Default + Send + 'static> Decoder for Reads<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        read(&buffer.copy_to_bytes(buffer.remaining())).map(Some)
    }
}

/// A message and its checksum.
#[must_use]
pub fn write(message: &impl Message) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    let sum = crc32fast::hash(&bytes);
    bytes.put_u8(TAG);
    bytes.put_u32_le(sum);
    bytes
}

/// The message, if it is the one that was written.
///
/// # Errors
/// `DataLoss` for bytes that were changed on their way or have no checksum, `Internal` for those that are no such message.
pub fn read<M: Message + Default>(bytes: &[u8]) -> Result<M, Status> {
    let damaged = || Status::data_loss("a message was changed on its way");
    let end = bytes.len().checked_sub(FIELD).ok_or_else(damaged)?;
    let (message, mut sum) = bytes.split_at(end);
    if sum.get_u8() != TAG || sum.get_u32_le() != crc32fast::hash(message) {
        return Err(damaged());
    }
    M::decode(message).map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Commit, CommitRecord};

    fn commit() -> Commit {
        let record = CommitRecord { round: 7, result_hash: vec![3; 32], ..CommitRecord::default() };
        Commit { index: 9, slots: vec![0, 1, 4], result_hash: vec![3; 32], record: Some(record), ..Commit::default() }
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        assert_eq!(read::<Commit>(&write(&commit())).unwrap(), commit());
        assert_eq!(read::<Commit>(&write(&Commit::default())).unwrap(), Commit::default());
    }

    #[test]
    fn a_message_with_a_changed_bit_or_cut_short_is_refused() {
        let sent = write(&commit());
        for bit in 0..sent.len() * 8 {
            let mut came = sent.clone();
            came[bit / 8] ^= 1 << (bit % 8);
            assert!(read::<Commit>(&came).is_err(), "bit {bit}");
        }
        for length in 0..sent.len() {
            assert!(read::<Commit>(&sent[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn who_does_not_know_of_the_checksum_reads_the_message() {
        assert_eq!(Commit::decode(&write(&commit())[..]).unwrap(), commit());
    }
}
