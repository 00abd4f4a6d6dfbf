//! What `atoll run` writes while a run goes: `events.jsonl`, one event per line.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Deserialize;

/// The part of an event that the checks read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    pub(crate) time: Timestamp,
    /// What happened.
    #[serde(rename = "event")]
    pub(crate) name: String,
    /// The worker to whom it happened; empty for the run itself.
    pub(crate) worker: Option<String>,
    pub(crate) round: Option<u64>,
    /// Duration of what ended.
    pub(crate) seconds: Option<f64>,
    /// Kind of a process that started: `sidecar` or `trainer`.
    pub(crate) process: Option<String>,
    pub(crate) pid: Option<i32>,
    /// Why, where somebody was left out or something failed.
    pub(crate) reason: Option<String>,
    /// Ranges of samples that a round counted.
    pub(crate) committed_samples: Option<Vec<[u64; 2]>>,
    /// Name of a checkpoint that a run goes on from, or passes over.
    pub(crate) checkpoint: Option<String>,
}

impl Event {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

/// Reads a file of events that still grows.
#[derive(Debug)]
pub(crate) struct Tail {
    file: PathBuf,
    offset: u64,
    partial: Vec<u8>,
}

impl Tail {
    /// The events of a run with this output folder, from the first on.
    pub(crate) fn new(output: &Path) -> Self {
        Self { file: output.join("events.jsonl"), offset: 0, partial: Vec::new() }
    }

    /// The events whose lines were completed since the last call; none while there is no file.
    pub(crate) fn poll(&mut self) -> Result<Vec<Event>> {
        let Ok(mut file) = File::open(&self.file) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.offset))?;
        self.offset += file.read_to_end(&mut self.partial)? as u64;
        let complete = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let lines: Vec<u8> = self.partial.drain(..complete).collect();
        parse(&String::from_utf8_lossy(&lines)).with_context(|| format!("cannot understand {}", self.file.display()))
    }
}

/// All events of a run that has ended.
pub(crate) fn read(output: &Path) -> Result<Vec<Event>> {
    Tail::new(output).poll()
}

fn parse(text: &str) -> Result<Vec<Event>> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

/// Share of the run's wall time that a worker spent in synchronisation: `SyncEnd` seconds, summed per worker, mean over the
/// workers, over the time between the first and the last event. Nothing for a run without any.
pub(crate) fn sync_share(events: &[Event]) -> Option<f64> {
    let mut per_worker: BTreeMap<&str, f64> = BTreeMap::new();
    for event in events.iter().filter(|event| event.is("SyncEnd")) {
        *per_worker.entry(event.worker.as_deref()?).or_default() += event.seconds?;
    }
    let wall = seconds_between(events.first()?.time, events.last()?.time);
    let mean = per_worker.values().sum::<f64>() / per_worker.len() as f64;
    (wall > 0.0 && mean.is_finite()).then_some(mean / wall)
}

/// What is wrong with the samples that all rounds together counted: each must be there once, and none left out before the last.
pub(crate) fn samples_fault(events: &[Event]) -> Option<String> {
    let told = |event: &Event| Some((event.round?, event.committed_samples.clone()?));
    let rounds: BTreeMap<u64, Vec<[u64; 2]>> = events.iter().filter_map(told).collect();
    let mut ranges: Vec<[u64; 2]> = rounds.into_values().flatten().collect();
    ranges.sort_unstable();
    let mut end = 0;
    for [first, last] in ranges {
        if first < end {
            return Some(format!("sample {first} was committed twice"));
        }
        if first > end {
            return Some(format!("samples {end} to {first} were never committed"));
        }
        end = last;
    }
    (end == 0).then(|| "no sample was committed".to_owned())
}

/// Longest time without a commit, in seconds, from the last commit before `instant` on. A round counts from when it was first
/// reported, by the coordinator or by a worker that took its result. Nothing when no round was committed after `instant`.
pub(crate) fn longest_gap_after(events: &[Event], instant: Timestamp) -> Option<f64> {
    let mut rounds: BTreeMap<u64, Timestamp> = BTreeMap::new();
    for event in events.iter().filter(|event| event.is("Committed") || event.is("SyncEnd")) {
        rounds.entry(event.round?).and_modify(|time| *time = event.time.min(*time)).or_insert(event.time);
    }
    let times: Vec<Timestamp> = rounds.into_values().collect();
    let after = times.iter().position(|time| *time > instant)?;
    let start = if after == 0 { instant } else { times[after - 1] };
    let ends = &times[after..];
    std::iter::once(&start).chain(ends).zip(ends).map(|(from, to)| seconds_between(*from, *to)).reduce(f64::max)
}

fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use super::*;

    /// An event at `seconds` after the epoch.
    pub(crate) fn event(seconds: f64, name: &str, worker: &str, round: u64) -> Event {
        Event {
            time: Timestamp::from_millisecond((seconds * 1000.0) as i64).unwrap(),
            name: name.into(),
            worker: Some(worker.into()),
            round: Some(round),
            seconds: None,
            process: None,
            pid: None,
            reason: None,
            committed_samples: None,
            checkpoint: None,
        }
    }

    fn sync(at: f64, worker: &str, seconds: f64) -> Event {
        Event { seconds: Some(seconds), ..event(at, "SyncEnd", worker, 4) }
    }

    fn committed(at: f64, round: u64) -> Event {
        event(at, "Committed", "kjv-0", round)
    }

    fn at(seconds: f64) -> Timestamp {
        event(seconds, "", "", 0).time
    }

    #[test]
    fn a_growing_file_is_read_in_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut tail = Tail::new(folder.path());
        assert_eq!(tail.poll().unwrap(), []);
        let mut file = File::create(folder.path().join("events.jsonl")).unwrap();
        let line = r#"{"time":"2026-01-02T03:04:05.25Z","worker":"kjv-1","event":"ProcessStarted","process":"trainer","pid":7}"#;
        write!(file, "{line}\n{{\"time\":\"2026-01-02T03:04:0").unwrap();
        let events = tail.poll().unwrap();
        assert_eq!(events.iter().map(|event| event.pid).collect::<Vec<_>>(), [Some(7)]);
        writeln!(file, "6Z\",\"event\":\"SyncEnd\",\"round\":3,\"step\":60,\"seconds\":0.01}}").unwrap();
        let events = tail.poll().unwrap();
        assert_eq!((events.len(), events[0].round, events[0].seconds), (1, Some(3), Some(0.01)));
        assert_eq!(tail.poll().unwrap(), []);
    }

    #[test]
    fn a_line_that_is_no_event_is_an_error() {
        assert!(parse("{\"time\":\"yesterday\",\"event\":\"Begin\"}").is_err());
    }

    #[test]
    fn the_share_of_synchronising_is_the_mean_over_workers_of_the_wall_time() {
        let events = [
            event(10.0, "RunStarted", "", 0),
            sync(12.0, "a", 0.5),
            sync(13.0, "a", 0.5),
            sync(14.0, "b", 2.0),
            sync(20.0, "b", 1.0),
        ];
        assert_eq!(sync_share(&events), Some(0.2));
        assert_eq!(sync_share(&events[..1]), None);
    }

    #[test]
    fn the_longest_gap_begins_at_the_last_commit_before_the_instant() {
        let events =
            [committed(1.0, 1), committed(4.0, 2), committed(5.0, 3), sync(7.5, "a", 0.1), committed(7.75, 4), committed(8.0, 5)];
        assert_eq!(longest_gap_after(&events, at(5.25)), Some(2.5));
        assert_eq!(longest_gap_after(&events, at(4.5)), Some(2.5));
        assert_eq!(longest_gap_after(&events, at(0.0)), Some(3.0));
        assert_eq!(longest_gap_after(&events, at(8.0)), None);
    }
}
