//! An operation whose trainer does not ask again what became of it.

use super::names::{begin_sum, commit_sum, sum};
use super::*;
use atoll_collective::operation::Key;
use atoll_collective::peer::Outcome;

fn key() -> Key {
    operation::key(Some(&sum(1)))
}

#[test]
fn what_is_committed_while_nobody_waits_is_let_go_when_another_trainer_begins() {
    let mut peer = peer(1);
    told(&mut peer, coordinator_message::Body::Start(start(1, 1)));
    peer.tick(peer::Event::Entered(enters(1, sum(0)), 100), 4);
    told(&mut peer, coordinator_message::Body::Begin(begin_sum()));
    peer.tick(peer::Event::Moved(key(), (1, 1), Ok(vec![1; chain::HASH])), 5);
    let late = peer.tick(peer::Event::Tick, 100);
    assert!(late.contains(&peer::Action::Ended(key(), Outcome::InDoubt)), "{late:?}");
    let learned = told(&mut peer, coordinator_message::Body::Commit(commit_sum()));
    assert!(!learned.iter().any(|action| matches!(action, peer::Action::Ended(..) | peer::Action::Halt(_))), "{learned:?}");
    let next = peer.tick(peer::Event::Arrived(arrive(0), None), 101);
    assert!(next.contains(&peer::Action::Halt(key())), "what moved it holds the trainer's memory: {next:?}");
}
