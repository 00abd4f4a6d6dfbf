//! Whether a run with one fault ended as it must.

use super::{
    instant::{Blow, Case},
    strike::Observed,
};
use crate::events::{longest_gap_after, samples_fault};

/// Workers that must finish, of four.
const LEAST_FINISHED: usize = 3;
/// `livenessSeconds` of a local run, and one second for a new membership and the operation that is done again.
pub(super) const MOST_GAP_SECONDS: f64 = 2.0 + 1.0;

/// What was wrong; nothing for a run that ended well.
pub(super) fn faults(case: Case, observed: &Observed) -> Vec<String> {
    let Observed { worker, time, events, report, left_over, files } = observed;
    let mut faults = Vec::new();
    let finished = report.hashes().len();
    if finished < LEAST_FINISHED {
        faults.push(format!("only {finished} workers finished"));
    }
    if report.shared_hash().is_none() {
        faults.push("the finished workers' hashes differ".to_owned());
    }
    let explained = events.iter().any(|event| {
        event.time >= *time && event.worker.as_ref() == Some(worker) && event.reason.as_ref().is_some_and(|why| !why.is_empty())
    });
    if !explained {
        faults.push(format!("no event says what became of {worker}, and why"));
    }
    if case.blow == Blow::Stop {
        match longest_gap_after(events, *time) {
            Some(gap) if gap <= MOST_GAP_SECONDS => {}
            Some(gap) => faults.push(format!("the others stood still for {gap:.2} s")),
            None => faults.push("no round was committed after it".to_owned()),
        }
    }
    faults.extend(samples_fault(events));
    if !files.is_empty() {
        faults.push(format!("files {files:?} are left"));
    }
    if !left_over.is_empty() {
        faults.push(format!("processes {left_over:?} are left"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::{Event, tests::event},
        faults::instant::CASES,
        report::tests::report,
    };

    const KILL: Case = CASES[0];
    const STOP: Case = CASES[2];

    fn committed(second: f64, round: u64, range: [u64; 2]) -> Event {
        Event { committed_samples: Some(vec![range]), ..event(second, "Committed", "kjv-0", round) }
    }

    fn observed() -> Observed {
        let evicted = Event { reason: Some("PeerLost".into()), ..event(12.1, "Evicted", "kjv-2", 7) };
        Observed {
            worker: "kjv-2".into(),
            time: event(10.0, "", "", 0).time,
            events: vec![committed(9.8, 6, [0, 8]), evicted, committed(12.6, 7, [8, 16]), committed(13.0, 8, [16, 20])],
            report: report(&["a", "a", "lost", "a"]),
            left_over: Vec::new(),
            files: Vec::new(),
        }
    }

    fn faults_of(case: Case, change: impl FnOnce(&mut Observed)) -> String {
        let mut observed = observed();
        change(&mut observed);
        faults(case, &observed).join("; ")
    }

    #[test]
    fn a_run_that_ended_well_has_no_faults() {
        assert_eq!(faults_of(KILL, |_| {}), "");
        assert_eq!(faults_of(STOP, |_| {}), "");
    }

    #[test]
    fn each_fault_is_told() {
        assert_eq!(faults_of(KILL, |o| o.report = report(&["a", "a", "lost", "lost"])), "only 2 workers finished");
        assert_eq!(faults_of(KILL, |o| o.report = report(&["a", "a", "b", "a"])), "the finished workers' hashes differ");
        let unexplained = "no event says what became of kjv-2, and why";
        assert_eq!(faults_of(KILL, |o| o.events[1].worker = Some("kjv-1".into())), unexplained);
        assert_eq!(faults_of(KILL, |o| o.events[1].reason = Some(String::new())), unexplained);
        assert_eq!(faults_of(KILL, |o| o.time = event(12.2, "", "", 0).time), unexplained);
        assert_eq!(faults_of(KILL, |o| o.left_over = vec![7]), "processes [7] are left");
        assert_eq!(faults_of(KILL, |o| o.files = vec!["w0.sock".into()]), "files [\"w0.sock\"] are left");
        assert_eq!(faults_of(KILL, |o| o.events[3] = committed(13.0, 8, [12, 20])), "sample 12 was committed twice");
        assert_eq!(faults_of(KILL, |o| o.events[3] = committed(13.0, 8, [17, 20])), "samples 16 to 17 were never committed");
    }

    #[test]
    fn standing_still_is_a_fault_where_a_process_was_stopped() {
        let still = |o: &mut Observed| o.events[2] = committed(12.9, 7, [8, 16]);
        assert_eq!(faults_of(STOP, still), "the others stood still for 3.10 s");
        assert_eq!(faults_of(KILL, still), "");
        assert_eq!(faults_of(STOP, |o| o.events.truncate(2)), "no round was committed after it");
    }
}
