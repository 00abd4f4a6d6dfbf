//! One sidecar's petition, step by step, with voters' answers made by hand.
#![allow(clippy::unwrap_used, missing_docs)]

use atoll_collective::arbiter::{Action, Event, ForceError, HUB, Petition, Question};
use atoll_collective::v1::{ArbiterKind, Ballot, BeatRequest, EpochRecord, Member, Ruling};
use atoll_collective::{Millis, Notice};

const LIVENESS: Millis = 1_600;
const PATIENCE: Millis = 4_000;

fn member(slot: u32) -> Member {
    Member { slot, incarnation: 1, ..Member::default() }
}

/// Epoch 1 of these slots under coordinator 0.
fn first(slots: &[u32]) -> EpochRecord {
    EpochRecord {
        term: 1,
        epoch: 1,
        coordinator: Some(member(0)),
        members: slots.iter().map(|slot| member(*slot)).collect(),
        arbiter: ArbiterKind::Peers.into(),
        hub: Some(member(HUB)),
        ..EpochRecord::default()
    }
}

fn second(slots: &[u32]) -> EpochRecord {
    EpochRecord { epoch: 2, members: first(slots).members, ..first(&[]) }
}

fn petition(slot: u32, record: &EpochRecord) -> Petition {
    let mut petition = Petition::new("run".into(), member(slot), LIVENESS, PATIENCE);
    assert_eq!(petition.tick(Event::Learned(record.clone()), 0), [Action::Located(record.clone())]);
    petition
}

/// Whom the actions ask.
fn asked(actions: &[Action]) -> Vec<u32> {
    let voter = |action: &Action| if let Action::Ask { voter, .. } = action { Some(voter.slot) } else { None };
    actions.iter().filter_map(voter).collect()
}

/// The ballot, and the record that is to be accepted in it; none where a promise is asked for.
fn put(actions: &[Action]) -> (u64, Ballot, Option<EpochRecord>) {
    let Some(Action::Ask { question, body, .. }) = actions.iter().find(|action| matches!(action, Action::Ask { .. })) else {
        panic!("nobody is asked: {actions:?}");
    };
    match body {
        Question::Term(request) => (*question, request.ballot.unwrap(), None),
        Question::Epoch(request) => (*question, request.ballot.unwrap(), request.proposed.clone()),
    }
}

fn granting(question: u64, slot: u32, record: &EpochRecord, promised: Ballot) -> Event {
    let ruling = Ruling { granted: true, record: Some(record.clone()), promised: Some(promised), ..Ruling::default() };
    Event::Answered { question, voter: member(slot), ruling }
}

fn located(actions: &[Action]) -> Option<&EpochRecord> {
    actions.iter().find_map(|action| if let Action::Located(record) = action { Some(record) } else { None })
}

#[test]
fn under_single_the_hub_alone_is_asked() {
    let single = EpochRecord { arbiter: ArbiterKind::Single.into(), ..first(&[0, 1, 2]) };
    let mut petition = petition(0, &single);
    let done = petition.tick(Event::RequestTerm(1), 1);
    assert!(matches!(done.as_slice(), [Action::AskSingle(Question::Term(request))] if request.observed_term == 1), "{done:?}");
    let proposed = EpochRecord { arbiter: ArbiterKind::Single.into(), ..second(&[0, 1]) };
    let done = petition.tick(Event::Propose(proposed.clone()), 2);
    assert!(matches!(done.as_slice(), [Action::AskSingle(Question::Epoch(_))]), "{done:?}");
    let ruling = Ruling { granted: true, record: Some(proposed.clone()), ..Ruling::default() };
    let done = petition.tick(Event::Ruled(ruling.clone()), 3);
    assert_eq!(done, [Action::Located(proposed), Action::Ruled(ruling)]);
}

#[test]
fn the_coordinator_needs_one_question_and_one_more_vote_of_three() {
    let record = first(&[0, 1, 2]);
    let mut petition = petition(0, &record);
    let done = petition.tick(Event::Propose(second(&[0, 1])), 1);
    let (question, ballot, proposed) = put(&done);
    assert_eq!((asked(&done), ballot.number, proposed), (vec![1, 2], 0, Some(second(&[0, 1]))));
    let done = petition.tick(granting(question, 1, &record, ballot), 2);
    let granted = Ruling { granted: true, record: Some(second(&[0, 1])), ..Ruling::default() };
    assert_eq!(done, [Action::Located(second(&[0, 1])), Action::Ruled(granted)]);
}

#[test]
fn of_two_members_and_the_hub_two_are_enough() {
    let record = first(&[0, 1]);
    let mut petition = petition(0, &record);
    let done = petition.tick(Event::Propose(second(&[0])), 1);
    assert_eq!(asked(&done), [1, HUB]);
    let (question, ballot, _) = put(&done);
    let done = petition.tick(granting(question, HUB, &record, ballot), 2);
    assert_eq!(located(&done), Some(&second(&[0])));
}

#[test]
fn a_candidate_asks_for_promises_and_then_to_accept_its_term() {
    let record = first(&[0, 1, 2]);
    let mut petition = petition(1, &record);
    let now = LIVENESS + 1;
    let done = petition.tick(Event::RequestTerm(1), now);
    assert_eq!(asked(&done), [0, 2], "the lost coordinator is asked too");
    let (question, ballot, _) = put(&done);
    let done = petition.tick(granting(question, 2, &record, ballot), now + 1);
    let (question, ballot, proposed) = put(&done);
    let term = EpochRecord { term: 2, coordinator: Some(member(1)), deposed: Some(member(0)), ..record.clone() };
    assert_eq!((ballot.number, proposed), (1, Some(term.clone())));
    let done = petition.tick(granting(question, 2, &record, ballot), now + 2);
    assert_eq!(located(&done), Some(&term));
    assert_eq!(petition.listeners(), [member(0), member(2)]);
}

#[test]
fn what_a_voter_had_accepted_comes_before_the_candidates_own_wish() {
    let record = first(&[0, 1, 2]);
    let mut petition = petition(1, &record);
    let now = LIVENESS + 1;
    let (question, ballot, _) = put(&petition.tick(Event::RequestTerm(1), now));
    let coordinators = Some(Ballot { number: 0, slot: 0, incarnation: 1 });
    let promise = Ruling {
        granted: true,
        record: Some(record.clone()),
        promised: Some(ballot),
        accepted: Some(second(&[0, 2])),
        accepted_in: coordinators,
    };
    let done = petition.tick(Event::Answered { question, voter: member(2), ruling: promise }, now + 1);
    let (question, ballot, proposed) = put(&done);
    assert_eq!(proposed, Some(second(&[0, 2])));
    let done = petition.tick(granting(question, 2, &record, ballot), now + 2);
    assert_eq!(located(&done), Some(&second(&[0, 2])));
    let (_, ballot, proposed) = put(&petition.tick(Event::Tick, now + LIVENESS));
    assert_eq!((ballot.number, proposed), (1, None), "it still wants a term, now of the voters of epoch 2");
}

#[test]
fn an_old_answer_and_the_same_voter_twice_are_no_majority() {
    let record = first(&[0, 1, 2, 3, 4]);
    let mut petition = petition(0, &record);
    let (question, ballot, _) = put(&petition.tick(Event::Propose(second(&[0, 1])), 1));
    for (question, slot) in [(question - 1, 1), (question, 2), (question, 2)] {
        let done = petition.tick(granting(question, slot, &record, ballot), 2);
        assert_eq!(located(&done), None, "slot {slot}");
    }
    assert!(located(&petition.tick(granting(question, 1, &record, ballot), 3)).is_some());
}

#[test]
fn a_coordinator_that_is_outbid_bids_again_for_the_same_record() {
    let record = first(&[0, 1, 2]);
    let mut petition = petition(0, &record);
    let (question, ..) = put(&petition.tick(Event::Propose(second(&[0, 1])), 1_000));
    let rival = Ballot { number: 3, slot: 2, incarnation: 1 };
    let refused = Ruling { record: Some(record.clone()), promised: Some(rival), ..Ruling::default() };
    petition.tick(Event::Answered { question, voter: member(1), ruling: refused }, 1_001);
    petition.tick(Event::Propose(second(&[0])), 1_002);
    let (_, ballot, _) = put(&petition.tick(Event::Tick, 1_001 + LIVENESS / 4 - 1));
    assert_eq!(ballot.number, 0, "the rival has its time");
    let (question, ballot, proposed) = put(&petition.tick(Event::Tick, 1_300 + LIVENESS / 4));
    assert_eq!((ballot.number, proposed), (4, None));
    let (_, ballot, proposed) = put(&petition.tick(granting(question, 1, &record, ballot), 1_301 + LIVENESS / 4));
    assert_eq!((ballot.number, proposed), (4, Some(second(&[0, 1]))), "another proposal meanwhile changes nothing");
}

#[test]
fn voters_ask_for_a_term_one_after_the_other() {
    let record = first(&[0, 1, 2]);
    let mut third = petition(2, &record);
    let now = LIVENESS + 1;
    assert!(asked(&third.tick(Event::RequestTerm(1), now)).is_empty());
    assert_eq!(asked(&third.tick(Event::Tick, now + LIVENESS / 16)), [0, 1]);
}

#[test]
fn a_wish_that_the_peer_does_not_repeat_is_forgotten() {
    let mut petition = petition(1, &first(&[0, 1, 2]));
    petition.tick(Event::RequestTerm(1), 2_000);
    assert!(!asked(&petition.tick(Event::Tick, 2_000 + 2 * LIVENESS - 1)).is_empty());
    assert!(asked(&petition.tick(Event::Tick, 2_000 + 2 * LIVENESS)).is_empty());
}

#[test]
fn it_says_once_that_there_is_no_majority_and_again_when_it_is_lost_again() {
    let record = first(&[0, 1, 2]);
    let mut petition = petition(0, &record);
    let mut said = Vec::new();
    let (question, ..) = put(&petition.tick(Event::Propose(second(&[0])), 1_000));
    for now in (1_000..20_000).step_by(100) {
        let mut done = petition.tick(Event::Tick, now);
        if (8_000..9_000).contains(&now) {
            let promised = Some(Ballot { number: 1, slot: 2, incarnation: 1 });
            let refused = Ruling { record: Some(record.clone()), promised, ..Ruling::default() };
            done.extend(petition.tick(Event::Answered { question, voter: member(1), ruling: refused }, now));
        }
        said.extend(
            done.into_iter().filter_map(|action| if let Action::Report(notice) = action { Some((now, notice)) } else { None }),
        );
    }
    let notice = Notice::NoMajority { reached: 1, needed: 2, absent: vec![member(1), member(2)] };
    let times: Vec<_> = said.iter().map(|(now, _)| *now / 1_000).collect();
    assert_eq!((times, &said[0].1), (vec![5, 16], &notice));
}

#[test]
fn a_contributor_asks_for_no_term() {
    let mut petition = Petition::new("run".into(), Member { contributor: true, ..member(1) }, LIVENESS, PATIENCE);
    assert!(petition.tick(Event::RequestTerm(0), 1).is_empty());
    let done = petition.tick(Event::Learned(first(&[0, 2])), 2);
    assert_eq!(located(&done), Some(&first(&[0, 2])), "it finds the coordinator all the same");
}

#[test]
fn a_human_lets_the_survivors_count_as_all_until_the_next_epoch() {
    let record = first(&[0, 1, 2, 3, 4]);
    let mut petition = petition(3, &record);
    let done = petition.force(1, &[member(3), member(4)], 10).unwrap();
    assert_eq!(asked(&done), [4]);
    let (question, ballot, _) = put(&done);
    let (question, ballot, _) = put(&petition.tick(granting(question, 4, &record, ballot), 11));
    let done = petition.tick(granting(question, 4, &record, ballot), 12);
    let term = located(&done).unwrap().clone();
    assert_eq!((term.term, term.coordinator.clone()), (2, Some(member(3))));
    let next = EpochRecord { epoch: 2, members: vec![member(3), member(4)], ..term.clone() };
    let done = petition.tick(Event::Propose(next.clone()), 13);
    let (question, ballot, _) = put(&done);
    assert_eq!(asked(&done), [4]);
    assert_eq!(located(&petition.tick(granting(question, 4, &term, ballot), 14)), Some(&next));
    let after = EpochRecord { epoch: 3, ..next };
    assert_eq!(asked(&petition.tick(Event::Propose(after), 15)), [4, HUB], "from here on the voters are those of the record");
}

#[test]
fn who_hears_that_the_coordinator_leaves_asks_for_the_next_term_at_once() {
    let leaves = |slot| BeatRequest { member: Some(member(slot)), leaves: true, ..BeatRequest::default() };
    let mut other = petition(1, &first(&[0, 1, 2]));
    other.beat(&leaves(2), 1);
    assert_eq!(other.tick(Event::Tick, 2), [], "another one left");
    other.beat(&leaves(0), 3);
    assert!(matches!(&other.tick(Event::Tick, 4)[..], [Action::Ask { body: Question::Term(_), .. }, ..]));
    let single = EpochRecord { arbiter: ArbiterKind::Single.into(), ..first(&[0, 1, 2]) };
    let (_, asks) = petition(1, &single).beat(&leaves(0), 1);
    assert!(matches!(&asks[..], [Action::AskSingle(Question::Term(_))]));
}

#[test]
fn nobody_says_for_the_coordinator_that_it_leaves() {
    let volunteer = Member { worker: "volunteer".into(), contributor: true, ..member(0) };
    let claims = BeatRequest { member: Some(volunteer), leaves: true, ..BeatRequest::default() };
    for slot in [0, 1] {
        let mut petition = petition(slot, &first(&[0, 1, 2]));
        petition.beat(&claims, 1);
        assert_eq!(petition.tick(Event::Tick, 2), [], "said to slot {slot}");
    }
    let own = BeatRequest { member: Some(member(0)), leaves: true, ..BeatRequest::default() };
    let mut coordinator = petition(0, &first(&[0, 1, 2]));
    coordinator.beat(&own, 1);
    assert_eq!(coordinator.tick(Event::Tick, 2), [], "it knows that itself");
}

#[test]
fn a_coordinator_that_leaves_asks_for_no_term_and_tells_all() {
    let mut leaving = petition(0, &EpochRecord { arbiter: ArbiterKind::Single.into(), ..first(&[0, 1, 2]) });
    assert_eq!(leaving.listeners(), [], "the hub alone hears it");
    leaving.leave(1);
    assert_eq!(leaving.listeners(), [member(1), member(2)]);
    assert_eq!(leaving.tick(Event::RequestTerm(1), 1), []);
}

#[test]
fn others_need_its_vote_as_long_as_the_record_names_it_beside_them() {
    let needed = |record: &EpochRecord| {
        let mut leaving = petition(0, record);
        leaving.leave(5);
        leaving.is_needed(false, 5 + LIVENESS / 16 - 1)
    };
    let volunteer = Member { contributor: true, ..member(2) };
    assert!(needed(&first(&[0, 1])));
    assert!(!needed(&first(&[1, 2])), "it was evicted");
    assert!(!needed(&EpochRecord { members: vec![member(0), volunteer], ..first(&[0]) }), "nobody else votes");
    assert!(!needed(&EpochRecord { arbiter: ArbiterKind::Single.into(), ..first(&[0, 1]) }), "the hub alone decides");
}

#[test]
fn who_leaves_waits_a_moment_for_votes_and_the_liveness_time_for_who_follows_it_as_coordinator() {
    let mut leaving = petition(0, &first(&[0, 1]));
    assert!(leaving.is_needed(false, Millis::MAX), "it was not told to leave");
    leaving.leave(5);
    assert!(!leaving.is_needed(false, 5 + LIVENESS / 16));
    assert!(leaving.is_needed(true, 5 + LIVENESS - 1));
    assert!(!leaving.is_needed(true, 5 + LIVENESS));
    leaving.let_go();
    assert!(!leaving.is_needed(false, 6));
}

#[test]
fn what_cannot_be_forced_says_why() {
    let mut petition = petition(1, &first(&[0, 1, 2]));
    assert_eq!(petition.force(0, &[member(1)], 1), Err(ForceError::Outdated { term: 1 }));
    assert_eq!(petition.force(1, &[], 1), Err(ForceError::NoSurvivor));
    let again = Member { incarnation: 2, ..member(2) };
    assert_eq!(petition.force(1, &[member(1), again], 1), Err(ForceError::NoVoter { slot: 2, incarnation: 2 }));
    let single = EpochRecord { epoch: 2, arbiter: ArbiterKind::Single.into(), ..first(&[0, 1, 2]) };
    petition.tick(Event::Learned(single), 2);
    assert_eq!(petition.force(1, &[member(1)], 3), Err(ForceError::NotInForce));
}

#[test]
fn its_state_survives_being_stored() {
    let mut petition = petition(1, &first(&[0, 1, 2]));
    petition.tick(Event::RequestTerm(1), LIVENESS + 1);
    let beat = BeatRequest { member: Some(member(0)), ..BeatRequest::default() };
    petition.beat(&beat, LIVENESS + 2);
    let copy: Petition = serde_json::from_str(&serde_json::to_string(&petition).unwrap()).unwrap();
    assert_eq!(copy, petition);
}

/// Lets the petitions of these slots of record [0, 1, 2] ask at these times, with `delay` between any two; when one of them has the
/// next term. Slot 0, which coordinated, answers nobody.
fn contest(from: &[(u32, Millis)], delay: Millis) -> Option<Millis> {
    let record = first(&[0, 1, 2]);
    let mut petitions: Vec<_> = from.iter().map(|(slot, _)| petition(*slot, &record)).collect();
    let place = |slot: u32| from.iter().position(|(asks, _)| *asks == slot);
    // What arrives when, at whom; `from` of an answer asks.
    let mut questions: Vec<(Millis, usize, usize, u64, Question)> = Vec::new();
    let mut answers: Vec<(Millis, usize, Event)> = Vec::new();
    for now in LIVENESS + 1..20 * LIVENESS {
        let mut done: Vec<(usize, Action)> = Vec::new();
        for (at, petition) in petitions.iter_mut().enumerate() {
            let since = now.checked_sub(LIVENESS + 1 + from[at].1);
            if since.is_some_and(|since| since % 50 == 0) {
                done.extend(petition.tick(Event::RequestTerm(1), now).into_iter().map(|action| (at, action)));
            }
            if now % 25 == 0 {
                done.extend(petition.tick(Event::Tick, now).into_iter().map(|action| (at, action)));
            }
        }
        for (_, asks, voter, question, body) in questions.extract_if(.., |(when, ..)| *when == now) {
            let (ruling, more) = match &body {
                Question::Term(request) => petitions[voter].promise(request, now),
                Question::Epoch(request) => petitions[voter].accept(request, now),
            };
            done.extend(more.into_iter().map(|action| (voter, action)));
            answers.push((now + delay, asks, Event::Answered { question, voter: member(from[voter].0), ruling }));
        }
        for (_, asks, event) in answers.extract_if(.., |(when, ..)| *when == now) {
            done.extend(petitions[asks].tick(event, now).into_iter().map(|action| (asks, action)));
        }
        for (asks, action) in done {
            match action {
                Action::Ask { voter, question, body } => {
                    questions.extend(place(voter.slot).map(|voter| (now + delay, asks, voter, question, body)));
                }
                Action::Located(record) if record.term == 2 => return Some(now - LIVENESS),
                _ => {}
            }
        }
    }
    None
}

#[test]
fn candidates_that_ask_at_the_same_time_do_not_outbid_each_other_for_ever() {
    let mut longest = 0;
    for delay in [1, 2, 10, 40] {
        for second in (0..400).step_by(5) {
            // A third one that is no voter of the record asks as well, or does not.
            for third in [None, Some(0), Some(20), Some(130)] {
                for swap in [false, true] {
                    let (one, two) = if swap { (second, 0) } else { (0, second) };
                    let mut from = vec![(1, one), (2, two)];
                    from.extend(third.map(|third| (3, third)));
                    let took = contest(&from, delay);
                    longest = longest.max(took.unwrap_or_else(|| panic!("nobody has the term: {from:?}, delay {delay}")));
                }
            }
        }
    }
    assert!(longest <= LIVENESS / 4, "{longest} ms");
}
