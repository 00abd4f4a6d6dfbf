//! Whether a case ended as it must.

use super::{
    case::{Case, Fault, Kind},
    course::{Ended, Observed},
    ground::{Checked, Contents, KEEP},
    strike::{Done, last_round},
};

/// Workers that must have ended alike, of three: one that was struck late may still be on its way.
const LEAST_FINISHED: usize = 2;
/// Checkpoints that may be there beside those that are kept: one that was published just before the end.
const NOT_YET_REMOVED: usize = 1;

/// What the table says of a case.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    /// What was done.
    pub(super) done: String,
    /// What became of the run that was struck.
    pub(super) struck: String,
    /// Round of the newest whole checkpoint then.
    pub(super) whole: Option<u64>,
    /// Rounds that were done again.
    pub(super) lost: u64,
    /// What was wrong; nothing where it ended as it must.
    pub(super) faults: Vec<String>,
}

/// Judges what was observed.
pub(super) fn judge(case: Case, observed: &Observed) -> Outcome {
    let Observed { done, struck, before, resumed, after } = observed;
    let mut faults = Vec::new();
    let whole = before.newest_whole();
    let committed = last_round(&struck.events).max(done.round);
    faults.extend(of_the_struck(case, done, struck));
    faults.extend(of_the_store("the store", before, done.damaged.as_deref()));
    faults.extend(lost_ones(struck, before));
    match whole {
        Some(_) => faults.extend(of_the_resumed(resumed, before)),
        None => faults.extend(of_the_refused(resumed, done.damaged.as_deref())),
    }
    faults.extend(of_the_store("the store after the second run", after, done.damaged.as_deref()));
    let most = KEEP + NOT_YET_REMOVED;
    if after.0.len() > most {
        faults.push(format!("{} checkpoints are left, and {most} may be: {}", after.0.len(), not_removed(resumed)));
    }
    let left: Vec<_> = struck.left.iter().chain(&resumed.left).cloned().collect();
    if !left.is_empty() {
        faults.push(format!("left behind: {}", left.join(", ")));
    }
    let mut in_words = in_words(struck);
    if whole.is_none() {
        in_words += "; the second run says that none is whole, and why";
    }
    let whole = whole.map(|place| place.round);
    Outcome { done: done.what.clone(), struck: in_words, whole, lost: committed.saturating_sub(whole.unwrap_or(0)), faults }
}

/// How a run ended, in words.
pub(super) fn in_words(ended: &Ended) -> String {
    let failed = ended.events.iter().any(|event| event.is("CheckpointFailed"));
    match ended.status.code() {
        Some(0) if failed => "completed, a checkpoint failed".to_owned(),
        Some(0) => "completed".to_owned(),
        Some(_) => "ended with an error".to_owned(),
        None => "was killed".to_owned(),
    }
}

/// A run that must complete does so, all alike; one that was killed is gone.
fn of_the_struck(case: Case, done: &Done, struck: &Ended) -> Vec<String> {
    let mut faults = Vec::new();
    let completed = struck.status.success();
    if case.must_survive() && !completed {
        faults.push(format!("the run did not survive: {}: {}", struck.status, struck.said));
    }
    if completed {
        faults.extend(alike(struck, LEAST_FINISHED));
        let since = struck.events.get(done.events..).unwrap_or_default();
        if !since.iter().any(|event| event.is("Checkpointed")) {
            faults.push("no checkpoint was kept after it".to_owned());
        }
    }
    if case.fault == Fault::KillSupervisor && struck.status.code().is_some() {
        faults.push(format!("it was killed, and ended with {}", struck.status));
    }
    let failed = struck.events.iter().find(|event| event.is("CheckpointFailed"));
    if let (Kind::Store, Some(failed)) = (case.fault.kind(), failed) {
        let why = failed.reason.clone().unwrap_or_default();
        faults.push(format!("a checkpoint failed though the store was well again soon: {why}"));
    }
    faults
}

/// Each worker that finished has the same weights, and enough finished.
pub(super) fn alike(ended: &Ended, least: usize) -> Option<String> {
    let Some(report) = &ended.report else { return Some("it wrote no report".to_owned()) };
    let finished = report.hashes().len();
    if finished < least {
        return Some(format!("only {finished} workers finished"));
    }
    report.shared_hash().is_none().then(|| "the finished workers' hashes differ".to_owned())
}

/// Every checkpoint is whole, or what is wrong with it is the object that was damaged.
fn of_the_store(name: &str, contents: &Contents, damaged: Option<&str>) -> Vec<String> {
    let of = |Checked { place, problems }: &Checked| {
        let unexpected = problems.iter().filter(|problem| damaged.is_none_or(|object| !problem.contains(object)));
        unexpected.map(|problem| format!("{name}: checkpoint {place}: {problem}")).collect::<Vec<_>>()
    };
    contents.0.iter().flat_map(of).collect()
}

/// What was said to be published is there, or something newer.
fn lost_ones(struck: &Ended, before: &Contents) -> Option<String> {
    let published = struck.events.iter().filter(|event| event.is("Checkpointed")).filter_map(|event| event.round).max()?;
    let newest = before.newest().map(|place| place.round);
    (newest < Some(published)).then(|| format!("the checkpoint of round {published} is not there; the newest is {newest:?}"))
}

/// The second run went on from the newest whole checkpoint, said which it passed over and why, and completed.
fn of_the_resumed(resumed: &Ended, before: &Contents) -> Vec<String> {
    let mut faults = Vec::new();
    if !resumed.status.success() {
        faults.push(format!("the second run: {}: {}", resumed.status, resumed.said));
        return faults;
    }
    faults.extend(alike(resumed, LEAST_FINISHED + 1).map(|fault| format!("the second run: {fault}")));
    let from = resumed.events.iter().find(|event| event.is("Resumed")).and_then(|event| event.checkpoint.clone());
    let whole = before.newest_whole().map(|place| place.to_string());
    if from != whole {
        faults.push(format!("the second run went on from {from:?}, and the newest whole checkpoint was {whole:?}"));
    }
    let newer = before.0.iter().filter(|checked| Some(checked.place) > before.newest_whole());
    for checked in newer {
        let place = checked.place.to_string();
        let told = resumed
            .events
            .iter()
            .any(|event| event.is("CheckpointSkipped") && event.checkpoint.as_ref() == Some(&place) && event.reason.is_some());
        if !told {
            faults.push(format!("nothing says that checkpoint {place} was passed over, and why"));
        }
    }
    faults
}

/// Where no checkpoint is whole, the second run says so and does not begin anew; it names what is damaged.
fn of_the_refused(resumed: &Ended, damaged: Option<&str>) -> Option<String> {
    let Some(damaged) = damaged else { return Some("no checkpoint is whole, and none was damaged".to_owned()) };
    let told = resumed.status.code() == Some(1) && resumed.said.contains("is whole") && resumed.said.contains(damaged);
    (!told).then(|| format!("no checkpoint is whole, and the second run does not say so: {}: {}", resumed.status, resumed.said))
}

/// Why checkpoints stay.
fn not_removed(resumed: &Ended) -> String {
    let why = resumed.events.iter().rev().find(|event| event.is("CheckpointsNotRemoved"));
    why.and_then(|event| event.reason.clone()).unwrap_or_else(|| "nothing says why".to_owned())
}
