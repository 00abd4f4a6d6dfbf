//! Processes of a run are killed or stopped at random instants; the run must end well, and say who and why.

mod instant;
mod strike;
mod verdict;

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;

use self::instant::{Blow, CASES, Instant, Length, Random};
use crate::{
    events::longest_gap_after,
    figures::{Figure, Figures},
    paths, product,
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
    let folder = paths::target().join("xtask");
    fs::create_dir_all(&folder)?;
    let mut figures = Figures::default();
    let mut longest: f64 = 0.0;
    for case in CASES {
        let mut well = 0;
        for _ in 0..instants {
            let instant = Instant::draw(case, length, &mut random);
            let (faults, gap) = one(&instant, length, &folder)?;
            well += usize::from(faults.is_empty());
            longest = longest.max(gap.filter(|_| case.blow == Blow::Stop).unwrap_or(0.0));
        }
        figures.0.push(Figure::that(case.to_string(), format!("{well} of {instants} ended well"), "all", well == instants));
    }
    figures.0.push(Figure::at_most("longest standstill after a stop s", longest, verdict::MOST_GAP_SECONDS));
    Ok(figures.conclude(&format!("faults, {} instants, --seed {seed}", instants * CASES.len())))
}

/// Interrupts one run; gives what was wrong with how it ended, and the longest time without a commit after it, in seconds.
///
/// A run that did not end well leaves its files in `folder`.
fn one(instant: &Instant, length: Length, folder: &Path) -> Result<(Vec<String>, Option<f64>)> {
    let folder = tempfile::Builder::new().prefix("faults-").tempdir_in(folder)?;
    let (mut faults, gap) = match strike::perform(instant, length, folder.path()) {
        Ok(observed) => (verdict::faults(instant.case, &observed), longest_gap_after(&observed.events, observed.time)),
        Err(error) => (vec![format!("{error:#}")], None),
    };
    if !faults.is_empty() {
        faults.push(format!("its files are in {}", folder.keep().display()));
    }
    let ended = if faults.is_empty() { "ended well".to_owned() } else { faults.join("; ") };
    println!("   {instant}: {ended}, longest standstill {:.2} s", gap.unwrap_or(f64::NAN));
    Ok((faults, gap))
}
