//! What a contributor alone has entered is no operation of the round: trusted members come and go as before any.

use super::*;

/// Of slot 2.
fn contributor() -> Hello {
    Hello { member: Some(Member { contributor: true, ..member(2) }), ..hello(2) }
}

/// A coordinator whose members train in the first round: two that are trusted, and a contributor that asks for an operation which
/// nobody else asks for.
fn entered_by_a_contributor(settings: Settings) -> Coordinator {
    let mut coordinator = Coordinator::new(settings, epoch(1, 0, &[]), 0);
    tick(&mut coordinator, Event::Connected(Box::new(contributor())), 1);
    tick(&mut coordinator, Event::Connected(Box::new(hello(0))), 1);
    let done = tick(&mut coordinator, Event::Connected(Box::new(hello(1))), 2);
    assert_eq!([0, 1, 2].map(|slot| starts(&done, slot).len()), [1, 1, 1]);
    let mut operation = Operation { ends_round: false, ..operation::ends_round(ROUND, 1, 8) };
    operation.key.as_mut().unwrap().tag = "mine".into();
    let enter = Enter { operation: Some(operation), ..enter(2, range(0, 0)) };
    tick(&mut coordinator, message(2, peer_message::Body::Enter(enter)), 3);
    coordinator
}

#[test]
fn a_trusted_trainer_that_begins_the_round_again_is_started_again() {
    let mut coordinator = entered_by_a_contributor(settings());
    let done = tick(&mut coordinator, message(1, peer_message::Body::Arrive(arrive(2))), 4);
    assert_eq!((evicts(&done, 1, AbortReason::TrainerLost), starts(&done, 1).len()), (false, 1), "{done:?}");
}

#[test]
fn who_comes_for_a_trusted_member_that_was_lost_joins_the_round_and_nobody_gives_it_up() {
    let mut coordinator = entered_by_a_contributor(Settings { quorum: 2, ..settings() });
    tick(&mut coordinator, Event::Disconnected { slot: 1, incarnation: 1 }, 4);
    let done = tick(&mut coordinator, Event::Connected(Box::new(hello(3))), 5);
    assert_eq!((evicts(&done, 0, AbortReason::TooFewPeers), starts(&done, 3).len()), (false, 1), "{done:?}");
}
