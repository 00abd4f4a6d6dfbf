//! Memory that is too short for a region: the trainer is told what it asked for, and its session goes on without that region.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::net::UnixListener;
use std::time::Duration;

use atoll_sdk::{Options, Region, SdkError, Session, State, receive, regions_socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// `SIGXFSZ`: the system tells whoever asks for more than its limit, and ends it unless it listens.
const BEYOND_THE_LIMIT: i32 = 25;
/// Most bytes of a file, and so of a region, in this process.
const LIMIT: u64 = 1 << 20;

#[test]
fn a_region_that_finds_no_room_is_refused_with_what_was_asked_for_and_the_session_goes_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _heard = runtime.block_on(async { signal(SignalKind::from_raw(BEYOND_THE_LIMIT)) }).unwrap();
    setrlimit(Resource::Fsize, Rlimit { current: Some(LIMIT), ..getrlimit(Resource::Fsize) }).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sidecar.sock");
    let (run, patience) = ("short".to_owned(), Duration::from_millis(1));
    let options = Options { run, socket: socket.clone(), incarnation: 1, rank: 0, ranks: 1, patience };
    let mut session = Session::new(options).unwrap();
    let error = session.share("large", LIMIT + 1).unwrap_err();
    assert!(matches!(&error, SdkError::Region { name, length, .. } if name == "large" && *length == LIMIT + 1), "{error:?}");
    assert!(error.to_string().contains("large of 1048577 bytes"), "{error}");
    assert!(session.share("small", LIMIT).unwrap().write(0, b"usable"));

    let regions = UnixListener::bind(regions_socket(&socket)).unwrap();
    let passed = std::thread::spawn(move || {
        let (mut trainer, _) = regions.accept().unwrap();
        let mut passed = Vec::new();
        let mut keep = |name, region: Region| {
            passed.push((name, region.bytes(0..6).unwrap().to_vec()));
            Ok(())
        };
        while receive(&mut trainer, &mut keep).unwrap() {}
        passed
    });
    let nobody = session.begin_round(1, &State::default(), 0).unwrap_err();
    assert!(matches!(nobody, SdkError::NoSidecar { .. }), "{nobody:?}");
    assert_eq!(passed.join().unwrap(), [("1/0/small".to_owned(), b"usable".to_vec())]);
}
