//! Who may talk to whom, over connections in memory.
#![expect(clippy::disallowed_methods, reason = "a certificate's validity is in the time of the day")]

use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpSocket;

use super::*;
use crate::identity::{Identity, IdentityError, IslandAuthority, RunAuthority, Validity, forged};

const DAY: Duration = Duration::from_hours(24);

fn days_from_now(days: i32) -> Validity {
    let past = DAY * days.min(0).unsigned_abs();
    Validity { from: SystemTime::now() - past + DAY * days.max(0).unsigned_abs() - Duration::from_mins(1), length: DAY }
}

fn run() -> RunAuthority {
    RunAuthority::new("kjv", Validity { from: SystemTime::now() - 10 * DAY, length: 20 * DAY }).unwrap()
}

fn island(run: &RunAuthority) -> IslandAuthority {
    run.island("west", Validity { from: SystemTime::now() - 10 * DAY, length: 20 * DAY }).unwrap()
}

fn today(island: &IslandAuthority, worker: &str) -> Identity {
    island.peer(worker, days_from_now(0)).unwrap()
}

fn name(worker: &str) -> PeerName {
    PeerName::new("kjv", "west", worker).unwrap()
}

fn transport(identity: &Identity) -> Transport {
    Transport::new(Some(Security::new(identity).unwrap()), Arc::default())
}

/// A stranger who trusts the run of `trusted` and shows the certificate of `shown`.
fn impostor(shown: &Identity, trusted: &Identity) -> Identity {
    let mut mixed = serde_json::to_value(shown).unwrap();
    mixed["run_root"] = serde_json::to_value(trusted).unwrap()["run_root"].clone();
    serde_json::from_value(mixed).unwrap()
}

/// What the dialling and the accepting end get, where the dialler expects `expected`.
async fn meet(
    dialler: &Identity,
    listener: &Identity,
    expected: &PeerName,
) -> (Result<Stream, TransportError>, Result<Stream, TransportError>) {
    let (near, far) = duplex(4096);
    let (dialler, listener) = (transport(dialler), transport(listener));
    tokio::join!(dialler.introduce(near, expected), listener.greet(far))
}

/// Why reading from a connection fails.
async fn complaint(mut stream: Stream) -> String {
    stream.read_u8().await.unwrap_err().to_string()
}

#[tokio::test]
async fn both_ends_know_each_other_before_the_first_byte() {
    let island = island(&run());
    let (dialling, accepting) = meet(&today(&island, "0"), &today(&island, "1"), &name("1")).await;
    let (mut dialling, mut accepting) = (dialling.unwrap(), accepting.unwrap());
    assert_eq!((dialling.peer(), accepting.connect_info()), (Some(&name("1")), Some(name("0"))));
    dialling.write_all(b"hello").await.unwrap();
    dialling.flush().await.unwrap();
    let mut heard = [0; 5];
    accepting.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn one_peer_has_so_many_connections_and_others_have_theirs() {
    let island = island(&run());
    let listener = transport(&today(&island, "0"));
    let meet = async |worker: &str| {
        let (near, far) = duplex(4096);
        let (dialler, expected) = (transport(&today(&island, worker)), name("0"));
        tokio::join!(dialler.introduce(near, &expected), listener.greet(far))
    };
    let mut open = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        let (dialling, accepted) = meet("1").await;
        open.push((dialling.unwrap(), accepted.unwrap()));
    }
    assert!(matches!(meet("1").await.1, Err(TransportError::TooMany { most: MOST_CONNECTIONS, .. })));
    assert!(meet("2").await.1.is_ok());
    open.pop();
    assert!(meet("1").await.1.is_ok(), "one has ended");
}

#[tokio::test]
async fn without_security_nobody_is_known() {
    let (near, far) = duplex(64);
    let plain = Transport::new(None, Arc::default());
    let (mut dialling, mut accepting) = (plain.introduce(near, &name("1")).await.unwrap(), plain.greet(far).await.unwrap());
    assert_eq!((dialling.peer(), accepting.peer()), (None, None));
    dialling.write_all(b"hello").await.unwrap();
    assert_eq!(accepting.read_u8().await.unwrap(), b'h');
}

#[tokio::test]
async fn a_peer_of_another_run_is_refused_by_both_ends() {
    let (ours, theirs) = (today(&island(&run()), "0"), today(&island(&run()), "0"));
    let (dialling, _) = meet(&ours, &theirs, &name("0")).await;
    assert!(matches!(dialling, Err(TransportError::OtherRun(_))));
    let (dialling, accepting) = meet(&impostor(&theirs, &ours), &ours, &name("0")).await;
    assert!(matches!(accepting, Err(TransportError::OtherRun(_))));
    let words = "it refused this peer: its certificate is not signed by the authorities of that run";
    assert_eq!(complaint(dialling.unwrap()).await, words);
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused_by_both_ends() {
    let island = island(&run());
    let (valid, expired) = (today(&island, "0"), island.peer("1", days_from_now(-2)).unwrap());
    let (dialling, _) = meet(&valid, &expired, &name("1")).await;
    assert!(matches!(dialling, Err(TransportError::Expired { seconds: 86_000..87_000 })));
    let (dialling, accepting) = meet(&expired, &valid, &name("0")).await;
    assert!(matches!(accepting, Err(TransportError::Expired { seconds: 86_000..87_000 })));
    assert_eq!(complaint(dialling.unwrap()).await, "it refused this peer: its certificate is not valid at this time");
    let early = island.peer("1", days_from_now(2)).unwrap();
    let (dialling, _) = meet(&valid, &early, &name("1")).await;
    assert!(matches!(dialling, Err(TransportError::NotYetValid { seconds: 170_000..173_000 })));
}

#[tokio::test]
async fn who_answers_must_be_who_was_dialled() {
    let island = island(&run());
    let (dialling, _) = meet(&today(&island, "0"), &today(&island, "1"), &name("2")).await;
    let words = "it is 1.west.kjv.atoll.internal, not 2.west.kjv.atoll.internal";
    assert_eq!(dialling.map(|_| ()).unwrap_err().to_string(), words);
}

/// Dials as TLS that knows the run's root and shows no certificate.
async fn anonymous(stream: DuplexStream, listener: &Identity) -> tokio_rustls::client::TlsStream<DuplexStream> {
    let mut roots = RootCertStore::empty();
    roots.add(listener.root().unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let expected = ServerName::try_from(listener.name().unwrap().to_string()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(expected, stream).await.unwrap()
}

#[tokio::test]
async fn who_shows_no_certificate_is_refused() {
    let listener = today(&island(&run()), "0");
    let (near, far) = duplex(4096);
    let transport = transport(&listener);
    let (stream, accepted) = tokio::join!(anonymous(near, &listener), transport.greet(far));
    assert!(matches!(accepted, Err(TransportError::NoCertificate)));
    let told = complaint(Stream::new(stream, None, Arc::default())).await;
    assert_eq!(told, "it refused this peer: it showed no certificate");
}

#[tokio::test]
async fn a_certificate_that_is_not_of_one_peer_is_refused_by_both_ends() {
    let island = island(&run());
    let peer = today(&island, "0");
    let wildcard = forged(&island, &["*.west.kjv.atoll.internal"], days_from_now(0));
    let (dialling, _) = meet(&peer, &wildcard, &name("1")).await;
    assert!(matches!(dialling, Err(TransportError::Nobody(IdentityError::Name(_)))));
    let deeper = "0.1.west.kjv.atoll.internal";
    for names in [&[][..], &["*.west.kjv.atoll.internal"], &[deeper], &["1.west.kjv.atoll.internal", "2.west.kjv.atoll.internal"]]
    {
        let (_, accepting) = meet(&forged(&island, names, days_from_now(0)), &peer, &name("0")).await;
        assert!(matches!(accepting, Err(TransportError::Nobody(_))), "{names:?}");
    }
}

#[tokio::test]
async fn what_is_not_tls_is_refused() {
    let (mut near, far) = duplex(4096);
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let accepted = transport(&today(&island(&run()), "0")).greet(far).await;
    assert!(matches!(accepted, Err(TransportError::Tls(_))));
}

#[tokio::test]
async fn who_hangs_up_early_is_told_apart_from_who_is_refused() {
    let (near, far) = duplex(4096);
    drop(near);
    let accepted = transport(&today(&island(&run()), "0")).greet(far).await;
    assert!(matches!(accepted, Err(TransportError::Broken(_))));
}

#[tokio::test]
async fn every_connection_verifies_anew() {
    let island = island(&run());
    let dialler = Security::new(&today(&island, "0")).unwrap();
    let listener = Security::new(&today(&island, "1")).unwrap();
    for _ in 0..3 {
        let (near, far) = duplex(4096);
        let expected = name("1");
        let (dialling, accepting) = tokio::join!(dialler.connect(near, &expected), listener.accept(far));
        let (mut dialling, (mut accepting, _)) = (dialling.unwrap(), accepting.unwrap());
        // What would let the next one resume comes before the first byte.
        accepting.write_u8(0).await.unwrap();
        accepting.flush().await.unwrap();
        dialling.read_u8().await.unwrap();
        assert_eq!(dialling.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_on_new_connections_and_old_ones_go_on() {
    let island = island(&run());
    let early = island.peer("0", days_from_now(2)).unwrap();
    let (security, other) = (Security::new(&today(&island, "0")).unwrap(), transport(&today(&island, "1")));
    let renewed = Transport::new(Some(security.clone()), Arc::default());
    let meet = async || {
        let ((dialling, answering), (near, far)) = (duplex(4096), duplex(4096));
        let (theirs, ours) = (name("1"), name("0"));
        let dials = async { tokio::join!(renewed.introduce(dialling, &theirs), other.greet(answering)) };
        let accepts = async { tokio::join!(other.introduce(near, &ours), renewed.greet(far)) };
        tokio::join!(dials, accepts)
    };
    let ((dialled, accepted), _accepting) = meet().await;
    let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap());
    security.renew(&early).unwrap();
    let ((_, refused), (refuses, _)) = meet().await;
    assert!(matches!(refused, Err(TransportError::NotYetValid { .. })), "as who dials");
    assert!(matches!(refuses, Err(TransportError::NotYetValid { .. })), "as who is dialled");
    security.renew(&today(&island, "0")).unwrap();
    let ((_, welcome), (welcomes, _)) = meet().await;
    assert!(welcome.is_ok() && welcomes.is_ok());
    dialled.write_u8(7).await.unwrap();
    dialled.flush().await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), 7, "it was open before");
}

#[tokio::test]
async fn parts_that_do_not_fit_renew_nothing() {
    let island = island(&run());
    let security = Security::new(&today(&island, "0")).unwrap();
    let mut mixed = serde_json::to_value(today(&island, "0")).unwrap();
    mixed["private_key"] = serde_json::to_value(today(&island, "0")).unwrap()["private_key"].clone();
    let unfit: Identity = serde_json::from_value(mixed).unwrap();
    assert!(matches!(security.renew(&unfit), Err(IdentityError::Unfit(_))));
    let (near, far) = duplex(4096);
    let (ours, theirs) = (Transport::new(Some(security), Arc::default()), transport(&today(&island, "1")));
    let (dialling, accepting) = tokio::join!(async { ours.introduce(near, &name("1")).await }, theirs.greet(far));
    assert!(dialling.is_ok() && accepting.is_ok());
}

#[tokio::test]
async fn nobody_is_reached_where_nobody_listens_or_without_a_pass() {
    let plain = Transport::new(None, Arc::default());
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = bound.local_addr().unwrap();
    let refused = plain.connect(&format!("{free}").parse().unwrap(), &name("0")).await;
    assert!(matches!(refused, Err(TransportError::Unreachable { .. })));
    let refused = plain.connect(&format!("relay/{free}").parse().unwrap(), &name("0")).await;
    assert!(matches!(refused, Err(TransportError::NoPass { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_says_nothing_is_given_up() {
    // The kernel completes the connection; nobody accepts it.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string().parse().unwrap();
    let given_up = transport(&today(&island(&run()), "0")).connect(&address, &name("1")).await;
    assert!(matches!(given_up, Err(TransportError::Late)));
}
