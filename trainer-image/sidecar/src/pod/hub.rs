//! Asking the operator's hub: for an identity with the pod's token, and for the rest with that identity.

use std::path::Path;
use std::time::Duration;

use atoll_collective::identity::{Identity, Request};
use atoll_collective::lane::Lanes;
use atoll_collective::protocol::Versions;
use atoll_collective::secret::Secret;
use atoll_collective::transport::{HostPort, towards_hub};
use atoll_collective::v1::enrolment_client::EnrolmentClient;
use atoll_collective::v1::supervision_client::SupervisionClient;
use atoll_collective::v1::{BeginReply, BeginRequest, EnrolReply, EnrolRequest, Member, ReportReply, ReportRequest, RunSettings};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::PodError;
use super::environment::Environment;
use super::patience::Patience;
use crate::ARBITER;

/// Name in the hub's certificate, towards those who have none yet.
const NAME: &str = "hub.atoll.internal";
/// How long one question may take, with making the connection.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest token that is read, in bytes.
const LONGEST_TOKEN: u64 = 64 << 10;

/// What a pod is in its run, and what it shows.
pub(super) struct Enrolled {
    pub(super) reply: EnrolReply,
    pub(super) settings: RunSettings,
    pub(super) identity: Identity,
}

/// Why a question was not answered.
enum Trouble {
    /// It may be another time.
    Passing(String),
    /// It will not be.
    Final(PodError),
}

impl From<PodError> for Trouble {
    fn from(error: PodError) -> Self {
        Self::Final(error)
    }
}

/// Asks for an identity with a new key until the hub answers; `incarnation` is 0 for a process that starts.
///
/// # Errors
/// [`PodError`]: the hub refuses this pod, or a file of it cannot be read.
pub(super) async fn enrol(environment: &Environment, incarnation: u64) -> Result<Enrolled, PodError> {
    let mut patience = Patience::default();
    loop {
        let asked = tokio::time::timeout(ANSWER, enrol_once(environment, incarnation)).await;
        match asked.unwrap_or_else(|_| Err(Trouble::Passing(format!("no answer in {} s", ANSWER.as_secs())))) {
            Ok(enrolled) => return Ok(enrolled),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing(why)) => patience.wait("the hub does not enrol this pod", &why).await,
        }
    }
}

async fn enrol_once(environment: &Environment, incarnation: u64) -> Result<Enrolled, Trouble> {
    let request = Request::new().map_err(PodError::Identity)?;
    let token = read("token", &environment.token)?;
    let roots = read("hub's roots", &environment.roots)?;
    let channel = door(&environment.hub, &roots).await?;
    let mut question = tonic::Request::new(EnrolRequest {
        protocol_low: *atoll_proto::PROTOCOL.start(),
        protocol_high: *atoll_proto::PROTOCOL.end(),
        certificate_request: request.der().to_vec(),
        incarnation,
    });
    Secret::new(token.trim()).show(question.metadata_mut());
    let answer = EnrolmentClient::new(channel).enrol(question).await;
    let mut reply = answer.map_err(|status| trouble("enrol this pod", &status))?.into_inner();
    let protocol = reply.protocol;
    Versions::OURS
        .common(Versions::new(protocol, protocol))
        .map_err(|apart| PodError::Refused { what: "enrol this pod", why: apart.to_string() })?;
    let (chain, root) = (std::mem::take(&mut reply.certificate_chain), std::mem::take(&mut reply.run_root));
    let identity = Identity::from_parts(chain, request.private_key().to_owned(), root).map_err(PodError::Identity)?;
    let settings = reply.settings.take().ok_or_else(|| Trouble::Passing("it does not say what the run asks for".into()))?;
    Ok(Enrolled { reply, settings, identity })
}

/// A connection on which the hub alone has shown who it is.
async fn door(hub: &HostPort, roots: &str) -> Result<Channel, Trouble> {
    let tls = towards_hub(roots).map_err(PodError::Identity)?;
    let address = hub.to_string();
    let connector = tower::service_fn(move |_| {
        let (tls, address) = (tls.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            let name = ServerName::try_from(NAME).map_err(std::io::Error::other)?;
            tls.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://hub").connect_with_connector(connector).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        Trouble::Passing(format!("{hub}: {cause}"))
    })
}

/// What the hub says that it will not change, unless the pod is another.
fn trouble(what: &'static str, status: &Status) -> Trouble {
    if is_final(status) {
        return Trouble::Final(PodError::Refused { what, why: status.message().to_owned() });
    }
    Trouble::Passing(format!("{}: {}", status.code(), status.message()))
}

/// Whether asking again would not help.
pub(super) fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented)
}

fn read(what: &'static str, path: &Path) -> Result<String, PodError> {
    let unreadable = |source| PodError::Unreadable { what, path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(unreadable)?.len() > LONGEST_TOKEN {
        return Err(unreadable(std::io::Error::other("it is too long")));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// The hub, asked over mutual TLS.
pub(super) struct Hub {
    address: String,
    lanes: Lanes,
    pub(super) run: String,
    pub(super) me: Member,
    channel: Option<Channel>,
}

impl Hub {
    /// At `address`, `HOST:PORT`; asked for `me`.
    pub(super) fn new(address: String, lanes: Lanes, run: String, me: Member) -> Self {
        Self { address, lanes, run, me, channel: None }
    }

    /// Asks what the run begins from.
    pub(super) async fn begin(&mut self, request: BeginRequest) -> Result<BeginReply, Status> {
        self.ask(request, async |client, request| client.begin(request).await).await
    }

    /// Tells what was seen.
    pub(super) async fn report(&mut self, request: ReportRequest) -> Result<ReportReply, Status> {
        self.ask(request, async |client, request| client.report(request).await).await
    }

    async fn ask<Q, A>(
        &mut self,
        question: Q,
        ask: impl AsyncFnOnce(&mut SupervisionClient<Channel>, tonic::Request<Q>) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, Status> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => self.lanes.connection(&self.address, &self.me.island, ARBITER).map_err(Status::invalid_argument)?,
        };
        let mut client = SupervisionClient::new(channel.clone());
        let mut request = tonic::Request::new(question);
        self.lanes.secret().show(request.metadata_mut());
        let late = || Status::deadline_exceeded(format!("no answer in {} s", ANSWER.as_secs()));
        let answer = tokio::time::timeout(ANSWER, ask(&mut client, request)).await.unwrap_or_else(|_| Err(late()));
        // A connection that is half-open shows it by nothing but silence: the next question gets another one.
        self.channel = answer.is_ok().then_some(channel);
        answer.map(tonic::Response::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hub_will_not_change_is_not_asked_again() {
        let passing = |status: &Status| matches!(trouble("enrol", status), Trouble::Passing(_));
        assert!(passing(&Status::unavailable("starting")) && passing(&Status::internal("?")));
        assert!(!passing(&Status::permission_denied("no pod")) && !passing(&Status::failed_precondition("install atoll 2")));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read("token", Path::new("/nowhere/token")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the pod's token, /nowhere/token: "), "{error}");
    }
}
