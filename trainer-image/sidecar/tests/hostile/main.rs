//! Hostile bytes and callers against real sidecars that meanwhile do rounds with each other: each is refused for what it is, and
//! the rounds go on, with the right values and nobody evicted.
#![allow(clippy::unwrap_used, missing_docs)]

mod attacker;
mod hub;
mod run;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use atoll_collective::framing::{Header, Kind, LARGEST};
use atoll_collective::operation;
use atoll_collective::v1::coordinator_message::Body as Told;
use atoll_collective::v1::peer_message::Body as Says;
use atoll_collective::v1::{
    AbortReason, Contribution, Enter, Failed, Hello, Member, OperateRequest, Operation, Reduction, SampleRange, Slice, Start,
};
use attacker::{Attacker, Contributor, Trainer};
use run::Run;
use tonic::Code;

/// What a sidecar may grow by: the windows of the lanes that are flooded below, 92 MiB, and what it takes to look after them.
/// The lanes are sent 284 MiB.
const MOST_GROWTH_KIB: u64 = 128 << 10;

fn frame(term: u64, kind: Kind, length: usize) -> Vec<u8> {
    let header = Header { term, number: 1, block: 0, kind };
    [&header.encode(length, None)[..], &vec![7; length]].concat()
}

#[tokio::test]
async fn bytes_that_are_no_tls_are_answered_by_the_end_of_the_connection() {
    let mut run = Run::start().await;
    let noise: Vec<u8> = (0..4096_u32).map(|index| ((index * index) >> 3) as u8).collect();
    let hello = [0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc];
    for bytes in [&noise[..], b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &hello] {
        let mut stream = TcpStream::connect(&run.member(0).address).unwrap();
        stream.set_read_timeout(Some(run::PATIENCE)).unwrap();
        let _refused_meanwhile = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    }
    run.goes_on_undisturbed().await;
}

/// Whom a certificate of w9 names.
fn own(address: &str) -> Member {
    let (island, address) = (run::ISLAND.into(), address.into());
    Member { slot: 9, worker: "w9".into(), island, address, incarnation: 1, contributor: true }
}

fn started(told: Told) -> Option<Start> {
    if let Told::Start(start) = told { Some(start) } else { None }
}

/// What it gives to the end of its round, from these samples.
fn gives(start: &Start, samples: Vec<SampleRange>) -> Says {
    let contribution = Some(Contribution { slot: 9, weight: 1, samples, ..Contribution::default() });
    let operation = Some(operation::ends_round(start.round, start.started, run::ELEMENTS as u64));
    Says::Enter(Enter { operation, contribution, bandwidth: 0 })
}

/// The same, under another name.
fn named(mut says: Says, tag: &str) -> Says {
    if let Says::Enter(Enter { operation: Some(operation), .. }) = &mut says {
        tag.clone_into(&mut operation.key.as_mut().unwrap().tag);
    }
    says
}

#[tokio::test]
async fn a_contributor_that_says_too_much_is_left_out_and_others_are_told_a_little_of_it() {
    let mut run = Run::start().await;
    let (coordinator, w9) = (run.coordinator(), Attacker::certified(&run, "w9"));
    // Who dials it waits.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = own(&silent.local_addr().unwrap().to_string());

    let mut of_samples = Contributor::new(&w9, &coordinator, own.clone()).await;
    let start = of_samples.hears(started).await;
    of_samples.says(gives(&start, vec![SampleRange::default(); 1 << 20])).await;
    let why = of_samples.hears(|told| if let Told::Evict(evict) = told { Some(evict) } else { None }).await;
    assert!(why.reason() == AbortReason::Mismatch && why.detail.contains("at most 4096 ranges"), "{why:?}");
    drop(of_samples);
    run.goes_on_without_others().await;

    let mut of_names = Contributor::new(&w9, &coordinator, Member { incarnation: 2, ..own.clone() }).await;
    let start = of_names.hears(started).await;
    of_names.says(named(gives(&start, Vec::new()), &"x".repeat(1 << 20))).await;
    let why = of_names.hears(|told| if let Told::Evict(evict) = told { Some(evict) } else { None }).await;
    assert!(why.reason() == AbortReason::Mismatch && why.detail.len() < 600, "{} bytes", why.detail.len());
    drop(of_names);
    run.goes_on_without_others().await;

    let mut of_words = Contributor::new(&w9, &coordinator, Member { incarnation: 3, ..own }).await;
    let start = of_words.hears(started).await;
    of_words.says(gives(&start, Vec::new())).await;
    let begin = of_words.hears(|told| if let Told::Begin(begin) = told { Some(begin) } else { None }).await;
    // As long as a message may be: with a word more, nobody could be told.
    let (key, detail) = (begin.operation.unwrap().key, "x".repeat((4 << 20) - 40));
    let epoch = begin.record.unwrap().epoch;
    of_words.says(Says::Failed(Failed { epoch, key, reason: AbortReason::LaneFailed.into(), culprit: 9, detail })).await;
    let why = of_words.hears(|told| if let Told::Evict(evict) = told { Some(evict) } else { None }).await;
    assert!((512..600).contains(&why.detail.len()), "{} bytes", why.detail.len());
    drop(of_words);
    run.goes_on_without_others().await;
}

#[tokio::test]
async fn strangers_and_replays_are_refused_and_told_why() {
    let mut run = Run::start().await;
    let w0 = run.member(0);
    let w9 = Attacker::certified(&run, "w9");
    let (code, _) = Attacker::of_another_run(&w0).lane(&w0, &[], vec![]).await;
    assert_eq!(code, Code::Unknown, "no TLS, no answer");
    for (header, value, code, told) in [
        ("authorization", "Bearer guessed", Code::Unauthenticated, "not a peer of this run"),
        ("atoll-protocol", "2-3", Code::FailedPrecondition, "install atoll"),
        ("atoll-protocol", "", Code::FailedPrecondition, "install atoll"),
        ("atoll-incarnation", "99", Code::FailedPrecondition, "another process"),
        ("atoll-to", "1", Code::FailedPrecondition, "another process"),
        ("atoll-from", "-1", Code::InvalidArgument, "headers"),
        ("atoll-protocol", "1-2", Code::Unavailable, "closed the lane"),
    ] {
        let (found, said) = w9.lane(&w0, &[(header, value)], vec![]).await;
        assert!(found == code && said.contains(told), "{header} {value}: {found:?} {said}");
    }
    let own = own("127.0.0.1:1");
    let hello = |run: &str, member: &Member| Hello { run: run.into(), member: Some(member.clone()), ..Hello::default() };
    let coordinator = run.coordinator();
    let long = Member { worker: "w".repeat(3 << 20), ..own.clone() };
    for (hello, told) in [
        (hello("other", &own), "this is run run, not other"),
        (hello(run::RUN, &Member { slot: 0, ..own.clone() }), "slot 0 is worker w0's"),
        (hello(run::RUN, &run.member(1)), "the certificate is that of worker w9, who"),
        (hello(run::RUN, &long), "the certificate is that of worker w9, who"),
        (hello(run::RUN, &Member { address: "a".repeat(3 << 20), ..own.clone() }), "worker w9: its address: "),
    ] {
        let (code, said) = w9.session(&coordinator, hello).await;
        assert!(code == Code::PermissionDenied && said.contains(told), "{code:?} {said}");
    }
    // Its own earlier incarnation.
    let w1 = run.member(1);
    let replayed = Member { incarnation: w1.incarnation - 1, ..w1.clone() };
    let (code, said) = Attacker::certified(&run, "w1").session(&coordinator, hello(run::RUN, &replayed)).await;
    assert!(code == Code::PermissionDenied && said.contains("has started again since"), "{code:?} {said}");
    run.goes_on_undisturbed().await;
}

#[tokio::test]
async fn hostile_frames_end_their_lane_alone_and_take_no_memory() {
    let mut run = Run::start().await;
    let w0 = run.member(0);
    let w9 = Attacker::certified(&run, "w9");
    let before = run.resident_kib(0);
    let whole = frame(1, Kind::Result, 8);
    let changed = |at: usize, byte: u8| {
        let mut frame = whole.clone();
        frame[at] = byte;
        frame
    };
    for (bytes, told) in [
        (changed(0, 1), "flag 1"),
        (changed(1, 0xff), "a frame of 4278190120 bytes"),
        (changed(25, 9), "unknown kind 9"),
        (frame(1, Kind::Result, LARGEST + 1), "a frame of 1048609 bytes"),
        (frame(1, Kind::Digest, 0), "a frame of 32 bytes"),
        (whole[..12].to_vec(), "closed the lane"),
    ] {
        let (_, said) = w9.lane(&w0, &[], bytes).await;
        assert!(said.contains(told), "{told}: {said}");
    }
    // As if it were w1, whose lane it is not: its end ends nothing.
    for _ in 0..20 {
        w9.lane(&w0, &[("atoll-from", "1")], changed(0, 1)).await;
    }
    // For an attempt that is never begun: 64 MiB wait outside, on each of as many lanes as it may have.
    let mut open = Vec::new();
    let refused = loop {
        match w9.open(&w0, frame(u64::MAX, Kind::Result, LARGEST).repeat(if open.len() < 4 { 64 } else { 1 })).await {
            Ok(lane) => open.push(lane),
            Err(refused) => break refused,
        }
    };
    assert_eq!((open.len(), refused.0), (32, Code::ResourceExhausted), "{}", refused.1);
    run.goes_on_undisturbed().await;
    let grown = run.resident_kib(0).saturating_sub(before);
    println!("the sidecar grew by {grown} KiB");
    assert!(grown <= MOST_GROWTH_KIB, "{grown} KiB");
}

#[tokio::test]
async fn one_that_opens_connections_and_sessions_and_says_nothing_has_so_many_and_not_for_long() {
    let mut run = Run::start().await;
    let coordinator = run.coordinator();
    let (w8, w9) = (Attacker::certified(&run, "w8"), Attacker::certified(&run, "w9"));
    let mut silent = Vec::new();
    while let Ok(session) = w9.silent_session(w9.connection(&coordinator)).await {
        silent.push(session);
    }
    assert_eq!(silent.len(), 64);
    let connection = w8.connection(&coordinator);
    for _ in 0..32 {
        silent.push(w8.silent_session(connection.clone()).await.unwrap());
    }
    let more = tokio::time::timeout(Duration::from_secs(1), w8.silent_session(connection)).await;
    assert!(more.is_err(), "one connection carries 32 calls");
    run.goes_on_undisturbed().await;
    for session in silent {
        let (code, said) = attacker::ended(session).await;
        assert!(code == Code::DeadlineExceeded && said.contains("no introduction came in 10000 ms"), "{code:?} {said}");
    }
    run.goes_on_undisturbed().await;
}

#[tokio::test]
async fn a_hostile_trainer_is_refused_and_the_one_that_is_attached_is_not_disturbed() {
    let mut run = Run::start().await;
    let trainer = Trainer::new(&run.socket(0)).await;
    for (change, code, told) in [
        (("other", 1, 1, 1), Code::FailedPrecondition, "serves run run, not other"),
        ((run::RUN, 2, 3, 1), Code::FailedPrecondition, "install atoll"),
        ((run::RUN, 3, 1, 1), Code::FailedPrecondition, "install atoll"),
        ((run::RUN, 1, 1, 0), Code::FailedPrecondition, "a newer trainer is attached"),
    ] {
        let (found, said) = trainer.attach(change).await;
        assert!(found == code && said.contains(told), "{found:?} {said}");
    }
    let slice = |region: &str, offset, length| Some(Slice { region: region.into(), offset, length });
    let good = OperateRequest { incarnation: run::INCARNATION, deadline_milliseconds: 1_000, ..OperateRequest::default() };
    let ends_round = |change: fn(&mut Operation)| {
        let mut operation = operation::ends_round(1, 0, 8);
        change(&mut operation);
        OperateRequest { operation: Some(operation), ..good.clone() }
    };
    for (request, code, told) in [
        (OperateRequest { incarnation: 1, ..good.clone() }, Code::Unavailable, "not attached"),
        (OperateRequest { rank: 64, ..good.clone() }, Code::Unavailable, "not attached"),
        (OperateRequest { input: slice("7/0/input", 0, 4_001), ..good.clone() }, Code::InvalidArgument, "not part of a region"),
        (
            OperateRequest { input: slice("7/0/input", u64::MAX, 8), ..good.clone() },
            Code::InvalidArgument,
            "not part of a region",
        ),
        (OperateRequest { output: slice("7/0/nothing", 0, 8), ..good.clone() }, Code::InvalidArgument, "not part of a region"),
        (OperateRequest { output: slice("6/0/input", 0, 8), ..good.clone() }, Code::InvalidArgument, "not part of a region"),
        (OperateRequest { deadline_milliseconds: u64::MAX, ..good.clone() }, Code::InvalidArgument, "longer than a day"),
        (good.clone(), Code::InvalidArgument, "no operation is named"),
        (ends_round(|operation| operation.set_reduction(Reduction::Sum)), Code::InvalidArgument, "to a mean of f32"),
        (OperateRequest { loss: f64::NAN, ..ends_round(|_| ()) }, Code::InvalidArgument, "its loss is NaN"),
        (ends_round(|operation| operation.ends_round = false), Code::InvalidArgument, "of what ends the round"),
    ] {
        let (found, said) = trainer.operate(request).await;
        assert!(found == code && said.contains(told), "{found:?} {said}");
    }
    let mut regions = UnixStream::connect(atoll_sdk::regions_socket(&run.socket(0))).unwrap();
    regions.write_all(b"no descriptor").unwrap();
    let mut answer = Vec::new();
    regions.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [0], "refused, and the connection closed");
    let mut noise = UnixStream::connect(run.socket(0)).unwrap();
    noise.write_all(&[0xa5; 4096]).unwrap();
    let _reset = noise.read_to_end(&mut Vec::new());
    run.goes_on_undisturbed().await;
}
