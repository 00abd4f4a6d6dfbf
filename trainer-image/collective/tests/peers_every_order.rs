//! The `Peers` arbiter in every order: three voters, a coordinator that changes the membership, and candidates for its role.
//! Whatever was sent arrives at any time, any number of times, or never; time is no help to anybody.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeSet, HashMap, HashSet};

use atoll_collective::Millis;
use atoll_collective::arbiter::{Action, Event, Petition, Question, follows};
use atoll_collective::rules::Rules;
use atoll_collective::v1::{ArbiterKind, Ballot, EpochRecord, Member, Ruling};
use serde_json::{Value, json};

/// So late that no earlier instant matters.
const NOW: Millis = 1_000_000;
const VOTERS: usize = 3;

fn member(slot: usize) -> Member {
    Member { slot: slot as u32, incarnation: 1, ..Member::default() }
}

/// Term 1, epoch 1: place 2.
fn first() -> EpochRecord {
    let members = (0..VOTERS).map(member).collect();
    EpochRecord {
        term: 1,
        epoch: 1,
        coordinator: Some(member(0)),
        members,
        arbiter: ArbiterKind::Peers.into(),
        ..EpochRecord::default()
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Letter {
    Question { from: usize, to: usize, question: u64, body: Question },
    Answer { from: usize, to: usize, question: u64, ruling: Ruling },
}

/// What can happen to one process.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Deliver(usize),
    WantTerm,
    Propose,
    /// Hears that the ballot of another process came first.
    Outbid(usize),
}

/// Processes and letters by number: what a step does to a process is worked out once.
struct Space {
    candidates: &'static [usize],
    highest: u64,
    processes: Vec<Petition>,
    process_numbers: HashMap<String, usize>,
    letters: Vec<Letter>,
    done: HashMap<(usize, Step), (usize, Vec<usize>)>,
}

/// The processes of the three voters, the letters that were sent, and the record that was granted first in place 3.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    voters: [usize; VOTERS],
    sent: u128,
    granted: Option<usize>,
}

impl Space {
    fn new(candidates: &'static [usize], highest: u64) -> Self {
        let (processes, letters) = (Vec::new(), Vec::new());
        Self { candidates, highest, processes, process_numbers: HashMap::new(), letters, done: HashMap::new() }
    }

    /// Long ago is long ago: no instant is left in what is kept of a process.
    fn number_of(&mut self, process: &Petition) -> usize {
        let mut value = serde_json::to_value(process).unwrap();
        value["asked"] = json!(0);
        value["answered"] = json!({});
        value["alone_since"] = Value::Null;
        value["told"] = json!(false);
        value["acceptor"]["promised_at"] = json!(0);
        value["acceptor"]["heard"] = Value::Null;
        if !value["wish"].is_null() {
            value["wish"]["from"] = json!(0);
            value["wish"]["until"] = json!(Millis::MAX);
        }
        let key = value.to_string();
        if let Some(number) = self.process_numbers.get(&key) {
            return *number;
        }
        self.processes.push(serde_json::from_value(value).unwrap());
        self.process_numbers.insert(key, self.processes.len() - 1);
        self.processes.len() - 1
    }

    fn letter(&mut self, letter: Letter) -> usize {
        let known = self.letters.iter().position(|known| *known == letter);
        known.unwrap_or_else(|| {
            self.letters.push(letter);
            self.letters.len() - 1
        })
    }

    /// What becomes of a process, and which letters it sends.
    fn step(&mut self, slot: usize, process: usize, step: Step) -> (usize, Vec<usize>) {
        if let Some(done) = self.done.get(&(process, step)) {
            return done.clone();
        }
        let mut petition = self.processes[process].clone();
        let mut answer = None;
        let actions = match step {
            Step::WantTerm => petition.tick(Event::RequestTerm(1), NOW),
            Step::Propose => petition.tick(Event::Propose(EpochRecord { epoch: 2, rounds: 1, ..first() }), NOW),
            Step::Outbid(by) => {
                let promised = Some(Ballot { number: 1, slot: by as u32, incarnation: 1 });
                let ruling = Ruling { record: Some(first()), promised, ..Ruling::default() };
                petition.tick(Event::Answered { question: 0, voter: member(by), ruling }, NOW)
            }
            Step::Deliver(letter) => match self.letters[letter].clone() {
                Letter::Question { from, question, body, .. } => {
                    let (ruling, actions) = match &body {
                        Question::Term(request) => petition.promise(request, NOW),
                        Question::Epoch(request) => petition.accept(request, NOW),
                    };
                    // That it is outbid, a process can hear at any time.
                    if ruling.granted || ruling.record != Some(first()) {
                        answer = Some(Letter::Answer { from: slot, to: from, question, ruling });
                    }
                    actions
                }
                Letter::Answer { from, question, ruling, .. } => {
                    petition.tick(Event::Answered { question, voter: member(from), ruling }, NOW)
                }
            },
        };
        let asked = actions.into_iter().filter_map(|action| match action {
            Action::Ask { voter, question, body } if self.is_small(&body) => {
                Some(Letter::Question { from: slot, to: voter.slot as usize, question, body })
            }
            _ => None,
        });
        let letters: Vec<Letter> = asked.chain(answer).collect();
        let number = serde_json::to_value(&petition).unwrap()["stage"]["Preparing"]["number"].as_u64();
        let done = if number.is_some_and(|number| number > self.highest) {
            (process, Vec::new())
        } else {
            let sent = letters.into_iter().map(|letter| self.letter(letter)).collect();
            (self.number_of(&petition), sent)
        };
        self.done.insert((process, step), done.clone());
        done
    }

    /// Of the place after the first record, and in no higher ballot.
    fn is_small(&self, body: &Question) -> bool {
        let (after, ballot) = match body {
            Question::Term(request) => (request.after.as_ref(), request.ballot),
            Question::Epoch(request) => (request.after.as_ref(), request.ballot),
        };
        after == Some(&first()) && ballot.unwrap().number <= self.highest
    }

    fn steps(&self, state: &State) -> Vec<(usize, Step)> {
        let mut steps = vec![(0, Step::Propose)];
        steps.extend(self.candidates.iter().map(|slot| (*slot, Step::WantTerm)));
        if self.highest > 1 {
            let ways = (0..VOTERS).flat_map(|slot| self.candidates.iter().map(move |by| (slot, Step::Outbid(*by))));
            steps.extend(ways.filter(|(slot, step)| *step != Step::Outbid(*slot)));
        }
        for (number, letter) in self.letters.iter().enumerate().filter(|(number, _)| state.sent >> number & 1 == 1) {
            let (Letter::Question { to, .. } | Letter::Answer { to, .. }) = letter;
            steps.push((*to, Step::Deliver(number)));
        }
        steps.retain(|(slot, _)| *self.processes[state.voters[*slot]].record() == first());
        steps
    }

    /// The state after a step; what went wrong, where two records were granted.
    fn after(&mut self, state: &State, slot: usize, step: Step) -> Result<State, String> {
        let mut next = *state;
        let (process, sent) = self.step(slot, state.voters[slot], step);
        next.voters[slot] = process;
        for letter in sent {
            next.sent |= 1 << letter;
        }
        let record = self.processes[process].record().clone();
        for (number, letter) in self.letters.iter().enumerate() {
            let (Letter::Question { to, .. } | Letter::Answer { to, .. }) = letter;
            if *self.processes[next.voters[*to]].record() != first() {
                next.sent &= !(1 << number);
            }
        }
        if record != first() {
            assert!(follows(&record, &first()), "{record:?}");
            let granted = *next.granted.get_or_insert(process);
            if *self.processes[granted].record() != record {
                return Err(format!("{:?} and {record:?}", self.processes[granted].record()));
            }
        }
        Ok(next)
    }
}

/// Visits every state; gives how many there are, and term and coordinator of the records that were granted in one or the other.
fn visit(candidates: &'static [usize], highest: u64, rules: Rules) -> Result<(usize, BTreeSet<(u64, u32)>), String> {
    let mut space = Space::new(candidates, highest);
    let voters = [0, 1, 2].map(|slot| {
        let mut petition = Petition::new("run".into(), member(slot), 1, NOW).with_rules(rules);
        petition.tick(Event::Learned(first()), 0);
        space.number_of(&petition)
    });
    let start = State { voters, sent: 0, granted: None };
    let (mut seen, mut open, mut granted) = (HashSet::from([start]), vec![start], BTreeSet::new());
    while let Some(state) = open.pop() {
        for (slot, step) in space.steps(&state) {
            let next = space.after(&state, slot, step)?;
            if let Some(process) = next.granted {
                let record = space.processes[process].record();
                granted.insert((record.term, record.coordinator.as_ref().unwrap().slot));
            }
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    Ok((seen.len(), granted))
}

#[test]
fn of_a_membership_and_two_candidates_one_is_granted() {
    let (states, granted) = visit(&[1, 2], 1, Rules::default()).unwrap();
    assert_eq!(granted, BTreeSet::from([(1, 0), (2, 1), (2, 2)]), "any of them can be");
    assert!(states > 1_000, "{states}");
}

#[test]
fn who_is_outbid_and_bids_again_changes_nothing_that_was_granted() {
    let (states, granted) = visit(&[1], 2, Rules::default()).unwrap();
    assert_eq!(granted, BTreeSet::from([(1, 0), (2, 1)]), "either can be");
    assert!(states > 5_000, "{states}");
}

#[test]
fn two_records_are_granted_in_some_order_without_any_of_the_rules() {
    for rule in ["majority", "promises_bind", "accepted_is_adopted", "ballots_differ"] {
        let found = visit(&[1, 2], 1, Rules::without(rule).unwrap());
        assert!(found.is_err(), "without {rule}: {found:?}");
    }
}
