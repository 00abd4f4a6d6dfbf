//! Passing a region's descriptor over the region socket (`SCM_RIGHTS`), both ends of it.
//!
//! One message per region: eight bytes of little-endian length and the name, with one descriptor; the answer is one byte,
//! 1 when the region was mapped.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use crate::{Region, SdkError};

/// The socket on which regions are passed, beside a sidecar's `socket`.
#[must_use]
pub fn regions_socket(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".regions");
    path.into()
}

/// Longest name of a region, in bytes.
const LONGEST_NAME: usize = 128;

/// Passes a region and waits until the other side has mapped it.
///
/// # Errors
/// [`SdkError::Passing`] where the socket broke or the other side refused.
pub(crate) fn pass(socket: &mut UnixStream, name: &str, region: &Region) -> Result<(), SdkError> {
    let failed = |source| SdkError::Passing { name: name.to_owned(), source };
    let mut message = (region.len() as u64).to_le_bytes().to_vec();
    message.extend_from_slice(name.as_bytes());
    let descriptors = [region.descriptor()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&*socket, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL).map_err(|error| failed(error.into()))?;
    let mut answer = [0];
    socket.read_exact(&mut answer).map_err(failed)?;
    if answer != [1] {
        return Err(failed(std::io::Error::other("the sidecar refused the region")));
    }
    Ok(())
}

/// Receives one region and gives it to `keep` before the other side is answered, so that whoever was answered can use it.
/// False when the other side is done.
///
/// # Errors
/// [`SdkError::Passing`] for a message without exactly one descriptor, a name that is too long or not UTF-8, or what `keep` does
/// not keep; what [`Region::open`] says of a region that it refuses. The other side is told.
pub fn receive(socket: &mut UnixStream, keep: impl FnOnce(String, Region) -> std::io::Result<()>) -> Result<bool, SdkError> {
    let mut message = [0; 8 + LONGEST_NAME + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let failed = |source| SdkError::Passing { name: "of no name".to_owned(), source };
    let received = recvmsg(&*socket, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|error| failed(error.into()))?;
    if received.bytes == 0 {
        return Ok(false);
    }
    let descriptors: Vec<_> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    let whole = !received.flags.contains(ReturnFlags::CTRUNC) && received.bytes <= 8 + LONGEST_NAME;
    // There is room for two: control messages are aligned.
    let descriptor = <[_; 1]>::try_from(descriptors).ok();
    let opened = parse(&message[..received.bytes]).filter(|_| whole).zip(descriptor);
    let result = match opened {
        Some(((length, name), [descriptor])) => {
            let kept = |region| keep(name.clone(), region).map_err(|source| SdkError::Passing { name: name.clone(), source });
            Region::open(&name, File::from(descriptor), length).and_then(kept)
        }
        None => Err(failed(std::io::ErrorKind::InvalidData.into())),
    };
    socket.write_all(&[u8::from(result.is_ok())]).map_err(failed)?;
    result.map(|()| true)
}

fn parse(message: &[u8]) -> Option<(u64, String)> {
    let (length, name) = message.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*length), String::from_utf8(name.to_vec()).ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, BorrowedFd};

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    use super::*;

    #[test]
    fn a_region_arrives_with_its_bytes() {
        let (mut trainer, mut sidecar) = UnixStream::pair().unwrap();
        let receiver = std::thread::spawn(move || {
            let mut received = None;
            let keep = |name, region| {
                received = Some((name, region));
                Ok(())
            };
            assert!(receive(&mut sidecar, keep).unwrap());
            received.unwrap()
        });
        let region = Region::create("1/state", 32).unwrap();
        assert!(region.write(0, b"hello"));
        pass(&mut trainer, "1/state", &region).unwrap();
        let (name, received) = receiver.join().unwrap();
        assert_eq!(name, "1/state");
        assert_eq!(received.bytes(0..5).unwrap(), b"hello");
    }

    #[test]
    fn what_is_not_kept_is_refused_and_the_sender_told() {
        let (mut trainer, mut sidecar) = UnixStream::pair().unwrap();
        let receiver =
            std::thread::spawn(move || receive(&mut sidecar, |_, _| Err(std::io::Error::other("too many"))).unwrap_err());
        assert!(pass(&mut trainer, "1/0/state", &Region::create("state", 32).unwrap()).is_err());
        let error = receiver.join().unwrap();
        assert_eq!(error.to_string(), "passing region 1/0/state to the sidecar: too many");
    }

    /// Why a message with these descriptors, for a region of so many bytes, is refused; the sender is told.
    fn refused(length: u64, descriptors: &[BorrowedFd<'_>]) -> SdkError {
        let (mut trainer, mut sidecar) = UnixStream::pair().unwrap();
        let message = [&length.to_le_bytes()[..], b"1/state"].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(descriptors));
        sendmsg(&trainer, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL).unwrap();
        let error = receive(&mut sidecar, |_, _| unreachable!()).unwrap_err();
        let mut answer = [9];
        trainer.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0]);
        error
    }

    #[test]
    fn a_message_with_two_descriptors_is_refused() {
        let region = Region::create("1/state", 32).unwrap();
        assert!(matches!(refused(32, &[region.descriptor(), region.descriptor()]), SdkError::Passing { .. }));
    }

    #[test]
    fn a_region_with_holes_is_refused_and_takes_no_memory() {
        const LARGEST: u64 = 1 << 40;
        let file = memfd_create("sparse", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, LARGEST).unwrap();
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
        let error = refused(LARGEST, &[file.as_fd()]);
        assert!(matches!(error, SdkError::Sparse { length: LARGEST, present: 0, .. }), "{error}");
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_blocks, 0);
    }

    #[test]
    fn a_message_without_descriptor_is_refused_and_the_sender_told() {
        let (mut trainer, mut sidecar) = UnixStream::pair().unwrap();
        trainer.write_all(b"12345678name").unwrap();
        assert!(receive(&mut sidecar, |_, _| unreachable!()).is_err());
        let mut answer = [9];
        trainer.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0]);
        drop(trainer);
        assert!(!receive(&mut sidecar, |_, _| unreachable!()).unwrap());
    }
}
