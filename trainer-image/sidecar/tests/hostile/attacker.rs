//! Whoever means no good: with a certificate of the run or of another, over its lanes, its sessions, and the trainer's socket.

use std::path::Path;
use std::sync::Arc;

use atoll_collective::identity::Identity;
use atoll_collective::lane::{Lanes, Meter};
use atoll_collective::secret::Secret;
use atoll_collective::state::manifest::{Manifest, Tensor};
use atoll_collective::transport::{Security, Transport};
use atoll_collective::v1::coordinator_client::CoordinatorClient;
use atoll_collective::v1::sidecar_client::SidecarClient;
use atoll_collective::v1::{
    Arrive, AttachRequest, CoordinatorMessage, ElementType, Hello, Member, OperateRequest, PeerMessage, coordinator_message,
    peer_message,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tower::{Service, ServiceExt};

use crate::run::{self, Run};

/// How a caller was answered.
pub(crate) type Answer = (Code, String);

/// How a session ended on which nothing was said.
pub(crate) async fn ended(mut silent: Streaming<CoordinatorMessage>) -> Answer {
    answer(&silent.message().await.unwrap_err())
}

fn answer(status: &Status) -> Answer {
    (status.code(), status.message().to_owned())
}

pub(crate) struct Attacker {
    lanes: Lanes,
    secret: Secret,
}

impl Attacker {
    /// A worker of the run.
    pub(crate) fn certified(run: &Run, worker: &str) -> Self {
        Self::new(&run.identity(worker))
    }

    /// Who has a certificate of the same names, by an authority of his own.
    pub(crate) fn of_another_run(_: &Member) -> Self {
        Self::new(&run::authority().island(run::ISLAND, run::validity()).unwrap().peer("w9", run::validity()).unwrap())
    }

    fn new(identity: &Identity) -> Self {
        let secret = Secret::new(run::TOKEN);
        let transport = Transport::new(Some(Security::new(identity).unwrap()), Arc::new(Meter::default()));
        Self { lanes: Lanes::new(run::RUN, 9, secret.clone(), transport), secret }
    }

    /// Opens a lane to `member` and sends `bytes`; the lane's answer stays open, where it was not refused at once.
    async fn call(&self, member: &Member, changed: &[(&str, &str)], bytes: Vec<u8>) -> Result<http::Response<Body>, Answer> {
        let (slot, incarnation) = (member.slot.to_string(), member.incarnation.to_string());
        let mut request = http::Request::post("http://lane/atoll.v1.Lane/Push").version(http::Version::HTTP_2);
        let usual = [
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("authorization", self.secret.header()),
            ("atoll-protocol", "1"),
            ("atoll-from", "9"),
            ("atoll-to", &slot),
            ("atoll-incarnation", &incarnation),
        ];
        for (name, value) in usual {
            let value = changed.iter().find(|(other, _)| *other == name).map_or(value, |(_, other)| other);
            request = request.header(name, value);
        }
        let request = request.body(Body::new(Full::new(Bytes::from(bytes)))).unwrap();
        let broken = |error: &dyn std::error::Error| (Code::Unknown, error.to_string());
        let mut connection = self.lanes.connection_to(member).unwrap();
        let ready = connection.ready().await.map_err(|error| broken(&error))?;
        let response = ready.call(request).await.map_err(|error| broken(&error))?;
        match Status::from_header_map(response.headers()) {
            Some(status) if status.code() != Code::Ok => Err(answer(&status)),
            _ => Ok(response),
        }
    }

    /// A lane that stays open; or why it was refused.
    pub(crate) async fn open(&self, member: &Member, bytes: Vec<u8>) -> Result<http::Response<Body>, Answer> {
        self.call(member, &[], bytes).await
    }

    /// Opens a lane with some headers changed, sends `bytes`, and waits for the lane's end.
    pub(crate) async fn lane(&self, member: &Member, changed: &[(&str, &str)], bytes: Vec<u8>) -> Answer {
        match self.call(member, changed, bytes).await {
            Err(refused) => refused,
            Ok(response) => match response.into_body().collect().await {
                Ok(body) => answer(&body.trailers().and_then(Status::from_header_map).unwrap()),
                Err(status) => answer(&status),
            },
        }
    }

    /// A connection of its own.
    pub(crate) fn connection(&self, member: &Member) -> Channel {
        self.lanes.connection_to(member).unwrap()
    }

    /// Opens a control session on `connection`, and says nothing.
    pub(crate) async fn silent_session(&self, connection: Channel) -> Result<Streaming<CoordinatorMessage>, Answer> {
        let mut request = Request::new(tokio_stream::pending());
        self.secret.show(request.metadata_mut());
        let session = CoordinatorClient::new(connection).session(request).await;
        session.map(tonic::Response::into_inner).map_err(|status| answer(&status))
    }

    /// Opens a control session with an introduction, and waits for its end.
    pub(crate) async fn session(&self, coordinator: &Member, hello: Hello) -> Answer {
        let mut client = CoordinatorClient::new(self.lanes.connection_to(coordinator).unwrap());
        let body = Some(peer_message::Body::Hello(hello));
        let message = PeerMessage { term: 1, body, learned: 0 };
        let mut request = Request::new(tokio_stream::iter([message]));
        self.secret.show(request.metadata_mut());
        match client.session(request).await {
            Err(status) => answer(&status),
            Ok(session) => match session.into_inner().message().await {
                Err(status) => answer(&status),
                Ok(message) => (Code::Ok, format!("{message:?}")),
            },
        }
    }
}

/// A contributor of the run, in its next round; gone when it is dropped.
pub(crate) struct Contributor {
    says: mpsc::Sender<PeerMessage>,
    hears: Streaming<CoordinatorMessage>,
}

impl Contributor {
    /// Opens a session in which its trainer waits for a round.
    pub(crate) async fn new(attacker: &Attacker, coordinator: &Member, member: Member) -> Self {
        let (says, messages) = mpsc::channel(8);
        let bytes = &[0; 4 * run::ELEMENTS];
        let state = Manifest::of(&[Tensor { key: "vector", element_type: ElementType::F32, bytes }], 1).unwrap();
        let (state_root, state_shape) = (state.root().to_vec(), state.shape().to_vec());
        let arrive = Some(Arrive { round: 1, state_root, state_shape, attempt: 1, ..Arrive::default() });
        let hello = Hello { run: run::RUN.into(), member: Some(member), arrive, ..Hello::default() };
        says.send(Self::message(peer_message::Body::Hello(hello))).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(messages));
        attacker.secret.show(request.metadata_mut());
        let session = CoordinatorClient::new(attacker.connection(coordinator)).session(request).await;
        Self { says, hears: session.unwrap().into_inner() }
    }

    fn message(body: peer_message::Body) -> PeerMessage {
        PeerMessage { term: 1, body: Some(body), learned: 0 }
    }

    pub(crate) async fn says(&self, body: peer_message::Body) {
        self.says.send(Self::message(body)).await.unwrap();
    }

    /// Waits until it is told something of this kind.
    pub(crate) async fn hears<T>(&mut self, kind: impl Fn(coordinator_message::Body) -> Option<T>) -> T {
        let told = async {
            loop {
                let message = self.hears.message().await.unwrap().expect("the session goes on");
                if let Some(told) = message.body.and_then(&kind) {
                    return told;
                }
            }
        };
        tokio::time::timeout(run::PATIENCE, told).await.expect("it is told")
    }
}

/// A second process at the socket of a trainer.
pub(crate) struct Trainer(SidecarClient<Channel>);

impl Trainer {
    pub(crate) async fn new(socket: &Path) -> Self {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
        Self(SidecarClient::new(endpoint.connect().await.unwrap()))
    }

    pub(crate) async fn attach(&self, (run, low, high, incarnation): (&str, u32, u32, u64)) -> Answer {
        let (run, protocol_low, protocol_high) = (run.to_owned(), low, high);
        let request = AttachRequest { run, incarnation, protocol_low, protocol_high, rank: 0, ranks: 1 };
        let attached = self.0.clone().attach(request).await;
        attached.map_or_else(|status| answer(&status), |reply| (Code::Ok, format!("{reply:?}")))
    }

    pub(crate) async fn operate(&self, request: OperateRequest) -> Answer {
        let operated = self.0.clone().operate(request).await;
        operated.map_or_else(|status| answer(&status), |reply| (Code::Ok, format!("{reply:?}")))
    }
}
