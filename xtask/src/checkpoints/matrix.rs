//! All cases one after another: a table of what became of each, and what all of them must keep.

use std::{fmt::Write as _, fs, time::Instant};

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use tokio::runtime::Handle;

use super::{
    case::{self, Case, Fault},
    course::{self, Pass},
    disk_full, each, folder, power_loss, runtime,
    verdict::{self, Outcome},
};
use crate::{
    figures::{Figure, Figures},
    markers, paths, product, random,
    tally::Tally,
};

const GUIDE: &str = "docs/src/recovery.md";
/// Longest time for the selection and for all cases, in seconds on two processors.
const MOST_SECONDS: f64 = 360.0;
const MOST_SECONDS_OF_ALL: f64 = 1500.0;

/// A case that was tried.
#[derive(Debug)]
struct Row {
    case: Case,
    outcome: Outcome,
    seconds: f64,
}

/// Tries a selection of the cases, or all; where all end as they must they also write the table of the guide.
pub(crate) fn perform(all: bool, seed: Option<u64>) -> Result<Tally> {
    product::build(&["atoll"])?;
    let seed = random::seed_or_new(seed);
    let cases = if all { case::all() } else { case::selected() };
    println!("crash-matrix: {} cases, --seed {seed}", cases.len());
    let since = Instant::now();
    let (runtime, before) = (runtime()?, left_overs()?);
    let measured = folder("measured-")?;
    let pass = Pass { round: course::measure(runtime.handle(), measured.path())?, seed };
    let rows = each(&cases, |case| {
        let row = one(*case, pass, runtime.handle());
        println!("   {} ({}): {}, {:.1} s", row.case, row.outcome.done, in_words(&row.outcome), row.seconds);
        row
    });
    println!("{}", table(&rows));
    let after = left_overs()?;
    let new: Vec<_> = after.into_iter().filter(|one| !before.contains(one)).collect();
    if all && rows.iter().all(|row| row.outcome.faults.is_empty()) {
        let guide = paths::root().join(GUIDE);
        let content = format!("{}\n\nWritten by `cargo xtask crash-matrix --all --seed {seed}`.", markdown(&rows));
        fs::write(&guide, markers::replace(&fs::read_to_string(&guide)?, "crash-matrix", &content)?)?;
    }
    let most = if all { MOST_SECONDS_OF_ALL } else { MOST_SECONDS };
    let figures = figures(&rows, &new, since.elapsed().as_secs_f64(), most);
    Ok(figures.conclude(&format!("crash-matrix, --seed {seed}")))
}

/// Tries one case; one that did not end as it must leaves its files.
fn one(case: Case, pass: Pass, runtime: &Handle) -> Row {
    let since = Instant::now();
    // Each case draws numbers of its own, the same alone and among others.
    let seed = pass.seed.wrapping_add(case::all().iter().position(|other| *other == case).unwrap_or(0) as u64);
    let failed = |error: anyhow::Error| Outcome {
        done: "nothing".to_owned(),
        struck: "was not tried to its end".to_owned(),
        whole: None,
        lost: 0,
        faults: vec![format!("{error:#}")],
    };
    let outcome = match folder("crash-") {
        Ok(folder) => {
            let outcome = match case.fault {
                Fault::PowerLoss => power_loss::perform(case.place, seed, runtime, folder.path()),
                Fault::DiskFull => disk_full::perform(case, pass, runtime, folder.path()),
                _ => course::perform(case, Pass { seed, ..pass }, runtime, folder.path())
                    .map(|observed| verdict::judge(case, &observed)),
            };
            let mut outcome = outcome.unwrap_or_else(failed);
            if !outcome.faults.is_empty() {
                outcome.faults.push(format!("its files are in {}", folder.keep().display()));
            }
            outcome
        }
        Err(error) => failed(error),
    };
    Row { case, outcome, seconds: since.elapsed().as_secs_f64() }
}

/// Named memory and mounts of this machine.
fn left_overs() -> Result<Vec<String>> {
    let memory = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let memory = memory.map(|entry| entry.path().display().to_string());
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned);
    Ok(memory.chain(mounts).collect())
}

fn in_words(outcome: &Outcome) -> String {
    match &outcome.faults {
        faults if faults.is_empty() => outcome.struck.clone(),
        faults => format!("{}; WRONG: {}", outcome.struck, faults.join("; ")),
    }
}

fn cells(row: &Row) -> [String; 6] {
    let Row { case, outcome, seconds } = row;
    let whole = outcome.whole.map_or_else(|| "-".to_owned(), |round| format!("round {round}"));
    [case.place.to_string(), case.fault.to_string(), in_words(outcome), whole, outcome.lost.to_string(), format!("{seconds:.1}")]
}

const HEADER: [&str; 6] = ["place", "fault", "outcome", "newest whole checkpoint", "rounds lost", "seconds"];

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(HEADER);
    table.add_rows(rows.iter().map(cells));
    table
}

fn markdown(rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|{}", HEADER.join(" | "), "---|".repeat(HEADER.len()));
    for row in rows {
        let _ = write!(text, "\n| {} |", cells(row).map(|cell| cell.replace('|', "\\|").replace('\n', " ")).join(" | "));
    }
    text
}

fn figures(rows: &[Row], left: &[String], seconds: f64, most_seconds: f64) -> Figures {
    let well = rows.iter().filter(|row| row.outcome.faults.is_empty()).count();
    let wrong = rows.iter().filter(|row| !row.outcome.faults.is_empty()).map(|row| row.case.to_string());
    let most_lost = rows.iter().map(|row| row.outcome.lost).max().unwrap_or(0);
    Figures(vec![
        Figure::that("cases that ended as they must", format!("{well} of {}", rows.len()), "all", well == rows.len()),
        Figure::none("wrong", &wrong.collect::<Vec<_>>()),
        Figure::that("most rounds lost", most_lost.to_string(), "told", true),
        Figure::none("memory and mounts that are left", left),
        Figure::at_most("seconds", seconds.round(), most_seconds),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoints::case::Place;

    fn row(faults: &[&str]) -> Row {
        let faults = faults.iter().map(|fault| (*fault).to_owned()).collect();
        let outcome = Outcome { done: "it was cut".to_owned(), struck: "completed".to_owned(), whole: Some(7), lost: 2, faults };
        Row { case: Case { place: Place::InShard, fault: Fault::Cut }, outcome, seconds: 4.25 }
    }

    #[test]
    fn the_table_of_the_guide_has_a_line_for_each_case() {
        let expected = "\
| place | fault | outcome | newest whole checkpoint | rounds lost | seconds |
|---|---|---|---|---|---|
| in a shard | connection ends in a body | completed | round 7 | 2 | 4.2 |
| in a shard | connection ends in a body | completed; WRONG: a \\| b | round 7 | 2 | 4.2 |";
        assert_eq!(markdown(&[row(&[]), row(&["a | b"])]), expected);
    }

    #[test]
    fn a_case_that_is_wrong_falls_short_by_name() {
        assert!(figures(&[row(&[])], &[], 60.0, 360.0).short_of().is_empty());
        let wrong = figures(&[row(&[]), row(&["x"])], &["/mnt/x".to_owned()], 400.0, 360.0);
        let all = ["cases that ended as they must", "wrong", "memory and mounts that are left", "seconds"];
        assert_eq!(wrong.short_of(), all);
        assert!(wrong.line("crash-matrix").contains("in a shard: connection ends in a body"));
    }
}
