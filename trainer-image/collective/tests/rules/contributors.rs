//! What a contributor alone has entered is no operation of the round: trusted members come and go as before any. What it gives is
//! judged before it is told to others, however it comes.

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
    let contribution = Some(Contribution { slot: 2, weight: 1, ..Contribution::default() });
    let enter = Enter { operation: Some(operation), contribution, bandwidth: 0 };
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

#[test]
fn a_contribution_of_the_same_samples_over_and_over_is_refused() {
    for samples in [vec![range(4, 4); 1 << 16], vec![range(4, 6), range(4, 6)]] {
        let mut coordinator = training();
        let mut enter = enter(1, range(4, 8));
        enter.contribution.as_mut().unwrap().samples = samples;
        let done = tick(&mut coordinator, message(1, peer_message::Body::Enter(enter)), 3);
        assert!(evicts(&done, 1, AbortReason::Mismatch), "{done:?}");
    }
}

#[test]
fn a_contribution_of_more_ranges_than_were_dealt_is_refused_and_one_of_fewer_samples_is_not() {
    for (samples, refused) in [(vec![range(4, 5), range(6, 7)], true), (vec![range(5, 7)], false), (Vec::new(), false)] {
        let mut enter = enter(1, range(4, 8));
        enter.contribution.as_mut().unwrap().samples = samples;
        let done = tick(&mut training(), message(1, peer_message::Body::Enter(enter)), 3);
        assert_eq!(evicts(&done, 1, AbortReason::Mismatch), refused, "{done:?}");
    }
}

#[test]
fn a_loss_that_is_not_finite_is_refused() {
    for loss in [f64::NAN, f64::INFINITY] {
        let mut enter = enter(1, range(4, 8));
        enter.contribution.as_mut().unwrap().loss = loss;
        let done = tick(&mut training(), message(1, peer_message::Body::Enter(enter)), 3);
        assert!(evicts(&done, 1, AbortReason::Mismatch), "{done:?}");
    }
}

/// Slot 1 brings an operation to a new coordinator whose other member has not entered it.
fn brings(flight: Flight, start: Option<Start>) -> (Coordinator, Vec<Action>) {
    let mut coordinator = Coordinator::new(settings(), epoch(2, 1, &[0, 1]), 0);
    let here = Hello { start: Some(super::start(0, 1)), ..hello(0) };
    coordinator.tick(Event::Connected(Box::new(here)), 1);
    let brings = Hello { start, flights: vec![flight], ..hello(1) };
    let done = tick(&mut coordinator, Event::Connected(Box::new(brings)), 2);
    (coordinator, done)
}

#[test]
fn what_was_prepared_in_vain_is_judged_before_it_is_begun_again() {
    let key = operation::ends_round(ROUND, 1, 8).key;
    let prepared = Some(Prepared { epoch: 1, key, result_hash: vec![9; chain::HASH] });
    let flight = |samples| Flight { enter: Some(enter(1, samples)), prepared: prepared.clone(), ..Flight::default() };
    let (_, done) = brings(flight(range(90, 94)), Some(start(1, 1)));
    assert!(evicts(&done, 1, AbortReason::Mismatch), "{done:?}");
    let (mut coordinator, done) = brings(flight(range(4, 8)), Some(start(1, 1)));
    assert!(!evicts(&done, 1, AbortReason::Mismatch), "{done:?}");
    assert!(begins(&tick(&mut coordinator, message(0, peer_message::Body::Enter(enter(0, range(0, 4)))), 3)));
}

#[test]
fn what_nobody_can_judge_is_not_begun() {
    let without_end = Start { samples: vec![range(0, u64::MAX); 2], ..start(1, 1) };
    for start in [None, Some(without_end)] {
        let (mut coordinator, _) = brings(Flight { enter: Some(enter(1, range(90, 94))), ..Flight::default() }, start);
        let done = tick(&mut coordinator, message(0, peer_message::Body::Enter(enter(0, range(0, 4)))), 3);
        assert!(!begins(&done), "{done:?}");
    }
}
