//! A trainer beside a sidecar: in each round it gives a vector that everybody can work out, checks the mean that it gets, and
//! makes it the state that all share.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atoll_sdk::{Coding, CommitRecord, Contribution, ElementType, Options, Outcome, Part, Region, SdkError, Session, State};

use crate::course::Course;
use crate::ledger::Told;

/// A trainer, as a thread of its own over the sdk.
pub(crate) struct Worker {
    slot: u32,
    thread: JoinHandle<Result<()>>,
}

impl Worker {
    /// Starts it.
    pub(crate) fn start(slot: u32, options: Options, course: &Arc<Course>) -> Self {
        let course = Arc::clone(course);
        Self { slot, thread: std::thread::spawn(move || Trainer::new(slot, options, course)?.train()) }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end; says what was wrong with it.
    pub(crate) fn join(self) -> Option<String> {
        match self.thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("the trainer of w{} ended: {error:#}", self.slot)),
            Err(_) => Some(format!("the trainer of w{} panicked", self.slot)),
        }
    }
}

/// What `slot` gives at place `index` in `round`: a whole number, small enough for exact sums over ten slots.
fn value(slot: u32, round: u64, index: usize) -> f32 {
    ((index as u64 * 7 + round * 10_007 + u64::from(slot) * 65_537) % 1_000_003) as f32
}

/// The mean over `slots` at a place: an exact sum, divided once.
fn mean(slots: &[u32], round: u64, index: usize) -> f32 {
    let sum: f32 = slots.iter().map(|slot| value(*slot, round, index)).sum();
    sum / slots.len() as f32
}

struct Trainer {
    slot: u32,
    session: Session,
    course: Arc<Course>,
    state: Region,
    input: Region,
    output: Region,
}

impl Trainer {
    fn new(slot: u32, options: Options, course: Arc<Course>) -> Result<Self> {
        let length = course.elements as u64 * 4;
        let mut session = Session::new(options)?;
        let state = session.share("state", length)?;
        let input = session.share("input", length)?;
        let output = session.share("output", length)?;
        Ok(Self { slot, session, course, state, input, output })
    }

    fn length(&self) -> usize {
        self.course.elements * 4
    }

    fn part(&self, region: &str) -> Part {
        Part { region: region.to_owned(), range: 0..self.length() }
    }

    fn train(mut self) -> Result<()> {
        let mut next = 1;
        while self.course.may_begin(self.slot, next) {
            match self.round(next) {
                Ok(Some(round)) => next = round + 1,
                Ok(None) => self.course.lock().again += 1,
                Err(error) if matches!(error.downcast_ref(), Some(SdkError::Again(_))) => self.course.lock().again += 1,
                Err(_) if !self.course.goes_on(self.slot) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        match self.session.finish() {
            Ok(()) | Err(SdkError::Again(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The round that was committed; none where it was aborted.
    fn round(&mut self, next: u64) -> Result<Option<u64>> {
        let state = State::default().with("state", ElementType::F32, self.part("state"));
        let begun = self.session.begin_round(next, &state, 0)?;
        if begun.synchronised {
            let state = self.state_hash()?;
            self.course.lock().ledger.synchronised(self.slot, begun.round, state);
        }
        self.give(begun.round)?;
        let contribution = Contribution {
            round: begun.round,
            input: self.part("input"),
            output: self.part("output"),
            weight: 1,
            samples: Vec::new(),
            loss: f64::from(self.slot),
            deadline: self.course.deadline,
            coding: Coding::default(),
        };
        self.course.lock().entered.insert(self.slot, (begun.round, Instant::now()));
        loop {
            let since = Instant::now();
            let outcome = self.session.all_reduce(&contribution);
            let took = since.elapsed();
            let untouched = self.is_untouched(begun.round)?;
            self.course.lock().ledger.returned(self.slot, took, self.course.deadline, untouched);
            match outcome? {
                Outcome::Committed { record: Some(record), .. } => {
                    self.take(record, since + took, took)?;
                    return Ok(Some(begun.round));
                }
                Outcome::Aborted { .. } => return Ok(None),
                Outcome::Committed { record: None, .. } => bail!("a round without a record"),
                Outcome::InDoubt => self.course.lock().doubts += 1,
            }
        }
    }

    fn state_hash(&self) -> Result<[u8; 32]> {
        Ok(*blake3::hash(self.state.bytes(0..self.length()).context("the state is shorter")?).as_bytes())
    }

    fn give(&mut self, round: u64) -> Result<()> {
        let (slot, length) = (self.slot, self.length());
        let input = self.input.values_mut(0..length).context("the input is no vector")?;
        input.iter_mut().enumerate().for_each(|(index, place)| *place = value(slot, round, index));
        Ok(())
    }

    fn is_untouched(&self, round: u64) -> Result<bool> {
        let input = self.input.values(0..self.length()).context("the input is no vector")?;
        Ok(input.iter().enumerate().all(|(index, given)| given.to_bits() == value(self.slot, round, index).to_bits()))
    }

    /// Checks a result and makes it the state.
    fn take(&mut self, record: CommitRecord, time: Instant, took: Duration) -> Result<()> {
        let slots: Vec<u32> = record.contributions.iter().filter(|given| given.weight > 0).map(|given| given.slot).collect();
        let output = self.output.values(0..self.length()).context("the output is no vector")?;
        let exact = output.iter().enumerate().all(|(index, got)| got.to_bits() == mean(&slots, record.round, index).to_bits());
        let bytes = self.output.bytes(0..self.length()).context("the output is shorter")?;
        let result = *blake3::hash(bytes).as_bytes();
        if !self.state.write(0, bytes) {
            bail!("the result is longer than the state");
        }
        self.course.lock().ledger.take(Told { slot: self.slot, record, result, exact, took, time });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_those_of_exact_sums() {
        let slots: Vec<u32> = (0..10).collect();
        for index in 0..1000 {
            let sum: u64 = slots.iter().map(|slot| value(*slot, 3, index) as u64).sum();
            assert!(sum < 1 << 24);
            assert_eq!(mean(&slots, 3, index).to_bits(), (sum as f32 / 10.0).to_bits());
        }
    }

    #[test]
    fn slots_and_rounds_give_different_vectors() {
        assert_ne!(value(0, 1, 5).to_bits(), value(1, 1, 5).to_bits());
        assert_ne!(value(0, 1, 5).to_bits(), value(0, 2, 5).to_bits());
    }
}
