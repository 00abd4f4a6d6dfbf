//! What members give to operations when they enter them: judged before it counts.

use super::{Action, Coordinator, MOST_IN_FLIGHT, Session, abort, beginning};
use crate::operation;
use crate::rules::Rules;
use crate::v1::{Abort, AbortReason, Commit, Enter, SampleRange, Start, coordinator_message};
use crate::{Refusal, ledger};

impl Coordinator {
    pub(super) fn entered(&mut self, slot: u32, enter: Enter, actions: &mut Vec<Action>) {
        let key = operation::key(enter.operation.as_ref());
        if self.rules.names_are_used_once && self.is_used(&enter, slot) {
            let used = Refusal { reason: AbortReason::Mismatch, culprit: Some(slot), detail: operation::used(&key) };
            return actions.push(self.send(slot, coordinator_message::Body::Abort(Abort { over: true, ..abort(&key, &used) })));
        }
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        // Judged by its own start: a coordinator that recovers does not know the round yet.
        let begun = |start: &&Start| (start.round, start.started) == (key.round, key.started);
        let Some(start) = session.start.as_ref().filter(begun) else { return };
        if let Err(refusal) = judged(start, &enter, self.rules) {
            self.evict(slot, AbortReason::Mismatch, &refusal);
        } else if session.flights.len() >= MOST_IN_FLIGHT && !session.flights.contains_key(&key) {
            self.evict(slot, AbortReason::Mismatch, "it has more operations in flight than are allowed");
        } else {
            session.flights.entry(key).or_default().enter = Some(enter);
        }
    }

    /// This member took part in an operation of that name, and it was committed, not long ago.
    fn is_used(&self, enter: &Enter, slot: u32) -> bool {
        let same = |commit: &&Commit| enter.operation.as_ref().is_some_and(|operation| operation.key == commit.key);
        self.history.iter().filter(same).any(|commit| commit.slots.contains(&slot))
    }
}

impl Session {
    /// What it brings along and nobody has judged is judged now; what it is prepared for, once its vote is counted, where that
    /// `decides`. It is evicted with the next epoch. What is of another round than its own, and it is not prepared for, is nothing.
    pub(super) fn drop_unacceptable(&mut self, decides: bool, rules: Rules) {
        let start = self.start.clone();
        let mut refused = None;
        self.flights.retain(|key, flight| {
            let start = start.as_ref().filter(|start| (start.round, start.started) == (key.round, key.started));
            let prepared = flight.prepared.is_some();
            let verdict = match (start, &flight.enter) {
                // Nobody can say what it was dealt.
                (None, _) if !prepared => return false,
                (Some(start), Some(enter)) if !(prepared && decides) => judged(start, enter, rules),
                (None, Some(enter)) if !decides => acceptable(enter),
                _ => Ok(()),
            };
            verdict.map_err(|detail| refused = Some((AbortReason::Mismatch, beginning(&detail).to_owned()))).is_ok()
        });
        self.left = refused.or(self.left.take());
    }
}

fn samples(enter: &Enter) -> &[SampleRange] {
    enter.contribution.as_ref().map_or(&[], |given| &given.samples)
}

/// Whether what a member gives can count, whatever it was dealt; otherwise why not.
fn acceptable(enter: &Enter) -> Result<(), String> {
    let Some(operation) = &enter.operation else { return Ok(()) };
    operation::check(operation)?;
    operation::check_length(operation, enter.contribution.as_ref().map_or(0, |given| given.elements))?;
    operation::check_loss(operation, enter.contribution.as_ref().map_or(0.0, |given| given.loss))?;
    operation::check_samples(operation, samples(enter))
}

/// Whether what a member gives, by its own start, can count; otherwise in what it differs.
fn judged(start: &Start, enter: &Enter, rules: Rules) -> Result<(), String> {
    acceptable(enter)?;
    let samples = samples(enter);
    let ends_round = enter.operation.as_ref().is_some_and(|operation| operation.ends_round);
    if !ends_round || !rules.dealt_samples_count {
        return Ok(());
    }
    if !ledger::covers(&start.samples, samples) {
        return Err("it contributed samples that it was not dealt".to_owned());
    }
    // Every hole between two ranges is dealt again, as a range: there are never more of them than were dealt.
    if samples.len() > start.samples.len() {
        return Err(format!("it contributed {} ranges of samples of {} that it was dealt", samples.len(), start.samples.len()));
    }
    Ok(())
}
