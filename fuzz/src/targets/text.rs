//! What is read as text: names of operations, lines of events, what a supervisor gives to its processes, and recordings.

use atoll_collective::operation::Key;
use atoll_collective::peer::{self, Peer};
use atoll_collective::v1::Member;
use atoll_sdk::events::Event;
use atoll_sidecar::Config;
use atoll_sidecar::recording::{Header, replay};
use serde_json::json;

use crate::Target;
use crate::input::Input;

/// A stored name of an operation.
pub(super) const KEYS: Target = Target { name: "keys", run: keys, seeds: key_seeds };
/// A line of events, a sidecar's configuration, or a recording.
pub(super) const JSON: Target = Target { name: "json", run: json, seeds: json_seeds };

fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(key) = Key::try_from(text.to_owned()) {
        assert_eq!(Key::try_from(String::from(key.clone())), Ok(key));
    }
}

fn json(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 3 {
        0 => event(input.0),
        1 => config(input.0),
        _ => recording(input.0),
    }
}

fn event(line: &[u8]) {
    let Ok(event) = serde_json::from_slice::<Event>(line) else { return };
    let line = serde_json::to_vec(&event).expect("an event is a line");
    assert!(!line.contains(&b'\n'), "one event, one line");
    // Numbers may be a last bit apart: they are for people.
    let again = serde_json::from_slice::<Event>(&line).expect("what was written");
    assert_eq!((again.worker, again.event, again.round), (event.worker, event.event, event.round));
}

fn config(text: &[u8]) {
    let Ok(config) = serde_json::from_slice::<Config>(text) else { return };
    let shown = format!("{config:?}");
    let other = Config { token: "another".into(), identity: None, ..config };
    assert_eq!(shown, format!("{other:?}"), "the run's secret and the peer's key are not shown");
}

fn recording(file: &[u8]) {
    // A machine that cannot take what no run has written is told as such: its panic is not the fuzzer's.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let replayed = replay(file);
    std::panic::set_hook(hook);
    let lines = file.split(|byte| *byte == b'\n').count() as u64;
    match replayed {
        Ok(replayed) => assert!(replayed.steps <= lines && replayed.difference.is_none_or(|difference| difference.line <= lines)),
        Err(malformed) => assert!((1..=lines).contains(&malformed.line), "{malformed}"),
    }
}

fn key_seeds() -> Vec<Vec<u8>> {
    [&b"7/3/2/0,4/a/b"[..], b"1/1/0//", b"18446744073709551615/0/0/4294967295/x"].map(<[u8]>::to_vec).to_vec()
}

fn json_seeds() -> Vec<Vec<u8>> {
    let event = serde_json::to_vec(&Event::now("w1", "SyncEnd").round(3).seconds(0.5).with("loss", 2.25)).expect("an event");
    let config = include_bytes!("../../config.json");
    vec![[&[0][..], &event].concat(), [&[1][..], config].concat(), [&[2][..], recorded().as_bytes()].concat()]
}

/// A recording of a peer that has just started and ticks once.
fn recorded() -> String {
    let [version, run, worker, time] = ["0.1.0", "run", "w0", ""].map(String::from);
    let header = Header { format: 1, version, run, worker, incarnation: 1, time };
    let mut peer = Peer::new("run".into(), Member::default(), 2_000);
    let state = json!({ "peerState": peer });
    let event = peer::Event::Tick;
    let actions = peer.tick(event.clone(), 25);
    let step = json!({ "peer": { "now": 25, "event": event, "actions": actions } });
    [json!({ "recording": header }), state, step].map(|line| line.to_string() + "\n").concat()
}
