//! Grants of one run, by operators that restart, lose their store, or are two; without connections.

use std::time::Duration;

use tonic::Code;

use super::super::tests::{Laboratory, key};
use super::*;

const LIVENESS: Duration = Duration::from_mins(1);

fn worker(slot: u32) -> Member {
    Member { slot, worker: format!("w{slot}"), incarnation: 1, island: "local".into(), ..Member::default() }
}

/// The run as `slot` asks one operator.
struct Asks(Arc<Run>);

impl Asks {
    fn by(&self, slot: u32) -> Asked {
        let name = PeerName::new(&self.0.wire, "local", &format!("w{slot}")).unwrap();
        Asked { run: Arc::clone(&self.0), name: Some(name) }
    }

    async fn term(&self, slot: u32, observed_term: u64) -> Result<bool, Code> {
        let request = TermRequest { candidate: Some(worker(slot)), observed_term, ..TermRequest::default() };
        self.by(slot).request_term(request).await.map(|ruling| ruling.granted).map_err(|status| status.code())
    }

    async fn epoch(&self, proposed: EpochRecord) -> Result<bool, Code> {
        let slot = proposed.coordinator.as_ref().unwrap().slot;
        let request = EpochRequest { proposed: Some(proposed), ..EpochRequest::default() };
        self.by(slot).grant_epoch(request).await.map(|ruling| ruling.granted).map_err(|status| status.code())
    }

    async fn beat(&self, slot: u32) -> Result<EpochRecord, Code> {
        let request = BeatRequest { member: Some(worker(slot)), ..BeatRequest::default() };
        self.by(slot).beat(request).await.map(|reply| reply.record.unwrap()).map_err(|status| status.code())
    }

    fn record(&self) -> EpochRecord {
        self.0.grants.record()
    }

    fn next_epoch(&self) -> EpochRecord {
        let record = self.record();
        EpochRecord { epoch: record.epoch + 1, members: vec![worker(0), worker(1)], ..record }
    }
}

fn laboratory() -> Laboratory {
    let laboratory = Laboratory::new();
    laboratory.serve("kjv", 2);
    laboratory
}

#[tokio::test(start_paused = true)]
async fn of_two_operators_one_grants() {
    let laboratory = laboratory();
    let old = Asks(laboratory.process("kjv"));
    assert_eq!(old.term(0, 0).await, Ok(true));
    assert_eq!(old.epoch(old.next_epoch()).await, Ok(true));
    let new = Asks(laboratory.process("kjv"));
    assert_eq!(new.beat(1).await, Ok(old.record()));
    assert_eq!(new.term(1, 1).await, Ok(false), "it has only just heard of the coordinator");
    tokio::time::advance(LIVENESS + Duration::from_millis(1)).await;
    assert_eq!(new.term(1, 1).await, Ok(true));
    let late = old.next_epoch();
    assert_eq!(old.epoch(late.clone()).await, Err(Code::Unavailable), "somebody else has written");
    assert_eq!(old.0.grants.metrics.conflicts.get(), 1);
    assert_eq!(old.epoch(late).await, Ok(false), "it has read what was granted");
    assert_eq!((old.record(), old.record().term), (new.record(), 2));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_lost_at_once_after_a_restart_and_asking_keeps_nobody_alive() {
    let laboratory = laboratory();
    let before = Asks(laboratory.process("kjv"));
    assert_eq!(before.term(0, 0).await, Ok(true));
    let after = Asks(laboratory.process("kjv"));
    for _ in 0..60 {
        assert_eq!(after.term(1, 1).await, Ok(false));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(after.term(1, 1).await, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn without_the_store_beats_are_answered_and_nothing_is_granted() {
    let laboratory = laboratory();
    let hub = Asks(laboratory.process("kjv"));
    assert_eq!(hub.term(0, 0).await, Ok(true));
    laboratory.store.set_down(true);
    let next = hub.next_epoch();
    for _ in 0..3 {
        assert_eq!(hub.epoch(next.clone()).await, Err(Code::Unavailable));
        assert_eq!(hub.beat(1).await.map(|record| record.epoch), Ok(0), "what is not stored is not granted");
    }
    let unread = Asks(laboratory.process("kjv"));
    assert_eq!(unread.beat(1).await, Err(Code::Unavailable));
    laboratory.store.set_down(false);
    assert_eq!(hub.epoch(next.clone()).await, Ok(true));
    assert_eq!(hub.epoch(next.clone()).await, Ok(true), "its answer was lost");
    assert_eq!((unread.beat(1).await, laboratory.store.writes()), (Ok(next), 2));
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_found_before_the_next_grant() {
    let laboratory = laboratory();
    let hub = Asks(laboratory.process("kjv"));
    laboratory.store.set_mute(true);
    assert_eq!(hub.term(0, 0).await, Err(Code::Unavailable));
    assert_eq!(hub.record(), EpochRecord::default(), "it may not have been written");
    laboratory.store.set_mute(false);
    assert_eq!(hub.term(1, 0).await, Ok(false), "it was: the other has the term");
    assert_eq!((hub.record().term, hub.record().coordinator), (1, Some(worker(0))));
    assert_eq!(hub.epoch(hub.next_epoch()).await, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_wrote_is_told_once_and_never_overwritten() {
    let laboratory = laboratory();
    let run = key("kjv");
    let hub = Asks(laboratory.process("kjv"));
    assert_eq!(hub.term(0, 0).await, Ok(true));
    laboratory.store.overwrite(&run, b"forged".to_vec());
    assert_eq!(hub.epoch(hub.next_epoch()).await, Err(Code::Unavailable), "a conflict");
    let writes = laboratory.store.writes();
    for _ in 0..3 {
        assert_eq!(hub.epoch(hub.next_epoch()).await, Err(Code::Unavailable));
    }
    let told = laboratory.directory.take(&run).unwrap().occurrences;
    assert_eq!(told.iter().map(|told| told.event.as_str()).collect::<Vec<_>>(), ["RecordNotOurs"]);
    assert_eq!(laboratory.store.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_removed_is_written_again() {
    let laboratory = laboratory();
    let hub = Asks(laboratory.process("kjv"));
    assert_eq!(hub.term(0, 0).await, Ok(true));
    let found = Beginning { lineage: 4, ..Beginning::default() };
    assert_eq!(hub.0.grants.begin(found.clone()).await.ok(), Some(found.clone()));
    laboratory.store.remove(&key("kjv"));
    let next = hub.next_epoch();
    assert_eq!(hub.epoch(next.clone()).await, Err(Code::Unavailable));
    assert_eq!(hub.epoch(next.clone()).await, Ok(true));
    let known = Asks(laboratory.process("kjv")).0.grants.known().await.unwrap();
    assert_eq!(known, Known { record: next, beginning: Some(found) });
}

#[tokio::test(start_paused = true)]
async fn the_next_attempt_begins_with_nothing_and_ends_the_one_before() {
    let laboratory = laboratory();
    let first = Asks(laboratory.process("kjv"));
    assert_eq!(first.term(0, 0).await, Ok(true));
    laboratory.begin_anew("kjv");
    let second = Asks(laboratory.process("kjv"));
    assert_eq!(second.beat(0).await, Ok(EpochRecord::default()));
    assert_eq!(second.term(1, 0).await, Ok(true));
    for _ in 0..3 {
        assert_eq!(first.epoch(first.next_epoch()).await, Err(Code::Unavailable));
    }
    assert_eq!(second.record().coordinator, Some(worker(1)));
    assert_eq!(laboratory.directory.heard(&key("kjv")).unwrap().record, second.record());
}

#[tokio::test(start_paused = true)]
async fn the_controller_is_woken_by_news_and_not_by_each_beat() {
    let laboratory = laboratory();
    let hub = Asks(laboratory.process("kjv"));
    let woken = || {
        let mut changes = laboratory.changes.lock().unwrap();
        std::iter::from_fn(|| changes.try_recv().ok()).count()
    };
    hub.beat(0).await.unwrap();
    assert_eq!(woken(), 1, "a worker is there");
    for _ in 0..5 {
        hub.beat(0).await.unwrap();
    }
    assert_eq!(woken(), 0);
    assert_eq!(hub.term(0, 0).await, Ok(true));
    assert_eq!(woken(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_too_long_is_refused() {
    let laboratory = laboratory();
    let hub = Asks(laboratory.process("kjv"));
    assert_eq!(hub.term(0, 0).await, Ok(true));
    let long = Member { address: "x".repeat(record::MOST), ..worker(1) };
    assert_eq!(hub.epoch(EpochRecord { members: vec![long], ..hub.next_epoch() }).await, Err(Code::InvalidArgument));
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_no_record_names_promises_and_stores_nothing() {
    let laboratory = laboratory();
    let hub = Asks(laboratory.process("kjv"));
    let ballot = atoll_proto::v1::Ballot { number: 1, slot: 0, incarnation: 1 };
    let record = EpochRecord::default();
    let request = TermRequest { candidate: Some(worker(0)), ballot: Some(ballot), after: Some(record), ..TermRequest::default() };
    let ruling = hub.by(0).request_term(request).await.unwrap();
    assert_eq!((ruling.granted, laboratory.store.writes()), (false, 0));
}
