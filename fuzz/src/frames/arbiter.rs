//! Questions to an arbiter, and its answers.

use atoll_collective::v1::{Ballot, BeatReply, BeatRequest, EpochRequest, Hub, Ruling, TermRequest};

use super::session::{member, record};
use super::{Frame, message};

pub(super) const FRAMES: [Frame; 5] = [
    message!("arbiter-beat", BeatRequest { run: "kjv".into(), member: Some(member(1)), record: Some(record()), leaves: false }),
    message!("arbiter-beat-reply", BeatReply { record: Some(record()), hub: Some(Hub { voter: Some(member(9)), wanted: 1 }) }),
    message!(
        "arbiter-term",
        TermRequest {
            run: "kjv".into(),
            candidate: Some(member(1)),
            observed_term: 3,
            after: Some(record()),
            ballot: Some(ballot()),
            forced: true,
        }
    ),
    message!(
        "arbiter-epoch",
        EpochRequest {
            run: "kjv".into(),
            proposed: Some(record()),
            after: Some(record()),
            ballot: Some(ballot()),
            proposer: Some(member(1)),
        }
    ),
    message!(
        "arbiter-ruling",
        Ruling {
            granted: true,
            record: Some(record()),
            promised: Some(ballot()),
            accepted: Some(record()),
            accepted_in: Some(ballot()),
        }
    ),
];

fn ballot() -> Ballot {
    Ballot { number: 4, slot: 1, incarnation: 2 }
}
