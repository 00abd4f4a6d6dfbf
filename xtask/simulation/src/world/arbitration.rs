//! The arbiters of the simulation: the hub, every worker's petition and vote, and the way between them, on which questions and
//! answers are lost and doubled. Whoever knows a granted record shows it: there is one in a place.

use atoll_collective::arbiter::{self, Hub, Question, follows, is_newer, majority, voters};
use atoll_collective::coordinator::{self, Coordinator, IN_FLIGHT, Settings};
use atoll_collective::peer;
use atoll_collective::v1::{
    ArbiterKind, BeatReply, BeatRequest, EpochRecord, EpochRequest, Hub as HubSays, Member, Ruling, TermRequest,
};
use atoll_collective::{Millis, Notice};

use super::network::End;
use super::{HUB, Happening, LIVENESS, QUORUM, World, member, trace};

/// Of so many questions, one is asked twice, and one is lost.
const DOUBLED: u64 = 20;
const LOST: u64 = 50;
/// How long a holding run has said so before it is believed.
const BELIEVED: Millis = 20_000;

/// What an arbiter or a voter is told or asked.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub(super) enum Body {
    Beat(BeatRequest),
    Term(TermRequest),
    Epoch(EpochRequest),
}

/// And what it says.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Beat(BeatReply),
    Term(Ruling),
    Epoch(Ruling),
}

impl World {
    /// The newest granted record, known to whom it may be.
    pub(super) fn record(&self) -> EpochRecord {
        self.granted.values().last().cloned().unwrap_or_default()
    }

    /// How many records followed one that named the peers.
    pub(crate) fn granted_by_peers(&self) -> usize {
        let peers = |place: &&u64| self.granted.get(&(**place - 1)).is_some_and(|one| one.arbiter() == ArbiterKind::Peers);
        self.granted.keys().filter(peers).count()
    }

    /// A heartbeat to the hub, and from the coordinator to the others.
    pub(super) fn beat(&mut self, slot: u32) {
        let now = self.now;
        let node = self.node(slot);
        if now < node.next_beat {
            return;
        }
        node.next_beat = now + LIVENESS / 8;
        let record = Some(node.petition.record().clone());
        let request =
            BeatRequest { run: "run".into(), member: Some(node.me.clone()), record, leaves: node.petition.is_leaving() };
        let listeners = node.petition.listeners();
        for to in listeners.iter().map(|listener| End::Worker(listener.slot)).chain([End::Arbiter]) {
            self.ask(slot, to, None, &Body::Beat(request.clone()));
        }
    }

    /// Sends a question: lost where the way is blocked and sometimes elsewhere, sometimes asked twice.
    fn ask(&mut self, slot: u32, to: End, question: Option<u64>, body: &Body) {
        let repeats = if self.below(DOUBLED) == 0 { 2 } else { 1 };
        if self.blocked_until(End::Worker(slot), to) > self.now || self.below(LOST) == 0 {
            return;
        }
        let (from, slowness) = (self.node(slot).me.clone(), self.slowness(slot, to));
        for _ in 0..repeats {
            self.soon(30 * slowness, Happening::Asked { from: from.clone(), to, question, body: body.clone() });
        }
    }

    fn slowness(&mut self, slot: u32, other: End) -> u64 {
        let slowness = self.node(slot).slowness;
        match other {
            End::Worker(other) => slowness.max(self.node(other).slowness),
            End::Arbiter => slowness,
        }
    }

    /// A voter or the hub answers; a process that ended answers nothing, the one that replaced it for itself.
    pub(super) fn asked(&mut self, from: &Member, to: End, question: Option<u64>, body: &Body) {
        let (from, now) = (from.clone(), self.now);
        let answer = match to {
            End::Arbiter if self.hub.1 => match body {
                Body::Beat(request) => Answer::Beat(self.arbiter.beat(request, now)),
                Body::Term(request) => Answer::Term(self.arbiter.request_term(request, now)),
                Body::Epoch(request) => Answer::Epoch(self.arbiter.grant_epoch(request, now)),
            },
            End::Worker(slot) if self.node(slot).alive => {
                let petition = &mut self.node(slot).petition;
                let (answer, actions) = match body {
                    Body::Beat(request) => {
                        let (reply, actions) = petition.beat(request, now);
                        (Answer::Beat(reply), actions)
                    }
                    Body::Term(request) => {
                        let (ruling, actions) = petition.promise(request, now);
                        (Answer::Term(ruling), actions)
                    }
                    Body::Epoch(request) => {
                        let (ruling, actions) = petition.accept(request, now);
                        (Answer::Epoch(ruling), actions)
                    }
                };
                self.act_for(slot, actions);
                answer
            }
            _ => return,
        };
        let voter = match to {
            End::Arbiter => {
                let record = self.arbiter.record().clone();
                self.grant(&record);
                self.hub.0.clone()
            }
            End::Worker(slot) => self.node(slot).me.clone(),
        };
        if self.blocked_until(to, End::Worker(from.slot)) == now {
            let slowness = self.slowness(from.slot, to);
            self.soon(20 * slowness, Happening::Answered { to: from, from: voter, question, answer });
        }
    }

    pub(super) fn answered(&mut self, to: &Member, from: Member, question: Option<u64>, answer: Answer) {
        if !self.is(to) {
            return;
        }
        let learned = |record: Option<EpochRecord>| arbiter::Event::Learned(record.unwrap());
        let event = match (question, answer) {
            (_, Answer::Beat(reply)) => {
                if let Some(hub) = reply.hub {
                    self.hub_says(to.slot, hub);
                }
                learned(reply.record)
            }
            (Some(question), Answer::Term(ruling) | Answer::Epoch(ruling)) => {
                arbiter::Event::Answered { question, voter: from, ruling }
            }
            (None, Answer::Term(ruling)) => learned(ruling.record),
            (None, Answer::Epoch(ruling)) => arbiter::Event::Ruled(ruling),
        };
        self.petition_event(to.slot, event);
    }

    fn hub_says(&mut self, slot: u32, hub: HubSays) {
        self.coordinator_event(slot, coordinator::Event::Hub(hub));
    }

    pub(super) fn petition_event(&mut self, slot: u32, event: arbiter::Event) {
        let now = self.now;
        let shown = self.traced.then(|| format!("{event:?}"));
        let actions = self.node(slot).petition.tick(event, now);
        trace(now, ("petition", slot), shown, &actions);
        self.act_for(slot, actions);
    }

    fn act_for(&mut self, slot: u32, actions: Vec<arbiter::Action>) {
        for action in actions {
            let (to, question, body) = match action {
                arbiter::Action::AskSingle(body) => (End::Arbiter, None, body),
                arbiter::Action::Ask { voter, question, body } => {
                    let to = if voter.slot == HUB { End::Arbiter } else { End::Worker(voter.slot) };
                    (to, Some(question), body)
                }
                arbiter::Action::Located(record) => {
                    self.located(slot, record);
                    continue;
                }
                arbiter::Action::Ruled(ruling) => {
                    self.coordinator_event(slot, coordinator::Event::Ruled(ruling));
                    continue;
                }
                arbiter::Action::Report(notice) => {
                    if matches!(notice, Notice::NoMajority { .. }) {
                        self.without_majority = Some(self.now);
                    }
                    self.note(slot, notice);
                    continue;
                }
            };
            let body = match body {
                Question::Term(request) => Body::Term(request),
                Question::Epoch(request) => Body::Epoch(request),
            };
            self.ask(slot, to, question, &body);
        }
    }

    fn located(&mut self, slot: u32, record: EpochRecord) {
        self.grant(&record);
        let (now, patience, checkpoints) = (self.now, self.patience, self.cadence());
        let node = self.node(slot);
        if node.coordinator.as_ref().is_none_or(|coordinator| coordinator.term() < record.term) {
            let mine = record.coordinator.as_ref() == Some(&node.me);
            let settings = Settings {
                run: "run".into(),
                minimum: self.minimum,
                target: self.nodes.iter().filter(|node| !node.me.contributor).count(),
                quorum: QUORUM as usize,
                join_window: 1_000,
                liveness: LIVENESS,
                round_timeout: 2 * patience,
                drop_stragglers: true,
                in_flight: IN_FLIGHT,
                checkpoints,
                resumed: None,
            };
            let rules = self.rules;
            self.node(slot).coordinator = mine.then(|| Coordinator::new(settings, record.clone(), now).with_rules(rules));
        }
        self.peer_event(slot, peer::Event::Located(record));
    }

    /// Somebody takes a record for granted: it is the only one in its place, and a step from those beside it.
    fn grant(&mut self, record: &EpochRecord) {
        let place = record.term + record.epoch;
        if place == 0 {
            return;
        }
        if !self.granted.contains_key(&place) {
            self.ambush_newcomers(record);
            self.check_trust(record);
        }
        let (now, at) = (self.now, &mut self.granted_at);
        let known = self.granted.entry(place).or_insert_with(|| {
            *at = now;
            record.clone()
        });
        let shown = (*known != *record).then(|| format!("two records were granted in place {place}: {known:?} and {record:?}"));
        self.require(shown.is_none(), || shown.unwrap_or_default());
        for place in [place, place + 1] {
            if let (Some(one), Some(next)) = (self.granted.get(&(place - 1)), self.granted.get(&place)) {
                let shown = (!follows(next, one)).then(|| format!("{next:?} was granted after {one:?}"));
                self.require(shown.is_none(), || shown.unwrap_or_default());
            }
        }
    }

    /// The newest record that anybody knows who lives, but for `without`, and how many of its voters live.
    fn living(&self, without: Option<End>) -> (EpochRecord, usize) {
        let hub = self.hub.1 && without != Some(End::Arbiter);
        let lives = |slot: u32| self.nodes[slot as usize].alive && without != Some(End::Worker(slot));
        let mut newest = if hub { self.arbiter.record().clone() } else { EpochRecord::default() };
        for node in self.nodes.iter().filter(|node| lives(node.me.slot)) {
            if is_newer(node.petition.record(), &newest) {
                newest = node.petition.record().clone();
            }
        }
        let is_alive = |voter: &&&Member| {
            if voter.slot == HUB { hub && **voter == &self.hub.0 } else { lives(voter.slot) && self.is(voter) }
        };
        let living = voters(&newest).iter().filter(is_alive).count();
        (newest, living)
    }

    /// Whether a majority of voters is left when this process ends, or this is a run that may lose it.
    pub(super) fn may_lose(&self, end: End) -> bool {
        let (record, living) = self.living(Some(end));
        self.ruinous || record.arbiter() == ArbiterKind::Single || living >= majority(voters(&record).len())
    }

    /// Too many voters have ended as processes for anything ever to be granted again, and it was said since.
    pub(crate) fn holds_without_majority(&self) -> bool {
        let said = self.without_majority.is_some_and(|said| said >= self.granted_at && self.now >= said + BELIEVED);
        let lost = || {
            let (record, living) = self.living(None);
            record.arbiter() == ArbiterKind::Peers && living < majority(voters(&record).len())
        };
        said && lost()
    }

    /// The hub keeps what `Single` stored, and nothing else.
    pub(super) fn crash_hub(&mut self) {
        if self.may_lose(End::Arbiter) {
            self.hub.1 = false;
            self.soon(1_500, Happening::RestartHub);
        }
    }

    pub(super) fn restart_hub(&mut self) {
        let me = member(HUB, self.hub.0.incarnation + 1);
        let wanted = self.wanted;
        self.arbiter = Hub::new(me.clone(), self.arbiter.single().clone(), LIVENESS).with_rules(self.rules);
        self.arbiter.want(wanted);
        self.hub = (me, true);
    }
}
