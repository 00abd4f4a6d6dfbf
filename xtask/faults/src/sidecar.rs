//! One sidecar: the shipped program, started as a supervisor starts it, heard, and always waited for.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use atoll_sdk::events::Event;
use rustix::process::{Pid, Signal, kill_process};

/// How long it may take to end when it is told to.
const ENDING: Duration = Duration::from_secs(3);
/// Pause between two looks at it.
const LOOK: Duration = Duration::from_millis(2);
/// Bytes of the end of its log that are shown.
const LAST_WORDS: u64 = 600;

/// A sidecar's process.
pub(crate) struct Sidecar {
    pub(crate) incarnation: u64,
    child: Child,
    /// Open as long as it runs.
    _input: Option<ChildStdin>,
    hears: Option<JoinHandle<()>>,
    log: File,
}

/// What all sidecars of a case said, in the order in which it was heard.
pub(crate) type Events = Arc<Mutex<Vec<Event>>>;

impl Sidecar {
    /// Starts `program` with `config`.
    pub(crate) fn start(program: &Path, config: &atoll_sidecar::Config, events: &Events) -> Result<Self> {
        let log = tempfile::tempfile().context("no log can be made")?;
        let mut child = Command::new(program)
            .arg("sidecar")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut input = child.stdin.take();
        let started = serde_json::json!({"supervisor": std::process::id(), "processors": [], "config": config});
        if let Some(input) = &mut input {
            writeln!(input, "{started}").context("a sidecar takes no configuration")?;
        }
        let (output, events) = (child.stdout.take(), Arc::clone(events));
        let hears = std::thread::spawn(move || {
            for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()).map_while(Result::ok) {
                // What is committed, the trainers know better.
                if let Some(event) = serde_json::from_str(&line).ok().filter(|event: &Event| event.event != "Committed") {
                    events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
            }
        });
        Ok(Self { incarnation: config.incarnation, child, _input: input, hears: Some(hears), log })
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ended_already = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Kills it and waits for it.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _status = self.child.wait();
    }

    /// Tells it to stop; says what was wrong with how it ended.
    pub(crate) fn stop(mut self) -> Option<String> {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        let until = Instant::now() + ENDING;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < until => std::thread::sleep(LOOK),
                _ => break None,
            }
        };
        let killed = status.is_none();
        if killed {
            self.kill();
        }
        if let Some(hears) = self.hears.take() {
            let _panicked = hears.join();
        }
        let bad = |status: ExitStatus| (!status.success()).then(|| format!("ended with {status}: {}", self.last_words()));
        if killed { Some(format!("did not end within {} s", ENDING.as_secs())) } else { status.and_then(bad) }
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let mut words = String::new();
        let mut log = &self.log;
        let length = log.seek(SeekFrom::End(0)).unwrap_or(0);
        let _unreadable =
            log.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS))).and_then(|_| log.read_to_string(&mut words));
        words
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}
