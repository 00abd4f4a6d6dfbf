//! Control sessions: the serving end for a coordinator's peers, and the dialling end towards the coordinator.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atoll_collective::identity::PeerName;
use atoll_collective::lane::Lanes;
use atoll_collective::operation::MOST_IN_FLIGHT;
use atoll_collective::v1::coordinator_client::CoordinatorClient;
use atoll_collective::v1::coordinator_server::Coordinator;
use atoll_collective::v1::{CoordinatorMessage, Hello, Member, PeerMessage, peer_message};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::core::Input;

/// Messages that may wait on one session. A new epoch aborts all operations of a peer and begins them again in one turn, before
/// anything is sent.
const WAITING: usize = 4 * MOST_IN_FLIGHT;

/// Sends to one peer's session; dropping it ends the session.
pub(crate) type ToPeer = mpsc::Sender<Result<CoordinatorMessage, Status>>;

/// Serves the sessions of this sidecar's peers.
pub(crate) struct Control {
    inbox: mpsc::Sender<Input>,
    sessions: AtomicU64,
    /// The time that a peer has to introduce itself.
    patience: Duration,
}

impl Control {
    pub(crate) fn new(inbox: mpsc::Sender<Input>, patience: Duration) -> Self {
        Self { inbox, sessions: AtomicU64::new(0), patience }
    }
}

#[tonic::async_trait]
impl Coordinator for Control {
    type SessionStream = ReceiverStream<Result<CoordinatorMessage, Status>>;

    async fn session(&self, request: Request<Streaming<PeerMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let name = request.extensions().get::<Option<PeerName>>().cloned().flatten();
        let (mut messages, patience, inbox) = (request.into_inner(), self.patience, self.inbox.clone());
        tokio::spawn(async move {
            let introduced = tokio::time::timeout(patience, introduction(&mut messages, name)).await;
            match introduced.unwrap_or_else(|_| Err(late(patience))) {
                Ok(introduction) => listen(session, introduction, messages, sender, inbox).await,
                Err(refused) => drop(sender.send(Err(refused)).await),
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Who opens a session, and the term in which.
struct Introduction {
    term: u64,
    hello: Hello,
    member: Member,
}

/// The first message, which must introduce the peer that has proved `name`.
async fn introduction(messages: &mut Streaming<PeerMessage>, name: Option<PeerName>) -> Result<Introduction, Status> {
    let first = messages.message().await?;
    let Some(PeerMessage { term, body: Some(peer_message::Body::Hello(hello)), .. }) = first else {
        return Err(Status::invalid_argument("a session begins with an introduction"));
    };
    let member = hello.member.clone().ok_or_else(|| Status::invalid_argument("the introduction names no member"))?;
    // A peer speaks for itself alone.
    if let Some(name) = name.filter(|name| (name.worker(), name.island()) != (&member.worker, &member.island)) {
        return Err(Status::permission_denied(format!(
            "the certificate is that of worker {}, who introduces another",
            name.worker()
        )));
    }
    Ok(Introduction { term, hello, member })
}

fn late(patience: Duration) -> Status {
    Status::deadline_exceeded(format!("no introduction came in {} ms: open another session", patience.as_millis()))
}

/// Brings the messages of a peer that has introduced itself to the core.
async fn listen(
    session: u64,
    introduction: Introduction,
    mut messages: Streaming<PeerMessage>,
    sender: ToPeer,
    inbox: mpsc::Sender<Input>,
) {
    let Introduction { term, hello, member } = introduction;
    let answers = sender.downgrade();
    let opened = Input::SessionOpened { session, term, hello: Box::new(hello), sender };
    if inbox.send(opened).await.is_err() {
        return;
    }
    let (slot, incarnation) = (member.slot, member.incarnation);
    while let Ok(Some(message)) = messages.message().await {
        // Nobody can answer any more: the session was refused or closed.
        if answers.upgrade().is_none() {
            return;
        }
        let input = Input::SessionMessage { session, slot, incarnation, message: Box::new(message) };
        if inbox.send(input).await.is_err() {
            return;
        }
    }
    let _stopping = inbox.send(Input::SessionClosed { session, slot, incarnation }).await;
}

/// Opens a session with the coordinator of `term`; everything about it comes to the core as events.
pub(crate) async fn dial(lanes: Lanes, coordinator: Member, term: u64, dial: u64, inbox: mpsc::Sender<Input>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let opened = open(&lanes, &coordinator, receiver).await;
    let mut messages = match opened {
        Ok(messages) => messages,
        Err(status) => {
            tracing::debug!(%status, coordinator = coordinator.worker, "no session");
            let _stopping = inbox.send(Input::Closed { dial, term, refused: refusal(&status) }).await;
            return;
        }
    };
    if inbox.send(Input::Opened { dial, term, sender }).await.is_err() {
        return;
    }
    let ended = loop {
        match messages.message().await {
            Ok(Some(message)) => {
                if inbox.send(Input::Message { dial, message: Box::new(message) }).await.is_err() {
                    return;
                }
            }
            Ok(None) => break None,
            Err(status) => break refusal(&status),
        }
    };
    let _stopping = inbox.send(Input::Closed { dial, term, refused: ended }).await;
}

/// Why the coordinator will not have this sidecar; none where the connection only broke.
fn refusal(status: &Status) -> Option<String> {
    let refuses = matches!(status.code(), Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated);
    refuses.then(|| status.message().to_owned())
}

async fn open(
    lanes: &Lanes,
    coordinator: &Member,
    messages: mpsc::Receiver<PeerMessage>,
) -> Result<Streaming<CoordinatorMessage>, Status> {
    // A connection of its own: bulk data must not delay a heartbeat.
    let mut client = CoordinatorClient::new(lanes.connection_to(coordinator).map_err(Status::unavailable)?);
    let mut request = Request::new(ReceiverStream::new(messages));
    lanes.secret().show(request.metadata_mut());
    client.session(request).await.map(Response::into_inner)
}
