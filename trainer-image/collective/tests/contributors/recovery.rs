//! What contributors bring along to a new coordinator.

use super::*;

/// A member that was in the round of `members` when its coordinator was lost, with its vote.
fn survivor(slot: u32, members: &[u32], vote: Option<Prepared>) -> Hello {
    let contributions = members.iter().map(|slot| Contribution { slot: *slot, weight: 1, ..Contribution::default() }).collect();
    let operation = Some(operation::ends_round(ROUND, 1, 8));
    let begin = Begin { operation: operation.clone(), record: Some(epoch(1, members)), contributions, ..Begin::default() };
    let contribution = Some(Contribution { slot, weight: 1, ..Contribution::default() });
    let enter = Some(Enter { operation, contribution, bandwidth: 0 });
    let (state_root, state_shape) = (vec![7; chain::HASH], vec![1; chain::HASH]);
    let start = Start { round: ROUND, state_root, state_shape, attempt: 1, started: 1, ..Start::default() };
    Hello { start: Some(start), flights: vec![Flight { enter, begin: Some(begin), prepared: vote }], epoch: 1, ..hello(slot) }
}

/// What a new coordinator commits when it hears these.
fn recovered(members: &[u32], hellos: Vec<Hello>) -> Vec<Action> {
    let mut coordinator = Coordinator::new(settings(), epoch(2, members), 0);
    let mut done = Vec::new();
    for hello in hellos {
        done.extend(connect(&mut coordinator, hello, 1));
    }
    let living: Vec<u32> = members.iter().copied().filter(|slot| *slot != 3).collect();
    done.extend(pass(&mut coordinator, &living, 2_500));
    done
}

#[test]
fn a_new_coordinator_decides_by_the_trusted_survivors() {
    let all = [0, 2, 3];
    let heard = |contributor, trusted| recovered(&all, vec![survivor(0, &all, contributor), survivor(2, &all, trusted)]);
    assert_eq!(commits(&heard(Some(vote(9)), Some(vote(9)))), 2);
    let without = heard(None, Some(vote(9)));
    assert_eq!(commits(&without), 1, "the contributor holds no result: {without:?}");
    assert_eq!(count(&without, |body| matches!(body, coordinator_message::Body::Evict(_))), 1);
    assert_eq!(commits(&heard(Some(vote(5)), Some(vote(9)))), 1, "nor this one");
    assert_eq!(commits(&heard(Some(vote(9)), None)), 0, "nobody can have committed");
}

#[test]
fn a_commit_that_only_a_contributor_knows_was_none() {
    let all = [0, 2, 3];
    let record = CommitRecord { round: ROUND, result_hash: vec![5; chain::HASH], ..CommitRecord::default() };
    let told = Commit {
        index: 1,
        key: vote(0).key,
        result_hash: vec![5; chain::HASH],
        record: Some(record.clone()),
        ..Commit::default()
    };
    let liar = Hello { committed: Some(record), commits: vec![told], learned: u64::MAX, ..survivor(0, &all, None) };
    let done = recovered(&all, vec![liar, survivor(2, &all, None)]);
    assert_eq!(commits(&done), 0);
    let rounds = |action: &Action| if let Action::Propose(record) = action { Some(record.rounds) } else { None };
    assert_eq!(done.iter().filter_map(rounds).max(), Some(0), "the round is still open");
}

#[test]
fn contributors_alone_do_not_continue_a_run() {
    let done = recovered(&[0, 3], vec![survivor(0, &[0, 3], Some(vote(9)))]);
    assert!(matches!(done[..], [Action::Report(Notice::HistoryMissing { .. })]), "{done:?}");
}

#[test]
fn a_contributor_whose_round_is_not_that_of_the_trusted_members_begins_again() {
    let all = [0, 2, 3];
    let mut other = survivor(0, &all, None);
    other.start.as_mut().unwrap().started = 9;
    let evicts = |actions: &[Action]| count(actions, |body| matches!(body, coordinator_message::Body::Evict(_)));
    assert_eq!(evicts(&recovered(&all, vec![other, survivor(2, &all, None)])), 1);
    assert_eq!(evicts(&recovered(&all, vec![survivor(0, &all, None), survivor(2, &all, None)])), 0);
}

#[test]
fn what_a_contributor_brings_along_of_another_round_is_not_kept() {
    let (round, contribution) = (u64::MAX, Some(Contribution { slot: 0, weight: 1, ..Contribution::default() }));
    let mut operation = Operation { ends_round: false, ..operation::ends_round(round, 1, 8) };
    for (tag, prepared, kept) in [("x", None, 0), (&*"x".repeat(1 << 20), Some(vote(9)), 0), ("x", Some(vote(9)), 1)] {
        let mut coordinator = Coordinator::new(settings(), epoch(2, &[0, 2]), 0);
        operation.key.as_mut().unwrap().tag = tag.to_owned();
        let enter = Some(Enter { operation: Some(operation.clone()), contribution: contribution.clone(), bandwidth: 0 });
        let flights = vec![Flight { enter, begin: None, prepared }];
        connect(&mut coordinator, Hello { flights, ..hello(0) }, 0);
        let flights = |coordinator: &Coordinator| {
            serde_json::to_value(coordinator).unwrap()["sessions"]["0"]["flights"].as_object().unwrap().len()
        };
        assert_eq!(flights(&coordinator), kept, "before its vote is counted");
        connect(&mut coordinator, hello(2), 0);
        assert_eq!(flights(&coordinator), 0);
    }
}

/// Slot 2 asks for four samples and has them, and slot 3, who asked for more, is lost with the coordinator: why slot 0, which says
/// that it was dealt `samples`, has to begin the round again.
fn recalled(committed: Option<&CommitRecord>, samples: Vec<SampleRange>) -> Option<String> {
    let round = committed.map_or(0, |record| record.round) + 1;
    let record = EpochRecord { rounds: round - 1, ..epoch(2, &[0, 2, 3]) };
    let mut coordinator = Coordinator::new(settings(), record.clone(), 0);
    let here = |slot, samples| {
        let arrive = Arrive { round, samples_wanted: 4, ..arrive(7) };
        let (state_root, state_shape, record) = (arrive.state_root.clone(), arrive.state_shape.clone(), Some(record.clone()));
        let start = Start { round, record, samples, state_root, state_shape, attempt: 1, started: 1, ..Start::default() };
        Hello { start: Some(start), arrive: Some(arrive), committed: committed.cloned(), ..hello(slot) }
    };
    let own = vec![SampleRange { start: 1 << 20, end: (1 << 20) + 4 }];
    connect(&mut coordinator, here(0, samples), 0);
    let mut done = connect(&mut coordinator, here(2, own), 0);
    done.extend(pass(&mut coordinator, &[0, 2], 2_500));
    done.iter().find_map(|action| match action {
        Action::Send { slot: 0, message } => match &message.body {
            Some(coordinator_message::Body::Evict(evict)) => Some(evict.detail.clone()),
            _ => None,
        },
        _ => None,
    })
}

#[test]
fn a_contributor_that_tells_a_new_coordinator_of_more_samples_begins_the_round_again() {
    let recalled = |end| recalled(None, vec![SampleRange { start: 4, end }]);
    assert_eq!(recalled(8), None);
    for end in [9, u64::MAX] {
        assert_eq!(recalled(end).as_deref(), Some("nobody can confirm that it was dealt its samples"), "{end}");
    }
}

#[test]
fn what_a_lost_member_gave_before_says_what_a_contributor_was_dealt_and_any_position_that_is_free_may_be_its() {
    let gave = |slot, start, end| Contribution { slot, samples: vec![SampleRange { start, end }], ..Contribution::default() };
    let holes = (0..2 * ledger::MOST_RANGES as u64).map(|index| SampleRange { start: 2 * index, end: 2 * index + 1 }).collect();
    let committed = CommitRecord {
        round: ROUND,
        contributions: vec![gave(0, 0, 100), gave(3, 0, 8)],
        result_hash: vec![9; chain::HASH],
        ledger: Some(Ledger { next: 1 << 15, holes }),
        ..CommitRecord::default()
    };
    let recalled = |start: u64, end| recalled(Some(&committed), vec![SampleRange { start, end }]);
    assert_eq!(recalled(1 << 15, (1 << 15) + 8), None);
    assert!(recalled(1 << 15, (1 << 15) + 9).is_some(), "what a contributor gave before says nothing");
    assert!(recalled(1 << 14, (1 << 14) + 8).is_some(), "they are committed");
}
