//! Pods, the hub and a store together, over real connections with TLS.

mod laboratory;

use atoll_collective::identity::{Identity, PeerName};
use atoll_collective::secret::Secret;
use atoll_collective::transport::{Security, Transport, TransportError};
use atoll_proto::v1::{
    BeatRequest, BeginRequest, Beginning, EnrolReply, EnrolRequest, EpochRecord, EpochRequest, Member, Progress, ReportRequest,
    TermRequest,
};
use laboratory::{Caller, ISLAND, Serving};
pub(super) use laboratory::{Laboratory, key};
use tokio::io::AsyncReadExt;
use tonic::{Code, Request};

fn member(reply: &EnrolReply) -> Member {
    Member {
        slot: reply.slot,
        worker: reply.worker.clone(),
        incarnation: reply.incarnation,
        island: reply.island.clone(),
        ..Member::default()
    }
}

async fn term(caller: &mut Caller, member: &Member, observed_term: u64) -> Result<(bool, EpochRecord), Code> {
    let request =
        TermRequest { run: caller.run.clone(), candidate: Some(member.clone()), observed_term, ..TermRequest::default() };
    let ruling = caller.arbiter.request_term(request).await.map_err(|status| status.code())?.into_inner();
    Ok((ruling.granted, ruling.record.unwrap()))
}

async fn epoch(caller: &mut Caller, proposed: EpochRecord) -> Result<bool, Code> {
    let request = EpochRequest { run: caller.run.clone(), proposed: Some(proposed), ..EpochRequest::default() };
    caller.arbiter.grant_epoch(request).await.map(|ruling| ruling.into_inner().granted).map_err(|status| status.code())
}

async fn beat(caller: &mut Caller, member: &Member) -> Result<EpochRecord, Code> {
    let request = BeatRequest { run: caller.run.clone(), member: Some(member.clone()), ..BeatRequest::default() };
    let reply = caller.arbiter.beat(request).await.map_err(|status| status.code())?.into_inner();
    Ok(reply.record.unwrap())
}

#[tokio::test]
async fn two_pods_become_workers_and_get_a_term_and_an_epoch() {
    let laboratory = Laboratory::new();
    let key = laboratory.serve("kjv", 2);
    let hub = laboratory.start().await;
    let (first, second) = (hub.enrol("kjv-0").await.unwrap(), hub.enrol("kjv-1").await.unwrap());
    assert_eq!((first.reply.worker.as_str(), second.reply.worker.as_str()), ("w0", "w1"));
    assert_eq!((&first.reply.run_root, &first.reply.secret), (&second.reply.run_root, &second.reply.secret));
    assert_eq!((first.reply.name.as_str(), first.reply.valid_seconds, first.reply.protocol), ("kjv", 86_400, 1));
    let (zero, one) = (member(&first.reply), member(&second.reply));
    let (mut by_zero, mut by_one) = (hub.call(&first).await, hub.call(&second).await);
    assert_eq!(beat(&mut by_one, &one).await, Ok(EpochRecord::default()));
    let (granted, record) = term(&mut by_zero, &zero, 0).await.unwrap();
    assert!(granted);
    let next = EpochRecord { epoch: 1, members: vec![zero.clone(), one.clone()], ..record };
    assert_eq!(epoch(&mut by_one, next.clone()).await, Err(Code::PermissionDenied), "it is not its coordinator");
    assert_eq!(epoch(&mut by_zero, next.clone()).await, Ok(true));
    assert_eq!(beat(&mut by_one, &one).await, Ok(next.clone()));
    assert_eq!(laboratory.store.writes(), 2, "a beat writes nothing");
    let heard = laboratory.directory.heard(&key).unwrap();
    assert_eq!((heard.record, heard.beats.keys().copied().collect::<Vec<_>>()), (next, vec![1]));
}

#[tokio::test]
async fn a_worker_speaks_for_itself_alone() {
    let laboratory = Laboratory::new();
    laboratory.serve("kjv", 2);
    let hub = laboratory.start().await;
    let first = hub.enrol("kjv-0").await.unwrap();
    let (mut caller, zero) = (hub.call(&first).await, member(&first.reply));
    for other in [
        Member { slot: 1, worker: "w1".into(), ..zero.clone() },
        Member { slot: 1, ..zero.clone() },
        Member { island: "east".into(), ..zero.clone() },
        Member { contributor: true, ..zero.clone() },
    ] {
        assert_eq!(beat(&mut caller, &other).await, Err(Code::PermissionDenied), "{other:?}");
        let report = ReportRequest { run: first.reply.run.clone(), member: Some(other.clone()), ..ReportRequest::default() };
        assert_eq!(caller.supervision.report(report).await.unwrap_err().code(), Code::PermissionDenied);
    }
    caller.run = "other".into();
    assert_eq!(beat(&mut caller, &zero).await, Err(Code::NotFound));
    let mut stranger = hub.call_with(&first, "another secret").await;
    assert_eq!(beat(&mut stranger, &zero).await, Err(Code::Unauthenticated));
    caller.run.clone_from(&first.reply.run);
    laboratory.directory.forget(&key("kjv"));
    assert_eq!(beat(&mut caller, &zero).await, Err(Code::NotFound), "the run is over");
}

/// What becomes of who shows `identity` to the arbiter of `island` of `run`.
async fn dialled(hub: &Serving, identity: &Identity, run: &str, island: &str) -> Result<(), TransportError> {
    let transport = Transport::new(Some(Security::new(identity).unwrap()), std::sync::Arc::default());
    let expected = PeerName::new(run, island, super::ARBITER).unwrap();
    let mut stream = transport.connect(&hub.address.parse().unwrap(), &expected).await?;
    // With TLS 1.3 a client learns with the first byte that it was refused; a server that speaks HTTP/2 says its settings first.
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    stream.read_u8().await.map(drop).map_err(TransportError::from)
}

#[tokio::test]
async fn certificates_of_other_runs_and_islands_are_refused() {
    let laboratory = Laboratory::new();
    laboratory.serve("kjv", 1);
    laboratory.serve("other", 1);
    let hub = laboratory.start().await;
    let (own, other) = (hub.enrol("kjv-0").await.unwrap(), hub.enrol("other-0").await.unwrap());
    let run = own.reply.run.clone();
    dialled(&hub, &own.identity(), &run, ISLAND).await.unwrap();
    let refused = dialled(&hub, &other.identity(), &run, ISLAND).await;
    assert!(matches!(refused, Err(TransportError::OtherRun(_))), "it does not trust the arbiter of this run: {refused:?}");
    let impostor = other.identity_with_root(&own.reply.run_root);
    assert!(dialled(&hub, &impostor, &run, ISLAND).await.is_err(), "the arbiter does not trust it");
    let abroad = laboratory.abroad("kjv", "east", "w0");
    assert!(dialled(&hub, &abroad, &run, ISLAND).await.is_err(), "it is of the run, and of no island that is served here");
    assert!(dialled(&hub, &abroad, &run, "east").await.is_err());
    assert!(dialled(&hub, &own.identity(), "unknown", ISLAND).await.is_err());
}

#[tokio::test]
async fn pods_that_prove_nothing_get_no_certificate() {
    let laboratory = Laboratory::new();
    laboratory.serve("kjv", 1);
    let hub = laboratory.start().await;
    let enrolled = hub.enrol("kjv-0").await.unwrap();
    assert_eq!(hub.enrol("kjv-7").await.unwrap_err(), Code::Unavailable, "its controller may see it in a moment");
    for (token, refused) in [
        (laboratory.token("other-uid", "kjv-0"), Code::PermissionDenied),
        (Laboratory::new().token("uid-of-kjv", "kjv-0"), Code::Unauthenticated),
        ("nonsense".into(), Code::Unauthenticated),
    ] {
        let asks = EnrolRequest { protocol_low: 1, protocol_high: 1, ..EnrolRequest::default() };
        assert_eq!(hub.enrol_with(&token, asks).await.unwrap_err(), refused);
    }
    let token = laboratory.token("uid-of-kjv", "kjv-0");
    let apart = EnrolRequest { protocol_low: 7, protocol_high: 8, ..EnrolRequest::default() };
    assert_eq!(hub.enrol_with(&token, apart).await.unwrap_err(), Code::FailedPrecondition);
    for certificate_request in [Vec::new(), vec![0; 5000]] {
        let malformed = EnrolRequest { protocol_low: 1, protocol_high: 1, certificate_request, ..EnrolRequest::default() };
        assert_eq!(hub.enrol_with(&token, malformed).await.unwrap_err(), Code::InvalidArgument);
    }
    let counted = |outcome| hub.metrics.enrolments.with_label_values(&[outcome]).get();
    assert_eq!(["enrolled", "later", "refused", "unproven", "malformed"].map(counted), [1, 1, 1, 2, 2]);
    let mut newcomer = hub.newcomer().await;
    assert_eq!(beat(&mut newcomer, &member(&enrolled.reply)).await, Err(Code::PermissionDenied), "it has no certificate");
    let mut enrolment = hub.call(&enrolled).await.enrolment;
    let mut again = Request::new(EnrolRequest::default());
    Secret::new(&token).show(again.metadata_mut());
    assert_eq!(enrolment.enrol(again).await.unwrap_err().code(), Code::PermissionDenied, "it has one");
}

#[tokio::test]
async fn a_certificate_is_renewed_by_the_process_that_was_enrolled_last() {
    let laboratory = Laboratory::new();
    laboratory.serve("kjv", 1);
    let hub = laboratory.start().await;
    let first = hub.enrol("kjv-0").await.unwrap().reply.incarnation;
    assert_eq!(hub.renew("kjv-0", first).await.unwrap().reply.incarnation, first);
    let second = hub.enrol("kjv-0").await.unwrap().reply.incarnation;
    assert!(second > first);
    assert_eq!(hub.renew("kjv-0", first).await.unwrap_err(), Code::PermissionDenied);
    drop(hub);
    let again = laboratory.start().await;
    assert_eq!(again.renew("kjv-0", second).await.unwrap().reply.incarnation, second);
}

#[tokio::test]
async fn a_hub_that_starts_again_goes_on_with_the_same_root_and_record() {
    let laboratory = Laboratory::new();
    laboratory.serve("kjv", 2);
    let hub = laboratory.start().await;
    let first = hub.enrol("kjv-0").await.unwrap();
    let zero = member(&first.reply);
    let mut caller = hub.call(&first).await;
    let (_, record) = term(&mut caller, &zero, 0).await.unwrap();
    let next = EpochRecord { epoch: 1, members: vec![zero.clone()], ..record };
    assert_eq!(epoch(&mut caller, next.clone()).await, Ok(true));
    drop(hub);
    assert!(beat(&mut caller, &zero).await.is_err(), "its connection is closed");

    let again = laboratory.start().await;
    let mut caller = again.call(&first).await;
    assert_eq!(beat(&mut caller, &zero).await, Ok(next.clone()), "the old certificate is good");
    let second = again.enrol("kjv-1").await.unwrap();
    assert_eq!((&second.reply.run_root, &second.reply.secret), (&first.reply.run_root, &first.reply.secret));
    let (granted, known) = term(&mut again.call(&second).await, &member(&second.reply), 1).await.unwrap();
    assert_eq!((granted, known), (false, next.clone()), "the coordinator has its time");
    assert_eq!(epoch(&mut caller, EpochRecord { epoch: 2, ..next }).await, Ok(true));
}

#[tokio::test]
async fn one_worker_finds_from_what_all_begin() {
    let laboratory = Laboratory::new();
    let key = laboratory.serve("kjv", 2);
    let hub = laboratory.start().await;
    let (first, second) = (hub.enrol("kjv-0").await.unwrap(), hub.enrol("kjv-1").await.unwrap());
    let asks = |of: &laboratory::Enrolled| BeginRequest {
        run: of.reply.run.clone(),
        member: Some(member(&of.reply)),
        ..BeginRequest::default()
    };
    let (mut by_zero, mut by_one) = (hub.call(&first).await.supervision, hub.call(&second).await.supervision);
    let begins = by_zero.begin(asks(&first)).await.unwrap().into_inner();
    assert_eq!((begins.beginning, begins.look, begins.held), (Some(Beginning::default()), false, false), "nothing is kept");
    laboratory.keep_checkpoints("kjv");
    assert!(by_zero.begin(asks(&first)).await.unwrap().into_inner().look);
    let waits = by_one.begin(asks(&second)).await.unwrap().into_inner();
    assert_eq!((waits.beginning, waits.look), (None, false));
    let found = Beginning { lineage: 4, place: "round-7".into(), ..Beginning::default() };
    let tells = BeginRequest { found: Some(found.clone()), ..asks(&first) };
    assert_eq!(by_zero.begin(tells).await.unwrap().into_inner().beginning, Some(found.clone()));
    let late = BeginRequest { found: Some(Beginning { lineage: 5, ..Beginning::default() }), ..asks(&second) };
    assert_eq!(by_one.begin(late).await.unwrap().into_inner().beginning, Some(found.clone()), "it is decided");
    assert_eq!(laboratory.directory.heard(&key).unwrap().beginning, Some(found.clone()));
    drop(hub);
    let again = laboratory.start().await;
    let begins = again.call(&second).await.supervision.begin(asks(&second)).await.unwrap().into_inner();
    assert_eq!(begins.beginning, Some(found));
}

#[tokio::test]
async fn who_finds_nothing_says_why_and_nobody_looks_for_a_moment() {
    let laboratory = Laboratory::new();
    let key = laboratory.serve("kjv", 1);
    laboratory.keep_checkpoints("kjv");
    let hub = laboratory.start().await;
    let first = hub.enrol("kjv-0").await.unwrap();
    let mut supervision = hub.call(&first).await.supervision;
    let asks = BeginRequest { run: first.reply.run.clone(), member: Some(member(&first.reply)), ..BeginRequest::default() };
    let fails = BeginRequest { failure: "no such bucket".into(), ..asks.clone() };
    assert!(!supervision.begin(fails).await.unwrap().into_inner().look);
    assert_eq!(laboratory.directory.heard(&key).unwrap().beginning_failure.as_deref(), Some("no such bucket"));
    assert!(!supervision.begin(asks).await.unwrap().into_inner().look);
}

#[tokio::test]
async fn progress_is_the_coordinators_and_wakes_the_controller() {
    let laboratory = Laboratory::new();
    let key = laboratory.serve("kjv", 2);
    let hub = laboratory.start().await;
    let (first, second) = (hub.enrol("kjv-0").await.unwrap(), hub.enrol("kjv-1").await.unwrap());
    let (mut by_zero, mut by_one) = (hub.call(&first).await, hub.call(&second).await);
    assert!(term(&mut by_zero, &member(&first.reply), 0).await.unwrap().0);
    let told = |of: &laboratory::Enrolled, round| ReportRequest {
        run: of.reply.run.clone(),
        member: Some(member(&of.reply)),
        progress: Some(Progress { round, ..Progress::default() }),
        ..ReportRequest::default()
    };
    by_one.supervision.report(told(&second, 9)).await.unwrap();
    assert_eq!(laboratory.directory.heard(&key).unwrap().progress, None);
    laboratory.want_checkpoint("kjv", 3);
    let reply = by_zero.supervision.report(told(&first, 2)).await.unwrap().into_inner();
    assert_eq!(reply.keep_round, Some(3));
    assert_eq!(laboratory.directory.heard(&key).unwrap().progress.unwrap().0.round, 2);
    let many = ReportRequest { removed: vec![String::new(); 65], ..told(&first, 3) };
    assert_eq!(by_zero.supervision.report(many).await.unwrap_err().code(), Code::InvalidArgument);
}
