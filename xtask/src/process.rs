//! Child processes: always waited for, and ended by their own id when something goes wrong.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How often a waiting task says that it is still there.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long a child may take to end after it was interrupted.
const GRACE: Duration = Duration::from_secs(10);
/// How often a child is looked at.
const POLL: Duration = Duration::from_millis(5);
/// Columns of `/proc/PID/stat`, counted from the process state, which follows the name.
const PARENT: usize = 1;
const CHILDREN_USER_TICKS: usize = 13;
const CHILDREN_SYSTEM_TICKS: usize = 14;
const START_TICKS: usize = 19;

/// A child process. Dropped before it ended, it is interrupted, and killed when that does not help.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    started: Instant,
    grace: Duration,
}

impl Process {
    /// Starts `command`; `name` is how it is called in messages.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("{name}: cannot start {program}"))?;
        Ok(Self { name: name.to_owned(), child, started: Instant::now(), grace: GRACE })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> i32 {
        self.child.id() as i32
    }

    /// Time since its start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits for its end and calls `meanwhile` every few milliseconds.
    pub(crate) fn wait(&mut self, limit: Duration, mut meanwhile: impl FnMut() -> Result<()>) -> Result<ExitStatus> {
        let mut heartbeat = HEARTBEAT;
        loop {
            if let Some(status) = self.child.try_wait().with_context(|| format!("{}: cannot wait", self.name))? {
                meanwhile()?;
                return Ok(status);
            }
            meanwhile()?;
            let elapsed = self.elapsed();
            if elapsed > limit {
                bail!("{}: not done after {} s", self.name, limit.as_secs());
            }
            if elapsed > heartbeat {
                eprintln!("   {}: {} s", self.name, elapsed.as_secs());
                heartbeat += HEARTBEAT;
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until `found` finds something, as long as it runs.
    pub(crate) fn until<T>(&mut self, limit: Duration, mut found: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let since = Instant::now();
        loop {
            if let Some(found) = found()? {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait().with_context(|| format!("{}: cannot wait", self.name))? {
                bail!("{}: {status}", self.name);
            }
            if since.elapsed() > limit {
                bail!("{}: not ready after {} s", self.name, limit.as_secs());
            }
            thread::sleep(POLL);
        }
    }

    /// Interrupts it, kills it when that does not help, and kills what it leaves behind.
    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let id = self.child.id() as i32;
        let below: Vec<Seen> = descendants(id, &parents()).into_iter().filter_map(Seen::now).collect();
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let since = Instant::now();
        while self.child.try_wait()?.is_none() {
            if since.elapsed() > self.grace {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            thread::sleep(POLL);
        }
        for left in below.iter().filter(|process| process.is_alive()) {
            left.signal(Signal::KILL)?;
        }
        Ok(())
    }
}

/// A process that somebody else started, told apart from a later one with the same id by when it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: i32,
    started: u64,
}

impl Seen {
    /// Process `id`, unless it has ended.
    pub(crate) fn now(id: i32) -> Option<Self> {
        Some(Self { id, started: started_at(id)? })
    }

    pub(crate) fn is_alive(&self) -> bool {
        started_at(self.id) == Some(self.started)
    }

    /// Sends it a signal, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(self.id).filter(|_| self.is_alive()).with_context(|| format!("process {} has ended", self.id))?;
        kill_process(id, signal).with_context(|| format!("cannot signal process {}", self.id))
    }
}

/// Process and parent of everything that runs.
fn parents() -> Vec<(i32, i32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(|id| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        Some((id, stat_field(&stat, PARENT)? as i32))
    })
    .collect()
}

/// Children of `ancestor`, their children, and so on.
fn descendants(ancestor: i32, parents: &[(i32, i32)]) -> Vec<i32> {
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(id, of)| *of == parent && *id != parent).map(|(id, _)| *id));
        next += 1;
    }
    found.split_off(1)
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{}: process {} could not be ended: {error}", self.name, self.child.id());
        }
    }
}

/// Runs `command` to its end, hands every line of its standard output to `take`, and prints those for which it says so.
pub(crate) fn run_lines(
    name: &str,
    command: &mut Command,
    limit: Duration,
    mut take: impl FnMut(&str) -> bool + Send,
) -> Result<ExitStatus> {
    let mut process = Process::start(name, command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let output = process.child.stdout.take().with_context(|| format!("{name}: no output"))?;
    thread::scope(|scope| {
        scope.spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                if take(&line) {
                    println!("{line}");
                }
            }
        });
        let waited = process.wait(limit, || Ok(()));
        // Ends the reader, where the child outlived its limit.
        drop(process);
        waited
    })
}

/// Runs `command` to its end and gives its standard output. A failure shows the end of its standard error.
pub(crate) fn output(name: &str, command: &mut Command, limit: Duration) -> Result<String> {
    let errors = tempfile::NamedTempFile::new()?;
    let mut text = String::new();
    let status = run_lines(name, command.stderr(File::create(errors.path())?), limit, |line| {
        text.push_str(line);
        text.push('\n');
        false
    })?;
    if !status.success() {
        bail!("{name}: {status}\n{}", tail(errors.path(), 20));
    }
    Ok(text)
}

/// The last `lines` lines of a file.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A `cargo` command in the workspace's root, without the variables that `cargo run` set for this process.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::paths::root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// CPU seconds of all descendants that have ended and were waited for, by this process and by their parents.
pub(crate) fn children_cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    let ticks = stat_field(&stat, CHILDREN_USER_TICKS).zip(stat_field(&stat, CHILDREN_SYSTEM_TICKS));
    let (user, system) = ticks.context("cannot read CPU times in /proc/self/stat")?;
    Ok((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// When process `id` was started, in clock ticks since boot; nothing when it has ended.
fn started_at(id: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    alive_since(&stat)
}

fn alive_since(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    if fields.trim_start().starts_with(['Z', 'X']) { None } else { stat_field(stat, START_TICKS) }
}

fn stat_field(stat: &str, column: usize) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    /// `man 5 proc`: pid (comm) state ppid pgrp session tty tpgid flags minflt cminflt majflt cmajflt utime stime cutime cstime
    /// priority nice threads itrealvalue starttime.
    const STAT: &str = "42 (a (b) c) S 1 42 42 0 -1 4194304 7 8 9 10 11 12 13 14 20 0 1 0 15 16 17";

    #[test]
    fn columns_are_found_behind_a_name_with_brackets_and_spaces() {
        assert_eq!(stat_field(STAT, CHILDREN_USER_TICKS), Some(13));
        assert_eq!(stat_field(STAT, CHILDREN_SYSTEM_TICKS), Some(14));
        assert_eq!(alive_since(STAT), Some(15));
    }

    #[test]
    fn a_zombie_counts_as_ended() {
        assert_eq!(alive_since(&STAT.replace(") S", ") Z")), None);
    }

    #[test]
    fn descendants_are_found_in_every_generation() {
        assert_eq!(descendants(2, &[(2, 1), (3, 2), (4, 1), (5, 3), (6, 2)]), [3, 6, 5]);
    }

    #[test]
    fn a_process_that_outlives_its_limit_is_ended() {
        let mut process = Process::start("sleep", Command::new("sleep").arg("60")).unwrap();
        let id = process.child.id() as i32;
        let error = process.wait(Duration::from_millis(20), || Ok(())).unwrap_err();
        assert!(error.to_string().contains("not done after"), "{error}");
        drop(process);
        assert_eq!(started_at(id), None);
    }

    #[test]
    fn a_process_is_waited_for_until_it_is_ready_or_has_ended() {
        let mut sleep = Process::start("sleep", Command::new("sleep").arg("60")).unwrap();
        let mut looks = 0..3;
        assert_eq!(sleep.until(Duration::from_mins(1), || Ok(looks.next().filter(|look| *look == 2))).unwrap(), 2);
        let mut ended = Process::start("false", &mut Command::new("false")).unwrap();
        let error = ended.until::<()>(Duration::from_mins(1), || Ok(None)).unwrap_err();
        assert!(error.to_string().starts_with("false: exit status: 1"), "{error}");
    }

    #[test]
    fn a_process_that_cannot_be_interrupted_is_killed_with_its_children() {
        let mut shell = Command::new("sh");
        let mut process = Process::start("shell", shell.args(["-c", "trap '' INT; sleep 60 & sleep 60"])).unwrap();
        let mut children = Vec::new();
        let id = process.child.id() as i32;
        let error = process
            .wait(Duration::from_mins(1), || {
                children = descendants(id, &parents()).into_iter().filter_map(Seen::now).collect();
                ensure!(children.len() != 2, "both are there");
                Ok(())
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "both are there");
        process.grace = Duration::ZERO;
        drop(process);
        assert_eq!(started_at(id), None);
        let since = Instant::now();
        while children.iter().any(Seen::is_alive) {
            assert!(since.elapsed() < Duration::from_secs(30), "a child is left");
            thread::sleep(POLL);
        }
    }

    #[test]
    fn a_failure_shows_what_the_program_said() {
        let mut command = Command::new("sh");
        let error = output("shell", command.args(["-c", "echo no disk >&2; exit 3"]), Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("no disk"), "{error}");
    }

    #[test]
    fn lines_of_a_program_are_handed_on() {
        let mut command = Command::new("sh");
        let text = output("shell", command.args(["-c", "echo one; echo two"]), Duration::from_secs(10)).unwrap();
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn cpu_time_of_ended_children_is_counted() {
        let before = children_cpu_seconds().unwrap();
        let mut command = Command::new("sh");
        output("shell", command.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]), Duration::from_mins(1))
            .unwrap();
        assert!(children_cpu_seconds().unwrap() > before);
    }
}
