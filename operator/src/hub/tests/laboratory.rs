//! A hub with runs whose pods have tokens, in this process.
#![expect(clippy::disallowed_methods, reason = "a certificate's validity is in the time of the day")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use atoll_collective::identity::{Identity, PeerName, Request as CertificateRequest};
use atoll_collective::secret::Secret;
use atoll_collective::transport::{Security, Transport, towards_hub};
use atoll_proto::v1::arbiter_client::ArbiterClient;
use atoll_proto::v1::enrolment_client::EnrolmentClient;
use atoll_proto::v1::supervision_client::SupervisionClient;
use atoll_proto::v1::{CheckpointFolder, EnrolReply, EnrolRequest, RunSettings};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::super::runs::{Run, Runs};
use super::super::store::tests::Memory;
use super::super::tokens::tests::{ISSUER, Signer, claims};
use super::super::{ARBITER, Attempt, FetchKeys, HOST, Hub, MasterKey, Metrics, Setup, authority};
use crate::directory::{Directory, RunKey, Served, Worker};

pub(in super::super) const ISLAND: &str = "local";
const LIVENESS: u64 = 60_000;

type Guarded = InterceptedService<Channel, Shows>;

/// Shows a secret with each request.
#[derive(Clone)]
pub(in super::super) struct Shows(Secret);

impl tonic::service::Interceptor for Shows {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.0.show(request.metadata_mut());
        Ok(request)
    }
}

/// Directory, store and the keys of a cluster, which outlive a hub.
pub(in super::super) struct Laboratory {
    pub(in super::super) directory: Directory,
    pub(in super::super) store: Memory,
    pub(in super::super) changes: Mutex<mpsc::UnboundedReceiver<RunKey>>,
    signer: Signer,
    master: MasterKey,
}

/// A hub that serves.
pub(in super::super) struct Serving {
    pub(in super::super) address: String,
    pub(in super::super) metrics: Metrics,
    roots: String,
    signer: Arc<dyn Fn(&str) -> String + Send + Sync>,
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A pod with its certificate.
#[derive(Debug)]
pub(in super::super) struct Enrolled {
    pub(in super::super) reply: EnrolReply,
    private_key: String,
}

/// Asks over one connection.
pub(in super::super) struct Caller {
    pub(in super::super) run: String,
    pub(in super::super) arbiter: ArbiterClient<Guarded>,
    pub(in super::super) supervision: SupervisionClient<Guarded>,
    pub(in super::super) enrolment: EnrolmentClient<Channel>,
}

impl Enrolled {
    pub(in super::super) fn identity(&self) -> Identity {
        self.identity_with_root(&self.reply.run_root)
    }

    pub(in super::super) fn identity_with_root(&self, root: &str) -> Identity {
        Identity::from_parts(self.reply.certificate_chain.clone(), self.private_key.clone(), root.to_owned()).unwrap()
    }
}

impl Laboratory {
    pub(in super::super) fn new() -> Self {
        let (directory, changes) = Directory::new();
        let (signer, master) = (Signer::new("cluster"), MasterKey::new([7; 32]));
        Self { directory, store: Memory::default(), changes: Mutex::new(changes), signer, master }
    }

    /// Serves a run with so many pods, `NAME-0` and so on.
    pub(in super::super) fn serve(&self, name: &str, pods: u32) -> RunKey {
        let pod = |slot| (format!("uid-of-{name}-{slot}"), Worker { slot, pod: format!("{name}-{slot}") });
        let served = Served {
            uid: format!("uid-of-{name}"),
            attempt: 1,
            settings: RunSettings { liveness_milliseconds: LIVENESS, ..RunSettings::default() },
            island: ISLAND.into(),
            pods: (0..pods).map(pod).collect::<BTreeMap<_, _>>(),
            keep_round: None,
        };
        self.directory.serve(&key(name), served);
        key(name)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Served)) {
        let key = key(name);
        let mut served = self.directory.served(&key).unwrap();
        change(&mut served);
        self.directory.serve(&key, served);
    }

    pub(in super::super) fn keep_checkpoints(&self, name: &str) {
        self.change(name, |served| served.settings.checkpoints = Some(CheckpointFolder::default()));
    }

    pub(in super::super) fn want_checkpoint(&self, name: &str, round: u64) {
        self.change(name, |served| served.keep_round = Some(round));
    }

    pub(in super::super) fn begin_anew(&self, name: &str) {
        self.change(name, |served| served.attempt += 1);
    }

    pub(in super::super) fn token(&self, uid: &str, pod: &str) -> String {
        self.signer.token(&claims(uid, pod, seconds()))
    }

    fn setup(&self) -> Setup {
        let published = json!({"keys": [self.signer.published()]}).to_string();
        let keys: FetchKeys = Arc::new(move || {
            let published = published.clone();
            Box::pin(async move { Ok(published) })
        });
        Setup {
            master: self.master.clone(),
            directory: self.directory.clone(),
            store: Arc::new(self.store.clone()),
            issuer: ISSUER.into(),
            keys,
            time: Arc::new(SystemTime::now),
        }
    }

    pub(in super::super) async fn start(&self) -> Serving {
        let hub = Hub::new(self.setup()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, metrics) = (listener.local_addr().unwrap().to_string(), hub.metrics().clone());
        let task = tokio::spawn(async move { hub.serve(listener, std::future::pending()).await.unwrap() });
        let signer = self.signer.clone();
        let signer = Arc::new(move |pod: &str| {
            let run = pod.rsplit_once('-').map_or(pod, |(run, _)| run);
            signer.token(&claims(&format!("uid-of-{run}"), pod, seconds()))
        });
        Serving { address, metrics, roots: self.master.hub_roots().unwrap(), signer, task }
    }

    /// The run as one process of an operator has it, without a listener.
    pub(in super::super) fn process(&self, name: &str) -> Arc<Run> {
        let runs = Runs::new(self.setup(), Metrics::new().unwrap());
        let served = self.directory.served(&key(name)).unwrap();
        runs.named(&served.wire_name(name)).unwrap()
    }

    /// A worker of another island of a run that is served.
    pub(in super::super) fn abroad(&self, name: &str, island: &str, worker: &str) -> Identity {
        let key = key(name);
        let served = self.directory.served(&key).unwrap();
        let (wire, attempt) = (served.wire_name(name), Attempt { key, uid: served.uid.clone(), attempt: 1 });
        let request = CertificateRequest::new().unwrap();
        let authority = authority::Authority::new(&self.master, &attempt, &wire, island).unwrap();
        let chain = authority.sign(worker, request.der(), SystemTime::now()).unwrap();
        Identity::from_parts(chain, request.private_key().to_owned(), authority.root().to_owned()).unwrap()
    }
}

impl Serving {
    pub(in super::super) async fn enrol(&self, pod: &str) -> Result<Enrolled, Code> {
        self.renew(pod, 0).await
    }

    pub(in super::super) async fn renew(&self, pod: &str, incarnation: u64) -> Result<Enrolled, Code> {
        let request = CertificateRequest::new().unwrap();
        let certificate_request = request.der().to_vec();
        let asks = EnrolRequest { protocol_low: 1, protocol_high: 1, certificate_request, incarnation };
        let reply = self.enrol_with(&(self.signer)(pod), asks).await?;
        Ok(Enrolled { reply, private_key: request.private_key().to_owned() })
    }

    pub(in super::super) async fn enrol_with(&self, token: &str, request: EnrolRequest) -> Result<EnrolReply, Code> {
        let mut request = Request::new(request);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let mut client = EnrolmentClient::new(self.dial_as_newcomer().await);
        client.enrol(request).await.map(tonic::Response::into_inner).map_err(|status| status.code())
    }

    async fn dial_as_newcomer(&self) -> Channel {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let connector = towards_hub(&self.roots).unwrap();
        channel(connector.connect(ServerName::try_from(HOST).unwrap(), stream).await.unwrap()).await
    }

    /// Who has no certificate, and asks all the same.
    pub(in super::super) async fn newcomer(&self) -> Caller {
        caller(self.dial_as_newcomer().await, "kjv".into(), "none")
    }

    pub(in super::super) async fn call(&self, enrolled: &Enrolled) -> Caller {
        self.call_with(enrolled, &enrolled.reply.secret).await
    }

    pub(in super::super) async fn call_with(&self, enrolled: &Enrolled, secret: &str) -> Caller {
        let transport = Transport::new(Some(Security::new(&enrolled.identity()).unwrap()), Arc::default());
        let expected = PeerName::new(&enrolled.reply.run, ISLAND, ARBITER).unwrap();
        let stream = transport.connect(&self.address.parse().unwrap(), &expected).await.unwrap();
        caller(channel(stream).await, enrolled.reply.run.clone(), secret)
    }
}

fn caller(channel: Channel, run: String, secret: &str) -> Caller {
    let shows = Shows(Secret::new(secret));
    Caller {
        run,
        arbiter: ArbiterClient::with_interceptor(channel.clone(), shows.clone()),
        supervision: SupervisionClient::with_interceptor(channel.clone(), shows),
        enrolment: EnrolmentClient::new(channel),
    }
}

pub(in super::super) fn key(name: &str) -> RunKey {
    RunKey { namespace: "research".into(), name: name.into() }
}

/// A channel over this one connection: when that is closed, its calls fail.
async fn channel<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static>(stream: S) -> Channel {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new).ok_or_else(|| std::io::Error::other("closed"));
        std::future::ready(stream)
    });
    Endpoint::from_static("http://hub").connect_with_connector(connector).await.unwrap()
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
