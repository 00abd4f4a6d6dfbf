//! Questions to an arbiter, from whoever knows the run's secret: the hub's answers, and a voter's; and a human's word to one.

use atoll_collective::arbiter::{Event, HUB, Hub, Petition, Single, is_newer};
use atoll_collective::v1::{
    ArbiterKind, Ballot, BeatRequest, EpochRecord, EpochRequest, ForceRequest, Member, Ruling, TermRequest,
};
use prost::Message;

use crate::Target;
use crate::input::{Input, chunk};

/// A sequence of questions.
pub(super) const ARBITER: Target = Target { name: "arbiter", run, seeds };

const LIVENESS: u64 = 2_000;

fn member(slot: u32) -> Member {
    Member { slot, worker: format!("w{slot}"), incarnation: 1, address: format!("w{slot}:1"), ..Member::default() }
}

fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut hub = Hub::new(member(HUB), Single::new(LIVENESS), LIVENESS);
    let mut voter = Petition::new("run".into(), member(1), LIVENESS, LIVENESS);
    if input.byte() % 2 == 1 {
        hub.want(ArbiterKind::Peers);
    }
    let mut now = 0;
    while !input.is_empty() {
        let (step, message) = (input.byte(), input.chunk());
        now += u64::from(input.byte()) * 10;
        let before = hub.record().clone();
        match step % 8 {
            0 => {
                let Ok(beat) = BeatRequest::decode(message) else { continue };
                let _reply = hub.beat(&beat, now);
                let _reply = voter.beat(&beat, now);
            }
            1 => {
                let Ok(term) = TermRequest::decode(message) else { continue };
                let _ruling = hub.request_term(&term, now);
                let _ruling = voter.promise(&term, now);
            }
            2 => {
                let Ok(epoch) = EpochRequest::decode(message) else { continue };
                let _ruling = hub.grant_epoch(&epoch, now);
                let _ruling = voter.accept(&epoch, now);
            }
            3 => {
                let Ok(ruling) = Ruling::decode(message) else { continue };
                let _actions = voter.tick(Event::Ruled(ruling), now);
            }
            4 => {
                let Ok(ruling) = Ruling::decode(message) else { continue };
                let (asked, question) = (member(u32::from(step) / 7 % 4), u64::from(step) / 32);
                let _actions = voter.tick(Event::Answered { question, voter: asked, ruling }, now);
            }
            5 => {
                let Ok(record) = EpochRecord::decode(message) else { continue };
                let _actions = voter.tick(Event::Learned(record), now);
            }
            6 => {
                let Ok(force) = ForceRequest::decode(message) else { continue };
                let _refused = voter.force(force.observed_term, &force.survivors, now);
            }
            _ => {
                let _actions = voter.tick(Event::RequestTerm(voter.record().term), now);
                let _actions = voter.tick(Event::Tick, now + LIVENESS);
            }
        }
        assert!(!is_newer(&before, hub.record()), "what the hub knows never falls back");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let step = |kind: u8, message: &[u8]| [&[kind][..], &chunk(message), &[1]].concat();
    let first = EpochRecord { term: 1, coordinator: Some(member(0)), ..EpochRecord::default() };
    let (members, arbiter) = ((0..3).map(member).collect(), ArbiterKind::Peers.into());
    let next = EpochRecord { epoch: 1, members, arbiter, hub: Some(member(HUB)), ..first.clone() };
    let ballot = Ballot { number: 1, slot: 0, incarnation: 1 };
    let run = || "run".to_owned();
    let beat = BeatRequest { run: run(), member: Some(member(0)), record: Some(first.clone()), leaves: false };
    let term = TermRequest { run: run(), candidate: Some(member(0)), ..TermRequest::default() };
    let epoch = EpochRequest { run: run(), proposed: Some(next.clone()), ..EpochRequest::default() };
    let promise =
        TermRequest { observed_term: 1, after: Some(next.clone()), ballot: Some(ballot), forced: false, ..term.clone() };
    let later = EpochRecord { epoch: 2, ..next.clone() };
    let (proposed, proposer) = (Some(later), Some(member(0)));
    let accept = EpochRequest { proposed, after: Some(next.clone()), ballot: Some(ballot), run: run(), proposer };
    let ruling = Ruling { granted: true, record: Some(next.clone()), promised: Some(ballot), ..Ruling::default() };
    let force = ForceRequest { observed_term: 1, survivors: vec![member(1)] };
    let all = [
        vec![1],
        step(1, &term.encode_to_vec()),
        step(0, &beat.encode_to_vec()),
        step(2, &epoch.encode_to_vec()),
        step(5, &next.encode_to_vec()),
        step(1, &promise.encode_to_vec()),
        step(2, &accept.encode_to_vec()),
        step(7, &[]),
        step(6, &force.encode_to_vec()),
        step(4, &ruling.encode_to_vec()),
        step(3, &ruling.encode_to_vec()),
    ];
    (3..=all.len()).step_by(3).map(|steps| all[..steps].concat()).collect()
}
