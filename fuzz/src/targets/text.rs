//! What is read as text: names of operations, lines of events, and what a supervisor gives to its processes.

use atoll_collective::operation::Key;
use atoll_sdk::events::Event;
use atoll_sidecar::Config;

use crate::Target;
use crate::input::Input;

/// A stored name of an operation.
pub(super) const KEYS: Target = Target { name: "keys", run: keys, seeds: key_seeds };
/// A line of events, or a sidecar's configuration.
pub(super) const JSON: Target = Target { name: "json", run: json, seeds: json_seeds };

fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(key) = Key::try_from(text.to_owned()) {
        assert_eq!(Key::try_from(String::from(key.clone())), Ok(key));
    }
}

fn json(bytes: &[u8]) {
    let mut input = Input(bytes);
    if input.byte() % 2 == 0 {
        let Ok(event) = serde_json::from_slice::<Event>(input.0) else { return };
        let line = serde_json::to_vec(&event).expect("an event is a line");
        assert!(!line.contains(&b'\n'), "one event, one line");
        // Numbers may be a last bit apart: they are for people.
        let again = serde_json::from_slice::<Event>(&line).expect("what was written");
        assert_eq!((again.worker, again.event, again.round), (event.worker, event.event, event.round));
    } else if let Ok(config) = serde_json::from_slice::<Config>(input.0) {
        let shown = format!("{config:?}");
        let other = Config { token: "another".into(), identity: None, ..config };
        assert_eq!(shown, format!("{other:?}"), "the run's secret and the peer's key are not shown");
    }
}

fn key_seeds() -> Vec<Vec<u8>> {
    [&b"7/3/2/0,4/a/b"[..], b"1/1/0//", b"18446744073709551615/0/0/4294967295/x"].map(<[u8]>::to_vec).to_vec()
}

fn json_seeds() -> Vec<Vec<u8>> {
    let event = serde_json::to_vec(&Event::now("w1", "SyncEnd").round(3).seconds(0.5).with("loss", 2.25)).expect("an event");
    let config = include_bytes!("../../config.json");
    vec![[&[0][..], &event].concat(), [&[1][..], config].concat()]
}
