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

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

    use atoll_checkpoint::Place as CheckpointPlace;

    use super::*;
    use crate::{checkpoints::case::Place, events::Event, events::tests::event, report::tests::report};

    const CASE: Case = Case { place: Place::InShard, fault: Fault::KillWriter };

    fn place(round: u64) -> CheckpointPlace {
        CheckpointPlace { lineage: 1, term: 1, epoch: 1, round }
    }

    fn contents(rounds: &[u64]) -> Contents {
        Contents(rounds.iter().map(|round| Checked { place: place(*round), problems: Vec::new() }).collect())
    }

    fn ended(events: Vec<Event>) -> Ended {
        let report = Some(report(&["a", "a", "a"]));
        Ended { status: ExitStatus::from_raw(0), events, report, said: String::new(), left: Vec::new() }
    }

    /// A sidecar was killed after the checkpoint of round 4; the run completed with that of round 8, and another went on from it.
    fn observed() -> Observed {
        let of = |name, round| event(round as f64, name, "", round);
        let resumed = Event { checkpoint: Some(place(8).to_string()), ..of("Resumed", 8) };
        Observed {
            done: Done { what: "killed w1's sidecar".into(), damaged: None, round: 5, events: 1 },
            struck: ended(vec![of("Checkpointed", 4), of("Committed", 9), of("Checkpointed", 8)]),
            before: contents(&[4, 8]),
            resumed: ended(vec![resumed]),
            after: contents(&[8, 12]),
        }
    }

    fn faults_of(case: Case, change: impl FnOnce(&mut Observed)) -> String {
        let mut observed = observed();
        change(&mut observed);
        judge(case, &observed).faults.join("; ")
    }

    /// The newest checkpoint is damaged, and the second run went on from the one before.
    fn damage(observed: &mut Observed) {
        observed.done.damaged = Some("shards/ab".into());
        observed.before.0[1].problems.push("cannot read shards/ab: it is damaged".into());
        let skipped = Event {
            checkpoint: Some(place(8).to_string()),
            reason: Some("damaged".into()),
            ..event(0.0, "CheckpointSkipped", "", 0)
        };
        observed.resumed.events[0].checkpoint = Some(place(4).to_string());
        observed.resumed.events.push(skipped);
    }

    #[test]
    fn a_case_that_ended_as_it_must_has_no_faults() {
        let outcome = judge(CASE, &observed());
        assert_eq!((outcome.faults, outcome.whole, outcome.lost), (Vec::new(), Some(8), 1));
        assert_eq!(faults_of(CASE, damage), "");
    }

    #[test]
    fn each_fault_is_told() {
        let told = |change: fn(&mut Observed), part: &str| {
            let said = faults_of(CASE, change);
            assert!(said.contains(part), "{said}");
        };
        told(|o| o.struck.status = ExitStatus::from_raw(256), "did not survive");
        told(|o| o.struck.report = Some(report(&["a", "b", "a"])), "hashes differ");
        told(|o| o.struck.report = Some(report(&["a", "lost", "lost"])), "only 1 workers finished");
        told(|o| o.struck.events.truncate(2), "no checkpoint was kept after it");
        told(|o| o.before.0.truncate(1), "the checkpoint of round 8 is not there");
        told(|o| o.resumed.events.clear(), "went on from None");
        told(|o| o.resumed.status = ExitStatus::from_raw(256), "the second run: ");
        told(|o| o.after = contents(&[4, 8, 10, 12]), "4 checkpoints are left, and 3 may be");
        told(|o| o.struck.left.push("process 7".into()), "left behind: process 7");
        told(|o| o.before.0[0].problems.push("cannot read shards/cd".into()), "shards/cd");
        told(
            |o| {
                damage(o);
                o.resumed.events.truncate(1);
            },
            "was passed over",
        );
    }

    #[test]
    fn where_nothing_is_whole_the_second_run_must_say_so() {
        let all = |o: &mut Observed| {
            damage(o);
            o.before.0[0].problems = o.before.0[1].problems.clone();
            o.resumed.status = ExitStatus::from_raw(256);
        };
        assert!(faults_of(CASE, all).contains("does not say so"));
        let told = |o: &mut Observed| {
            all(o);
            o.resumed.said = "no checkpoint in s3://x is whole: shards/ab".into();
        };
        assert_eq!(faults_of(CASE, told), "");
    }
}
