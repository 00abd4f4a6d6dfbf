//! The README's example: what it learns, how fast, how alike, and what synchronising costs.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{
    events::{self, Tail},
    figures::{Figure, Figures},
    load, paths,
    process::Seen,
    product::{self, Finished, Run},
    report::Report,
    tally::Tally,
};

/// Longest time for a run, also under load.
const LIMIT: Duration = Duration::from_mins(5);
/// Runs on a quiet machine: medians count, because a machine is never quiet all the time.
const QUIET: usize = 5;
/// Repeats of the run under load, in full and reduced.
const REPEATS: usize = 10;
const REPEATS_QUICK: usize = 2;
const WORKERS: usize = 4;
const MOST_WALL_SECONDS: f64 = 60.0;
/// Nats per character.
const MOST_LOSS: f64 = 1.75;
/// CPU time of the run, as a multiple of as many lone trainers.
const MOST_CPU_RATIO: f64 = 1.5;
const MOST_SYNC_SHARE: f64 = 0.1;
const MOST_INTERRUPT_SECONDS: f64 = 5.0;
/// A run of one worker alone.
const ALONE: [&str; 3] = ["workers.min=1", "workers.target=1", "rounds.quorum.min=1"];

/// Everything that was measured.
#[derive(Debug, Clone)]
struct Measured {
    /// On a quiet machine.
    run: Finished,
    sync_share: Option<f64>,
    alone: Finished,
    /// Seconds from an interrupt in the middle of a run to its end.
    interrupt: f64,
    /// Under load.
    repeats: Vec<Report>,
}

/// Runs `examples/kjv.yaml` and checks what the project promises of it.
pub(crate) fn perform(quick: bool) -> Result<Tally> {
    product::build(&["atoll"])?;
    let folder = tempfile::tempdir()?;
    let measured = measure(folder.path(), if quick { REPEATS_QUICK } else { REPEATS })?;
    println!(
        "4 workers: {:.1} s, {:.1} CPU s; 1 worker: {:.1} s, {:.1} CPU s",
        measured.run.wall_seconds, measured.run.cpu_seconds, measured.alone.wall_seconds, measured.alone.cpu_seconds
    );
    Ok(figures(&measured).conclude("example"))
}

fn measure(folder: &Path, repeats: usize) -> Result<Measured> {
    let file = paths::root().join("examples/kjv.yaml");
    let mut shares = Vec::new();
    let mut runs = Vec::new();
    for pass in 1..=QUIET {
        let quiet = Run::new(&format!("example {pass}"), &file, folder)?;
        runs.push(quiet.perform(LIMIT)?);
        shares.extend(events::sync_share(&events::read(&quiet.output)?));
    }
    let sync_share = middle(shares.into_iter(), f64::total_cmp).filter(|_| runs.len() == QUIET);
    let run = middle(runs.into_iter(), |one, other| one.wall_seconds.total_cmp(&other.wall_seconds)).context("no run")?;
    let alone = on_one_processor(|| Run::new("lone trainer", &file, folder)?.set(&ALONE).perform(LIMIT))?;
    let interrupt = interrupted(&Run::new("interrupted", &file, folder)?)?;
    let _busy = load::start().context("cannot make load")?;
    let repeats = (1..=repeats)
        .map(|repeat| Ok(Run::new(&format!("repeat {repeat} under load"), &file, folder)?.perform(LIMIT)?.report))
        .collect::<Result<_>>()?;
    Ok(Measured { run, sync_share, alone, interrupt, repeats })
}

/// Interrupts a run after its third round; gives the seconds that its end took, once it has ended as it must.
fn interrupted(run: &Run) -> Result<f64> {
    let mut tail = Tail::new(&run.output);
    let mut asked = None;
    let mut process = run.start()?;
    let child = Seen::now(process.id()).context("the run has ended already")?;
    let status = process.wait(LIMIT, || {
        let third = tail.poll()?.iter().any(|event| event.is("Committed") && event.round == Some(3));
        if third && asked.is_none() {
            child.signal(Signal::INT)?;
            asked = Some(Instant::now());
        }
        Ok(())
    })?;
    let seconds = asked.context("the run ended before its third round")?.elapsed().as_secs_f64();
    let report: serde_json::Value = serde_json::from_slice(&fs::read(run.output.join("report.json"))?)?;
    ensure!(status.code() == Some(130), "an interrupted run ended with {status}");
    ensure!(report["state"] == "Interrupted" && report["rounds"].as_u64() >= Some(3), "its report says {report}");
    ensure!(run.temporary_files()?.is_empty(), "temporary files of an interrupted run are left");
    Ok(seconds)
}

/// The middle element in this order.
fn middle<T>(values: impl Iterator<Item = T>, order: impl Fn(&T, &T) -> std::cmp::Ordering) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(order);
    let middle = values.len() / 2;
    values.into_iter().nth(middle)
}

/// Runs `work` and what it starts on one processor: a second thread would cost CPU time of its own.
fn on_one_processor<T>(work: impl FnOnce() -> T) -> T {
    let Ok(all) = sched_getaffinity(None) else { return work() };
    let mut one = CpuSet::new();
    if let Some(first) = (0..CpuSet::MAX_CPU).find(|processor| all.is_set(*processor)) {
        one.set(first);
    }
    // Where it is not allowed, the yardstick is only more generous.
    let _refused = sched_setaffinity(None, &one);
    let done = work();
    let _refused = sched_setaffinity(None, &all);
    done
}

fn figures(measured: &Measured) -> Figures {
    let Measured { run, sync_share, alone, interrupt, repeats } = measured;
    let report = &run.report;
    let hash = report.shared_hash();
    let alike = |repeat: &&Report| {
        hash.is_some()
            && repeat.shared_hash() == hash
            && repeat.hashes().len() == WORKERS
            && repeat.held_out_loss.to_bits() == report.held_out_loss.to_bits()
    };
    let same = repeats.iter().filter(alike).count();
    Figures(vec![
        Figure::at_most("wall s", run.wall_seconds, MOST_WALL_SECONDS),
        Figure::at_most("held-out loss", report.held_out_loss, MOST_LOSS),
        Figure::that(
            "workers with one hash",
            if hash.is_some() { report.hashes().len().to_string() } else { "they differ".to_owned() },
            format!("= {WORKERS}"),
            hash.is_some() && report.hashes().len() == WORKERS,
        ),
        Figure::that(
            "repeats under load with this hash and loss",
            format!("{same} of {}", repeats.len()),
            "all",
            !repeats.is_empty() && same == repeats.len(),
        ),
        Figure::at_most("CPU ratio", run.cpu_seconds / (WORKERS as f64 * alone.cpu_seconds), MOST_CPU_RATIO),
        Figure::at_most("interrupt s", *interrupt, MOST_INTERRUPT_SECONDS),
        Figure::at_most("sync share", sync_share.unwrap_or(f64::NAN), MOST_SYNC_SHARE),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    fn finished(cpu_seconds: f64, hashes: &[&str]) -> Finished {
        Finished { report: report(hashes), wall_seconds: 25.0, cpu_seconds }
    }

    fn good() -> Measured {
        Measured {
            run: finished(14.0, &["a"; 4]),
            sync_share: Some(0.05),
            alone: finished(3.0, &["b"]),
            interrupt: 1.0,
            repeats: vec![report(&["a"; 4]), report(&["a"; 4])],
        }
    }

    fn short_of(change: impl FnOnce(&mut Measured)) -> Vec<String> {
        let mut measured = good();
        change(&mut measured);
        figures(&measured).short_of().into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn good_figures_hold() {
        assert_eq!(short_of(|_| {}), [""; 0]);
    }

    #[test]
    fn each_figure_falls_short_by_itself() {
        assert_eq!(short_of(|m| m.run.wall_seconds = 60.5), ["wall s"]);
        assert_eq!(short_of(|m| m.sync_share = Some(0.11)), ["sync share"]);
        assert_eq!(short_of(|m| m.sync_share = None), ["sync share"]);
        assert_eq!(short_of(|m| m.run.cpu_seconds = 18.1), ["CPU ratio"]);
        assert_eq!(short_of(|m| m.alone.cpu_seconds = 0.0), ["CPU ratio"]);
        let same = "repeats under load with this hash and loss";
        assert_eq!(short_of(|m| m.repeats[1] = report(&["c"; 4])), [same]);
        assert_eq!(short_of(|m| m.repeats[1].held_out_loss = 1.691), [same]);
        assert_eq!(short_of(|m| m.repeats[1] = report(&["a"; 3])), [same]);
        assert_eq!(short_of(|m| m.repeats.clear()), [same]);
    }

    #[test]
    fn a_loss_or_a_hash_that_is_wrong_is_named() {
        let too_high = short_of(|m| {
            m.run.report.held_out_loss = 1.76;
            m.repeats.iter_mut().for_each(|repeat| repeat.held_out_loss = 1.76);
        });
        assert_eq!(too_high, ["held-out loss"]);
        let differ = short_of(|m| m.run.report = report(&["a", "a", "a", "b"]));
        assert_eq!(differ, ["workers with one hash", "repeats under load with this hash and loss"]);
        let one_missing = short_of(|m| m.run.report = report(&["a", "a", "a", "lost"]));
        assert_eq!(one_missing, ["workers with one hash"]);
    }
}
