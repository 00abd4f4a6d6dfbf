//! Processes of a run are killed or stopped at random instants; the run must end well, and say who and why.

mod instant;
mod strike;
mod verdict;

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;

use self::instant::{CASES, Instant, Length, Random};
use crate::{
    figures::{Figure, Figures},
    product,
    tally::Tally,
};

/// Instants per case, and the runs that they interrupt.
const FULL: (usize, Length) = (20, Length { steps: 1000, rounds: 50 });
const QUICK: (usize, Length) = (3, Length { steps: 300, rounds: 15 });

/// Goes through all cases, at random instants from `seed`, or from a new seed.
pub(crate) fn perform(quick: bool, seed: Option<u64>) -> Result<Tally> {
    product::build(&["atoll"])?;
    let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()));
    let (instants, length) = if quick { QUICK } else { FULL };
    println!("faults: {} cases, {instants} instants each, --seed {seed}", CASES.len());
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir()?;
    let mut figures = Figures::default();
    for case in CASES {
        let mut faults = Vec::new();
        for _ in 0..instants {
            let instant = Instant::draw(case, length, &mut random);
            faults.extend(one(&instant, length, folder.path()));
        }
        figures.0.push(Figure::none(case.to_string(), &faults));
    }
    Ok(figures.conclude(&format!("faults, {} instants, --seed {seed}", instants * CASES.len())))
}

/// Interrupts one run; gives what was wrong with how it ended.
fn one(instant: &Instant, length: Length, folder: &Path) -> Vec<String> {
    let wrong = match strike::perform(instant, length, folder) {
        Ok(observed) => verdict::faults(instant.case, &observed),
        Err(error) => vec![format!("{error:#}")],
    };
    println!("   {instant}: {}", if wrong.is_empty() { "ended well".to_owned() } else { wrong.join("; ") });
    wrong.into_iter().map(|fault| format!("{instant}: {fault}")).collect()
}
