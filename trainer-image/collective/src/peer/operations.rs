//! A peer's side of operations: entered by the trainer, moved, reported, and ended by the coordinator's word.

use super::{Action, Failure, Outcome, Peer, leave_body};
use crate::operation::{self, Key, MOST_IN_FLIGHT};
use crate::v1::{self, Abort, AbortReason, Begin, Commit, Enter, Failed, Prepared, leave, peer_message};
use crate::{Millis, Refusal, chain};

/// One operation of this peer.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Flight {
    enter: Enter,
    begin: Option<Begin>,
    pub(super) prepared: Option<Prepared>,
    /// Until when the trainer waits for it.
    waits: Option<Millis>,
    /// It was committed while nobody waited: the answer when the trainer asks again.
    outcome: Option<Commit>,
}

impl Flight {
    fn new(enter: Enter, deadline: Millis) -> Self {
        Self { enter, begin: None, prepared: None, waits: Some(deadline), outcome: None }
    }

    /// What a new coordinator has to know of it.
    pub(super) fn told(&self) -> Option<v1::Flight> {
        let Self { enter, begin, prepared, outcome, .. } = self;
        outcome.is_none().then(|| v1::Flight { enter: Some(enter.clone()), begin: begin.clone(), prepared: prepared.clone() })
    }
}

impl Peer {
    pub(super) fn entered(&mut self, mut enter: Enter, deadline: Millis, actions: &mut Vec<Action>) {
        let key = self.named(&enter);
        if let Some(operation) = &mut enter.operation {
            operation.key = Some(key.clone().into());
        }
        if let Some(flight) = self.flights.get_mut(&key) {
            // The trainer asks again for what was in doubt.
            flight.waits = Some(deadline);
            if let Some(commit) = flight.outcome.take() {
                self.flights.remove(&key);
                actions.push(Action::Ended(key, Outcome::Committed(Box::new(commit))));
            }
            return;
        }
        if let Err(refusal) = self.admit(&key, &enter) {
            actions.push(Action::Ended(key, Outcome::Aborted(refusal)));
            return;
        }
        self.send(peer_message::Body::Enter(enter.clone()), actions);
        self.flights.insert(key, Flight::new(enter, deadline));
    }

    /// The trainer's name for it, with the start that it belongs to: its own, where the trainer asks again.
    fn named(&self, enter: &Enter) -> Key {
        let asked = operation::key(enter.operation.as_ref());
        let again = self.flights.keys().find(|key| Key { started: asked.started, ..(*key).clone() } == asked);
        let started = self.start.as_ref().map_or(0, |start| start.started);
        again.cloned().unwrap_or(Key { started, ..asked })
    }

    fn admit(&self, key: &Key, enter: &Enter) -> Result<(), Refusal> {
        let mismatch = |detail: &str| self.own_fault(AbortReason::Mismatch, detail);
        let operation = enter.operation.as_ref().ok_or_else(|| mismatch("no operation is named"))?;
        operation::check(operation).map_err(|detail| mismatch(&detail))?;
        let another = |start: &v1::Start| (start.round, start.started) != (key.round, key.started);
        if self.start.as_ref().is_none_or(another) {
            return Err(self.own_fault(AbortReason::PeerLost, "the worker is not a member of this round"));
        }
        if !operation::includes(operation, self.me.slot) {
            return Err(mismatch("this worker is not one of the operation's slots"));
        }
        let used = |commit: &Commit| commit.key == operation.key;
        if self.rules.names_are_used_once && self.commits.iter().any(used) {
            return Err(mismatch(&operation::used(key)));
        }
        if self.flights.len() >= MOST_IN_FLIGHT {
            return Err(mismatch("more operations are in flight than are allowed"));
        }
        Ok(())
    }

    pub(super) fn begun(&mut self, begin: Begin, actions: &mut Vec<Action>) {
        let key = operation::key(begin.operation.as_ref());
        let mine = begin.contributions.iter().any(|given| given.slot == self.me.slot)
            && begin.record.as_ref().is_some_and(|record| chain::includes(record, &self.me));
        let flight =
            self.flights.get_mut(&key).filter(|flight| flight.enter.operation == begin.operation && flight.outcome.is_none());
        if let Some(flight) = flight.filter(|_| mine) {
            flight.prepared = None;
            flight.begin = Some(begin.clone());
            actions.push(Action::Move(Box::new(begin)));
        }
    }

    pub(super) fn moved(&mut self, key: &Key, attempt: (u64, u64), result: Result<Vec<u8>, Failure>, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights.get_mut(key).filter(|flight| flight.prepared.is_none()) else { return };
        let Some(begin) = &flight.begin else { return };
        let (term, epoch) = begin.record.as_ref().map_or((0, 0), |record| (record.term, record.epoch));
        if (term, begin.number) != attempt {
            return;
        }
        let key = Some(key.clone().into());
        match result {
            Ok(result_hash) => {
                let prepared = Prepared { epoch, key, result_hash };
                flight.prepared = Some(prepared.clone());
                self.send(peer_message::Body::Prepared(prepared), actions);
            }
            Err(Failure { reason, culprit, detail }) => {
                let failed = Failed { epoch, key, reason: reason.into(), culprit, detail };
                self.send(peer_message::Body::Failed(failed), actions);
            }
        }
    }

    /// A commit counts only for what this peer is prepared for with the same hash. What it took part in has no other: such a word
    /// was changed on its way, and the peer stays prepared, and asks anew.
    pub(super) fn learn_commit(&mut self, commit: Commit, actions: &mut Vec<Action>) {
        let key: Key = commit.key.clone().unwrap_or_default().into();
        let prepared = self.flights.get(&key).and_then(|flight| flight.prepared.as_ref());
        if !chain::commits(&commit, prepared) {
            if commit.index <= self.learned {
                return;
            }
            if self.rules.commits_what_is_prepared {
                if prepared.is_some() && commit.slots.contains(&self.me.slot) {
                    return self.hang_up(actions);
                }
                let detail = format!("{key} was committed without this worker");
                return self.evicted(&self.own_fault(AbortReason::PeerLost, detail), actions);
            }
        }
        self.learned = self.learned.max(commit.index);
        self.commits.push(commit.clone());
        self.operated = true;
        let flight = self.flights.remove(&key);
        if commit.record.is_some() {
            self.committed.clone_from(&commit.record);
            self.forget_round();
        }
        match flight {
            Some(flight) if flight.waits.is_some() => actions.push(Action::Ended(key, Outcome::Committed(Box::new(commit)))),
            Some(flight) => {
                self.flights.insert(key, Flight { begin: None, prepared: None, outcome: Some(commit), ..flight });
            }
            None => {}
        }
        self.resolved(actions);
    }

    /// The operation is over without result; the contribution waits for the next attempt, if there is to be one.
    pub(super) fn learn_abort(&mut self, abort: Abort, actions: &mut Vec<Action>) {
        let key: Key = abort.key.clone().unwrap_or_default().into();
        let Some(flight) = self.flights.get_mut(&key).filter(|flight| flight.outcome.is_none()) else { return };
        flight.prepared = None;
        if flight.begin.take().is_some() {
            actions.push(Action::Halt(key.clone()));
        }
        if abort.over {
            let waits = flight.waits.is_some();
            self.flights.remove(&key);
            if waits {
                let refusal = Refusal { reason: abort.reason(), culprit: abort.culprit, detail: abort.detail };
                actions.push(Action::Ended(key, Outcome::Aborted(refusal)));
            }
        }
        self.resolved(actions);
    }

    /// A trainer that arrived while an earlier one's operation had to end first can arrive for itself now.
    fn resolved(&mut self, actions: &mut Vec<Action>) {
        let arrived_too_early = self.waiting && self.arrive.as_ref().is_none_or(|_| self.start.is_some()) && !self.fetching;
        if !arrived_too_early || self.is_bound() {
            return;
        }
        if self.start.is_some() {
            self.leave_round(actions);
            self.send(leave_body(leave::Reason::TrainerLost), actions);
        }
        self.waiting = false;
        let refusal = self.own_fault(AbortReason::TrainerLost, "an operation of the trainer before had to end first");
        actions.push(Action::Begun(Err(refusal)));
    }

    /// Operations whose trainer has waited until its deadline.
    pub(super) fn overdue(&self, now: Millis) -> Vec<Key> {
        let overdue = |(key, flight): (&Key, &Flight)| flight.waits.is_some_and(|until| now >= until).then(|| key.clone());
        self.flights.iter().filter_map(overdue).collect()
    }

    pub(super) fn out_of_time(&mut self, key: &Key, actions: &mut Vec<Action>) {
        let prepared_waits = self.rules.prepared_waits;
        let Some(flight) = self.flights.get_mut(key) else { return };
        if flight.prepared.is_some() && prepared_waits {
            flight.waits = None;
            actions.push(Action::Ended(key.clone(), Outcome::InDoubt));
            return;
        }
        let gives_up = |flight: &Flight| flight.prepared.is_none() || !prepared_waits;
        let late = "the operation's total deadline passed";
        self.give_up_moving(gives_up, late, actions);
        // Not all had come: which of them it waited for, only the coordinator knows.
        self.give_up(gives_up, &Refusal { reason: AbortReason::Deadline, culprit: None, detail: late.to_owned() }, actions);
        self.leave_round(actions);
        self.send(leave_body(leave::Reason::Deadline), actions);
    }

    /// Gives up what it is not prepared for.
    pub(super) fn abandon(&mut self, actions: &mut Vec<Action>) {
        let bound = self.rules.prepared_waits;
        let gives_up = |flight: &Flight| flight.prepared.is_none() || !bound;
        let left = "the worker left the round";
        self.give_up_moving(gives_up, left, actions);
        self.give_up(gives_up, &self.own_fault(AbortReason::TrainerLost, left), actions);
    }

    /// Gives up those of them whose data moves: others may have it by now, and be prepared with it.
    fn give_up_moving(&mut self, which: impl Fn(&Flight) -> bool, why: &str, actions: &mut Vec<Action>) {
        let detail = format!("{why} while data moved: the others decide whether its contribution counts");
        let given = self.own_fault(AbortReason::PeerLost, detail);
        self.give_up(|flight| which(flight) && flight.begin.is_some(), &given, actions);
    }

    /// Ends every operation, prepared or not: the others decide what counts.
    pub(super) fn end_flights(&mut self, refusal: &Refusal, actions: &mut Vec<Action>) {
        self.give_up(|flight| flight.outcome.is_none(), refusal, actions);
    }

    fn give_up(&mut self, which: impl Fn(&Flight) -> bool, refusal: &Refusal, actions: &mut Vec<Action>) {
        self.flights.retain(|key, flight| {
            let gone = which(flight);
            // What nobody asked for again is still held by whoever moved it.
            if gone && (flight.begin.is_some() || flight.outcome.is_some()) {
                actions.push(Action::Halt(key.clone()));
            }
            if gone && flight.waits.is_some() {
                actions.push(Action::Ended(key.clone(), Outcome::Aborted(refusal.clone())));
            }
            !gone
        });
    }
}
