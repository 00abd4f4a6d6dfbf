//! A sidecar that is there and says nothing: no call waits for it longer than the trainer's patience.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::net::UnixListener;
use std::time::Duration;

use atoll_sdk::{Options, SdkError, Session, State, regions_socket};

#[test]
fn a_sidecar_that_takes_connections_and_never_answers_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sidecar.sock");
    let _nobody_accepts = [UnixListener::bind(&socket).unwrap(), UnixListener::bind(regions_socket(&socket)).unwrap()];
    let patience = Duration::from_millis(200);
    let options = Options { run: "run".into(), socket, incarnation: 1, rank: 0, ranks: 1, patience };
    let ended = Session::new(options).unwrap().begin_round(1, &State::default(), 0);
    assert!(matches!(ended, Err(SdkError::NoSidecar { .. })), "{ended:?}");
}
