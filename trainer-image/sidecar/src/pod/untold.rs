//! What the hub has not been told yet: as much of it as fits, and of what it replaces only the newest.

use std::collections::{BTreeSet, VecDeque};

use atoll_collective::v1::{KeptCheckpoint, Member, Occurrence, Progress, ReportRequest};
use atoll_sdk::events::Event;
use atoll_sdk::process::beginning;
use serde_json::Value;

use crate::report::News;

/// Most of each in one report.
const MOST: (usize, usize, usize) = (64, 16, 64);
/// How many reports' worth is held while the hub does not answer; the oldest go first.
const HELD: usize = 4;
/// Longest text for people, in bytes.
const LONGEST: usize = 1024;
/// Why no round begins.
const HOLDING: [&str; 4] = ["Holding", "HistoryMissing", "StateMissing", "NoMajority"];
/// What is about the run, beside why it holds.
const ABOUT_THE_RUN: [&str; 12] = [
    "Aborted",
    "CheckpointFailed",
    "CheckpointLate",
    "CheckpointStarted",
    "Checkpointed",
    "CheckpointsNotRemoved",
    "Coordinator",
    "Deposed",
    "Detached",
    "Evicted",
    "Synchronised",
    "TermForced",
];

/// What a sidecar has seen and not told.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// How far the run is, while this sidecar coordinates it.
    progress: Option<Progress>,
    /// Members of the newest epoch.
    members: Option<BTreeSet<String>>,
    occurrences: VecDeque<Occurrence>,
    /// Published; how long it took is not known yet.
    published: Vec<KeptCheckpoint>,
    kept: VecDeque<KeptCheckpoint>,
    removed: VecDeque<String>,
    /// There is something that the hub does not know.
    is_new: bool,
}

impl Untold {
    /// Whether there is something that the hub does not know.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Takes note of what happened.
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Advanced(progress) => {
                let before = self.progress.take().unwrap_or_default();
                // What its trainer does not say is as it was, at least.
                let (step, tokens) = (progress.step.max(before.step), progress.tokens.max(before.tokens));
                let epoch = progress.epoch.max(before.epoch);
                self.progress = Some(Progress { step, tokens, epoch, ..progress });
                self.is_new = true;
            }
            News::CoordinatesNoMore => {
                (self.progress, self.members) = (None, None);
                for kept in std::mem::take(&mut self.published) {
                    self.keep(kept);
                }
            }
            News::Published(kept) => self.published.push(kept),
            News::Happened(event) => self.happened(&event),
        }
    }

    fn keep(&mut self, kept: KeptCheckpoint) {
        push(&mut self.kept, kept, MOST.1);
        self.is_new = true;
    }

    fn happened(&mut self, event: &Event) {
        match event.event.as_str() {
            "Epoch" => self.membership(event),
            "Checkpointed" => {
                let of_it = |kept: &KeptCheckpoint| Some(kept.round) == event.round;
                if let Some(index) = self.published.iter().position(of_it) {
                    let kept = self.published.remove(index);
                    self.keep(KeptCheckpoint { seconds: event.seconds.unwrap_or(0.0), ..kept });
                }
            }
            "CheckpointsRemoved" => {
                let places = event.more.get("checkpoints").and_then(Value::as_array).into_iter().flatten();
                for place in places.filter_map(Value::as_str) {
                    push(&mut self.removed, place.to_owned(), MOST.2);
                    self.is_new = true;
                }
            }
            holding if HOLDING.contains(&holding) => {
                let progress = self.progress.get_or_insert_default();
                holding.clone_into(&mut progress.holding);
                self.occur(event);
            }
            _ => {}
        }
        if ABOUT_THE_RUN.contains(&event.event.as_str()) {
            self.occur(event);
        }
    }

    /// A new epoch: who was not in the last has joined, and a round may begin.
    fn membership(&mut self, event: &Event) {
        let number = |name: &str| event.more.get(name).and_then(Value::as_u64).unwrap_or(0);
        let (term, epoch) = (number("term"), number("epoch"));
        let names = event.more.get("members").and_then(Value::as_array).into_iter().flatten();
        let members: BTreeSet<String> = names.filter_map(Value::as_str).map(str::to_owned).collect();
        // The first epoch of a later term says nothing of who was there before.
        let before = self.members.take().or((epoch == 1).then(BTreeSet::new));
        let round = self.progress.as_ref().map_or(0, |progress| progress.round);
        for worker in before.iter().flat_map(|before| members.difference(before)) {
            let joined = Occurrence { event: "Joined".into(), worker: worker.clone(), round, detail: String::new() };
            push(&mut self.occurrences, joined, MOST.0);
        }
        self.members = Some(members);
        let progress = self.progress.get_or_insert_default();
        (progress.term, progress.epoch) = (term, epoch);
        progress.holding.clear();
        self.is_new = true;
    }

    fn occur(&mut self, event: &Event) {
        let text = |(name, value): (&String, &Value)| match value {
            Value::String(text) => format!("{name} {text}"),
            value => format!("{name} {value}"),
        };
        let detail = event.more.iter().map(text).collect::<Vec<_>>().join(", ");
        let occurrence = Occurrence {
            event: event.event.clone(),
            worker: event.worker.clone(),
            round: event.round.unwrap_or(0),
            detail: beginning(&detail, LONGEST).to_owned(),
        };
        push(&mut self.occurrences, occurrence, MOST.0);
        self.is_new = true;
    }

    /// The next report.
    pub(super) fn report(&self, run: &str, member: &Member) -> ReportRequest {
        ReportRequest {
            run: run.to_owned(),
            member: Some(member.clone()),
            progress: self.progress.clone(),
            occurrences: self.occurrences.iter().take(MOST.0).cloned().collect(),
            kept: self.kept.iter().take(MOST.1).cloned().collect(),
            removed: self.removed.iter().take(MOST.2).cloned().collect(),
        }
    }

    /// The hub has this report, which is the last that was made, and nothing was heard since.
    pub(super) fn told(&mut self, report: &ReportRequest) {
        self.occurrences.drain(..report.occurrences.len());
        self.kept.drain(..report.kept.len());
        self.removed.drain(..report.removed.len());
        self.is_new = !(self.occurrences.is_empty() && self.kept.is_empty() && self.removed.is_empty());
    }
}

/// The oldest gives way where `most` reports are full of them.
fn push<T>(queue: &mut VecDeque<T>, item: T, most: usize) {
    if queue.len() >= HELD * most {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(untold: &mut Untold, event: Event) {
        untold.hear(News::Happened(event));
    }

    fn report(untold: &Untold) -> ReportRequest {
        untold.report("kjv-1-1", &Member::default())
    }

    fn advanced(round: u64, step: u64) -> News {
        News::Advanced(Progress { term: 1, epoch: 1, round, step, ..Progress::default() })
    }

    #[test]
    fn the_newest_progress_is_told_and_what_is_not_known_is_as_it_was() {
        let mut untold = Untold::default();
        assert!(!untold.is_new());
        untold.hear(advanced(4, 80));
        untold.hear(advanced(5, 0));
        let progress = report(&untold).progress.unwrap();
        assert_eq!((progress.round, progress.step), (5, 80));
        untold.hear(News::CoordinatesNoMore);
        assert_eq!(report(&untold).progress, None);
    }

    #[test]
    fn why_it_holds_is_told_until_there_is_another_epoch() {
        let mut untold = Untold::default();
        untold.hear(advanced(4, 80));
        happened(&mut untold, Event::now("", "Holding").with("members", 1).with("quorum", 2));
        let told = report(&untold);
        assert_eq!(told.progress.as_ref().unwrap().holding, "Holding");
        assert_eq!(told.occurrences[0].detail, "members 1, quorum 2");
        happened(&mut untold, Event::now("", "Epoch").with("epoch", 2).with("term", 1).with("members", vec!["w0", "w1"]));
        assert_eq!(report(&untold).progress.unwrap().holding, "");
    }

    #[test]
    fn who_joins_is_named_unless_nobody_knows_who_was_there_before() {
        let epoch = |epoch: u64, members: &[&str]| Event::now("", "Epoch").with("epoch", epoch).with("members", members.to_vec());
        let joined = |events: Vec<Event>| {
            let mut untold = Untold::default();
            for event in events {
                happened(&mut untold, event);
            }
            report(&untold).occurrences.into_iter().map(|occurrence| occurrence.worker).collect::<Vec<_>>()
        };
        assert_eq!(joined(vec![epoch(1, &["w0", "w1"]), epoch(2, &["w0", "w1", "w2"])]), ["w0", "w1", "w2"]);
        assert_eq!(joined(vec![epoch(7, &["w0", "w1"]), epoch(8, &["w1", "w3"])]), ["w3"]);
    }

    #[test]
    fn a_checkpoint_is_told_with_how_long_it_took_and_once() {
        let mut untold = Untold::default();
        untold.hear(News::Published(KeptCheckpoint { round: 7, digest: "d".into(), ..KeptCheckpoint::default() }));
        assert_eq!(report(&untold).kept, []);
        happened(&mut untold, Event::now("", "Checkpointed").round(7).seconds(0.5));
        let told = report(&untold);
        assert_eq!((told.kept[0].round, told.kept[0].seconds), (7, 0.5));
        untold.told(&told);
        assert!(!untold.is_new() && report(&untold).kept.is_empty());
    }

    #[test]
    fn what_the_hub_is_not_told_is_bounded_and_told_in_parts() {
        let mut untold = Untold::default();
        for round in 0..1_000 {
            happened(&mut untold, Event::now("w1", "Evicted").round(round).with("reason", "x".repeat(5_000)));
        }
        let (mut told, mut rounds) = (report(&untold), Vec::new());
        assert!(told.occurrences.iter().all(|occurrence| occurrence.detail.len() <= LONGEST));
        while !told.occurrences.is_empty() {
            rounds.extend(told.occurrences.iter().map(|occurrence| occurrence.round));
            untold.told(&told);
            told = report(&untold);
        }
        assert_eq!(rounds, (744..1_000).collect::<Vec<_>>());
    }
}
