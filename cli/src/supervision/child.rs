//! One process of a run or a benchmark: started, heard, told, and always waited for.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use atoll_sdk::events::Event;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc;

use super::processors::Processors;
use crate::process::Started;

/// Longest line that a process may write, in bytes.
const LONGEST_LINE: u64 = 1 << 20;
/// Bytes of the end of a log that are searched for its last line.
const LAST_WORDS: usize = 4096;

/// Which of a worker's two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Sidecar,
    Trainer,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Trainer => "trainer",
        }
    }
}

/// The command line of a hidden command of this executable.
pub(crate) fn own(command: &str) -> io::Result<Vec<OsString>> {
    Ok(vec![std::env::current_exe()?.into(), command.into()])
}

/// The last line of a process's log.
pub(crate) fn last_words(log: &File) -> io::Result<String> {
    let mut end = vec![0; LAST_WORDS];
    // Where the process writes must not move.
    let count = log.read_at(&mut end, log.metadata()?.len().saturating_sub(LAST_WORDS as u64))?;
    Ok(String::from_utf8_lossy(&end[..count]).lines().last().unwrap_or("its log is empty").to_owned())
}

/// What a process tells its supervisor.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) slot: u32,
    pub(crate) role: Role,
    pub(crate) incarnation: u64,
    pub(crate) what: What,
}

/// An event, or its end.
#[derive(Debug)]
pub(crate) enum What {
    Event(Box<Event>),
    Ended(io::Result<ExitStatus>),
}

/// A running process; [`What::Ended`] tells when it is one no more.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) incarnation: u64,
    stdin: ChildStdin,
}

impl Child {
    /// Starts `program` with `config`; its log goes to `log`, its arithmetic keeps to `processors`.
    pub(crate) async fn start<C: Serialize>(
        (slot, role, incarnation): (u32, Role, u64),
        program: &[OsString],
        config: C,
        log: File,
        processors: &Processors,
        told: mpsc::Sender<Told>,
    ) -> io::Result<Self> {
        let (name, arguments) = program.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut child = Command::new(name)
            .args(arguments)
            .env("RAYON_NUM_THREADS", processors.threads.to_string())
            .env("CANDLE_NUM_THREADS", processors.threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // The terminal's Ctrl-C is for the supervisor alone.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let missing = || io::Error::other("a pipe of the process is missing");
        let (pid, mut stdin) = (child.id().ok_or_else(missing)?, child.stdin.take().ok_or_else(missing)?);
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let started = Started { supervisor: std::process::id() as i32, processors: processors.pinned.clone(), config };
        let mut line = serde_json::to_vec(&started)?;
        line.push(b'\n');
        stdin.write_all(&line).await?;
        tokio::spawn(async move {
            let mut output = BufReader::new(stdout);
            let mut line = Vec::new();
            // What is longer comes in pieces, none of which is an event.
            while let Ok(1..) = (&mut output).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
                if let Ok(event) = serde_json::from_slice(&line) {
                    let what = What::Event(Box::new(event));
                    let _ended = told.send(Told { slot, role, incarnation, what }).await;
                }
                line.clear();
            }
            let what = What::Ended(child.wait().await);
            let _ended = told.send(Told { slot, role, incarnation, what }).await;
        });
        Ok(Self { pid, incarnation, stdin })
    }

    /// Writes a command line.
    pub(crate) async fn tell(&mut self, command: &str) -> io::Result<()> {
        let write = self.stdin.write_all(command.as_bytes());
        tokio::time::timeout(Duration::from_secs(1), write).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Sends a signal to exactly this process; one that has ended needs none.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid as i32) {
            let _ended = kill_process(pid, signal);
        }
    }
}
