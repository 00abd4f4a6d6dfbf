//! Writes a recording, one line for each step, and begins a new file when one is full: the newest two are kept.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use atoll_collective::Millis;
use atoll_collective::coordinator::Coordinator;
use atoll_collective::peer::Peer;
use serde::Serialize;

use super::{FORMAT, Header, Line, Machine};

/// Bytes of a file, the step that fills it included: days of a run without operations, hours of a busy one.
const MOST: u64 = 64 << 20;

/// A recording that is being written.
pub(crate) struct Recorder {
    path: PathBuf,
    file: File,
    header: Header,
    most: u64,
    written: u64,
}

/// An event as text, before its machine takes it.
pub(crate) struct Told(String);

impl Told {
    pub(crate) fn new(event: &impl Serialize) -> io::Result<Self> {
        Ok(Self(serde_json::to_string(event)?))
    }
}

impl Recorder {
    /// Begins a recording of the sidecar of `worker` at `path`.
    pub(crate) fn create(path: &Path, run: &str, worker: &str, incarnation: u64, peer: &Peer) -> io::Result<Self> {
        let header = Header {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            run: run.to_owned(),
            worker: worker.to_owned(),
            incarnation,
            time: String::new(),
        };
        let mut recorder = Self { path: path.to_owned(), file: File::create(path)?, header, most: MOST, written: 0 };
        recorder.begin(peer, None)?;
        Ok(recorder)
    }

    /// The first lines of a file.
    fn begin(&mut self, peer: &Peer, coordinator: Option<&Coordinator>) -> io::Result<()> {
        #[expect(clippy::disallowed_methods, reason = "people read it; a replay does not")]
        let now = jiff::Timestamp::now();
        self.header.time = format!("{now:.3}");
        self.written = 0;
        self.write(&Line::Recording(self.header.clone()))?;
        self.write(&Line::PeerState(peer.clone()))?;
        coordinator.map_or(Ok(()), |coordinator| self.write(&Line::CoordinatorState(coordinator.clone())))
    }

    /// The coordinator's role was taken.
    pub(crate) fn coordinates(&mut self, coordinator: &Coordinator) -> io::Result<()> {
        self.write(&Line::CoordinatorState(coordinator.clone()))
    }

    /// The coordinator's role was given back.
    pub(crate) fn coordinates_no_more(&mut self) -> io::Result<()> {
        self.write(&Line::CoordinatorEnded)
    }

    /// A machine took an event, and said what to do.
    pub(crate) fn step<A: Serialize>(
        &mut self,
        machine: Machine,
        now: Millis,
        Told(event): &Told,
        actions: &[A],
    ) -> io::Result<()> {
        let machine = machine.name();
        let mut line = format!(r#"{{"{machine}":{{"now":{now},"event":{event}"#);
        if !actions.is_empty() {
            line += r#","actions":"#;
            line += &serde_json::to_string(actions)?;
        }
        line += "}}\n";
        self.put(line.as_bytes())
    }

    /// Whether this file has as much as one may have.
    pub(crate) fn is_full(&self) -> bool {
        self.written >= self.most
    }

    /// Goes on in a new file, and keeps the full one beside it, instead of the one before.
    pub(crate) fn begin_again(&mut self, peer: &Peer, coordinator: Option<&Coordinator>) -> io::Result<()> {
        std::fs::rename(&self.path, self.path.with_extension("before.jsonl"))?;
        self.file = File::create(&self.path)?;
        self.begin(peer, coordinator)
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.put(text.as_bytes())
    }

    /// In one piece: a process that is killed leaves whole lines.
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line)?;
        self.written += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use atoll_collective::coordinator::{self, Settings};
    use atoll_collective::peer;
    use atoll_collective::v1::{EpochRecord, Member};

    use super::super::replay;
    use super::*;

    fn member() -> Member {
        Member { worker: "w0".into(), incarnation: 1, address: "127.0.0.1:1".into(), ..Member::default() }
    }

    fn settings() -> Settings {
        Settings { liveness: 2000, round_timeout: 60_000, ..Settings::of("tiny", 1) }
    }

    /// Both machines take ticks until the file has been begun twice again, and a few more; gives the recording's path.
    fn recorded(folder: &Path) -> PathBuf {
        let path = folder.join("w0-1.jsonl");
        let mut peer = Peer::new("tiny".into(), member(), 2000);
        let mut recorder = Recorder::create(&path, "tiny", "w0", 1, &peer).unwrap();
        recorder.most = 8192;
        let located = EpochRecord { term: 1, coordinator: Some(member()), ..EpochRecord::default() };
        let mut coordinator = Coordinator::new(settings(), located.clone(), 3);
        recorder.coordinates(&coordinator).unwrap();
        let (mut begun, mut since) = (0, 0);
        let mut take = |recorder: &mut Recorder, event: peer::Event, now| {
            let told = Told::new(&event).unwrap();
            let actions = peer.tick(event, now);
            recorder.step(Machine::Peer, now, &told, &actions).unwrap();
            if recorder.is_full() {
                recorder.begin_again(&peer, Some(&coordinator)).unwrap();
                (begun, since) = (begun + 1, 0);
            }
            since += 1;
            let told = Told::new(&coordinator::Event::Tick).unwrap();
            let actions = coordinator.tick(coordinator::Event::Tick, now);
            recorder.step(Machine::Coordinator, now, &told, &actions).unwrap();
            begun >= 2 && since > 10
        };
        take(&mut recorder, peer::Event::Located(located), 4);
        let enough = (1..10_000).any(|now| take(&mut recorder, peer::Event::Tick, 25 * now));
        assert!(enough, "a file of 8 KiB is not begun again");
        recorder.coordinates_no_more().unwrap();
        path
    }

    #[test]
    fn each_of_the_newest_two_files_replays_by_itself_and_no_others_are_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = recorded(folder.path());
        let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert_eq!(files, [path.with_extension("before.jsonl"), path]);
        for file in files {
            assert!(std::fs::metadata(&file).unwrap().len() < 2 * 8192);
            let replayed = replay(BufReader::new(File::open(&file).unwrap())).unwrap();
            assert!(replayed.difference.is_none(), "{:?}", replayed.difference);
            assert!(replayed.steps > 10 && replayed.header.worker == "w0");
        }
    }
}
