//! A disk without room: the run goes on, says that its checkpoints fail, and keeps them again once there is room.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Handle;

use super::{
    case::{Case, Place},
    course::{self, Observed, Pass},
    ground::Ground,
    strike::Done,
    verdict::{self, Outcome},
};
use crate::{
    events::{Event, Tail},
    process::output,
};

/// Bytes of the disk: some checkpoints of the small model, and some room.
const DISK: u64 = 8 << 20;
/// What one file takes at least.
const PAGE: usize = 4096;
/// Checkpoints that are published before it is full.
const BEFORE: usize = 2;
const SECONDS: f64 = 4.0;
const LIMIT: Duration = Duration::from_mins(1);
const MOUNTING: Duration = Duration::from_secs(10);

/// A disk in memory; unmounted when it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Result<Self> {
        fs::create_dir_all(at)?;
        let size = format!("size={DISK}");
        output("mount", Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at), MOUNTING)?;
        Ok(Self(at.to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all room but `rest` bytes.
    fn fill(&self, rest: usize) -> Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.ballast())?;
        let page = [1; PAGE];
        while ballast.write_all(&page).is_ok() {}
        let length = ballast.metadata()?.len();
        Ok(ballast.set_len(length.saturating_sub(rest as u64))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        if !unmounted.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("{} could not be unmounted: {unmounted:?}", self.0.display());
        }
    }
}

/// Fills the disk, makes room again once a checkpoint has failed, and goes on from the newest.
pub(super) fn perform(case: Case, pass: Pass, runtime: &Handle, folder: &Path) -> Result<Outcome> {
    let objects = folder.join("disk");
    // Manifests have a disk of their own where they alone shall not fit.
    let disk = Disk::mount(&if case.place == Place::BeforeManifest { objects.join("checkpoints") } else { objects.clone() })?;
    let ground = Ground::on_disk(runtime, &objects, folder)?;
    let run = ground.run("struck", pass.rounds(SECONDS))?;
    let mut tail = Tail::new(&run.output);
    let mut events: Vec<Event> = Vec::new();
    let mut process = run.start()?;
    let (mut full, mut room) = (None, false);
    let status = process.wait(LIMIT, || {
        events.extend(tail.poll()?);
        let published = events.iter().filter(|event| event.is("Checkpointed")).count();
        if room || published < BEFORE {
            return Ok(());
        }
        let since = *full.get_or_insert(events.len());
        if failed(&events[since..]).is_some() {
            fs::remove_file(disk.ballast())?;
            room = true;
        } else {
            // What was removed meanwhile has made room.
            disk.fill(rest(case.place, &ground)?)?;
        }
        Ok(())
    })?;
    let struck = course::ended(&run, status, events)?;
    let full = full.with_context(|| format!("the run ended before it: {}", struck.said))?;
    let why = failed(&struck.events[full..]).context("no checkpoint failed though the disk was full")?;
    ensure!(why.contains("no room left"), "a checkpoint failed, and nothing says that the disk is full: {why}");
    let (before, resumed, after) = course::go_on(&ground, &struck.events)?;
    let partial = partial_files(&objects)?;
    let done = Done { what: why, damaged: None, round: 0, events: full };
    let mut outcome = verdict::judge(case, &Observed { done, struck, before, resumed, after });
    if !partial.is_empty() {
        outcome.faults.push(format!("parts of files are left: {}", partial.join(", ")));
    }
    Ok(outcome)
}

fn failed(events: &[Event]) -> Option<String> {
    events.iter().find(|event| event.is("CheckpointFailed")).map(|event| event.reason.clone().unwrap_or_default())
}

/// Bytes that are left: where a shard shall break off, half of what one takes.
fn rest(place: Place, ground: &Ground) -> Result<usize> {
    let largest = ground.shards_of_the_newest()?.into_iter().max().unwrap_or(0);
    Ok(if place == Place::InShard { largest as usize / PAGE / 2 * PAGE } else { 0 })
}

/// Files that a store writes before they have their names, below `folder`.
fn partial_files(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains('#')) {
                found.push(path.display().to_string());
            }
        }
    }
    Ok(found)
}
