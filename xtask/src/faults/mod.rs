//! What becomes of peers and runs when something goes wrong: at named phases of operations between real sidecars, and at random
//! instants of whole runs. All must end well, and say who and why.

mod instant;
mod phases;
mod strike;
mod verdict;

use std::{fs, path::Path, time::Duration};

use anyhow::Result;

use self::instant::{Blow, CASES, Instant, Length};
use crate::{
    events::longest_gap_after,
    figures::{Figure, Figures},
    paths, product,
    random::{self, Random},
    tally::Tally,
};

/// Instants of runs per case, where nobody says how many.
const INSTANTS: usize = 2;
/// The runs that they interrupt; longer ones where somebody does.
const SHORT: Length = Length { steps: 300, rounds: 15 };
const LONG: Length = Length { steps: 1000, rounds: 50 };
/// How long peers come and go.
const CHURN: Duration = Duration::from_mins(2);

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pass {
    /// Three peers alone, and less of everything.
    pub(crate) quick: bool,
    /// Minutes in which peers come and go.
    pub(crate) minutes: Option<u64>,
    /// Instants of longer runs per case.
    pub(crate) instants: Option<usize>,
    /// Repeats an earlier pass.
    pub(crate) seed: Option<u64>,
}

/// Goes through all phases, and through all cases at random instants of runs, from the seed or a new one.
pub(crate) fn perform(pass: Pass) -> Result<Tally> {
    product::build(&["atoll", "atoll-faults"])?;
    let seed = random::seed_or_new(pass.seed);
    let churn = pass.minutes.map_or(CHURN, Duration::from_mins);
    let (length, instants) = match pass.instants {
        Some(instants) => (LONG, instants),
        None => (SHORT, INSTANTS),
    };
    let mut figures = Figures(vec![phases::perform(pass.quick, churn, seed)?]);
    println!("faults: {} cases, {instants} instants each, --seed {seed}", CASES.len());
    let mut random = Random::new(seed);
    let folder = paths::target().join("xtask");
    fs::create_dir_all(&folder)?;
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
