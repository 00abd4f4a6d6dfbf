//! What the sidecar tells people: notices of the coordinator as events of the run.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_collective::Notice;
use atoll_collective::state::synchronise::Synchronisation;
use atoll_collective::v1::{AbortReason, ArbiterKind, Member};
use atoll_sdk::events::Event;

/// This worker's sidecar has the coordinator's role.
pub(crate) fn coordinator(worker: &str, term: u64) {
    Event::now(worker, "Coordinator").with("term", term).emit();
}

/// The trainer beside this sidecar is there.
pub(crate) fn attached(worker: &str) {
    Event::now(worker, "Attached").emit();
}

/// The trainer beside this sidecar has ended, or is silent.
pub(crate) fn detached(worker: &str) {
    Event::now(worker, "Detached").emit();
}

/// Where Prometheus finds this worker's sidecar.
pub(crate) fn metrics(worker: &str, address: SocketAddr) {
    Event::now(worker, "Metrics").with("url", format!("http://{address}/metrics")).emit();
}

/// Nothing of this sidecar is recorded from here on.
pub(crate) fn recording_ended(worker: &str, error: &io::Error) {
    tracing::warn!(%error, "the recording ends here");
    Event::now(worker, "RecordingEnded").with("reason", error.to_string()).emit();
}

/// A human had this worker's sidecar ask for the term after `term`, with these voters alone.
pub(crate) fn forced(worker: &str, term: u64, survivors: &[Member]) {
    let survivors: Vec<_> = survivors.iter().map(|survivor| survivor.worker.clone()).collect();
    Event::now(worker, "TermForced").with("after", term).with("survivors", survivors).emit();
}

/// The worker's state is the round's, or its donors could not make it so.
pub(crate) fn repaired(worker: &str, round: u64, done: &Synchronisation, took: Duration) {
    let donors: serde_json::Map<_, _> = done.moved.iter().map(|(slot, bytes)| (slot.to_string(), (*bytes).into())).collect();
    let blamed: serde_json::Map<_, _> =
        done.blamed.iter().map(|blame| (blame.donor.to_string(), blame.fault.to_string().into())).collect();
    for blame in &done.blamed {
        tracing::warn!(%blame, round, "a donor failed");
    }
    Event::now(worker, "Repaired")
        .round(round)
        .seconds(took.as_secs_f64())
        .with("whole", done.outcome.is_ok())
        .with("bytes", done.moved.values().sum::<u64>())
        .with("donors", donors)
        .with("blamed", blamed)
        .emit();
}

/// A notice of the coordinator of `worker`.
pub(crate) fn notice(worker: &str, notice: &Notice) {
    event(worker, notice).emit();
}

fn event(worker: &str, notice: &Notice) -> Event {
    match notice {
        Notice::Epoch(record) => {
            let members: Vec<_> = record.members.iter().map(|member| member.worker.clone()).collect();
            let arbiter = match record.arbiter() {
                ArbiterKind::Single => "Single",
                ArbiterKind::Peers => "Peers",
            };
            let event = Event::now("", "Epoch").with("epoch", record.epoch).with("term", record.term);
            event.with("members", members).with("arbiter", arbiter)
        }
        Notice::Evicted { worker, reason, detail, .. } => {
            Event::now(worker, "Evicted").with("reason", name(*reason)).with("detail", detail.as_str())
        }
        Notice::Aborted { key, reason, detail } => Event::now("", "Aborted")
            .round(key.round)
            .with("operation", key.to_string())
            .with("reason", name(*reason))
            .with("detail", detail.as_str()),
        Notice::Committed(record) => {
            let counted = record.contributions.iter().filter(|given| given.weight > 0);
            let slots: Vec<u32> = counted.clone().map(|given| given.slot).collect();
            let samples: Vec<_> = counted.flat_map(|given| &given.samples).map(|range| [range.start, range.end]).collect();
            Event::now("", "Committed")
                .round(record.round)
                .with("epoch", record.epoch)
                .with("slots", slots)
                .with("committedSamples", serde_json::json!(samples))
        }
        Notice::Synchronised { slot, round, mismatch } => {
            Event::now("", "Synchronised").round(*round).with("slot", *slot).with("mismatch", *mismatch)
        }
        Notice::Holding { members, quorum } => Event::now("", "Holding").with("members", *members).with("quorum", *quorum),
        Notice::HistoryMissing { round, absent } => {
            let absent: Vec<_> = absent.iter().map(|member| (member.slot, member.incarnation)).collect();
            Event::now("", "HistoryMissing").round(*round).with("absent", serde_json::json!(absent))
        }
        Notice::StateMissing { round } => Event::now("", "StateMissing").round(*round),
        Notice::NoMajority { reached, needed, absent } => {
            let absent: Vec<_> = absent.iter().map(|member| member.worker.clone()).collect();
            Event::now(worker, "NoMajority").with("reached", *reached).with("needed", *needed).with("absent", absent)
        }
        Notice::Deposed => Event::now(worker, "Deposed"),
    }
}

/// `ABORT_REASON_PEER_LOST` as people read it: `PeerLost`.
pub(crate) fn name(reason: AbortReason) -> String {
    let words = reason.as_str_name().trim_start_matches("ABORT_REASON_").split('_');
    words.map(|word| word[..1].to_owned() + &word[1..].to_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_written_as_in_the_api() {
        assert_eq!(name(AbortReason::PeerLost), "PeerLost");
        assert_eq!(name(AbortReason::NoProgress), "NoProgress");
    }

    #[test]
    fn an_eviction_names_the_worker_and_the_reason() {
        let notice = Notice::Evicted { slot: 2, worker: "w2".into(), reason: AbortReason::TrainerLost, detail: "silent".into() };
        let event = event("w0", &notice);
        assert_eq!((event.worker.as_str(), event.more["reason"].as_str()), ("w2", Some("TrainerLost")));
    }
}
