//! Checkpoints: when one begins, who writes it, and what ends it.

use atoll_collective::coordinator::{Cadence, Complete};
use atoll_collective::v1::{CheckpointEnded, Upload, Uploaded};

use super::*;

/// Committed rounds in the state that the members hold.
const ROUNDS: u64 = 4;

fn committed() -> CommitRecord {
    CommitRecord { round: ROUNDS, result_hash: vec![3; 32], ..CommitRecord::default() }
}

/// A run of two that goes on after four rounds, and keeps each second; both arrive. What happens then.
fn begun(cadence: Cadence) -> (Coordinator, Vec<Action>) {
    let settings = Settings { checkpoints: cadence, resumed: Some(committed()), ..settings() };
    let record = EpochRecord { term: 1, coordinator: Some(member(0)), ..EpochRecord::default() };
    both_arrive(Coordinator::new(settings, record, 0))
}

/// The same, of a later term: nobody knows when the last checkpoint was.
fn of_a_later_term() -> (Coordinator, Vec<Action>) {
    let settings = Settings { checkpoints: EVERY, resumed: Some(committed()), ..settings() };
    both_arrive(Coordinator::new(settings, epoch(2, 1, &[0, 1]), 0))
}

fn both_arrive(mut coordinator: Coordinator) -> (Coordinator, Vec<Action>) {
    let arrive = |slot| {
        let arrive = Arrive { round: ROUNDS + 1, ..arrive(1) };
        Event::Connected(Box::new(Hello { arrive: Some(arrive), committed: Some(committed()), ..hello(slot) }))
    };
    tick(&mut coordinator, arrive(0), 10);
    let actions = tick(&mut coordinator, arrive(1), 20);
    (coordinator, actions)
}

const EVERY: Cadence = Cadence { rounds: Some(2), time: None };

fn upload(division: u32, slots: &[u32]) -> Upload {
    Upload { rounds: ROUNDS, division, slots: slots.to_vec(), term: 2 }
}

fn wrote(slot: u32, division: u32) -> Event {
    let uploaded =
        Uploaded { rounds: ROUNDS, division, share: vec![slot as u8, division as u8], failure: String::new(), term: 2 };
    message(slot, peer_message::Body::Uploaded(uploaded))
}

fn published(actions: &[Action]) -> Option<Complete> {
    actions.iter().find_map(|action| match action {
        Action::Publish(complete) => Some((**complete).clone()),
        _ => None,
    })
}

fn told(actions: &[Action], to: u32) -> impl Iterator<Item = &coordinator_message::Body> {
    actions.iter().filter_map(move |action| match action {
        Action::Send { slot, message } if *slot == to => message.body.as_ref(),
        _ => None,
    })
}

#[test]
fn a_new_term_keeps_the_state_with_its_first_round_and_a_first_term_when_it_is_due() {
    let (_, actions) = of_a_later_term();
    for slot in [0, 1] {
        assert_eq!(starts(&actions, slot)[0].upload, Some(upload(1, &[0, 1])), "w{slot}");
    }
    // It goes on from a checkpoint of this very round.
    let (_, actions) = begun(EVERY);
    assert_eq!(starts(&actions, 0)[0].upload, None);
    let (_, actions) = begun(Cadence::default());
    assert_eq!(starts(&actions, 0)[0].upload, None);
}

#[test]
fn it_is_published_once_all_shares_are_written_and_then_nobody_holds_it() {
    let (mut coordinator, _) = of_a_later_term();
    assert_eq!(published(&tick(&mut coordinator, wrote(0, 1), 30)), None);
    let complete = published(&tick(&mut coordinator, wrote(1, 1), 40)).unwrap();
    assert_eq!((complete.committed, complete.record.term, complete.record.epoch), (committed(), 2, 2));
    assert_eq!(complete.shares, [(0, vec![0, 1]), (1, vec![1, 1])].into());
    let actions = tick(&mut coordinator, Event::Published(ROUNDS, Ok(())), 50);
    assert!(actions.contains(&Action::Report(Notice::Checkpointed { rounds: ROUNDS, took: 30 })), "{actions:?}");
    for slot in [0, 1] {
        let ended = coordinator_message::Body::CheckpointEnded(CheckpointEnded { rounds: ROUNDS });
        assert!(told(&actions, slot).any(|body| *body == ended), "w{slot}");
    }
}

#[test]
fn what_a_lost_writer_had_not_written_is_divided_among_the_others() {
    let (mut coordinator, _) = of_a_later_term();
    tick(&mut coordinator, wrote(0, 1), 30);
    let actions = tick(&mut coordinator, Event::Disconnected { slot: 1, incarnation: 1 }, 40);
    let again = coordinator_message::Body::Upload(upload(2, &[0]));
    assert!(told(&actions, 0).any(|body| *body == again), "{actions:?}");
    // Its word of the earlier division is of other pieces.
    assert_eq!(published(&tick(&mut coordinator, wrote(0, 1), 50)), None);
    let complete = published(&tick(&mut coordinator, wrote(0, 2), 60)).unwrap();
    assert_eq!(complete.shares, [(0, vec![0, 2])].into());
}

#[test]
fn what_a_lost_writer_had_written_stays_written() {
    let (mut coordinator, _) = of_a_later_term();
    tick(&mut coordinator, wrote(1, 1), 30);
    let actions = tick(&mut coordinator, Event::Disconnected { slot: 1, incarnation: 1 }, 40);
    assert!(!told(&actions, 0).any(|body| matches!(body, coordinator_message::Body::Upload(_))));
    let complete = published(&tick(&mut coordinator, wrote(0, 1), 50)).unwrap();
    assert_eq!(complete.shares.len(), 2);
}

#[test]
fn a_share_that_cannot_be_written_gives_it_up_and_training_goes_on() {
    let (mut coordinator, _) = of_a_later_term();
    let failure = Uploaded { rounds: ROUNDS, division: 1, share: Vec::new(), failure: "there is no room left".into(), term: 2 };
    let actions = tick(&mut coordinator, message(1, peer_message::Body::Uploaded(failure)), 30);
    let detail = "slot 1: there is no room left".to_owned();
    assert!(actions.contains(&Action::Report(Notice::CheckpointFailed { rounds: ROUNDS, detail })), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::Report(Notice::Evicted { .. }))));
    assert_eq!(published(&tick(&mut coordinator, wrote(0, 1), 40)), None, "nobody waits for it any more");
}

#[test]
fn who_does_not_write_it_and_who_is_of_another_checkpoint_are_not_heard() {
    let (mut coordinator, _) = of_a_later_term();
    tick(&mut coordinator, wrote(0, 1), 30);
    let says =
        |rounds, term| message(1, peer_message::Body::Uploaded(Uploaded { rounds, division: 1, term, ..Uploaded::default() }));
    for event in [says(ROUNDS - 1, 2), says(ROUNDS, 1), wrote(2, 1), wrote(1, 2)] {
        assert_eq!(published(&tick(&mut coordinator, event, 40)), None);
    }
    assert!(published(&tick(&mut coordinator, wrote(1, 1), 50)).is_some());
    assert_eq!(published(&tick(&mut coordinator, wrote(1, 1), 60)), None, "once");
}

#[test]
fn a_run_that_goes_on_does_so_after_the_round_of_its_checkpoint() {
    let (_, actions) = begun(EVERY);
    let start = &starts(&actions, 0)[0];
    assert_eq!((start.round, start.committed.clone(), start.synchronise), (ROUNDS + 1, Some(committed()), false));
}

/// All have done their last round, of a run of two that keeps each hundredth.
fn ended(coordinator: &mut Coordinator, now: u64) -> Vec<Action> {
    let arrives = |slot, attempt| {
        let arrive = Arrive { round: ROUNDS + 1, last: true, samples_wanted: 0, ..arrive(attempt) };
        message(slot, peer_message::Body::Arrive(arrive))
    };
    tick(coordinator, arrives(0, 2), now);
    tick(coordinator, arrives(1, 2), now)
}

#[test]
fn the_last_round_is_kept_whatever_is_due_and_after_the_one_before() {
    let (mut coordinator, _) = of_a_later_term();
    let actions = ended(&mut coordinator, 30);
    assert_eq!(starts(&actions, 0), [], "the one of the same state is still being written");
    tick(&mut coordinator, wrote(0, 1), 40);
    tick(&mut coordinator, wrote(1, 1), 50);
    let actions = tick(&mut coordinator, Event::Published(ROUNDS, Err("there is no room left".into())), 60);
    // It was tried, and is not tried again of the same round.
    assert_eq!(starts(&actions, 0)[0].upload, None);
}

#[test]
fn who_leaves_the_round_before_it_has_copied_the_state_is_not_waited_for() {
    let (mut coordinator, _) = of_a_later_term();
    tick(&mut coordinator, wrote(0, 1), 30);
    let left = message(1, peer_message::Body::Leave(Leave { reason: leave::Reason::TrainerLost.into() }));
    let actions = tick(&mut coordinator, left, 40);
    let again = coordinator_message::Body::Upload(upload(2, &[0]));
    assert!(told(&actions, 0).any(|body| *body == again), "{actions:?}");
    assert!(published(&tick(&mut coordinator, wrote(0, 2), 50)).is_some());
}

#[test]
fn a_peer_that_does_not_begin_the_round_says_that_it_keeps_nothing() {
    let disclaims = |actions: Vec<peer::Action>| {
        actions.into_iter().any(|action| match action {
            peer::Action::Send(message) => {
                matches!(message.body, Some(peer_message::Body::Uploaded(uploaded)) if !uploaded.failure.is_empty())
            }
            _ => false,
        })
    };
    let opened = || {
        let mut peer = Peer::new("run".into(), member(1), 2_000);
        let located = EpochRecord { term: 1, coordinator: Some(member(0)), ..EpochRecord::default() };
        peer.tick(peer::Event::Located(located), 0);
        peer.tick(peer::Event::Tick, 10);
        peer.tick(peer::Event::Opened(1), 20);
        peer.tick(peer::Event::Arrived(arrive(0), None), 30);
        peer
    };
    let told = |start: Start| {
        let body = Some(coordinator_message::Body::Start(Start { upload: Some(upload(1, &[0, 1])), ..start }));
        peer::Event::Message(Box::new(CoordinatorMessage { term: 1, epoch: 1, body, ..CoordinatorMessage::default() }))
    };
    let mut peer = opened();
    assert!(!disclaims(peer.tick(told(start(1, 1)), 40)), "it begins");
    let mut peer = opened();
    assert!(disclaims(peer.tick(told(start(1, 7)), 40)), "an answer to another arrival");
    let mut peer = opened();
    assert!(!disclaims(peer.tick(told(Start { synchronise: true, ..start(1, 1) }), 40)));
    assert!(disclaims(peer.tick(peer::Event::TrainerLost, 50)), "its state was being repaired");
    let mut peer = opened();
    peer.tick(told(Start { synchronise: true, ..start(1, 1) }), 40);
    assert!(!disclaims(peer.tick(peer::Event::Fetched(Ok(())), 50)), "it begins now");
    assert!(!disclaims(peer.tick(peer::Event::TrainerLost, 60)), "the copy is made");
}

#[test]
fn one_that_is_wished_for_is_written_though_the_run_keeps_none_by_itself() {
    let settings = Settings { resumed: Some(committed()), ..settings() };
    let begun = |round| {
        let mut coordinator = Coordinator::new(settings.clone(), epoch(2, 1, &[0, 1]), 0);
        tick(&mut coordinator, Event::Keep(round), 0);
        both_arrive(coordinator)
    };
    let (_, actions) = begun(ROUNDS);
    assert_eq!(starts(&actions, 0)[0].upload, Some(upload(1, &[0, 1])));
    let (coordinator, actions) = begun(ROUNDS + 1);
    assert_eq!(starts(&actions, 0)[0].upload, None, "its round has not come");
    assert!(!coordinator.is_keeping() && begun(ROUNDS).0.is_keeping());
}
