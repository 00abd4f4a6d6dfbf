//! Trainers and the data movement of the simulation, and what is asserted of every commit.

use std::collections::BTreeSet;

use atoll_collective::exchange::Plan;
use atoll_collective::operation::{self, Key};
use atoll_collective::peer::{self, Failure, Outcome};
use atoll_collective::v1::{
    AbortReason, Arrive, Begin, Commit, CommitRecord, Contribution, Enter, Member, Operation, OperationKey, OperationKind,
    PeerMessage, SampleRange, Start, StateStrategy, peer_message,
};
use atoll_collective::{Refusal, chain, ledger};

use super::values::{OF_PAIRS, hash_of, number, reference, region, source, value, weight};
use super::{FAULTS_UNTIL, Happening, Node, SAMPLES, World, attempt};

fn state_after(state: &[u8], result: &[u8]) -> Vec<u8> {
    blake3::Hasher::new().update(state).update(result).finalize().as_bytes().to_vec()
}

/// What a trainer starts with.
pub(super) fn first_state(of: u64) -> Vec<u8> {
    state_after(&[], &of.to_le_bytes())
}

/// Outputs of gatherings have room for one element of each: who is to blame where that is too little.
fn no_room(slot: u32, begin: &Begin) -> Option<Failure> {
    let gathers = begin.operation.as_ref().is_some_and(|operation| operation.kind() == OperationKind::AllGather);
    let room = begin.contributions.len() * 4;
    gathers.then(|| Plan::new(begin, slot).unwrap().check_output(room).err())?
}

/// The name that careless trainers use again.
fn used_again(key: &Key) -> bool {
    (key.tag.as_str(), key.sequence) == ("all", 0) && key.round.is_multiple_of(2)
}

impl World {
    /// The last worker of a schedule that has one which never gives its state.
    pub(super) fn only_receives(&self, slot: u32) -> bool {
        self.schedule.receiver && slot as usize + 1 == self.nodes.len()
    }

    pub(super) fn moved(&mut self, slot: u32, incarnation: u64, begin: Box<Begin>) {
        let record = begin.record.clone().unwrap();
        let (key, attempt) = attempt(&begin);
        if !self.is(&self.process(slot, incarnation)) || self.node(slot).moving.get(&key) != Some(&attempt) {
            return;
        }
        let takes_part = |member: &&Member| begin.contributions.iter().any(|given| given.slot == member.slot);
        let members: Vec<_> = record.members.iter().filter(takes_part).cloned().collect();
        let dead = members.iter().find(|member| !self.is(member)).map(|member| member.slot);
        let all_gave = members.iter().all(|member| self.nodes[member.slot as usize].gave.contains_key(&attempt));
        let other = members.iter().map(|member| member.slot).find(|other| *other != slot);
        let torn = other.filter(|_| std::mem::take(&mut self.node(slot).torn));
        let lost = |culprit| Failure { reason: AbortReason::PeerLost, culprit, detail: "its lane broke".into() };
        let result = match no_room(slot, &begin).or(dead.or(torn).map(lost)) {
            Some(failure) => Err(failure),
            None if all_gave => Ok(self.sum_of_gifts(&begin.contributions, attempt, source(&key))),
            None => return self.soon(50, Happening::Moved { slot, incarnation, begin }),
        };
        self.node(slot).moving.remove(&key);
        self.end_giving(slot, attempt);
        if let Ok(result) = &result {
            self.node(slot).outputs.insert(key.clone(), *result);
        }
        self.peer_event(slot, peer::Event::Moved(key, attempt, result.map(|result| hash_of(&result))));
    }

    /// A repair begins. Whether its first chunk is written before anything else happens is chance.
    pub(super) fn fetch(&mut self, slot: u32, start: Box<Start>) {
        self.sequence += 1;
        let (sequence, written) = (self.sequence, self.below(2) == 0);
        let node = self.node(slot);
        node.fetches += 1;
        let (fetch, incarnation) = (node.fetches, node.me.incarnation);
        if written && node.trainer.state != start.state_root {
            let mixed = state_after(&node.trainer.state, &sequence.to_le_bytes());
            (node.trainer.mixture, node.trainer.state) = (true, mixed.clone());
            self.mixtures.insert(mixed);
        }
        self.soon(100, Happening::Fetched { slot, incarnation, fetch, start });
    }

    pub(super) fn fetched(&mut self, slot: u32, incarnation: u64, start: &Start) {
        if !self.is(&self.process(slot, incarnation)) {
            return;
        }
        let gives = |node: &&Node| node.alive && node.trainer.alive && node.trainer.state == start.state_root;
        let mut donors = start.donors.iter().map(|donor| &self.nodes[*donor as usize]);
        let held = self.nodes[slot as usize].trainer.state == start.state_root;
        let result = if held || donors.any(|node| gives(&node)) {
            let trainer = &mut self.node(slot).trainer;
            (trainer.rounds, trainer.state) = (start.round - 1, start.state_root.clone());
            self.note_state(slot);
            Ok(())
        } else {
            Err("no donor".to_owned())
        };
        self.peer_event(slot, peer::Event::Fetched(result));
    }

    pub(super) fn begun(&mut self, slot: u32, result: Result<Box<Start>, Refusal>) {
        let trainer = self.node(slot).trainer.incarnation;
        match result {
            Ok(start) => {
                let held = &mut self.node(slot).trainer;
                held.mixture = false;
                held.trains = Some((*start).clone());
                let fits = held.rounds + 1 == start.round && held.state == start.state_root;
                self.require(fits, || format!("w{slot} begins round {} from another state", start.round));
                let mixture = self.mixtures.contains(&start.state_root);
                self.require(!mixture, || format!("round {} begins from a half repaired state", start.round));
                self.check_start(&start);
                self.copy(slot, &start);
                let slowness = self.node(slot).slowness;
                self.soon(800 * slowness, Happening::Trained { slot, trainer, start });
            }
            Err(refusal) => {
                let refused = refusal.reason == AbortReason::StateRefused;
                self.require(!refused, || format!("the state of w{slot} is refused: {}", refusal.detail));
                self.soon(20, Happening::ArriveAgain { slot, trainer });
            }
        }
    }

    pub(super) fn trained(&mut self, slot: u32, incarnation: u64, start: &Start) {
        let node = &self.nodes[slot as usize];
        if !node.alive
            || !node.trainer.alive
            || node.trainer.incarnation != incarnation
            || node.trainer.trains.as_ref() != Some(start)
        {
            return;
        }
        self.node(slot).trainer.start = Some(start.clone());
        let operations = self.program(slot, start);
        if operations.is_empty() {
            return self.end_round(slot);
        }
        for operation in operations {
            self.enter(slot, operation, Vec::new());
        }
    }

    /// What a trainer does in a round before it ends it: two reductions and a gathering at once, and an operation of a pair, whose root
    /// is lost like anybody.
    fn program(&self, slot: u32, start: &Start) -> Vec<Operation> {
        if !self.operate {
            return Vec::new();
        }
        // Who came into a round that the others had begun has another view of its members: no groups for it.
        let whole = start.record.iter().filter(|record| record.epoch == start.started);
        let members: Vec<u32> = whole.flat_map(|record| &record.members).map(|member| member.slot).collect();
        let named = |tag: &str, sequence, slots| {
            let key = Some(OperationKey { round: start.round, tag: tag.to_owned(), sequence, started: 0, slots });
            Operation { key, ends_round: false, ..operation::ends_round(start.round, 0, 1) }
        };
        let mut operations: Vec<_> = (0..3).map(|sequence| named("all", sequence, Vec::new())).collect();
        operations[2].set_kind(OperationKind::AllGather);
        operations[2].elements = 0;
        // A trainer that is replaced at once begins the round late: it takes part in no group, and another would wait for it.
        if let [first, second, ..] = members.as_slice()
            && self.groups
            && [first, second].contains(&&slot)
        {
            let sequence = start.round % OF_PAIRS.len() as u64;
            let mut operation = named("pair", sequence, vec![*first, *second]);
            operation.set_kind(OF_PAIRS[sequence as usize]);
            operation.root = *first;
            operations.push(operation);
        }
        operations
    }

    fn end_round(&mut self, slot: u32) {
        let Some(start) = self.node(slot).trainer.start.clone() else { return };
        self.enter(slot, operation::ends_round(start.round, 0, 1), start.samples);
    }

    fn enter(&mut self, slot: u32, operation: Operation, samples: Vec<SampleRange>) {
        let asked = operation::key(Some(&operation));
        // A trainer that began the round again asks for the call that it waits for: its region is being read.
        if let Some((enter, deadline)) = self.node(slot).trainer.waits.get(&asked).cloned() {
            return self.peer_event(slot, peer::Event::Entered(enter, deadline));
        }
        self.sequence += 1;
        // Each contribution has a number of its own, where its loss would be; its weight and its value follow from it.
        let number = self.sequence;
        let elements = u64::from(operation.kind() == OperationKind::AllGather);
        let contribution = Contribution { slot, weight: weight(number), samples, loss: number as f64, elements, summed: false };
        self.node(slot).trainer.inputs.insert(region(&asked), value(number));
        let enter = Enter { operation: Some(operation), contribution: Some(contribution), bandwidth: 0 };
        let hurried = self.hasty && self.now < FAULTS_UNTIL && self.below(12) == 0;
        let deadline = self.now + if hurried { self.below(250) } else { self.patience + self.below(15_000) };
        self.node(slot).trainer.waits.insert(asked, (enter.clone(), deadline));
        self.peer_event(slot, peer::Event::Entered(enter, deadline));
    }

    pub(super) fn ended(&mut self, slot: u32, key: &Key, outcome: Outcome) {
        let trainer = self.node(slot).trainer.incarnation;
        // As the trainer named it.
        let asked = Key { started: 0, ..key.clone() };
        let waited = self.node(slot).trainer.waits.remove(&asked);
        self.check_input(slot, key, waited.as_ref().map(|(enter, _)| enter));
        match outcome {
            Outcome::Committed(commit) => {
                self.check_outcome(slot, &commit);
                let Some(record) = &commit.record else { return self.go_on(slot, waited.map(|(enter, _)| enter)) };
                self.check_commit(slot, record);
                let trainer = &mut self.node(slot).trainer;
                trainer.rounds = record.round;
                trainer.start = None;
                trainer.committed = Some(record.clone());
                trainer.state = state_after(&trainer.state, &record.result_hash);
                let rounds = trainer.rounds;
                let incarnation = trainer.incarnation;
                self.note_state(slot);
                self.end_with(&commit);
                if self.last == Some(rounds) {
                    self.peer_event(slot, peer::Event::Finished);
                } else {
                    self.arrive(slot, incarnation);
                }
            }
            Outcome::Aborted(refusal) => {
                // Who was lost to the others is told that it is left out; whether its contribution counts, they decide.
                let left_out = refusal.reason == AbortReason::PeerLost && refusal.culprit == Some(slot);
                if let Some((enter, _)) = waited.filter(|_| !left_out) {
                    self.give_up(slot, key, number(&enter));
                }
                if refusal.reason == AbortReason::Mismatch && self.node(slot).trainer.careless_in == key.round && used_again(key)
                {
                    return self.go_on(slot, None);
                }
                self.node(slot).trainer.start = None;
                self.soon(20, Happening::ArriveAgain { slot, trainer });
            }
            Outcome::InDoubt => {
                let Some((enter, by)) = waited else { return };
                self.check_doubt(slot, key, by);
                let deadline = self.now + 10_000;
                self.node(slot).trainer.waits.insert(asked, (enter.clone(), deadline));
                self.peer_event(slot, peer::Event::Entered(enter, deadline));
            }
        }
    }

    /// An operation within the round is over; the end of the round follows the last. Who is careless uses one of the names again.
    fn go_on(&mut self, slot: u32, done: Option<Enter>) {
        let careless = self.schedule.careless;
        let trainer = &mut self.node(slot).trainer;
        let Some(start) = &trainer.start else { return };
        let again = done.and_then(|enter| enter.operation).filter(|operation| used_again(&operation::key(Some(operation))));
        if let Some(operation) = again.filter(|_| careless && trainer.careless_in != start.round) {
            trainer.careless_in = start.round;
            self.enter(slot, operation, Vec::new());
        } else if trainer.waits.is_empty() {
            self.end_round(slot);
        }
    }

    /// What a worker gives to operations, by its own word.
    pub(super) fn take_note(&mut self, slot: u32, message: &PeerMessage) {
        let enters: Vec<&Enter> = match &message.body {
            Some(peer_message::Body::Enter(enter)) => vec![enter],
            Some(peer_message::Body::Hello(hello)) => hello.flights.iter().filter_map(|flight| flight.enter.as_ref()).collect(),
            _ => Vec::new(),
        };
        for enter in enters {
            let number = number(enter);
            let key = operation::key(enter.operation.as_ref());
            // A trainer that still trained for an earlier start of the round asks again for what is committed.
            if !self.operations.contains_key(&key) {
                self.given.insert((key, slot), number);
            }
        }
    }

    /// One outcome: the same for all who took part, the result of exactly what those gave who are counted; and this worker
    /// holds it.
    fn check_outcome(&mut self, slot: u32, commit: &Commit) {
        let key: Key = commit.key.clone().unwrap().into();
        let held = self.node(slot).outputs.remove(&key);
        let holds = held.as_ref().map(hash_of).as_ref() == Some(&commit.result_hash);
        self.require(holds, || format!("w{slot} does not hold the result of {key}"));
        let first = Commit { index: 0, ..commit.clone() };
        let known = self.operations.entry(key.clone()).or_insert_with(|| first.clone()).clone();
        self.require(known == first, || format!("{key} was committed twice: {known:?} and {first:?}"));
        let numbers: Vec<_> = match &commit.record {
            Some(record) => record.contributions.iter().map(|given| (given.slot, given.loss as u64)).collect(),
            None => self.numbers(&key, commit),
        };
        let sum = reference(&numbers, source(&key));
        self.require(held == Some(sum), || format!("{key} is {held:?}, not {sum:?}, the sum of what {:?} gave", commit.slots));
        let both = numbers.iter().find(|(_, number)| self.given_up.contains(number)).copied();
        self.require(both.is_none(), || format!("{key} counts what its trainer was told is aborted: {both:?}"));
    }

    pub(super) fn numbers(&self, key: &Key, commit: &Commit) -> Vec<(u32, u64)> {
        let number = |slot: &u32| Some((*slot, *self.given.get(&(key.clone(), *slot))?));
        commit.slots.iter().filter_map(number).collect()
    }

    /// One history: the same record for everybody, linked to the round before.
    fn check_commit(&mut self, slot: u32, record: &CommitRecord) {
        let round = record.round;
        let next = self.node(slot).trainer.rounds + 1;
        self.require(round == next, || format!("w{slot} takes round {round} for round {next}"));
        let previous = self.history.get(&(round - 1)).map(chain::hash).unwrap_or_default();
        self.require(record.previous == previous, || format!("round {round} is not linked to the round before"));
        let known = self.history.entry(round).or_insert_with(|| record.clone()).clone();
        self.require(known == *record, || format!("round {round} was committed twice: {known:?} and {record:?}"));
    }

    pub(super) fn check_samples(&mut self) {
        let mut committed: BTreeSet<u64> = BTreeSet::new();
        let mut twice = None;
        for range in self.history.values().flat_map(|record| &record.contributions).flat_map(|given| &given.samples) {
            for position in range.start..range.end {
                if !committed.insert(position) {
                    twice = Some(position);
                }
            }
        }
        self.require(twice.is_none(), || format!("sample {twice:?} was committed twice"));
        let ledger = self.ledger();
        let all = committed.len() as u64 + ledger::count(&ledger.holes) == ledger.next;
        self.require(all, || format!("{} samples and the holes of {ledger:?} are not a prefix", committed.len()));
        let in_hole = |position: u64| ledger.holes.iter().any(|hole: &SampleRange| (hole.start..hole.end).contains(&position));
        let right = (0..ledger.next).all(|position| committed.contains(&position) != in_hole(position));
        self.require(right, || format!("the holes of {ledger:?} are not what was left out"));
    }

    pub(super) fn arrive(&mut self, slot: u32, incarnation: u64) {
        let strategy = if self.only_receives(slot) { StateStrategy::ReceiveOnly } else { StateStrategy::Enforce };
        let ended = self.last == Some(self.nodes[slot as usize].trainer.rounds);
        let node = self.node(slot);
        if !node.alive || !node.trainer.alive || node.trainer.incarnation != incarnation || ended {
            return;
        }
        let arrive = Arrive {
            round: node.trainer.rounds + 1,
            state_root: node.trainer.state.clone(),
            samples_wanted: SAMPLES,
            attempt: 0,
            state_shape: vec![0; chain::HASH],
            strategy: strategy.into(),
            mixture: node.trainer.mixture,
            last: false,
        };
        let committed = node.trainer.committed.clone();
        node.trainer.trains = None;
        self.peer_event(slot, peer::Event::Arrived(arrive, committed));
    }
}
