//! A trainer in Python and one in Rust beside the sidecars of one run: whoever speaks the sidecar protocol takes part.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    figures::{Figure, Figures},
    paths,
    process::{Process, output, tail},
    product,
    tally::Tally,
};

/// Name of the run.
const RUN: &str = "seam";
/// The example in Python, and what it needs.
const PROGRAM: &str = "examples/python/all_reduce.py";
const REQUIREMENTS: &str = "examples/python/requirements.txt";
/// Lines that a trainer in another language takes.
const MOST_LINES: f64 = 60.0;
/// Longest time to install packages.
const INSTALLING: Duration = Duration::from_mins(5);
/// Longest time for the sidecars to listen, and for the trainers to end.
const LISTENING: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_mins(1);
/// What both examples do: in each round, workers 0 and 1 add once and twice its index to every element, and take the mean.
const ROUNDS: usize = 3;
const LAST_INDEX: f64 = 99_999.0;
const MEAN_PART: f64 = 1.5;

/// What one trainer printed of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Printed {
    last_element: String,
    state: String,
}

/// Has the two trainers reduce together, and checks what both print.
pub(crate) fn perform() -> Result<Tally> {
    product::build_with_example("atoll", ("atoll-sdk", "all_reduce"))?;
    let python = environment("python", REQUIREMENTS)?;
    let temporary = tempfile::tempdir()?;
    let (in_python, in_rust) = together(&python, temporary.path())?;
    let left = fs::read_dir(temporary.path())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let left: Vec<String> = left.collect::<Result<_>>()?;
    let lines = fs::read_to_string(paths::root().join(PROGRAM))?.lines().count();
    Ok(figures(&in_python, &in_rust, &left, lines).conclude("python"))
}

/// The Python of a virtual environment of this name with the pinned packages of a file, which is made where it is not there yet.
pub(crate) fn environment(name: &str, requirements: &str) -> Result<PathBuf> {
    let folder = paths::target().join(name);
    let (python, installed) = (folder.join("bin/python"), folder.join("requirements.txt"));
    let wanted = paths::root().join(requirements);
    let packages = fs::read(&wanted).with_context(|| format!("cannot read {}", wanted.display()))?;
    if fs::read(&installed).is_ok_and(|before| before == packages) {
        return Ok(python);
    }
    output("venv", Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder), INSTALLING)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&wanted);
    output("pip", &mut pip, INSTALLING)?;
    fs::write(installed, packages)?;
    Ok(python)
}

/// Starts sidecars and one trainer of each kind; gives what the trainers printed.
fn together(python: &Path, temporary: &Path) -> Result<(Vec<Printed>, Vec<Printed>)> {
    let logs = tempfile::tempdir()?;
    let (said, log) = (logs.path().join("sockets"), logs.path().join("log"));
    let mut command = Command::new(paths::release("atoll"));
    command.args(["sidecars", "--workers", "2", "--run", RUN]).env("TMPDIR", temporary).stdin(Stdio::null());
    let mut sidecars = Process::start("sidecars", command.stdout(File::create(&said)?).stderr(File::create(&log)?))?;
    let listening = sidecars.until(LISTENING, || Ok(sockets(&fs::read_to_string(&said)?)));
    let [first, second] = listening.with_context(|| tail(&log, 20))?;
    let mut in_python = Command::new(python);
    in_python.arg(paths::root().join(PROGRAM)).args([RUN, &first]);
    let mut in_rust = Command::new(paths::release("examples/all_reduce"));
    in_rust.args([RUN, &second]);
    let (from_python, from_rust) = thread::scope(|scope| {
        let in_rust = scope.spawn(move || output("trainer in Rust", &mut in_rust, LIMIT));
        let from_python = output("trainer in Python", &mut in_python, LIMIT);
        (from_python, in_rust.join())
    });
    let from_rust = from_rust.map_err(|_| anyhow::anyhow!("the trainer in Rust was not heard"))?;
    let context = || format!("the sidecars said\n{}", tail(&log, 20));
    Ok((printed(&from_python.with_context(context)?), printed(&from_rust.with_context(context)?)))
}

/// The two sockets, once both are named.
fn sockets(said: &str) -> Option<[String; 2]> {
    let named: Vec<String> = said.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect();
    named.try_into().ok().filter(|_| said.ends_with('\n'))
}

/// The lines `round 1: last element 0.5, state 1f2e...`, in order.
fn printed(text: &str) -> Vec<Printed> {
    let lines = text.lines().enumerate();
    let line = |(index, line): (usize, &str)| {
        let (last_element, state) = line.strip_prefix(&format!("round {}: last element ", index + 1))?.split_once(", state ")?;
        Some(Printed { last_element: last_element.to_owned(), state: state.to_owned() })
    };
    lines.filter_map(line).collect()
}

fn figures(in_python: &[Printed], in_rust: &[Printed], left: &[String], lines: usize) -> Figures {
    let means = |printed: &[Printed]| printed.iter().map(|round| round.last_element.clone()).collect::<Vec<_>>().join(" ");
    let expected =
        (1..=ROUNDS).map(|round| format!("{:.1}", round as f64 * MEAN_PART * LAST_INDEX)).collect::<Vec<_>>().join(" ");
    let right = |name: &str, printed: &[Printed]| {
        let found = means(printed);
        let holds = found == expected;
        Figure::that(name, found, expected.clone(), holds)
    };
    let alike = in_python.iter().zip(in_rust).filter(|(one, other)| one.state == other.state && one.state.len() == 64).count();
    Figures(vec![
        right("means in Python", in_python),
        right("means in Rust", in_rust),
        Figure::at_least("rounds with one hash", alike as f64, ROUNDS as f64),
        Figure::at_most("lines of Python", lines as f64, MOST_LINES),
        Figure::none("left over", left),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(states: [&str; 3]) -> Vec<Printed> {
        let means = ["149998.5", "299997.0", "449995.5"].into_iter().zip(states);
        means.map(|(mean, state)| Printed { last_element: mean.into(), state: state.repeat(32) }).collect()
    }

    #[test]
    fn what_the_examples_print_is_read() {
        let state = "ab".repeat(32);
        let text = format!("round 1: last element 149998.5, state {state}\nround 3: last element 1.0, state {state}\n");
        assert_eq!(printed(&text), rounds(["ab"; 3])[..1]);
        assert_eq!(sockets("w0 /tmp/a b/w0.sock\nw1 /tmp/w1.sock\n"), Some(["/tmp/a b/w0.sock".into(), "/tmp/w1.sock".into()]));
        assert_eq!(sockets("w0 /tmp/w0.sock\nw1 /tmp/w1.so"), None);
    }

    #[test]
    fn equal_values_hold_and_each_difference_falls_short() {
        let good = rounds(["ab", "cd", "ef"]);
        let short = |python: &[Printed], rust: &[Printed], left: &[String], lines| -> Vec<String> {
            figures(python, rust, left, lines).short_of().into_iter().map(str::to_owned).collect()
        };
        assert_eq!(short(&good, &good, &[], 60), [""; 0]);
        assert_eq!(short(&good, &rounds(["ab", "cd", "ee"]), &[], 60), ["rounds with one hash"]);
        assert_eq!(short(&good[..2], &good, &[], 60), ["means in Python", "rounds with one hash"]);
        let mut other = good.clone();
        other[1].last_element = "299997.5".into();
        assert_eq!(short(&good, &other, &[], 60), ["means in Rust"]);
        assert_eq!(short(&good, &good, &["atoll-1".into()], 61), ["lines of Python", "left over"]);
    }
}
