//! Looks for bytes that break a decoder: one coverage-guided fuzzer per target, as many at a time as there are processors.
//!
//! A fuzzer begins with the corpus in `fuzz/corpus` and keeps what it finds in the target directory. First of all a planted bug
//! has to be found, so that a fuzzer that sees no coverage is not taken for code without faults.

mod statistics;

use std::{
    collections::VecDeque,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};

use crate::{
    figures::{Figure, Figures},
    paths,
    process::{Process, cargo, tail},
    tally::Tally,
};
use statistics::Statistics;

/// Bounds of one input: seconds, and the longest. What it may allocate, the target itself bounds.
const SECONDS_PER_INPUT: u32 = 5;
const LONGEST: u32 = 1 << 16;
/// Memory of a fuzzer in all, with its corpus, MiB.
const MEMORY: u32 = 1024;
/// The target with a bug in it, and in how many seconds it has to be found.
const PLANTED: &str = "planted";
const FINDING: u64 = 20;
/// Time beyond the one it was given in which a fuzzer reads its corpus and ends.
const GRACE: Duration = Duration::from_mins(2);
/// Longest time for a build.
const BUILDING: Duration = Duration::from_hours(1);

/// What is asked for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// How long each target runs
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// One target instead of all
    #[arg(long)]
    target: Option<String>,
    /// Only run the target over this one input, such as one that broke it
    #[arg(long, requires = "target", conflicts_with = "grow")]
    input: Option<PathBuf>,
    /// Take what was found into the corpus, as far as it reaches code that the corpus does not
    #[arg(long)]
    grow: bool,
}

/// How one target ended.
#[derive(Debug)]
struct Ended {
    target: String,
    statistics: Statistics,
    /// Inputs that broke it, or what else went wrong.
    faults: Vec<String>,
}

/// Fuzzes, or replays one input.
pub(crate) fn perform(arguments: &Arguments) -> Result<Tally> {
    build()?;
    let targets = targets(arguments.target.as_deref())?;
    if let Some((input, target)) = arguments.input.as_ref().zip(targets.first()) {
        return replay(target, input);
    }
    let planted = fuzz(PLANTED, FINDING)?;
    let waiting = Mutex::new(VecDeque::from(targets));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let ended = thread::scope(|scope| {
        let work = || each(&waiting, |target| fuzz(target, arguments.seconds));
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a fuzzer was not heard"))?);
        ended.collect::<Result<Vec<_>>>()
    })?;
    let mut ended: Vec<Ended> = ended.into_iter().flatten().collect();
    ended.sort_by(|one, other| one.target.cmp(&other.target));
    println!("{}", table(&ended));
    if arguments.grow {
        ended.iter().try_for_each(|ended| grow(&ended.target))?;
    }
    let figures = figures(&planted, &ended);
    Ok(figures.conclude("fuzz"))
}

/// Takes targets until none waits.
fn each(waiting: &Mutex<VecDeque<String>>, run: impl Fn(&str) -> Result<Ended>) -> Result<Vec<Ended>> {
    let mut ended = Vec::new();
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(target) = next else { return Ok(ended) };
        ended.push(run(&target)?);
    }
}

/// The names of the targets: those of the corpora.
fn targets(one: Option<&str>) -> Result<Vec<String>> {
    let entries = fs::read_dir(paths::root().join("fuzz/corpus")).context("cannot list the corpora")?;
    let mut all: Vec<String> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    all.sort();
    match one {
        Some(one) if all.iter().any(|name| name == one) => Ok(vec![one.to_owned()]),
        Some(one) => bail!("there is no target called {one}; there are {}", all.join(", ")),
        None => Ok(all),
    }
}

/// Builds the fuzzer, the workspace's crates with coverage and their dependencies as they are.
fn build() -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--release", "--quiet", "--package", "atoll-fuzz", "--features", "engine"]);
    command.env("RUSTC_WORKSPACE_WRAPPER", paths::root().join("fuzz/instrument")).stdin(Stdio::null());
    let status = Process::start("fuzzer build", &mut command)?.wait(BUILDING, || Ok(()))?;
    ensure!(status.success(), "fuzzer build: {status}; it needs a C++ compiler (`c++`)");
    Ok(())
}

/// A folder of the target directory for what a target finds.
fn folder(of: &str, target: &str) -> Result<PathBuf> {
    let folder = paths::target().join("fuzz").join(of).join(target);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn corpus(target: &str) -> PathBuf {
    paths::root().join("fuzz/corpus").join(target)
}

fn fuzzer(target: &str) -> Command {
    let mut command = Command::new(paths::release("atoll-fuzz"));
    command.env("ATOLL_FUZZ_TARGET", target).stdin(Stdio::null());
    command.args([format!("-timeout={SECONDS_PER_INPUT}"), format!("-rss_limit_mb={MEMORY}"), format!("-max_len={LONGEST}")]);
    command
}

/// Runs a fuzzer with its output in a file, and reads that.
fn watched(target: &str, command: &mut Command, limit: Duration) -> Result<(ExitStatus, String)> {
    let log = folder("logs", target)?.join("log");
    command.stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?);
    let status = Process::start(target, command)?.wait(limit, || Ok(()))?;
    Ok((status, String::from_utf8_lossy(&fs::read(&log)?).into_owned()))
}

/// Fuzzes one target for so many seconds.
fn fuzz(target: &str, seconds: u64) -> Result<Ended> {
    let (found, broken) = (folder("found", target)?, folder("broken", target)?);
    let mut command = fuzzer(target);
    command.env("ATOLL_FUZZ_SEEDS", &found).arg(format!("-max_total_time={seconds}"));
    command.arg("-print_final_stats=1").arg(format!("-artifact_prefix={}/", broken.display())).arg(&found);
    command.args(Some(corpus(target)).filter(|corpus| corpus.exists()));
    let (status, said) = watched(target, &mut command, Duration::from_secs(seconds) + GRACE)?;
    let faults = if status.success() { Vec::new() } else { faults(target, status, &said) };
    Ok(Ended { target: target.to_owned(), statistics: Statistics::read(&said), faults })
}

/// The inputs that broke a target and how to run them alone; what it said last where there are none.
fn faults(target: &str, status: ExitStatus, said: &str) -> Vec<String> {
    let inputs = statistics::broken(said);
    if inputs.is_empty() {
        return vec![format!("{target}: {status}\n{}", statistics::last(said, 5))];
    }
    let alone = |input: &Path| {
        let why = statistics::why(said).unwrap_or("no reason");
        format!("{target}: {why}\n{}\ncargo xtask fuzz --target {target} --input {}", input.display(), input.display())
    };
    inputs.iter().map(|input| alone(input)).collect()
}

/// Runs one input alone; everything the target says is printed.
fn replay(target: &str, input: &Path) -> Result<Tally> {
    ensure!(input.is_file(), "{} is not a file", input.display());
    let status = Process::start(target, fuzzer(target).arg(input))?.wait(GRACE, || Ok(()))?;
    println!("fuzz: {} with {}: {status}", target, input.display());
    Ok(Tally::of(status.success()))
}

/// Merges what was found into the corpus that is kept.
fn grow(target: &str) -> Result<()> {
    let kept = corpus(target);
    let mut command = fuzzer(target);
    command.arg("-merge=1").arg(&kept).arg(folder("found", target)?);
    let (status, _) = watched(target, &mut command, GRACE)?;
    ensure!(status.success(), "{target}: cannot merge: {status}\n{}", tail(&folder("logs", target)?.join("log"), 5));
    Ok(())
}

fn table(ended: &[Ended]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["target", "executions", "per second", "coverage", "features", "corpus", "memory MiB", "broken by"]);
    for Ended { target, statistics, faults } in ended {
        let Statistics { executions, per_second, coverage, features, corpus, memory } = statistics;
        let numbers = [executions, per_second, coverage, features, corpus, memory].map(u64::to_string);
        table.add_row([&[target.clone()][..], &numbers, &[faults.len().to_string()]].concat());
    }
    table
}

fn figures(planted: &Ended, ended: &[Ended]) -> Figures {
    let faults: Vec<String> = ended.iter().flat_map(|ended| ended.faults.clone()).collect();
    let blind = ended.iter().filter(|ended| ended.statistics.coverage == 0 || ended.statistics.executions == 0);
    let blind: Vec<String> = blind.map(|ended| ended.target.clone()).collect();
    let executions: u64 = ended.iter().map(|ended| ended.statistics.executions).sum();
    Figures(vec![
        Figure::at_least("planted bugs found", planted.faults.len() as f64, 1.0),
        Figure::at_least("targets", ended.len() as f64, 1.0),
        Figure::at_least("executions", executions as f64, 1.0),
        Figure::none("targets that ran blind", &blind),
        Figure::none("broken", &faults),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(coverage: u64, faults: &[&str]) -> Ended {
        let statistics = Statistics { executions: 5, coverage, ..Statistics::default() };
        Ended { target: "frames".into(), statistics, faults: faults.iter().map(|fault| (*fault).to_owned()).collect() }
    }

    #[test]
    fn what_breaks_and_what_sees_nothing_falls_short() {
        let planted = ended(3, &["crash"]);
        let short =
            |planted: &Ended, all: &[Ended]| figures(planted, all).short_of().into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(short(&planted, &[ended(9, &[])]), [""; 0]);
        assert_eq!(short(&planted, &[ended(9, &["crash-1"])]), ["broken"]);
        assert_eq!(short(&planted, &[ended(0, &[])]), ["targets that ran blind"]);
        assert_eq!(short(&ended(3, &[]), &[ended(9, &[])]), ["planted bugs found"]);
        assert_eq!(short(&planted, &[]), ["targets", "executions"]);
    }

    #[test]
    fn every_target_that_is_asked_for_must_have_a_corpus() {
        assert_eq!(targets(Some("frames")).unwrap(), ["frames"]);
        assert!(targets(Some("nothing")).unwrap_err().to_string().contains("frames"));
        assert!(targets(None).unwrap().len() > 10);
    }
}
