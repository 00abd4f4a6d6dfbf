//! All cases, several at once, and the table of what became of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use tokio::runtime::Handle;

use crate::case::Case;
use crate::strike::{self, Outcome, milliseconds};

/// Cases that go on at the same time: most of their time they wait.
const AT_ONCE: usize = 2;

/// A number for a case, which decides what the case leaves open.
fn choice(seed: u64, case: Case) -> u64 {
    let hash = blake3::hash(format!("{seed} {case}").as_bytes());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8]))
}

/// Performs these cases.
pub(crate) fn perform(cases: &[Case], seed: u64, (program, runtime): (&Path, &Handle)) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(case) = cases.get(index)
                {
                    let outcome = strike::perform(*case, index, choice(seed, *case), program, runtime);
                    println!("{}", line(&outcome, seed));
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(index, outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// What became of one case, as soon as it is known; how to do it again where it went wrong.
fn line(Outcome { case, faults, time, happened }: &Outcome, seed: u64) -> String {
    if !faults.is_empty() {
        return format!("{case}: {}\n   again: atoll-faults --seed {seed} --only '{case}'", faults.join("; "));
    }
    let time = time.map_or_else(|| "-".to_owned(), |time| format!("{:.0} ms", milliseconds(time)));
    format!("   {case}: {time}, {happened}")
}

/// One row per case.
pub(crate) fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["case", "what happened", "ms"]);
    for Outcome { case, faults, time, happened } in outcomes {
        let time = time.map_or_else(|| "-".to_owned(), |time| format!("{:.0}", milliseconds(time)));
        let happened = if faults.is_empty() { happened.clone() } else { format!("WRONG: {}", short(&faults.join("; "))) };
        table.add_row([case.to_string(), happened, time]);
    }
    table
}

fn short(text: &str) -> String {
    text.chars().take(160).collect()
}

/// One row per fault, one column per phase: how many cases ended well, and the median time.
pub(crate) fn summary(outcomes: &[Outcome]) -> String {
    let mut cells: BTreeMap<(String, String), (usize, Vec<Duration>, usize)> = BTreeMap::new();
    let (mut faults, mut phases): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for Outcome { case, faults: wrong, time, .. } in outcomes {
        let (fault, phase) = (case.fault.to_string(), case.phase.to_string());
        if !faults.contains(&fault) {
            faults.push(fault.clone());
        }
        if !phases.contains(&phase) {
            phases.push(phase.clone());
        }
        let (well, times, all) = cells.entry((fault, phase)).or_default();
        *well += usize::from(wrong.is_empty());
        times.extend(time);
        *all += 1;
    }
    let mut lines = vec![format!("| | {} |", phases.join(" | ")), format!("|---|{}", "---|".repeat(phases.len()))];
    for fault in faults {
        let cell = |phase: &String| {
            let (well, times, all) = cells.get(&(fault.clone(), phase.clone())).cloned().unwrap_or_default();
            format!(
                "{well} of {all}, {} ms",
                median(&times).map_or_else(|| "-".into(), |time| format!("{:.0}", milliseconds(time)))
            )
        };
        lines.push(format!("| {fault} | {} |", phases.iter().map(cell).collect::<Vec<_>>().join(" | ")));
    }
    lines.join("\n")
}

/// The middle one; none of nothing.
pub(crate) fn median(times: &[Duration]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::matrix;

    fn outcome(index: usize, faults: &[&str], time: u64) -> Outcome {
        let faults = faults.iter().map(|fault| (*fault).to_owned()).collect();
        Outcome { case: matrix(3..=3)[index], faults, time: Some(Duration::from_millis(time)), happened: String::new() }
    }

    #[test]
    fn cells_count_what_ended_well_and_give_the_median() {
        let outcomes = [outcome(0, &[], 10), outcome(1, &["wrong"], 30), outcome(2, &[], 5)];
        let expected = "| | vote | reduce-scatter |\n|---|---|---|\n| kill | 1 of 2, 30 ms | 1 of 1, 5 ms |";
        assert_eq!(summary(&outcomes), expected);
    }

    #[test]
    fn choices_depend_on_seed_and_case() {
        let cases = matrix(3..=3);
        assert_eq!(choice(1, cases[0]), choice(1, cases[0]));
        assert_ne!(choice(1, cases[0]), choice(2, cases[0]));
        assert_ne!(choice(1, cases[0]), choice(1, cases[1]));
    }
}
