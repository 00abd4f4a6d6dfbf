//! One round of two workers through the state machines, in one process: what a program of one's own does for each action.
//!
//! In a real one, events come from connections and timers, and everything below is spread over the workers' processes: each has
//! a `Peer`, one of them the `Coordinator` besides, and the arbiter is wherever all can ask it.

use std::collections::VecDeque;

use atoll_collective::arbiter::Single;
use atoll_collective::coordinator::{self, Coordinator, Settings};
use atoll_collective::peer::{self, Peer};
use atoll_collective::v1::{Arrive, Contribution, Enter, Member, peer_message};
use atoll_collective::{Millis, operation};

const RUN: &str = "example";
/// Silence after which somebody is lost.
const LIVENESS: Millis = 2_000;
const ELEMENTS: u64 = 3;

/// Something that happened to one of the machines.
// A few at a time, moved once.
#[allow(clippy::large_enum_variant)]
enum Event {
    Peer(u32, peer::Event),
    Coordinator(coordinator::Event),
}

fn main() {
    let now = 0;
    let member = |slot| Member { slot, worker: format!("w{slot}"), incarnation: 1, ..Member::default() };
    let mut arbiter = Single::new(LIVENESS);
    let mut peers = [0, 1].map(|slot| Peer::new(RUN.into(), member(slot), LIVENESS));
    let mut coordinator = None;
    // Both trainers stand at the first round, with the same state.
    let arrive =
        || Arrive { round: 1, state_root: vec![7; 32], state_shape: vec![1; 32], samples_wanted: 8, ..Arrive::default() };
    let mut events: VecDeque<Event> = [0, 1].map(|slot| Event::Peer(slot, peer::Event::Arrived(arrive(), None))).into();
    while let Some(event) = events.pop_front() {
        match event {
            Event::Peer(slot, event) => {
                for action in peers[slot as usize].tick(event, now) {
                    follow(slot, action, (&mut arbiter, &mut coordinator, &member), &mut events);
                }
            }
            Event::Coordinator(event) => {
                let actions = coordinator.as_mut().map(|coordinator: &mut Coordinator| coordinator.tick(event, now));
                for action in actions.into_iter().flatten() {
                    lead(action, &mut arbiter, &mut events);
                }
            }
        }
    }
}

/// Does what a peer says.
fn follow(
    slot: u32,
    action: peer::Action,
    (arbiter, coordinator, member): (&mut Single, &mut Option<Coordinator>, &impl Fn(u32) -> Member),
    events: &mut VecDeque<Event>,
) {
    use peer::{Action, Event as Happened};
    let mut happened = |event| events.push_back(Event::Peer(slot, event));
    match action {
        // Whoever is granted the term has the coordinator's role in it.
        Action::RequestTerm(observed) => {
            let ruling = arbiter.request_term(&member(slot), observed, 0);
            if ruling.granted {
                println!("w{slot} coordinates term {}", arbiter.record().term);
                *coordinator = Some(Coordinator::new(settings(), arbiter.record().clone(), 0));
            }
            happened(Happened::Located(arbiter.record().clone()));
        }
        Action::Dial(_, term) => happened(Happened::Opened(term)),
        Action::Send(message) => events.push_back(Event::Coordinator(match message.body {
            Some(peer_message::Body::Hello(hello)) => coordinator::Event::Connected(Box::new(hello)),
            Some(body) => coordinator::Event::Message { slot, incarnation: 1, learned: message.learned, body: Box::new(body) },
            None => return,
        })),
        // The trainer trains on its samples, and gives its vector to the round's end.
        Action::Begun(Ok(start)) => {
            println!("w{slot} trains on {:?}", start.samples);
            let contribution = Contribution { slot, weight: 1, samples: start.samples.clone(), ..Contribution::default() };
            let enter = Enter {
                operation: Some(operation::ends_round(start.round, start.started, ELEMENTS)),
                contribution: Some(contribution),
                bandwidth: 0,
            };
            happened(Happened::Entered(enter, 60_000));
        }
        // Here an `exchange::Exchange` moves the data; its hash is what is voted on.
        Action::Move(begin) => {
            let attempt = (begin.record.as_ref().map_or(0, |record| record.term), begin.number);
            let hash = blake3::hash(b"the mean").as_bytes().to_vec();
            happened(Happened::Moved(operation::key(begin.operation.as_ref()), attempt, Ok(hash)));
        }
        Action::Ended(key, outcome) => println!("w{slot}: {key} {}", told(&outcome)),
        // Nothing fails here, nobody's state is another, and none is kept.
        _ => {}
    }
}

/// Does what the coordinator says.
fn lead(action: coordinator::Action, arbiter: &mut Single, events: &mut VecDeque<Event>) {
    use coordinator::Action;
    match action {
        Action::Send { slot, message } => events.push_back(Event::Peer(slot, peer::Event::Message(message))),
        Action::Propose(record) => {
            events.push_back(Event::Coordinator(coordinator::Event::Ruled(arbiter.grant_epoch(&record))));
        }
        Action::Close { .. } | Action::Report(_) | Action::Publish(_) | Action::StepDown => {}
    }
}

fn settings() -> Settings {
    Settings { join_window: 1_000, liveness: LIVENESS, round_timeout: 60_000, ..Settings::of(RUN, 2) }
}

fn told(outcome: &peer::Outcome) -> String {
    match outcome {
        peer::Outcome::Committed(commit) => format!("was committed in epoch {} by {:?}", commit.epoch, commit.slots),
        peer::Outcome::Aborted(refusal) => format!("was aborted: {}", refusal.detail),
        peer::Outcome::InDoubt => "is in doubt".to_owned(),
    }
}
