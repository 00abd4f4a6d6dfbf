//! One run, followed by its events until the instant has come; then the signal, and the run's end.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;

use super::instant::{Case, Instant, Length, Role};
use crate::{
    events::{Event, Tail},
    known::Known,
    paths,
    product::Run,
    report::Report,
};

/// Longest time for a run with one fault.
const LIMIT: Duration = Duration::from_mins(4);

/// What became of a run with one fault.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Observed {
    /// Worker that was struck, and when.
    pub(super) worker: String,
    pub(super) time: Timestamp,
    pub(super) events: Vec<Event>,
    pub(super) report: Report,
    /// Processes of the run that were there after its end.
    pub(super) left_over: Vec<i32>,
    /// Temporary files that were there after its end.
    pub(super) files: Vec<String>,
}

/// Runs the example, strikes at `instant`, and waits for the end.
pub(super) fn perform(instant: &Instant, length: Length, folder: &Path) -> Result<Observed> {
    let run = Run::new(&instant.to_string(), &paths::root().join("examples/kjv.yaml"), folder)?
        .set(&[&format!("stop.steps={}", length.steps), "rounds.quorum.min=2"]);
    let mut tail = Tail::new(&run.output);
    let mut known = Known::default();
    let mut struck = None;
    let mut process = run.start()?;
    let status = process.wait(LIMIT, || {
        known.take(tail.poll()?);
        if struck.is_none() && known.has_come(instant) {
            struck = Some(known.strike(instant)?);
        }
        Ok(())
    })?;
    if !status.success() {
        bail!("{status}: {}", run.said());
    }
    let (worker, time) = struck.with_context(|| format!("the run ended before round {}", instant.round))?;
    Ok(Observed {
        worker,
        time,
        left_over: known.left_over(),
        files: run.temporary_files()?,
        report: Report::read(&run.output)?,
        events: known.events,
    })
}

impl Known {
    /// Whether enough events of the instant's round, or one of a later round, were written.
    fn has_come(&self, instant: &Instant) -> bool {
        let of = |wanted: &dyn Fn(u64) -> bool| self.events.iter().filter(|event| event.round.is_some_and(wanted)).count() as u64;
        of(&|round| round == instant.round) >= instant.events || of(&|round| round > instant.round) > 0
    }

    fn strike(&self, instant: &Instant) -> Result<(String, Timestamp)> {
        let worker = self.worker(instant.case, instant.choice)?;
        let process = instant.case.victim.process();
        let victim = self.current.get(&(worker.clone(), process.to_owned()));
        let victim = victim.with_context(|| format!("no event tells the process of {worker}'s {process}"))?;
        // Events are written in whole milliseconds, rounded down.
        #[expect(clippy::disallowed_methods, reason = "it is held against the times of events")]
        let time = Timestamp::from_millisecond(Timestamp::now().as_millisecond())?;
        victim.signal(instant.case.blow.signal())?;
        Ok((worker, time))
    }

    fn worker(&self, case: Case, choice: u64) -> Result<String> {
        let coordinator = self.coordinator.clone().context("no event tells the coordinator")?;
        if case.role == Role::Coordinator {
            return Ok(coordinator);
        }
        let process = case.victim.process();
        let others: Vec<&String> = self
            .current
            .keys()
            .filter(|(worker, kind)| *worker != coordinator && kind == process)
            .map(|(worker, _)| worker)
            .collect();
        match others.len() {
            0 => bail!("no event tells of a second worker"),
            count => Ok(others[(choice % count as u64) as usize].clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{events::tests::event, faults::instant::CASES, random::Random};

    fn started(worker: &str, process: &str) -> Event {
        let pid = Some(std::process::id() as i32);
        Event { process: Some(process.into()), pid, ..event(0.0, "ProcessStarted", worker, 0) }
    }

    fn known() -> Known {
        let mut known = Known::default();
        known.take(vec![
            started("kjv-0", "sidecar"),
            started("kjv-0", "trainer"),
            started("kjv-1", "sidecar"),
            started("kjv-1", "trainer"),
            event(0.1, "Coordinator", "kjv-0", 0),
        ]);
        known
    }

    #[test]
    fn the_victim_is_the_newest_coordinators_worker_or_not_it() {
        let mut known = known();
        let of = |known: &Known| (known.worker(CASES[1], 5).unwrap(), known.worker(CASES[0], 5).unwrap());
        assert_eq!(of(&known), ("kjv-0".into(), "kjv-1".into()));
        known.take(vec![event(1.0, "Coordinator", "kjv-1", 4)]);
        assert_eq!(of(&known), ("kjv-1".into(), "kjv-0".into()));
        assert!(Known::default().worker(CASES[0], 0).is_err());
    }

    #[test]
    fn the_instant_has_come_after_its_events_or_in_a_later_round() {
        let length = Length { steps: 300, rounds: 15 };
        let instant = Instant { round: 5, events: 2, ..Instant::draw(CASES[0], length, &mut Random::new(1)) };
        let mut known = known();
        known.take(vec![event(1.0, "ComputeEnd", "kjv-0", 4), event(1.1, "ComputeEnd", "kjv-0", 5)]);
        assert!(!known.has_come(&instant));
        known.take(vec![event(1.2, "ComputeEnd", "kjv-1", 5)]);
        assert!(known.has_come(&instant));
        assert!(known.has_come(&Instant { round: 4, events: 8, ..instant }));
    }
}
