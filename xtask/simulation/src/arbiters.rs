//! The `Peers` arbiter alone, under messages that are lost, doubled and late, rival candidates, and processes that end:
//! one record is granted in a place of the chain, and each follows the one before.

use std::collections::BTreeMap;

use atoll_collective::Millis;
use atoll_collective::arbiter::{Action, Event, HUB, Hub, Petition, Question, Single, follows, is_newer};
use atoll_collective::rules::Rules;
use atoll_collective::v1::{ArbiterKind, BeatRequest, EpochRecord, EpochRequest, Member, Ruling, TermRequest};

const LIVENESS: Millis = 16;
const PATIENCE: Millis = 400;
const NODES: u32 = 5;

fn member(slot: u32, incarnation: u64) -> Member {
    Member { slot, incarnation, ..Member::default() }
}

/// Numbers that look random, from a seed alone (Steele, Lea, Flood: *Fast splittable pseudorandom number generators*, 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[derive(Debug, Clone)]
enum Letter {
    Question { from: Member, to: u32, question: Option<u64>, body: Question },
    Answer { to: Member, from: Member, question: Option<u64>, epoch: bool, ruling: Ruling },
    Beat { from: Member, to: u32, record: EpochRecord },
}

/// Sidecars, the hub, and what is on the way between them.
struct World {
    rules: Rules,
    dice: Dice,
    now: Millis,
    nodes: Vec<(Member, Petition)>,
    hub: (Member, Hub),
    letters: Vec<Letter>,
    chain: BTreeMap<u64, EpochRecord>,
    wrong: Option<String>,
}

impl World {
    /// All members of epoch 1, in which `Peers` decide, under the coordinator of slot 0.
    fn new(seed: u64, rules: Rules) -> Self {
        let hub = member(HUB, 1);
        let mut service = Hub::new(hub.clone(), Single::new(LIVENESS), LIVENESS).with_rules(rules);
        let asked = TermRequest { candidate: Some(member(0, 1)), ..TermRequest::default() };
        let zero = service.request_term(&asked, 0).record.unwrap();
        let members = (0..NODES - (seed % 3) as u32).map(|slot| member(slot, 1)).collect();
        let (arbiter, voter) = (ArbiterKind::Peers.into(), Some(hub.clone()));
        let first = EpochRecord { epoch: 1, members, arbiter, hub: voter, ..zero };
        service.grant_epoch(&EpochRequest { proposed: Some(first.clone()), ..EpochRequest::default() }, 0);
        let mut world = Self {
            rules,
            dice: Dice(seed),
            now: 1_000,
            nodes: Vec::new(),
            hub: (hub, service),
            letters: Vec::new(),
            chain: BTreeMap::new(),
            wrong: None,
        };
        for slot in 0..NODES {
            let me = member(slot, 1);
            let mut petition = world.process(&me);
            petition.tick(Event::Learned(first.clone()), 0);
            world.nodes.push((me, petition));
        }
        world
    }

    fn process(&self, me: &Member) -> Petition {
        Petition::new("run".into(), me.clone(), LIVENESS, PATIENCE).with_rules(self.rules)
    }

    /// One thing happens; which, the dice say.
    fn step(&mut self) {
        self.now += self.dice.below(8);
        let slot = self.dice.below(u64::from(NODES)) as u32;
        match self.dice.below(100) {
            0..6 => self.lose(),
            6..22 => {
                self.now += self.dice.below(100);
                self.event(slot, Event::Tick);
            }
            22..28 => {
                let observed = self.petition(slot).record().term;
                self.event(slot, Event::RequestTerm(observed));
            }
            28..35 => self.propose(slot),
            35..37 => self.beat(slot),
            37..39 if self.dice.below(6) == 0 => self.restart(slot),
            39 if self.dice.below(4) == 0 => self.restart_hub(),
            _ => self.deliver(),
        }
        self.check();
    }

    fn petition(&self, slot: u32) -> &Petition {
        &self.nodes[slot as usize].1
    }

    fn lose(&mut self) {
        if !self.letters.is_empty() {
            let which = self.dice.below(self.letters.len() as u64) as usize;
            self.letters.swap_remove(which);
        }
    }

    /// Any letter at any time; some come twice.
    fn deliver(&mut self) {
        if self.letters.is_empty() {
            return;
        }
        let which = self.dice.below(self.letters.len() as u64) as usize;
        let doubled = self.dice.below(8) == 0;
        let letter = if doubled { self.letters[which].clone() } else { self.letters.swap_remove(which) };
        match letter {
            Letter::Question { from, to: HUB, question, body } => {
                let epoch = matches!(body, Question::Epoch(_));
                let ruling = match body {
                    Question::Term(request) => self.hub.1.request_term(&request, self.now),
                    Question::Epoch(request) => self.hub.1.grant_epoch(&request, self.now),
                };
                self.letters.push(Letter::Answer { to: from, from: self.hub.0.clone(), question, epoch, ruling });
            }
            Letter::Question { from, to, question, body } => {
                let (now, (me, petition)) = (self.now, &mut self.nodes[to as usize]);
                let (ruling, actions) = match &body {
                    Question::Term(request) => petition.promise(request, now),
                    Question::Epoch(request) => petition.accept(request, now),
                };
                let epoch = matches!(body, Question::Epoch(_));
                self.letters.push(Letter::Answer { to: from, from: me.clone(), question, epoch, ruling });
                self.act(to, actions);
            }
            Letter::Answer { to, from, question, epoch, ruling } if self.nodes[to.slot as usize].0 == to => {
                let event = match question {
                    Some(question) => Event::Answered { question, voter: from, ruling },
                    None if epoch => Event::Ruled(ruling),
                    None => Event::Learned(ruling.record.unwrap()),
                };
                self.event(to.slot, event);
            }
            Letter::Beat { from, to, record } => {
                let request = BeatRequest { member: Some(from), record: Some(record), ..BeatRequest::default() };
                if to == HUB {
                    self.hub.1.beat(&request, self.now);
                } else {
                    let (_, actions) = self.nodes[to as usize].1.beat(&request, self.now);
                    self.act(to, actions);
                }
            }
            Letter::Answer { .. } => {}
        }
    }

    fn event(&mut self, slot: u32, event: Event) {
        let actions = self.nodes[slot as usize].1.tick(event, self.now);
        self.act(slot, actions);
    }

    fn act(&mut self, slot: u32, actions: Vec<Action>) {
        let from = self.nodes[slot as usize].0.clone();
        for action in actions {
            let (to, question, body) = match action {
                Action::Ask { voter, question, body } => (voter.slot, Some(question), body),
                Action::AskSingle(body) => (HUB, None, body),
                Action::Located(_) | Action::Ruled(_) | Action::Report(_) => continue,
            };
            self.letters.push(Letter::Question { from: from.clone(), to, question, body });
        }
    }

    /// Whoever takes itself for the coordinator asks for some membership, and sometimes for the other arbiter.
    fn propose(&mut self, slot: u32) {
        let record = self.petition(slot).record().clone();
        let mut members: Vec<_> = self.nodes.iter().map(|(me, _)| me.clone()).collect();
        members.retain(|_| self.dice.below(4) > 0);
        let wanted = if self.dice.below(12) == 0 { ArbiterKind::Single } else { ArbiterKind::Peers };
        if record.coordinator.as_ref() == Some(&self.nodes[slot as usize].0) && !members.is_empty() {
            let (arbiter, hub) = (wanted.into(), Some(self.hub.0.clone()));
            self.event(slot, Event::Propose(EpochRecord { epoch: record.epoch + 1, members, arbiter, hub, ..record }));
        }
    }

    fn beat(&mut self, slot: u32) {
        let record = self.petition(slot).record().clone();
        for to in (0..NODES).chain([HUB]).filter(|to| *to != slot) {
            self.letters.push(Letter::Beat { from: self.nodes[slot as usize].0.clone(), to, record: record.clone() });
        }
    }

    fn restart(&mut self, slot: u32) {
        let incarnation = self.nodes[slot as usize].0.incarnation + 1;
        let me = member(slot, incarnation);
        self.nodes[slot as usize] = (me.clone(), self.process(&me));
    }

    fn restart_hub(&mut self) {
        let me = member(HUB, self.hub.0.incarnation + 1);
        self.hub = (me.clone(), Hub::new(me, self.hub.1.single().clone(), LIVENESS).with_rules(self.rules));
    }

    fn check(&mut self) {
        let known: Vec<_> =
            self.nodes.iter().map(|(_, petition)| petition.record()).chain([self.hub.1.record()]).cloned().collect();
        for record in known.into_iter().filter(|record| record.term > 0) {
            let place = record.term + record.epoch;
            let first = self.chain.entry(place).or_insert_with(|| record.clone()).clone();
            if first != record {
                self.wrong.get_or_insert(format!("two records in place {place}: {first:?} and {record:?}"));
            }
            for (one, next) in [(place - 1, place), (place, place + 1)] {
                if let (Some(one), Some(next)) = (self.chain.get(&one), self.chain.get(&next))
                    && !(follows(next, one) && is_newer(next, one))
                {
                    self.wrong.get_or_insert(format!("{next:?} does not follow {one:?}"));
                }
            }
        }
    }
}

/// Runs one world, keeping `rules`; gives the length of its chain.
///
/// # Errors
/// What went wrong.
pub fn run(seed: u64, rules: Rules) -> Result<usize, String> {
    let mut world = World::new(seed, rules);
    for _ in 0..600 {
        world.step();
        if let Some(wrong) = world.wrong {
            return Err(wrong);
        }
    }
    Ok(world.chain.len())
}
