//! What the sidecar tells people: notices of the coordinator as events of the run.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use atoll_checkpoint::StoreError;
use atoll_checkpoint::sweep::Swept;
use atoll_collective::Notice;
use atoll_collective::state::synchronise::Synchronisation;
use atoll_collective::v1::{AbortReason, ArbiterKind, CommitRecord, KeptCheckpoint, Member, Progress};
use atoll_collective::{chain, ledger};
use atoll_sdk::events::Event;
use tokio::sync::mpsc::UnboundedSender;

/// Takes the events of a sidecar.
pub type Tell = Arc<dyn Fn(&Event) + Send + Sync>;

/// What an operator is told beside the events.
// A few at a time, moved once.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum News {
    /// Something happened.
    Happened(Event),
    /// This sidecar coordinates, and the run is so far; steps and tokens are 0 where they are not known.
    Advanced(Progress),
    /// It coordinates no more.
    CoordinatesNoMore,
    /// A checkpoint was published; how long it took is told by the event of its round.
    Published(KeptCheckpoint),
}

/// Where a trainer stood when it asked for a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stage {
    /// The round.
    pub(crate) asked: u64,
    /// Inner steps of each worker before it, and after it; 0 where the trainer has not said.
    pub(crate) steps: u64,
    pub(crate) steps_after: u64,
    pub(crate) tokens_per_sample: u64,
}

/// Tells what happens to one worker.
#[derive(Clone)]
pub(crate) struct Reporter {
    worker: String,
    tell: Tell,
    news: Option<UnboundedSender<News>>,
}

impl Reporter {
    pub(crate) fn new(worker: &str, tell: Tell) -> Self {
        Self { worker: worker.to_owned(), tell, news: None }
    }

    /// The same, which also tells an operator.
    pub(crate) fn with_news(self, news: Option<UnboundedSender<News>>) -> Self {
        Self { news, ..self }
    }

    fn tell(&self, event: Event) {
        (self.tell)(&event);
        self.inform(News::Happened(event));
    }

    fn inform(&self, news: News) {
        if let Some(operator) = &self.news {
            let _ending = operator.send(news);
        }
    }

    /// This worker's sidecar coordinates, and `record` is the newest round.
    pub(crate) fn advanced(&self, record: &CommitRecord, stage: Option<Stage>) {
        self.inform(News::Advanced(progress(record, stage)));
    }

    /// It coordinates no more.
    pub(crate) fn coordinates_no_more(&self) {
        self.inform(News::CoordinatesNoMore);
    }

    /// It has published a checkpoint.
    pub(crate) fn published(&self, kept: KeptCheckpoint) {
        self.inform(News::Published(kept));
    }

    fn now(&self, event: &str) -> Event {
        Event::now(&self.worker, event)
    }

    /// This worker's sidecar has the coordinator's role.
    pub(crate) fn coordinator(&self, term: u64) {
        self.tell(self.now("Coordinator").with("term", term));
    }

    /// The trainer beside this sidecar is there.
    pub(crate) fn attached(&self) {
        self.tell(self.now("Attached"));
    }

    /// The trainer beside this sidecar has ended, or is silent.
    pub(crate) fn detached(&self) {
        self.tell(self.now("Detached"));
    }

    /// Where Prometheus finds this worker's sidecar.
    pub(crate) fn metrics(&self, address: SocketAddr) {
        self.tell(self.now("Metrics").with("url", format!("http://{address}/metrics")));
    }

    /// Nothing of this sidecar is recorded from here on.
    pub(crate) fn recording_ended(&self, error: &io::Error) {
        tracing::warn!(%error, "the recording ends here");
        self.tell(self.now("RecordingEnded").with("reason", error.to_string()));
    }

    /// A human had this worker's sidecar ask for the term after `term`, with these voters alone.
    pub(crate) fn forced(&self, term: u64, survivors: &[Member]) {
        let survivors: Vec<_> = survivors.iter().map(|survivor| survivor.worker.clone()).collect();
        self.tell(self.now("TermForced").with("after", term).with("survivors", survivors));
    }

    /// The worker's state is the round's, or its donors could not make it so.
    pub(crate) fn repaired(&self, round: u64, done: &Synchronisation, took: Duration) {
        let donors: serde_json::Map<_, _> = done.moved.iter().map(|(slot, bytes)| (slot.to_string(), (*bytes).into())).collect();
        let blamed: serde_json::Map<_, _> =
            done.blamed.iter().map(|blame| (blame.donor.to_string(), blame.fault.to_string().into())).collect();
        for blame in &done.blamed {
            tracing::warn!(%blame, round, "a donor failed");
        }
        let event = self.now("Repaired").round(round).seconds(took.as_secs_f64());
        let event = event.with("whole", done.outcome.is_ok()).with("bytes", done.moved.values().sum::<u64>());
        self.tell(event.with("donors", donors).with("blamed", blamed));
    }

    /// Checkpoints were removed, and shards that none names.
    pub(crate) fn swept(&self, round: u64, swept: &Swept) {
        let removed: Vec<_> = swept.checkpoints.iter().map(ToString::to_string).collect();
        self.tell(self.now("CheckpointsRemoved").round(round).with("checkpoints", removed).with("shards", swept.shards.len()));
    }

    /// What is kept no longer could not be removed.
    pub(crate) fn not_swept(&self, round: u64, error: &StoreError) {
        tracing::warn!(%error, "checkpoints that are kept no longer stay");
        self.tell(self.now("CheckpointsNotRemoved").round(round).with("reason", error.to_string()));
    }

    /// A notice of this worker as coordinator.
    pub(crate) fn notice(&self, notice: &Notice) {
        self.tell(event(&self.worker, notice));
    }
}

/// Samples behind all committed rounds.
pub(crate) fn samples(record: &CommitRecord) -> u64 {
    let ledger = chain::ledger(Some(record));
    ledger.next.saturating_sub(ledger::count(&ledger.holes))
}

/// Mean loss of the round, by weight; 0 where nothing of it counts.
pub(crate) fn loss(record: &CommitRecord) -> f64 {
    let weights: f64 = record.contributions.iter().map(|given| f64::from(given.weight)).sum();
    let sum: f64 = record.contributions.iter().map(|given| given.loss * f64::from(given.weight)).sum();
    if weights > 0.0 && (sum / weights).is_finite() { sum / weights } else { 0.0 }
}

fn progress(record: &CommitRecord, stage: Option<Stage>) -> Progress {
    let step = stage.map_or(0, |stage| match stage.asked {
        asked if asked == record.round => stage.steps_after,
        asked if asked == record.round + 1 => stage.steps,
        _ => 0,
    });
    let per_sample = stage.map_or(0, |stage| stage.tokens_per_sample);
    Progress {
        term: record.term,
        epoch: record.epoch,
        round: record.round,
        step,
        tokens: samples(record).saturating_mul(per_sample),
        loss: loss(record),
        slots: record.contributions.iter().map(|given| given.slot).collect(),
        holding: String::new(),
    }
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
        Notice::Aborted { key, why } => {
            let event = Event::now("", "Aborted").round(key.round).with("operation", key.to_string());
            let event = event.with("reason", name(why.reason)).with("detail", why.detail.as_str());
            match why.culprit {
                Some(slot) => event.with("culprit", slot),
                None => event,
            }
        }
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
        Notice::CheckpointStarted { rounds, slots } => {
            Event::now("", "CheckpointStarted").round(*rounds).with("slots", slots.clone())
        }
        Notice::Checkpointed { rounds, took } => Event::now("", "Checkpointed").round(*rounds).seconds(*took as f64 / 1e3),
        Notice::CheckpointFailed { rounds, detail } => {
            Event::now("", "CheckpointFailed").round(*rounds).with("reason", detail.as_str())
        }
        Notice::CheckpointLate { rounds, writing } => Event::now("", "CheckpointLate").round(*rounds).with("writing", *writing),
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
    use atoll_collective::Refusal;
    use atoll_collective::v1::OperationKey;

    use super::*;

    #[test]
    fn progress_is_counted_in_the_steps_that_the_trainer_has_said() {
        let record = CommitRecord { round: 7, ..CommitRecord::default() };
        let step = |asked| {
            let stage = Stage { asked, steps: 60, steps_after: 70, tokens_per_sample: 16 };
            progress(&record, Some(stage)).step
        };
        assert_eq!([step(7), step(8), step(3)], [70, 60, 0]);
        assert_eq!(progress(&record, None).step, 0);
    }

    #[test]
    fn reasons_are_written_as_in_the_api() {
        assert_eq!(name(AbortReason::PeerLost), "PeerLost");
        assert_eq!(name(AbortReason::NoProgress), "NoProgress");
    }

    #[test]
    fn an_abort_names_the_slot_that_caused_it_where_one_did() {
        let aborted = |culprit| {
            let why = Refusal { reason: AbortReason::NotFinite, culprit, detail: "w2: NaN".into() };
            event("w0", &Notice::Aborted { key: OperationKey::default().into(), why })
        };
        assert_eq!(aborted(Some(2)).more["culprit"], 2);
        assert!(!aborted(None).more.contains_key("culprit"));
    }

    #[test]
    fn an_eviction_names_the_worker_and_the_reason() {
        let notice = Notice::Evicted { slot: 2, worker: "w2".into(), reason: AbortReason::TrainerLost, detail: "silent".into() };
        let event = event("w0", &notice);
        assert_eq!((event.worker.as_str(), event.more["reason"].as_str()), ("w2", Some("TrainerLost")));
    }
}
