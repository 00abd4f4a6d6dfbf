//! What a recording tells of its run: a pure fold over what the state machines heard and decided.

use std::collections::BTreeMap;

use atoll_collective::v1::{AbortReason, CoordinatorMessage, EpochRecord, coordinator_message};
use atoll_collective::{Millis, Notice, coordinator, peer};

use crate::report;

/// One epoch under one term, as this sidecar saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chapter {
    /// When it was first heard of, in milliseconds since the sidecar's start.
    pub since: Millis,
    /// The term.
    pub term: u64,
    /// The epoch.
    pub epoch: u64,
    /// Who has the coordinator's role.
    pub coordinator: String,
    /// Names of the members.
    pub members: Vec<String>,
    /// The first and the last round that was committed.
    pub rounds: Option<(u64, u64)>,
    /// Operations that were committed and ended no round.
    pub operations: u64,
    /// Attempts without result, by reason.
    pub aborts: BTreeMap<String, u64>,
    /// Who was evicted and why, in order; known to the coordinator alone.
    pub evicted: Vec<String>,
}

/// The chapters of a recording, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// By term and epoch.
    pub chapters: Vec<Chapter>,
    /// Terms in which this sidecar had the coordinator's role.
    pub terms: Vec<u64>,
    /// The newest commit that was counted.
    learned: u64,
}

impl History {
    /// The peer hears of something.
    pub(super) fn heard(&mut self, event: &peer::Event, now: Millis) {
        match event {
            peer::Event::Located(record) => self.record(record, now),
            peer::Event::Message(message) => self.message(message, now),
            _ => {}
        }
    }

    fn message(&mut self, message: &CoordinatorMessage, now: Millis) {
        match &message.body {
            Some(coordinator_message::Body::Start(start)) => start.record.iter().for_each(|record| self.record(record, now)),
            Some(coordinator_message::Body::Begin(begin)) => begin.record.iter().for_each(|record| self.record(record, now)),
            // One that is told again counts once.
            Some(coordinator_message::Body::Commit(commit)) if commit.index > self.learned => {
                self.learned = commit.index;
                let Some(chapter) = self.chapters.last_mut() else { return };
                match &commit.record {
                    Some(link) => chapter.rounds = Some((chapter.rounds.map_or(link.round, |(first, _)| first), link.round)),
                    None => chapter.operations += 1,
                }
            }
            Some(coordinator_message::Body::Abort(abort)) => self.abort(abort.reason()),
            Some(coordinator_message::Body::Evict(evict)) => self.abort(evict.reason()),
            _ => {}
        }
    }

    fn abort(&mut self, reason: AbortReason) {
        if let Some(chapter) = self.chapters.last_mut() {
            *chapter.aborts.entry(report::name(reason)).or_default() += 1;
        }
    }

    /// The coordinator decided something.
    pub(super) fn decided(&mut self, actions: &[coordinator::Action]) {
        let Some(chapter) = self.chapters.last_mut() else { return };
        for action in actions {
            if let coordinator::Action::Report(Notice::Evicted { worker, reason, .. }) = action {
                chapter.evicted.push(format!("{worker} {}", report::name(*reason)));
            }
        }
    }

    /// The coordinator's role was taken.
    pub(super) fn coordinates(&mut self, term: u64) {
        if self.terms.last() != Some(&term) {
            self.terms.push(term);
        }
    }

    fn record(&mut self, record: &EpochRecord, now: Millis) {
        let newest = self.chapters.last().map(|chapter| (chapter.term, chapter.epoch));
        if record.term == 0 || newest.is_some_and(|newest| newest >= (record.term, record.epoch)) {
            return;
        }
        self.chapters.push(Chapter {
            since: now,
            term: record.term,
            epoch: record.epoch,
            coordinator: record.coordinator.as_ref().map(|member| member.worker.clone()).unwrap_or_default(),
            members: record.members.iter().map(|member| member.worker.clone()).collect(),
            rounds: None,
            operations: 0,
            aborts: BTreeMap::new(),
            evicted: Vec::new(),
        });
    }
}

#[cfg(test)]
mod tests {
    use atoll_collective::v1::{Abort, Commit, CommitRecord, Member};

    use super::*;

    fn located(term: u64, epoch: u64, workers: &[&str]) -> peer::Event {
        let members: Vec<_> = workers.iter().map(|worker| Member { worker: (*worker).into(), ..Member::default() }).collect();
        peer::Event::Located(EpochRecord {
            term,
            epoch,
            coordinator: members.first().cloned(),
            members,
            ..EpochRecord::default()
        })
    }

    fn told(body: coordinator_message::Body) -> peer::Event {
        peer::Event::Message(Box::new(CoordinatorMessage { body: Some(body), ..CoordinatorMessage::default() }))
    }

    fn committed(index: u64, round: Option<u64>) -> peer::Event {
        let record = round.map(|round| CommitRecord { round, ..CommitRecord::default() });
        told(coordinator_message::Body::Commit(Commit { index, record, ..Commit::default() }))
    }

    #[test]
    fn a_run_is_told_by_its_epochs() {
        let mut history = History::default();
        let abort = Abort { reason: AbortReason::PeerLost.into(), ..Abort::default() };
        let events = [
            located(0, 0, &[]),
            located(1, 1, &["w0", "w1"]),
            committed(1, None),
            committed(2, Some(1)),
            committed(2, Some(1)),
            committed(3, Some(2)),
            told(coordinator_message::Body::Abort(abort)),
            located(1, 1, &["w0", "w1"]),
            located(2, 2, &["w1"]),
            committed(4, Some(3)),
        ];
        for (event, now) in events.iter().zip(0..) {
            history.heard(event, now * 10);
        }
        let [first, second] = &history.chapters[..] else { panic!("{history:?}") };
        assert_eq!((first.since, first.term, first.epoch, first.members.len()), (10, 1, 1, 2));
        assert_eq!((first.rounds, first.operations, first.aborts["PeerLost"]), (Some((1, 2)), 1, 1));
        assert_eq!((second.since, second.coordinator.as_str(), second.rounds), (80, "w1", Some((3, 3))));
    }

    #[test]
    fn evictions_are_the_coordinators_to_tell() {
        let mut history = History::default();
        history.heard(&located(1, 1, &["w0", "w1"]), 0);
        let (worker, detail) = ("w1".to_owned(), String::new());
        let notice = Notice::Evicted { slot: 1, worker, reason: AbortReason::Straggler, detail };
        history.decided(&[coordinator::Action::Report(notice)]);
        assert_eq!(history.chapters[0].evicted, ["w1 Straggler"]);
    }
}
