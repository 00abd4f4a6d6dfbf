//! Steps in words, for the way to a promise that is broken.

use atoll_collective::v1::{CoordinatorMessage, PeerMessage, coordinator_message, peer_message};

use super::machines::Question;
use super::state::{State, Step};

/// What happens in `step`, which is taken in `state`.
pub(super) fn words(state: &State, step: &Step) -> String {
    let connection = |index: &usize| &state.connections[*index];
    let session = |index: &usize| {
        let found = connection(index);
        format!("the session of peer {} with coordinator {} of term {}", found.peer, found.coordinator, found.term)
    };
    match step {
        Step::Up(index) => {
            let (found, message) = (connection(index), connection(index).up.waiting.front());
            let said = message.map_or("nothing", |message| said_by_peer(message));
            format!("coordinator {} of term {} hears {said} from peer {}", found.coordinator, found.term, found.peer)
        }
        Step::Down(index) => {
            let (found, message) = (connection(index), connection(index).down.waiting.front());
            let said = message.map_or("nothing", |message| said_by_coordinator(message));
            format!("peer {} hears {said} from coordinator {} of term {}", found.peer, found.coordinator, found.term)
        }
        Step::UpEnds(index) => format!("{} ends for the coordinator", session(index)),
        Step::DownEnds(index) => format!("{} ends for the peer", session(index)),
        Step::Connect(slot) => format!("peer {slot} reaches the coordinator that it dials"),
        Step::Locate(slot) => format!("worker {slot} hears of term {}", state.granted.term),
        Step::Retry(slot) => format!("peer {slot} looks for a coordinator again"),
        Step::Moved(slot) => format!("peer {slot} holds the result"),
        Step::Broke(slot, other) => format!("peer {slot} learns that the lanes of {other} broke with its process"),
        Step::Ask(slot, question) => format!("the arbiter answers {} of {slot}", asked(question)),
        Step::Answer(slot, ruling) => {
            format!("coordinator {slot} hears that its epoch is {}", if ruling.granted { "granted" } else { "refused" })
        }
        Step::Recovers(slot) => format!("coordinator {slot} has waited long enough for the members of the last epoch"),
        Step::Judges(slot) => format!("coordinator {slot} waits no longer for the end of a suspect's session"),
        Step::Crash(slot) => format!("FAULT: the process of worker {slot} ends"),
        Step::MissesPeer(slot, peer) => format!("FAULT: coordinator {slot} does not hear peer {peer} for too long"),
        Step::MissesCoordinator(slot, by) => {
            format!("FAULT: peer {slot} and the arbiter do not hear coordinator {by} for too long")
        }
        Step::RecoversEarly(slot) => format!("FAULT: coordinator {slot} takes members that live for lost"),
        Step::Cut(index) => format!("FAULT: {} breaks", session(index)),
        Step::Deadline(slot) => format!("FAULT: the deadline of the call of {slot} passes"),
        Step::AskTwice(slot, question) => {
            format!("FAULT: the arbiter answers {} of {slot}, and will be asked again", asked(question))
        }
        Step::Tear(slot, other) => format!("FAULT: a lane between {slot} and {other} breaks"),
    }
}

fn asked(question: &Question) -> String {
    match question {
        Question::Term { observed, .. } => format!("the question for term {}", observed + 1),
        Question::Epoch(record) => {
            let members: Vec<String> = record.members.iter().map(|member| member.slot.to_string()).collect();
            format!("the question for epoch {} of term {} with members {}", record.epoch, record.term, members.join(", "))
        }
    }
}

fn said_by_peer(message: &PeerMessage) -> &'static str {
    match &message.body {
        Some(peer_message::Body::Hello(_)) => "hello",
        Some(peer_message::Body::Arrive(_)) => "arrive",
        Some(peer_message::Body::Enter(_)) => "enter",
        Some(peer_message::Body::Prepared(_)) => "prepared",
        Some(peer_message::Body::Failed(_)) => "failed",
        Some(peer_message::Body::Leave(_)) => "leave",
        Some(peer_message::Body::Uploaded(_)) => "uploaded",
        Some(peer_message::Body::Heartbeat(_)) | None => "a heartbeat",
    }
}

fn said_by_coordinator(message: &CoordinatorMessage) -> &'static str {
    match &message.body {
        Some(coordinator_message::Body::Start(_)) => "start",
        Some(coordinator_message::Body::Begin(_)) => "begin",
        Some(coordinator_message::Body::Commit(_)) => "commit",
        Some(coordinator_message::Body::Abort(_)) => "abort",
        Some(coordinator_message::Body::Evict(_)) => "evict",
        Some(coordinator_message::Body::Upload(_)) => "upload",
        Some(coordinator_message::Body::CheckpointEnded(_)) => "checkpoint ended",
        Some(coordinator_message::Body::Heartbeat(_)) | None => "a heartbeat",
    }
}
