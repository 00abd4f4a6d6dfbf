//! The region socket: messages with and without a descriptor, of files that are not what they are said to be.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::Target;
use crate::input::Input;

/// One message.
pub(super) const REGIONS: Target = Target { name: "regions", run, seeds };

/// A file that can be passed as a region.
pub(crate) fn sealed_file(length: u64) -> OwnedFd {
    file(length, true)
}

/// A file of so many bytes, sealed or not.
fn file(length: u64, sealed: bool) -> OwnedFd {
    let file = memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a file in memory");
    if length > 0 {
        fallocate(&file, FallocateFlags::empty(), 0, length).expect("its length, in memory");
    }
    if sealed {
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).expect("its seals");
    }
    file
}

fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (descriptors, sealed, length) = (usize::from(input.byte() % 4), input.byte() % 2 == 0, u64::from(input.short()));
    let message = &input.0[..input.0.len().min(512)];
    let (mut trainer, mut sidecar) = UnixStream::pair().expect("two ends");
    let files: Vec<OwnedFd> = (0..descriptors).map(|_| file(length, sealed)).collect();
    let borrowed: Vec<_> = files.iter().map(OwnedFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    if message.is_empty() || sendmsg(&trainer, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL).is_err() {
        return;
    }
    let mut kept = None;
    let received = atoll_sdk::receive(&mut sidecar, |name, region| {
        kept = Some((name, region));
        Ok(())
    });
    let mut answer = [9];
    trainer.read_exact(&mut answer).expect("an answer to every message");
    assert_eq!(answer, [u8::from(received.is_ok())]);
    assert_eq!(kept.is_some(), matches!(received, Ok(true)));
    if let Some((name, region)) = kept {
        assert!(sealed && descriptors == 1, "one sealed file");
        assert!(region.len() as u64 == length && name.len() <= 128);
        assert!(region.bytes(0..region.len()).is_some() && region.bytes(0..region.len() + 1).is_none());
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let message = |length: u64| [&length.to_le_bytes()[..], b"1/0/state"].concat();
    let seed = |descriptors: u8, unsealed: u8, length: u16, message: &[u8]| {
        [&[descriptors, unsealed][..], &length.to_le_bytes(), message].concat()
    };
    vec![
        seed(1, 0, 64, &message(64)),
        seed(1, 0, 64, &message(65)),
        seed(1, 1, 64, &message(64)),
        seed(0, 0, 64, &message(64)),
        seed(2, 0, 64, &message(64)),
        seed(1, 0, 64, &[message(64), vec![b'x'; 200]].concat()),
    ]
}
