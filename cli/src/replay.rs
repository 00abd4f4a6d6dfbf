//! `atoll replay`: recordings of sidecars, fed to the state machines that ship, and what they tell of their run.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use atoll_sidecar::recording::{Chapter, Difference, Malformed, Problem, Replayed, replay as feed};
use clap::Args;
use comfy_table::{Table, presets};

use crate::{Ending, print};

/// Longest part of an event or action that is shown, in characters.
const SHOWN: usize = 240;

/// Arguments of `atoll replay`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Recordings of sidecars, as `atoll run --record` writes them
    #[arg(required = true, value_name = "EVENTS")]
    events: Vec<PathBuf>,
}

pub(crate) fn replay(arguments: &Arguments) -> Ending {
    let mut differences = Vec::new();
    for path in &arguments.events {
        let opened = File::open(path).map_err(|error| Malformed { line: 1, problem: Problem::Unreadable(error) });
        let replayed = match opened.and_then(|file| feed(BufReader::new(file))) {
            Ok(replayed) => replayed,
            Err(Malformed { problem: problem @ Problem::Unreadable(_), .. }) => {
                return Ending::BadInput(format!("{}: {problem}", path.display()));
            }
            Err(Malformed { line, problem }) => {
                return Ending::BadInput(format!("{}:{line}: {problem}", path.display()));
            }
        };
        if let Err(ending) = print(&told(path, &replayed)) {
            return ending;
        }
        differences.extend(replayed.difference.map(|difference| differs(path, &difference)));
    }
    if differences.is_empty() { Ending::Done } else { Ending::Failed(differences.join("\n")) }
}

/// What one recording tells.
fn told(path: &Path, replayed: &Replayed) -> String {
    let Replayed { header, steps, history, difference } = replayed;
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["seconds", "term", "epoch", "coordinator", "members", "rounds", "operations", "aborts", "evicted"]);
    history.chapters.iter().for_each(|chapter| {
        table.add_row(row(chapter));
    });
    let terms: Vec<String> = history.terms.iter().map(u64::to_string).collect();
    let role = if terms.is_empty() { String::new() } else { format!(", coordinator of term {}", terms.join(", ")) };
    let end = if difference.is_none() { "no difference" } else { "then a difference" };
    format!(
        "{}: worker {} of run {}, start {}{role}\n{table}\n{steps} events replayed: {end}\n",
        path.display(),
        header.worker,
        header.run,
        header.incarnation,
    )
}

fn row(chapter: &Chapter) -> [String; 9] {
    let rounds = chapter.rounds.map_or("-".to_owned(), |(first, last)| format!("{first}-{last}"));
    let aborts: Vec<String> = chapter.aborts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    [
        format!("{:.3}", chapter.since as f64 / 1e3),
        chapter.term.to_string(),
        chapter.epoch.to_string(),
        chapter.coordinator.clone(),
        chapter.members.join(" "),
        rounds,
        chapter.operations.to_string(),
        aborts.join("\n"),
        chapter.evicted.join("\n"),
    ]
}

fn differs(path: &Path, difference: &Difference) -> String {
    let Difference { line, machine, now, event, position, expected, found } = difference;
    let [expected, found] = [expected, found].map(|action| action.as_deref().unwrap_or("nothing more"));
    let same = expected.chars().zip(found.chars()).take_while(|(expected, found)| expected == found).count();
    let from = same.saturating_sub(SHOWN / 2);
    format!(
        "{}:{line}: the {} does not do what was recorded, at {now} ms\n  event    {}\n  action   {} of this event\n  expected {}\n  found    {}",
        path.display(),
        machine.name(),
        part(event, 0),
        position + 1,
        part(expected, from),
        part(found, from),
    )
}

/// A part of a text that is long, from the character `from` on.
fn part(text: &str, from: usize) -> String {
    let shown: String = text.chars().skip(from).take(SHOWN).collect();
    let (before, after) = (if from > 0 { "..." } else { "" }, if text.chars().count() > from + SHOWN { "..." } else { "" });
    format!("{before}{shown}{after}")
}

#[cfg(test)]
mod tests {
    use atoll_sidecar::recording::Machine;

    use super::*;

    #[test]
    fn of_long_actions_the_part_that_differs_is_shown() {
        let action = |digit: &str| Some("x".repeat(5000) + digit + &"y".repeat(5000));
        let (expected, found, event) = (action("1"), action("2"), "\"Tick\"".into());
        let text = differs(
            Path::new("w0.jsonl"),
            &Difference { line: 7, machine: Machine::Peer, now: 25, event, position: 0, expected, found },
        );
        assert!(
            text.starts_with("w0.jsonl:7: the peer does not do what was recorded, at 25 ms\n  event    \"Tick\"\n"),
            "{text}"
        );
        assert!(text.contains("expected ...xxx") && text.contains("x1y") && text.contains("x2y"), "{text}");
        assert!(text.len() < 4 * SHOWN);
    }

    #[test]
    fn who_has_no_more_to_do_says_so() {
        let difference = Difference {
            line: 7,
            machine: Machine::Coordinator,
            now: 0,
            event: String::new(),
            position: 2,
            expected: None,
            found: Some("é".into()),
        };
        let text = differs(Path::new("é"), &difference);
        assert!(text.ends_with("  action   3 of this event\n  expected nothing more\n  found    é"), "{text}");
    }
}
